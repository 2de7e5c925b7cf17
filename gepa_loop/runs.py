"""The run directory: atomic writes, one lock, a manifest that guards continuation, JSONL journals, seeds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gepa_loop.errors import EnvironmentFault, RunDirectoryError

SCHEMA_VERSION = 1


def derive_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one place in a run: the same for the same path, unrelated between paths."""
    digest = hashlib.sha256(json.dumps([seed, *path]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the sha256 of a JSON value, keys sorted."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an EnvironmentFault that names the path."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(
            f"cannot write {path}: {error.strerror or error}",
            "Free some space or choose another folder with --run-name; then run the same command to continue.",
        ) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary file beside it, fsync, then `os.replace`."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its `schema_version`."""
    text = json.dumps(
        {"schema_version": SCHEMA_VERSION, **value}, indent=2, ensure_ascii=False, allow_nan=False
    )
    write_text(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        RunDirectoryError: The file is no JSON object or has another schema version.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}", "Start again with --fresh.") from None
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        found = value.get("schema_version") if isinstance(value, dict) else type(value).__name__
        raise RunDirectoryError(
            f"{path}: schema_version is {found!r}, not {SCHEMA_VERSION}", "Start again with --fresh."
        )
    return value


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSONL file atomically."""
    write_text(path, "".join(_line(row) for row in rows))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a journal with one write and an fsync; a torn tail is cut first."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            _cut_torn_tail(file)
            file.write("".join(_line(row) for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a journal, without a torn last line; an absent file has no rows."""
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise RunDirectoryError(f"{path} is damaged: {error}", "Start again with --fresh.") from None


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _cut_torn_tail(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(0)
    keep = file.read().rfind(b"\n") + 1
    if keep < size:
        file.truncate(keep)
    file.seek(0, os.SEEK_END)


@dataclass(frozen=True)
class Run:
    """A run directory that this process holds the lock of."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def event(self, kind: str, **fields: Any) -> None:
        """Append one row to `events.jsonl`."""
        append_jsonl(self.path / "events.jsonl", [{"event": kind, **fields}])


@contextlib.contextmanager
def open_run(path: Path, identity: Mapping[str, Any], *, fresh: bool = False) -> Iterator[Run]:
    """Create or continue a run directory, and hold its lock while the block runs.

    Args:
        path: The run directory.
        identity: What the results depend on, as flat JSON values: config keys, model, data and package
            versions. It is the run's `manifest.json`.
        fresh: Delete what an earlier run left there.

    Raises:
        RunDirectoryError: Another process holds the lock; the folder is no run directory; or the manifest
            differs, in which case the message lists each differing value.
        EnvironmentFault: The folder cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path} is a file, not a run directory", "Choose another --run-name.")
    manifest = path / "manifest.json"
    if (
        path.is_dir()
        and not manifest.exists()
        and any(f.name != ".lock" for f in path.iterdir() if not f.name.startswith("."))
    ):
        raise RunDirectoryError(f"{path} is not empty and no run directory", "Choose another --run-name.")
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunDirectoryError(
            f"{path} is in use by another process", "Wait for it to end, or choose another --run-name."
        ) from None
    try:
        if fresh:
            _clear(path)
        if manifest.exists():
            _check_manifest(path, read_json(manifest), identity)
        else:
            write_json(manifest, {"identity": dict(identity)})
        yield Run(path)
    finally:
        lock.release()


def _clear(path: Path) -> None:
    import shutil

    for child in path.iterdir():
        if child.name == ".lock":
            continue
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()


def _check_manifest(path: Path, manifest: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    old, new = manifest["identity"], json.loads(json.dumps(identity))
    changed = [
        f"  {key}: {old.get(key, '(absent)')!r} in the run, now {new.get(key, '(absent)')!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise RunDirectoryError(
            f"{path} was made with other values:\n" + "\n".join(changed),
            "Put them back to continue it, choose another --run-name, or start again with --fresh.",
        )


def flatten(value: Any, at: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists stay values."""
    if not isinstance(value, Mapping):
        return {at: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(flatten(inner, f"{at}.{key}" if at else str(key)))
    return flat
