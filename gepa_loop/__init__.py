"""Find the prompt whose distilled student is best.

    import gepa_loop

    run = gepa_loop.distill("smoke", prompt="Answer with one number.", run_name="first")
    run.result, run.rows(), run("What is 12 + 30?")

A task of your own is a class that extends `Task`: `items` gives each an `Item`, `score` a `Score`. All that goes wrong is a `GepaLoopError`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gepa_loop.api.calls import distill, evaluate, loop, optimize
    from gepa_loop.api.run import Run, load
    from gepa_loop.errors import GepaLoopError
    from gepa_loop.task.own import Score, Task
    from gepa_loop.task.records import Item

__version__ = version("gepa-loop")

__all__ = [
    "GepaLoopError",
    "Item",
    "Run",
    "Score",
    "Task",
    "distill",
    "evaluate",
    "load",
    "loop",
    "optimize",
]

_HOMES = {
    "GepaLoopError": "errors",
    "Item": "task.records",
    "Run": "api.run",
    "Score": "task.own",
    "Task": "task.own",
    "distill": "api.calls",
    "evaluate": "api.calls",
    "load": "api.run",
    "loop": "api.calls",
    "optimize": "api.calls",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
