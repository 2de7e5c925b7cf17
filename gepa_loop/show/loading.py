"""The first lines of a command, before what takes seconds or runs somebody's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gepa_loop.show.terminal import Terminal

if TYPE_CHECKING:
    from gepa_loop.config.whole import Config
    from gepa_loop.show.caller import Caller
    from gepa_loop.task.own import Task


def say_loading(what: str, to: Terminal) -> None:
    """Say on a terminal what is being loaded, before torch and transformers are imported; a pipe, which nobody watches, gets no such line.

    Args:
        what: A model, or a run.
        to: Where a person reads.
    """
    if to.is_terminal:
        to.print(f"loading {what}", highlight=False, style="dim")


def say_code(settings: Config, own: Task | None, caller: Caller) -> None:
    """The files of the user's that will be run, before they are, and what of an object nobody would know again."""
    from gepa_loop.task.made import code_of, unmarked

    runs = {settings.task.name: code_of(settings.task, own)}
    if (control := settings.distill.control) is not None:
        runs[control.name] = code_of(control)
    for name, files in runs.items():
        for file in files:
            caller.facts.print(f"task {name} runs {file}", highlight=False)
    for name in unmarked(own):
        text = f"task {settings.task.name}: attribute `{name}` is no part of what a run is known by"
        caller.facts.print(text, highlight=False)
