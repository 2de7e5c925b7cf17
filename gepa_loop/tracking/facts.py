"""What the files of a run say to a tracker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gepa_loop.outside.redact import HIDDEN, names_a_secret, redacted
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.run.identity import flatten
from gepa_loop.tracking.base import Point, Value

PLACES = (
    "events.jsonl",
    "optimize/candidates.jsonl",
    "round_*/optimize/candidates.jsonl",
    "distill/*/metrics.jsonl",
    "*/distill/*/metrics.jsonl",
    "round_*/race/*.json",
    "round_*/decision.json",
)
"""Files with points, in a run's folder; those of a sweep's cells are the fifth."""

RESULTS = ("result.json", "optimize/result.json")
REPORT = "report.html"

OF_CANDIDATE = ("id", "status", "tokens", "pareto_mean", "objectives", "cost", "spent")
"""What is sent of a row of candidates.jsonl: not its texts and its scores of single items."""

LONGEST = 500
"""Characters of a text; trackers keep numbers."""


def files(run: Path) -> list[Path]:
    """Those that have points."""
    return [file for place in PLACES for file in sorted(run.glob(place))]


def points(run: Path, file: Path) -> list[Point]:
    """What a file says, in its order.

    A stretch of a distillation that was taken back and trained again with half of the rate is a series of its own,
    `<id>/halved`: its steps were there before.
    """
    *folders, name = file.relative_to(run).parts
    place = "/".join(part for part in folders if part != "distill")
    match name:
        case "metrics.jsonl":
            return [
                _point(f"{place}/halved" if row["halved"] else place, row["step"], row) for row in _rows(file)
            ]
        case "events.jsonl":
            return [_point("events", number, row) for number, row in enumerate(_rows(file))]
        case "candidates.jsonl":
            return [
                _point(place, row["number"], {key: row[key] for key in OF_CANDIDATE}) for row in _rows(file)
            ]
        case "decision.json":
            found = read_json(file, dict[str, Any])
            return [_point("decision", found["round"], {k: v for k, v in found.items() if k != "race"})]
    found = read_json(file, dict[str, Any])
    return [_point(place, found["step"], found)]


def result(run: Path) -> tuple[Path, dict[str, Value]] | None:
    """What a finished run came to, and the file that says it."""
    for name in RESULTS:
        if (file := run / name).exists():
            found = read_json(file, dict[str, Any])
            return file, dict(leaves({key: value for key, value in found.items() if key != "files"}))
    return None


def without_secrets(config: Mapping[str, Any]) -> dict[str, Value]:
    """A configuration by dotted keys, without what is a secret by its key's name or by the environment."""
    return {
        key: HIDDEN if any(map(names_a_secret, key.split("."))) else value
        for key, value in leaves(flatten(config), joint=".")
    }


def leaves(value: object, at: str = "", joint: str = "/") -> Iterator[tuple[str, Value]]:
    """The numbers and texts of a JSON value, by the names on the way to them; nulls and empty texts are left out."""
    match value:
        case None | "":
            return
        case bool() | int() | float():
            yield at, float(value)
        case str():
            yield at, redacted(value)[:LONGEST]
        case Mapping():
            for key, inner in value.items():
                yield from leaves(inner, f"{at}{joint}{key}" if at else str(key), joint)
        case Sequence():
            if all(isinstance(one, str) for one in value):
                yield from leaves(" ".join(value), at, joint)
                return
            for number, inner in enumerate(value):
                # Candidates and cells have names.
                name = inner.get("id", inner.get("cell", number)) if isinstance(inner, Mapping) else number
                yield from leaves(inner, f"{at}{joint}{name}" if at else str(name), joint)


def _rows(file: Path) -> list[dict[str, Any]]:
    return read_jsonl(file, dict[str, Any])


def _point(series: str, step: int, row: Mapping[str, Any]) -> Point:
    return Point(series, step, {**dict(leaves(row)), "step": float(step)})
