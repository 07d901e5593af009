"""The command line of sseg: the only place that knows Typer, Rich, colours and exit codes."""
