"""Entry point of the `gepa-loop` script, and of `python -m gepa_loop`."""

from __future__ import annotations


def main() -> None:
    """Handle signals before the imports that take a second, then run the command."""
    from gepa_loop.signals import end_at_once

    end_at_once()
    from gepa_loop.cli import main as command

    command()


if __name__ == "__main__":
    main()
