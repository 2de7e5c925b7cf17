"""Pieces for tests of crews: run by any worker that finds this folder on its path, under the name of a module of the package."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gepa_loop.cluster.piece import Desk
from gepa_loop.errors import BudgetReached

Tell = Callable[[object], None]


def nothing(desk: object, tell: Tell) -> None:
    pass


def where(desk: object, tell: Tell) -> None:
    tell(os.getpid())


def count(desk: object, tell: Tell, to: int) -> None:
    for number in range(to):
        tell(number)


def add(desk: object, tell: Tell, a: int, b: int) -> None:
    tell(a + b)


def same(desk: object, tell: Tell, value: object) -> None:
    tell(id(value))


def held(desk: Desk, tell: Tell) -> None:
    tell(desk.held)


def refuse(desk: object, tell: Tell) -> None:
    raise BudgetReached("all is spent", "Spend less.")


def fail(desk: object, tell: Tell) -> None:
    raise LookupError("no such thing")


def die_once(desk: object, tell: Tell, mark: str) -> None:
    """Dies after a message, the first time."""
    tell("begun")
    if not Path(mark).exists():
        Path(mark).touch()
        while not Path(f"{mark}.read").exists():
            time.sleep(0.01)  # whoever reads the message says so
        os._exit(1)
    tell("done")


def run_out(desk: object, tell: Tell) -> None:
    raise MemoryError


def break_gpu(desk: object, tell: Tell) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nSearch for it.")


def be_silent(desk: object, tell: Tell) -> None:
    tell("begun")
    time.sleep(600)  # ended long before


def shout(desk: object, tell: Tell) -> None:
    print("shouted")
    print("shouted", file=sys.stderr, flush=True)
    tell(None)


def node(desk: object, tell: Tell) -> None:
    import ray

    tell(ray.get_runtime_context().get_node_id())


def hold(desk: object, tell: Tell, until: str) -> None:
    tell("begun")
    while not Path(until).exists():
        time.sleep(0.01)  # whoever holds it makes the file
    tell("done")
