"""The journal of a search: every score and proposal that was paid for, from which a killed run is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gepa_loop.rollouts import Row
from gepa_loop.runs import append_jsonl, read_jsonl


@dataclass(frozen=True)
class Scored:
    """A candidate's rows on one item, and the seconds that they took."""

    rows: list[Row]
    seconds: float


class Journal:
    """What a search has paid for, on disk and in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scored: dict[tuple[str, str], Scored] = {}
        self.proposals: list[dict[str, Any]] = read_jsonl(folder / "proposals.jsonl")
        for entry in read_jsonl(folder / "evaluations.jsonl"):
            self._add(entry["candidate"], [Row(**row) for row in entry["rows"]], entry["seconds"])

    def add_rows(self, candidate: str, rows: list[Row], seconds: float) -> None:
        entry = {"candidate": candidate, "seconds": seconds, "rows": [row.as_dict() for row in rows]}
        append_jsonl(self.folder / "evaluations.jsonl", [entry])
        self._add(candidate, rows, seconds)

    def add_proposal(self, entry: dict[str, Any]) -> None:
        append_jsonl(self.folder / "proposals.jsonl", [entry])
        self.proposals.append(entry)

    def _add(self, candidate: str, rows: list[Row], seconds: float) -> None:
        for item in dict.fromkeys(row.item for row in rows):
            own = [row for row in rows if row.item == item]
            self.scored[candidate, item] = Scored(own, seconds * len(own) / len(rows))
