"""How often the items of `test` were looked at: a journal beside the runs, since whoever looks often enough chooses by them.

Every scoring of `test` adds a row to `ledger.jsonl` in the folder of runs: which items (by fingerprints of their questions and
answers, so that another task, file, size or run with some of them counts), which run under which configuration, and who was
scored. Scorings of one run that end in one table are one look; a run that is deleted and made again under the same name is
another run. A folder that cannot be written ends no run: the table then says that it is not known.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gepa_loop.errors import EnvironmentFault, RunDirectoryError
from gepa_loop.run.directory import Run, locked
from gepa_loop.run.files import append_jsonl, read_json, read_jsonl, write_json
from gepa_loop.run.identity import fingerprint, read_manifest
from gepa_loop.scores.records import LedgerRow, LookKey, LooksRecord
from gepa_loop.task.records import Item

LEDGER = "ledger.jsonl"
LOOKS = "looks.json"
PATIENCE = 10.0
"""Seconds to wait for another process that writes a row."""
DIGITS = 12
"""Of an item's fingerprint: among millions of items none is taken for another."""


@dataclass(frozen=True)
class Looks:
    """Looks at the items of one set before the present one."""

    items: int
    seen: int
    """Items that were scored before."""
    looks: int
    """Looks at any of them."""
    scorings: int
    """Of the item that was scored most often."""
    unknown: str | None = None
    """Why they could not be counted."""

    def __str__(self) -> str:
        whom = f"the {self.items} items of test"
        if self.unknown is not None:
            return f"how often {whom} were scored before is not known: {self.unknown}"
        if not self.seen:
            return f"{whom} were not scored before by the runs of this folder"
        part = "" if self.seen == self.items else f"{self.seen} of "
        were = "was" if self.seen == 1 else "were"
        times = "once" if self.scorings == 1 else f"up to {self.scorings} times"
        looks = "one earlier look" if self.looks == 1 else f"{self.looks} earlier looks"
        return (
            f"{part}{whom} {were} scored before by the runs of this folder, {times}, in {looks}: what was chosen by them is too "
            f"good ({LEDGER})"
        )


@dataclass(frozen=True)
class Ledger:
    """The journal as one look of one run sees it."""

    path: Path
    prints: Sequence[str]
    """Of each item of the set."""
    key: LookKey

    def before(self) -> Looks:
        """The other looks at the same items, or at some of them."""
        count = len(self.prints)
        try:
            rows = read_jsonl(self.path, LedgerRow)
        except RunDirectoryError as error:
            return Looks(count, 0, 0, 0, str(error))
        mine, others = set(self.prints), [row for row in rows if not self._own(row)]
        shared = {name: mine.intersection(prints) for name, prints in _sets(rows).items()}
        shared[self.key["items"]] = mine
        if any(row["items"] not in shared for row in others):
            return Looks(
                count, 0, 0, 0, f"rows of an earlier version in {LEDGER} do not say which items they are of"
            )
        scorings = Counter(one for row in others for one in shared[row["items"]])
        looks = {tuple(row.get(key) for key in self.key) for row in others if shared[row["items"]]}
        seen = sum(one in scorings for one in self.prints)
        return Looks(count, seen, len(looks), max(scorings.values(), default=0))

    def add(self, subject: str) -> str | None:
        """Note that somebody is scored, once; returns why it could not be noted."""
        try:
            lock = self.path.with_name(f".{self.path.name}.lock")
            with locked(lock, self.path, "Wait for it to end.", PATIENCE):
                rows = read_jsonl(self.path, LedgerRow)
                if not any(self._own(row) and row["subject"] == subject for row in rows):
                    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                    prints = None if self.key["items"] in _sets(rows) else list(self.prints)
                    row: LedgerRow = {"time": now, **self.key, "subject": subject, "prints": prints}
                    append_jsonl(self.path, [row])
        except (RunDirectoryError, EnvironmentFault) as error:
            return str(error)
        return None

    def _own(self, row: LedgerRow) -> bool:
        # Rows of earlier versions have no birth.
        return all(row.get(key) == value for key, value in self.key.items())


def item_print(item: Item) -> str:
    """What an item is known by in other tasks, files and runs: its question and its answer."""
    return fingerprint([item.messages, item.answer])[:DIGITS]


def _sets(rows: Sequence[LedgerRow]) -> dict[str, list[str]]:
    """The items of each set that a row names."""
    # Rows of earlier versions name none.
    return {row["items"]: prints for row in rows if (prints := row.get("prints")) is not None}


def read_looks(folder: Path) -> Looks | None:
    """What the last look of a run found in the ledger when it began; None where the run did not look at `test`."""
    path = folder / LOOKS
    if not path.exists():
        return None
    found = read_json(path, dict[str, Any])  # an earlier version's has no `seen`
    if "seen" not in found:
        return Looks(found["items"], 0, 0, 0, f"{LOOKS} is of an earlier version")
    return Looks(found["items"], found["seen"], found["looks"], found["scorings"], found["unknown"])


def begin_look(run: Run, items: Sequence[Item], look: str) -> Ledger:
    """The ledger beside a run; what it said when this look began is kept in the run's `looks.json`.

    Args:
        run: The run that scores.
        items: What is scored.
        look: What the scorings of this table have in common, within the run.
    """
    content = sorted([item.messages, item.answer] for item in items)
    config = fingerprint(read_manifest(run.path)["identity"])
    key: LookKey = {
        "items": fingerprint(content),
        "run": run.name,
        "birth": run.birth,
        "config": config,
        "look": look,
    }
    ledger = Ledger(run.path.parent / LEDGER, tuple(map(item_print, items)), key)
    path = run.path / LOOKS
    if not path.exists() or read_json(path, LooksRecord)["look"] != look:
        before = ledger.before()
        record: LooksRecord = {
            "look": look,
            "items": before.items,
            "seen": before.seen,
            "looks": before.looks,
            "scorings": before.scorings,
            "unknown": before.unknown,
        }
        write_json(path, record)
    return ledger
