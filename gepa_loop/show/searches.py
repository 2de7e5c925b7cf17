"""What a search has written to its run directory, as values.

Nothing is locked and nothing is written, so a search can be read while another process is at it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from gepa_loop.errors import ConfigError, RunDirectoryError
from gepa_loop.outside.files import found_at
from gepa_loop.run.files import read_jsonl, read_record

Scores = Mapping[str, Sequence[float]]
"""Each item's score by sample."""


@dataclass(frozen=True)
class Tried:
    """A row of candidates.jsonl: a proposed prompt and what became of it."""

    number: int
    id: str
    text: str
    tokens: int
    parents: Sequence[str]
    how: str
    status: str
    reason: str | None
    parent_scores: Scores
    train_scores: Scores
    pareto_scores: Scores
    pareto_mean: float | None
    objectives: Mapping[str, float] | None
    cost: Mapping[str, float]
    spent: Mapping[str, float]


@dataclass(frozen=True)
class Finalist:
    """A row of front.jsonl: a prompt of the front with its score on `select`."""

    id: str
    tokens: int
    how: str
    pareto_mean: float
    select: Mapping[str, Any]
    against_seed: Mapping[str, Any] | None
    adjusted_p: float | None


@dataclass(frozen=True)
class Search:
    """What a search has written so far."""

    name: str
    tried: Sequence[Tried]
    front: Sequence[Finalist]
    """Best first; empty until the search has ended."""
    result: Mapping[str, Any] | None

    @property
    def own(self) -> dict[str, Tried]:
        """Each text's own row, in order of making; the same text proposed again is refused in a later one."""
        judged = sorted(self.tried, key=lambda row: row.status not in ("accepted", "rejected"))
        first = {row.id: row for row in reversed(judged)}
        return {row.id: first[row.id] for row in self.tried}


def read_search(run: str, number: int | None = None) -> Search:
    """The search of a run.

    Args:
        run: A name below ./runs, or the path of a run directory.
        number: The round; None is the last that has a search.

    Raises:
        ConfigError: There is no such run or round, or it has no search.
        RunDirectoryError: A file cannot be read.
    """
    folder = _run_folder(run)
    found = _searches(folder)
    if not found:
        raise ConfigError(f"run {run} has no search for prompts", _known_runs())
    if number is not None and number not in found:
        numbers = ", ".join(str(n) for n in found if n is not None)
        hint = f"Rounds with a search: {numbers}." if numbers else "It is one search; leave --round out."
        raise ConfigError(f"--round {number}: run {run} has no such round", hint)
    last = list(found)[-1] if number is None else number
    path, name = found[last], folder.resolve().name
    # The last written is read first: whatever a file names is then in the files read after it.
    result = read_record(path / "result.json") if (path / "result.json").exists() else None
    front = _rows(Finalist, path / "front.jsonl")
    tried = _rows(Tried, path / "candidates.jsonl")
    return Search(name if last is None else f"{name}, round {last}", tried, front, result)


def _run_folder(run: str) -> Path:
    places = (Path("runs") / run, Path(run))
    for place in places:
        if found_at(place / "manifest.json"):
            return place
    there = [place for place in places if found_at(place, Path.is_dir)]
    raise ConfigError(f"{there[0]}: no run directory" if there else f"{run}: no such run", _known_runs())


def _searches(folder: Path) -> dict[int | None, Path]:
    """Search folders by round, in order; a run of the `optimize` command has one, of no round."""
    if (folder / "optimize").is_dir():
        return {None: folder / "optimize"}
    rounds = ((re.fullmatch(r"round_(\d+)", p.parent.name), p) for p in folder.glob("round_*/optimize"))
    return dict(sorted((int(match[1]), path) for match, path in rounds if match))


def _known_runs() -> str:
    runs = [path.parent for path in Path("runs").glob("*/manifest.json") if _searches(path.parent)]
    names = ", ".join(sorted(path.name for path in runs))
    return f"Runs with a search: {names}." if names else "`gepa-loop optimize` and `gepa-loop loop` make one."


Row = TypeVar("Row", Tried, Finalist)


def _rows(kind: type[Row], path: Path) -> tuple[Row, ...]:
    names = [field.name for field in fields(kind)]
    try:
        return tuple(kind(**{name: row[name] for name in names}) for row in read_jsonl(path))
    except KeyError as key:
        raise RunDirectoryError(
            f"{path}: a row has no {key}", "Another version of gepa-loop wrote it; search again with --fresh."
        ) from None


def pick(search: Search, word: str) -> Tried:
    """The candidate that `word` means: `seed`, `best`, or the beginning of an id.

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
    found = [row for id_, row in own.items() if word and id_.startswith(word.lower())]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{row.id} ({row.status})" for row in found or accepted(search))
    if found:
        raise ConfigError(
            f"{word}: {len(found)} candidates of {search.name} begin with it", f"They are {listed}."
        )
    raise ConfigError(
        f"{word!r}: no candidate of {search.name}",
        f"There are seed, best, {listed}; `gepa-loop prompts list --all` has those not accepted too.",
    )


def _best(search: Search) -> Tried:
    if search.result is not None and search.result["winner"] is not None:
        return search.own[search.result["winner"]]
    if search.front:
        return search.own[search.front[0].id]
    return (accepted(search) or search.tried)[0]


def accepted(search: Search) -> list[Tried]:
    """The candidates that were accepted so far, the best mean on `pareto` first."""
    rows = (row for row in search.tried if row.status == "accepted")
    return sorted(rows, key=lambda row: -(row.pareto_mean or 0.0))


def lineage(search: Search, row: Tried) -> list[Tried]:
    """The candidate and all it descends from, in order of making."""
    own, found, owed = search.own, {row.id: row}, list(row.parents)
    while owed:
        parent = own.get(owed.pop())
        if parent is not None and parent.id not in found:
            found[parent.id] = parent
            owed += parent.parents
    return sorted(found.values(), key=lambda one: one.number)
