"""What a search has written to its run directory, as values.

Nothing is locked and nothing is written, so a search can be read while another process is at it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gepa_loop.errors import ConfigError, RunDirectoryError
from gepa_loop.run.files import read_jsonl, read_record
from gepa_loop.run.find import known_runs, run_folder
from gepa_loop.search.records import CandidateRow, FrontRow, SearchRecord
from gepa_loop.show.names import nickname

SEARCHED = "Runs with a search"


@dataclass(frozen=True)
class Search:
    """What a search has written so far."""

    name: str
    tried: Sequence[CandidateRow]
    front: Sequence[FrontRow]
    """Best first; empty until the search has ended."""
    result: SearchRecord | None

    @property
    def own(self) -> dict[str, CandidateRow]:
        """Each text's own row, in order of making; the same text proposed again is refused in a later one."""
        judged = sorted(self.tried, key=lambda row: row["status"] not in ("accepted", "rejected"))
        first = {row["id"]: row for row in reversed(judged)}
        return {row["id"]: first[row["id"]] for row in self.tried}


def read_search(run: str, number: int | None = None) -> Search:
    """The search of a run.

    Args:
        run: A name below ./runs, the path of a run directory, or `last`.
        number: The round; None is the last that has a search.

    Raises:
        ConfigError: There is no such run or round, or it has no search.
        RunDirectoryError: A file cannot be read.
    """
    folder = run_folder(run, has_search, SEARCHED)
    found = search_folders(folder)
    if not found:
        raise ConfigError(f"run {run} has no search for prompts", known_runs(has_search, SEARCHED))
    if number is not None and number not in found:
        numbers = ", ".join(str(n) for n in found if n is not None)
        hint = f"Rounds with a search: {numbers}." if numbers else "It is one search; leave --round out."
        raise ConfigError(f"--round {number}: run {run} has no such round", hint)
    last = list(found)[-1] if number is None else number
    path, name = found[last], folder.resolve().name
    # The last written is read first: whatever a file names is then in the files read after it.
    result = read_record(path / "result.json", SearchRecord) if (path / "result.json").exists() else None
    front = _rows(FrontRow, path / "front.jsonl")
    tried = _rows(CandidateRow, path / "candidates.jsonl")
    return Search(name if last is None else f"{name}, round {last}", tried, front, result)


def has_search(folder: Path) -> bool:
    return bool(search_folders(folder))


def search_folders(folder: Path) -> dict[int | None, Path]:
    """Search folders by round, in order; a run of the `optimize` command has one, of no round."""
    if (folder / "optimize").is_dir():
        return {None: folder / "optimize"}
    rounds = ((re.fullmatch(r"round_(\d+)", p.parent.name), p) for p in folder.glob("round_*/optimize"))
    return dict(sorted((int(match[1]), path) for match, path in rounds if match))


Row = TypeVar("Row", CandidateRow, FrontRow)


def _rows(kind: type[Row], path: Path) -> list[Row]:
    rows = read_jsonl(path, kind)
    for key in kind.__annotations__:
        if any(key not in row for row in rows):
            raise RunDirectoryError(
                f"{path}: a row has no {key!r}",
                "Another version of gepa-loop wrote it; search again with --fresh.",
            )
    return rows


def pick(search: Search, word: str) -> CandidateRow:
    """The candidate that `word` means: `seed`, `best`, its name, or the beginning of its id.

    `best` is the winner, without one the first of the front, before there is a front the best on pareto so far.

    Raises:
        ConfigError: No candidate is meant, or several are.
    """
    own = search.own
    if not own:
        raise ConfigError(
            f"{word}: no candidate is recorded yet in {search.name}", "The search has just begun."
        )
    if word == "seed":
        return search.tried[0]
    if word == "best":
        return _best(search)
    said = word.lower()
    found = [row for id_, row in own.items() if said and (id_.startswith(said) or nickname(id_) == said)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{row['id']} ({row['status']})" for row in found or accepted(search))
    if found:
        raise ConfigError(
            f"{word}: {len(found)} candidates of {search.name} begin with it", f"They are {listed}."
        )
    raise ConfigError(
        f"{word!r}: no candidate of {search.name}",
        f"There are seed, best, {listed}; `gepa-loop prompts list --all` has those not accepted too.",
    )


def _best(search: Search) -> CandidateRow:
    if search.result is not None and search.result["winner"] is not None:
        return search.own[search.result["winner"]]
    if search.front:
        return search.own[search.front[0]["id"]]
    return (accepted(search) or search.tried)[0]


def accepted(search: Search) -> list[CandidateRow]:
    """The candidates that were accepted so far, the best mean on `pareto` first."""
    rows = (row for row in search.tried if row["status"] == "accepted")
    return sorted(rows, key=lambda row: -(row["pareto_mean"] or 0.0))


def lineage(search: Search, row: CandidateRow) -> list[CandidateRow]:
    """The candidate and all it descends from, in order of making."""
    own, found, owed = search.own, {row["id"]: row}, list(row["parents"])
    while owed:
        parent = own.get(owed.pop())
        if parent is not None and parent["id"] not in found:
            found[parent["id"]] = parent
            owed += parent["parents"]
    return sorted(found.values(), key=lambda one: one["number"])
