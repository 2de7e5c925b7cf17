"""The run directory: one lock, a manifest that guards continuation, a journal of events."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from gepa_loop.errors import RunDirectoryError
from gepa_loop.run.files import TEMPORARY, append_jsonl, disk_errors, read_jsonl, write_json
from gepa_loop.run.identity import check_manifest, read_manifest
from gepa_loop.run.records import EventRow, ManifestRecord

CLEARING = ".clearing"
"""Marks a run directory that is being emptied."""

LOOK = 1.0
"""Seconds to wait for a lock: whoever looks whether a run is in use holds it for a moment."""

JOIN = 60.0
"""The same where many processes begin a run together."""

WAIT = "Wait for it to end, or choose another --run-name."

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What a file system without locks answers."""


@dataclass(frozen=True)
class Run:
    """A run directory that this process holds the lock of."""

    path: Path
    birth: str
    """Made at random when the directory was: a run that is deleted and made again is another one."""

    @property
    def name(self) -> str:
        return self.path.name

    def event(self, kind: str, **fields: object) -> None:
        """Append one row to `events.jsonl`."""
        append_jsonl(self.path / "events.jsonl", [{"event": kind, **fields}])


@contextlib.contextmanager
def open_run(path: Path, identity: Mapping[str, object], *, fresh: bool = False) -> Iterator[Run]:
    """Create or continue a run directory, and hold its lock while the block runs.

    Args:
        path: The run directory.
        identity: What the results depend on, as flat JSON values: config keys, model, data and package
            versions. It is the run's `manifest.json`, beside the run's `birth`.
        fresh: Delete what an earlier run left there.

    Raises:
        RunDirectoryError: Another process holds the lock, or one of a part; the folder is no run directory; or the manifest
            differs, in which case the message lists each differing value.
        EnvironmentFault: The folder cannot be written.
    """
    _make_folder(path)
    with locked(path / ".lock", path, WAIT):
        refuse_parts_in_use(path)
        with disk_errors(path):
            if fresh or (path / CLEARING).exists():
                _clear(path)
            for left in path.rglob(f".*{TEMPORARY}"):
                left.unlink()
        yield Run(path, _birth(path, identity))


@contextlib.contextmanager
def open_part(path: Path, identity: Mapping[str, object], whole: Mapping[str, object]) -> Iterator[Run]:
    """`open_run` of a folder within the run directory that several processes make together, each a part.

    The lock of the whole is held only until its manifest is there; whoever opens that with `open_run` finds it in use while a part is.

    Args:
        path: The part's run directory, in that of the whole.
        identity: Of the part.
        whole: That of the whole.

    Raises:
        RunDirectoryError: As of `open_run`, of both.
        EnvironmentFault: A folder cannot be written.
    """
    _make_folder(path.parent)
    with locked(path.parent / ".lock", path.parent, WAIT, JOIN):
        _birth(path.parent, whole)
    with open_run(path, identity) as run:
        yield run


def refuse_parts_in_use(path: Path) -> None:
    """Refuse to change a run directory whose part another process makes: what it is about to write would be taken for left behind.

    Raises:
        RunDirectoryError: There is one.
    """
    if (part := part_in_use(path)) is not None:
        raise RunDirectoryError(f"{path} is in use: another process makes {part}", WAIT)


def part_in_use(path: Path) -> str | None:
    """The folder within a run directory that a process makes on its own; None where there is none."""
    return next((lock.parent.name for lock in path.glob("*/.lock") if in_use(lock.parent)), None)


def _make_folder(path: Path) -> None:
    """The folder, unless something else is in its place."""
    with disk_errors(path):
        if path.exists() and not path.is_dir():
            raise RunDirectoryError(f"{path} is a file, not a run directory", "Choose another --run-name.")
        if path.is_dir() and not (path / "manifest.json").exists() and not (path / CLEARING).exists():
            strangers = [f.name for f in path.iterdir() if not f.name.startswith(".")]
            # Another process may have begun it since.
            if strangers and not (path / "manifest.json").exists():
                raise RunDirectoryError(
                    f"{path} is no run directory: it holds {min(strangers)} and no manifest.json",
                    "Choose another --run-name.",
                )
        path.mkdir(parents=True, exist_ok=True)


def _birth(path: Path, identity: Mapping[str, object]) -> str:
    """That of the run, whose manifest is checked, or made."""
    manifest = path / "manifest.json"
    if manifest.exists():
        birth = check_manifest(path, read_manifest(path), identity)
        read_jsonl(path / "events.jsonl", EventRow)
        return birth
    record: ManifestRecord = {"birth": uuid.uuid4().hex, "identity": dict(identity)}
    write_json(manifest, record)
    return record["birth"]


@contextlib.contextmanager
def locked(path: Path, what: Path, hint: str, patience: float = LOOK) -> Iterator[None]:
    """Hold a lock file while the block runs.

    Args:
        path: The lock file.
        what: What it guards.
        hint: What to do where another process holds it.
        patience: Seconds to wait for that process.

    A file system without locks (NFS without its lock daemon) gets a soft lock, whose file alone says that somebody holds
    it: filelock takes over one whose process is gone, on this machine.

    Raises:
        RunDirectoryError: Another process holds it.
        EnvironmentFault: The file cannot be made.
    """
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    with disk_errors(path):
        try:
            try:
                lock.acquire(timeout=patience)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                lock = SoftFileLock(f"{path}.soft")
                # The first try may only find that the holder is gone.
                lock.acquire(timeout=max(0.5, patience))
        except Timeout:
            if isinstance(lock, SoftFileLock):
                hint += f" This file system has no locks: delete {lock.lock_file} if no process is left."
            raise RunDirectoryError(f"{what} is in use by another process", hint) from None
    try:
        yield
    finally:
        lock.release()


def in_use(path: Path) -> bool:
    """Whether a process holds the lock of a run directory, as far as can be told; nothing is written where there are locks."""
    lock = path / ".lock"
    try:
        with lock.open("rb") as file:
            # Shared: two that look do not take each other for the run.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:  # there is none, or it is another user's
            return False
    try:
        with locked(lock, path, "", patience=0.0):
            return False
    except RunDirectoryError:
        return True


def _clear(path: Path) -> None:
    """Empty a run directory; a process that is killed here leaves a mark by which the next one goes on."""
    (path / CLEARING).touch()
    for child in path.iterdir():
        if child.name.startswith(".lock") or child.name == CLEARING:
            continue
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    (path / CLEARING).unlink()
