"""What was written is what is read: marks in JSON and JSONL files, and sums of the files of a finished stage.

Every JSON object and every JSONL row carries a `check`: 8 hex digits of a sha256 over its content, the file's name and,
in a JSONL file, the check of the row before. The record of a finished stage lists the sums of its `files`. A file that
is not as it was written is named, with what to delete to have it made again; it never becomes another result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from gepa_loop.errors import RunDirectoryError
from gepa_loop.outside.files import check_regular

CHECK = "check"
PART = ".part"
"""Ends the name of a file that is being made."""


RIGHTS = (
    "Is it another user's, or read-only? Change its rights, or choose another folder (of a run: --run-name)."
)
"""What to do about a file that this user may not read or write; nothing in it is wrong."""


def unreadable(path: Path, error: OSError, again: Path | None = None) -> RunDirectoryError:
    """The error of a file of a run that cannot be read; `again` is as in `damaged`."""
    why = f"it cannot be read: {error.strerror}"
    # Folders around it may be closed, too.
    return (
        RunDirectoryError(f"{path}: {why}", RIGHTS)
        if isinstance(error, PermissionError)
        else damaged(path, why, again)
    )


def damaged(path: Path, why: str, again: Path | None = None) -> RunDirectoryError:
    """The error of a file of a run that is not as it was written.

    Args:
        path: The file.
        why: What was expected, and what was found.
        again: What is deleted to have it made again; None is the file itself. The results above it go with it.
    """
    owed = again or path
    listed = ", ".join(map(str, (owed, *_results_above(owed))))
    return RunDirectoryError(
        f"{path}: {why}", f"Delete {listed} to have it made again, or start again with --fresh."
    )


def named(fingerprint: str | None) -> str:
    """Words for whose scores or weights something holds."""
    return "the bare base" if fingerprint is None else f"the adapter {fingerprint}"


def check_below(record: Path, found: str | None, stack: str | None) -> None:
    """Raise RunDirectoryError where a finished stage was made on top of another adapter than the one that is below it now."""
    if found != stack:
        raise damaged(
            record,
            f"made on top of {named(found)}, and it is {named(stack)} that is below now",
            record.parent,
        )


def _results_above(path: Path) -> list[Path]:
    """The records, up to the run's own, that say that what lies at `path` is finished."""
    folders = list(path.parents)
    while folders and not (folders[-1] / "manifest.json").exists():
        folders.pop()
    results = (folder / "result.json" for folder in folders)
    return [result for result in results if result != path and result.exists()]


def dump(value: Mapping[str, object]) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def start_mark(path: Path) -> str:
    """What the first check of a file continues from: two files of one folder cannot be taken for each other."""
    return path.name.removesuffix(PART)


def mark(before: str, value: Mapping[str, object]) -> str:
    """The check of a JSON object that follows the check `before`."""
    return hashlib.sha256(f"{before} {dump(value)}".encode()).hexdigest()[:8]


def unmarked(before: str, text: str | bytes) -> tuple[dict[str, object], str]:
    """A JSON object without its check, and that check.

    Raises:
        ValueError: The text is no JSON object, or not the one that was written there; says which.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("not JSON: it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(found := value.pop(CHECK, None), str):
        raise ValueError("it has no check: it was not written by this version of gepa-loop")
    if (expected := mark(before, value)) != found:
        raise ValueError(
            f"its check is {found!r} and its content's is {expected!r}: it was changed or is not whole"
        )
    return value, found


def file_sums(folder: Path, *places: str) -> dict[str, str]:
    """The first 16 hex digits of the sha256 of each file at or below `places` of a folder, by its name there."""
    files = (file for place in places for file in (folder / place, *sorted((folder / place).rglob("*"))))
    return {str(file.relative_to(folder)): _sum(file) for file in files if file.is_file()}


def check_files(folder: Path, sums: Mapping[str, str], again: Path | None = None) -> None:
    """Compare files with what `file_sums` found of them.

    Raises:
        RunDirectoryError: Names the first that is missing or different; `again` is as in `damaged`.
    """
    for name, expected in sums.items():
        path = folder / name
        try:
            found = _sum(path)
        except OSError as error:
            raise unreadable(path, error, again) from None
        if found != expected:
            raise damaged(path, f"its sha256 begins with {found}, and {expected} was written", again)


def _sum(path: Path) -> str:
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
