"""Entry point of `sseg` and of `python -m sseg_cli`."""

from sseg_cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="sseg")


if __name__ == "__main__":
    main()
