"""Files of a run: whole or not at all, marked so that a change shows, JSONL journals that only grow."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from gepa_loop.errors import EnvironmentFault
from gepa_loop.outside.files import check_regular
from gepa_loop.run.marks import (
    CHECK,
    RIGHTS,
    check_files,
    damaged,
    dump,
    file_sums,
    mark,
    start_mark,
    unmarked,
    unreadable,
)

R = TypeVar("R")
"""The record that a file, or a row of one, is: a TypedDict. What is read is not compared with it; its check says that it is as
this program wrote it, which mypy holds to the record."""

SCHEMA_VERSION = 2
TEMPORARY = ".tmp"
"""Ends the name of a file that a process which was killed may have left; a run's next process removes it."""

HINTS = (
    ((errno.EACCES, errno.EPERM, errno.EROFS), RIGHTS),
    (
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "Free some space, or choose another folder (of a run: --run-name). A run goes on where it stopped by the same command.",
    ),
    (
        (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
        "Something else is in its place; choose another name.",
    ),
)
"""By the numbers of errors, what to do about a file that cannot be written: one of a run, or one that a user named."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an EnvironmentFault that names the path."""
    try:
        yield
    except OSError as error:
        hint = next((text for numbers, text in HINTS if error.errno in numbers), "")
        raise EnvironmentFault(f"cannot write {path}: {error.strerror or error}", hint) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, fsync, then `os.replace`."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` in UTF-8; a file that says the same already is left alone, with the time at which it was written."""
    data = text.encode()
    with contextlib.suppress(OSError):
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return
    write_bytes(path, data)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object atomically, with its `schema_version` and its check."""
    whole = {"schema_version": SCHEMA_VERSION, **value}
    whole[CHECK] = mark(start_mark(path), whole)
    write_text(path, json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, kind: type[R] | None = None) -> R:  # noqa: ARG001 (for the type alone)
    """The value that `write_json` was given, a `kind`.

    Raises:
        RunDirectoryError: The file is missing, is not as it was written, or has another schema version.
    """
    try:
        check_regular(path)
        value, _ = unmarked(start_mark(path), path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise damaged(path, str(error)) from None
    if (found := value.pop("schema_version", None)) != SCHEMA_VERSION:
        raise damaged(path, f"schema_version is {found!r}, not {SCHEMA_VERSION}")
    return cast("R", value)


def write_record(path: Path, value: Mapping[str, object], *places: str) -> None:
    """`write_json` of what a finished stage is, with the sums of the files at or below `places` beside it."""
    write_json(path, {**value, "files": file_sums(path.parent, *places)})


def read_record(path: Path, kind: type[R] | None = None, again: Path | None = None) -> R:  # noqa: ARG001 (for the type alone)
    """The value that `write_record` was given, a `kind`.

    Raises:
        RunDirectoryError: It, or one of its files, is not as it was written; `again` is as in `damaged`.
    """
    value = read_json(path, dict[str, object])
    if not isinstance(sums := value.pop("files", None), dict):
        raise damaged(path, "it lists no files")
    check_files(path.parent, sums, again)
    return cast("R", value)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a whole JSONL file atomically."""
    write_text(path, _marked(start_mark(path), rows))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Append rows to a journal with one write and an fsync; a torn tail is cut first."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            last = _cut_torn_tail(file)
            before = start_mark(path) if last is None else _check_of(path, last)
            file.write(_marked(before, rows).encode())
            file.flush()
            os.fsync(file.fileno())


def read_jsonl(
    path: Path,
    kind: type[R] | None = None,  # noqa: ARG001 (for the type alone)
    at_least: int = 0,
    again: Path | None = None,
) -> list[R]:
    """Rows of a journal, each a `kind`, without a torn last line; an absent file has no rows.

    Raises:
        RunDirectoryError: A row is not as it was written, or there are less than `at_least`; `again` is as in `damaged`.
    """
    try:
        check_regular(path)
        *lines, _torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise unreadable(path, error, again) from None
    rows: list[R] = []
    before = start_mark(path)
    for number, line in enumerate(lines, 1):
        try:
            row, before = unmarked(before, line)
        except ValueError as error:
            raise damaged(path, f"row {number}: {error}", again) from None
        rows.append(cast("R", row))
    if len(rows) < at_least:
        raise damaged(path, f"it has {len(rows)} of {at_least} rows", again)
    return rows


def _marked(before: str, rows: Iterable[Mapping[str, object]]) -> str:
    """Lines of JSONL; each row's check continues that of the row before."""
    lines = []
    for row in rows:
        before = mark(before, row)
        lines.append(dump({**row, CHECK: before}) + "\n")
    return "".join(lines)


def _check_of(path: Path, line: bytes) -> str:
    try:
        return str(json.loads(line)[CHECK])
    except (ValueError, LookupError, TypeError):
        raise damaged(path, "its last row is not as it was written") from None


def _cut_torn_tail(file: Any) -> bytes | None:
    """Cut what follows the last line's end, in place; returns the last line, or None without one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    whole = file.read(size)
    lines = whole[: whole.rfind(b"\n") + 1]
    if len(lines) < len(whole):
        file.truncate(len(lines))
    file.seek(0, os.SEEK_END)
    return lines[:-1].rpartition(b"\n")[2] if lines else None
