"""How far a run is that is not finished, and by what it is continued, as its files say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gepa_loop.cost.records import StageRow
from gepa_loop.errors import RunDirectoryError
from gepa_loop.run.directory import in_use
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.run.identity import read_manifest
from gepa_loop.stages.timing import FILE, LOADING
from gepa_loop.training.records import MetricsRow


def reached(folder: Path) -> str:
    """The stage that a run was in when it was ended, or that it ended last, and the step of students that are not trained to their end;
    empty where none is known.

    Raises:
        RunDirectoryError: A file of it is not as it was written.
    """
    rows = [row for row in read_jsonl(folder / FILE, StageRow) if row["stage"] != LOADING]
    step = _step(folder)
    if not rows:
        return step
    last = rows[-1]
    number = "" if last["round"] is None else f"round {last['round']}"
    return ", ".join(filter(None, (number, last["stage"], step)))


def _step(folder: Path) -> str:
    """Of the student that was trained last, unless it is whole."""
    files = [*folder.glob("distill/*/metrics.jsonl"), *folder.glob("round_*/distill/*/metrics.jsonl")]
    begun = [file for file in files if not (file.parent / "result.json").exists()]
    if not begun:
        return ""
    rows = read_jsonl(max(begun, key=lambda file: file.stat().st_mtime), MetricsRow)
    steps = read_json(folder / "config.json", dict[str, Any])["distill"]["steps"]
    return f"step {rows[-1]['step']} of {steps}" if rows else ""


def continuation(folder: Path) -> str | None:
    """The command line that continues a run; None where a Python program made it, or an earlier version.

    Raises:
        RunDirectoryError: The journal of its events is not as it was written.
    """
    rows: list[Mapping[str, Any]] = read_jsonl(folder / "events.jsonl", dict[str, Any])
    starts = [row for row in rows if row["event"] == "start"]
    return starts[-1].get("typed") or None if starts else None


def unfinished(folder: Path, there: str = "") -> RunDirectoryError:
    """What to say of a run that is asked for what it will have at its end.

    Args:
        folder: Of the run.
        there: What it has so far, in words.
    """
    name, command = folder.resolve().name, read_manifest(folder)["identity"].get("command", "")
    so_far = "; ".join(filter(None, (f"it reached {at}" if (at := reached(folder)) else "", there)))
    said = f"run {name} is not finished{f': {so_far}' if so_far else ''}"
    if in_use(folder):
        return RunDirectoryError(said, "A process is at work on it: wait for its end.")
    typed = continuation(folder)
    again = (
        f"Continue it: {typed}"
        if typed
        else f"Run its `{command}` again to continue it; it goes on where it stopped."
    )
    return RunDirectoryError(said, again)
