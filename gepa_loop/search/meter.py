"""Counts what a search uses: an item of a candidate once, whoever needs it first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gepa_loop.search.budget import Spent
from gepa_loop.search.journal import Journal

Key = tuple[str, str]
"""(candidate, item)"""


class Meter:
    """What a search has used so far, and what of it is of this iteration.

    Args:
        journal: Which completions there are, and what they took.
    """

    def __init__(self, journal: Journal) -> None:
        self.spent = Spent()
        self._journal = journal
        self._counted: set[Key] = set()
        self._fresh: dict[Key, Spent] = {}
        """Of this iteration, what no candidate's row has claimed."""

    def add(self, more: Spent) -> None:
        """What is no item of a candidate."""
        self.spent = self.spent.plus(more)

    def count(self, keys: Iterable[Key]) -> None:
        """Items that candidates are scored on; those that were counted before cost nothing."""
        for key in keys:
            if key not in self._counted:
                self._counted.add(key)
                used = Spent(
                    rollouts=len(self._journal.scores[key]), seconds=self._journal.seconds.get(key, 0.0)
                )
                self._fresh[key] = used
                self.add(used)

    def claim(self, keys: Iterable[Key]) -> Spent:
        """What of this iteration's rollouts was for these items, and claimed by nobody before."""
        used = Spent()
        for key in keys:
            used = used.plus(self._fresh.pop(key, Spent()))
        return used

    def end_iteration(self, seconds: float) -> None:
        """Begin a new iteration at so many seconds: a replay takes those of the process that made the iteration."""
        self._fresh.clear()
        self.spent = replace(self.spent, seconds=seconds)
