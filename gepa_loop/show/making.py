"""What a person sees while items are made, where that takes longer than a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from gepa_loop.show.live import View

MOMENT = 1.0
"""Seconds before anything is shown."""


@contextmanager
def making(
    console: Console, task: str, now: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """What is called with (items made, items wanted): a bar on a terminal, a line now and then elsewhere.

    Args:
        console: Where it is shown.
        task: Whose items they are.
        now: A clock, in seconds.
    """
    began: float | None = None
    view: View | None = None
    with ExitStack() as shown:

        def progress(made: int, wanted: int) -> None:
            nonlocal view, began
            if view is None:
                # What is imported before the first item takes a second or two of its own.
                began = now() if began is None else began
                if now() - began < MOMENT:
                    return
                view = shown.enter_context(View(console))
                view.stage(f"making items of {task}")
            view.progress(made, wanted)

        yield progress
