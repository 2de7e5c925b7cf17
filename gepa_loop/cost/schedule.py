"""How long work takes that is shared among workers: the schedule, simulated from what one device was measured to take.

By which rules work is shared out the code itself is asked (`workers.answers.cut`, `workers.training.apart` and `shared_out`). What a part
takes is modelled: on a GPU a call of r rows lasts as long as (r + `ALONE`) / r times its share of a call of very many, and on a CPU, where
calls are not cut, as long as its rows. Left out: what Ray takes, what a worker loads that comes later, and that the slowest row decides.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gepa_loop.workers.answers import cut
from gepa_loop.workers.training import apart, shared_out

ALONE = 120.0
"""Rows by which a call on a GPU lasts longer than its own, as a token has a latency: of a 4B model on an H100, 1,024 tokens, 64 rows took 7.06 s and
128 rows 9.52 s, so that each row adds .038 s to 4.6 s, which are as many as 120 add (benchmarks/NOTES.md). Of a smaller model it is more."""

START_SECONDS = {"cuda": 29.0, "cpu": 18.7}
"""From when the command has loaded until all workers can work, by device: 27.3, 29.1 and 29.7 s with a 0.5B model on two H100s and two H200s; 18.7 s
with a tiny one and two workers on two cores."""

MEASURED = 2
"""Workers up to which a run has been measured."""


@dataclass(frozen=True)
class Asked:
    """Calls that are asked for at once."""

    calls: tuple[int, ...]
    """Rows of each."""
    times: float = 1.0
    """How often, one after the other."""

    @property
    def rows(self) -> float:
        """Of all calls together."""
        return self.times * sum(self.calls)


def batches(rows: int, most: int) -> tuple[int, ...]:
    """Rows in calls of at most so many."""
    return (*(most for _ in range(rows // most)), *([rows % most] if rows % most else []))


def makespan(pieces: Iterable[float], places: int) -> float:
    """When the last of these pieces, in seconds, is done: each in turn is given to the worker that is free first."""
    free = [0.0] * places
    for seconds in pieces:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


@dataclass(frozen=True)
class Machines:
    """Workers of one kind."""

    places: int
    """How many; 1 for a command that works alone."""
    on_gpu: bool

    def longer(self, rows: float, than: float) -> float:
        """How many times as long a call of `rows` lasts as one of `than`."""
        alone = ALONE if self.on_gpu else 0.0
        return (rows + alone) / (than + alone)

    def asked(self, calls: Sequence[int], each: float) -> float:
        """Seconds of calls that are asked for at once, each of which takes `each` seconds a row where it is not cut."""
        pieces = []
        for start in range(0, len(calls), self.places):
            held = calls[start : start + self.places]
            for rows, parts in zip(held, cut(held, self.places if self.on_gpu else 1), strict=True):
                pieces += [rows * each * self.longer(part, rows) for part in parts]
        return makespan(pieces, self.places)


@dataclass(frozen=True)
class Turn:
    """What students do together: they are sampled, then moved, if at all."""

    rows: int
    """That each is asked for."""
    sampling: float
    """Seconds of one student's part of it, as measured."""
    moving: float = 0.0
    """Seconds of the rest of it."""


@dataclass(frozen=True)
class Sharing:
    """How students share their steps."""

    measured: int
    """Of so many that share them a `Turn` was measured."""
    at_once: int
    """Most that do."""
    stale: int
    """`distill.stale`."""

    def seconds(self, students: int, turn: Turn, machines: Machines) -> float:
        """Seconds until the last of these students has had its turn."""
        if apart(machines.places, students, self.stale):
            groups = [len(group) for group in shared_out(range(students), machines.places)]
            return max(
                sum(self._joint(count, turn, machines) for count in self._parts(group)) for group in groups
            )
        return self._by_all(turn, machines)

    def _parts(self, students: int) -> tuple[int, ...]:
        """Students that share their steps, one such part after the other."""
        return batches(students, self.at_once)

    def _joint(self, students: int, turn: Turn, machines: Machines) -> float:
        """A worker samples and moves them."""
        return self._call(students * turn.rows, turn, machines) + students * turn.moving

    def _by_all(self, turn: Turn, machines: Machines) -> float:
        """All workers answer what one student is asked, and the command moves it, on the device of one of them: the others answer meanwhile."""
        each = self._call(turn.rows, turn, machines) / max(1, turn.rows)
        if self.stale and machines.places > 1:
            return max(replace(machines, places=machines.places - 1).asked([turn.rows], each), turn.moving)
        return machines.asked([turn.rows], each) + turn.moving

    def _call(self, rows: int, turn: Turn, machines: Machines) -> float:
        """Seconds of a call of so many rows on one machine."""
        if not turn.rows:
            return 0.0
        return self.measured * turn.sampling * machines.longer(rows, self.measured * turn.rows)
