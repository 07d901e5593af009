"""What happens: one file with one run(config, store) per command."""
