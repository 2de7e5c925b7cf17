"""The first line of a command that takes seconds before it has anything to say."""

from __future__ import annotations

from gepa_loop.show.terminal import Terminal


def say_loading(what: str, to: Terminal) -> None:
    """Say on a terminal what is being loaded, before torch and transformers are imported; a pipe, which nobody watches, gets no such line.

    Args:
        what: A model, or a run.
        to: Where a person reads.
    """
    if to.is_terminal:
        to.print(f"loading {what}", highlight=False, style="dim")
