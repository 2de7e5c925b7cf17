"""Folders of students that are trained elsewhere, and what comes back of them.

A worker trains in copies of its students' folders. After each check what is new there is sent, and written in an order that may be cut off
anywhere: whatever process reads the folder finds a student from which training goes on.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from gepa_loop.run.files import TEMPORARY, disk_errors, write_bytes

RECORDS = "state.json", "result.json"
"""Files that say what else is there: a checkpoint's, a distillation's."""

STEP = "step_"
"""Begins the name of a checkpoint's folder."""

Files = Mapping[str, bytes | None]
"""Path below a folder, with slashes -> content; None where it is gone."""


COPIES = f"gepa-loop-worker-{platform.node()}_"
"""Begins the names of temporary folders with copies, before the number of their process: machines may share the place of such folders, and
numbers of processes are a machine's own."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for copies; EnvironmentFault where none can be made."""
    with disk_errors(Path(tempfile.gettempdir())):
        made = tempfile.TemporaryDirectory(prefix=f"{COPIES}{os.getpid()}-")
    with made as folder:
        yield Path(folder)


def sweep_copies() -> None:
    """Delete what processes have left that were ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{COPIES}*-*"):
        number = folder.name.removeprefix(COPIES).partition("-")[0]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError):
            continue  # another user's


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {name: path.read_bytes() for name, path in _walk(folder)}


def lay_out(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder of what `contents` gave of another; EnvironmentFault where it cannot be written."""
    with disk_errors(folder):
        folder.mkdir(parents=True)
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@dataclass
class Mirror:
    """A copy of a folder in which work is done; it knows what was sent of it."""

    folder: Path
    _sent: dict[str, tuple[int, int, int]]

    @classmethod
    def of(cls, folder: Path) -> Mirror:
        """One of which everything is known already to whoever is sent `news`."""
        return cls(folder, {name: _mark(path) for name, path in _walk(folder)})

    def news(self) -> dict[str, bytes | None]:
        """What has changed since it was asked last."""
        now, found = {}, dict[str, bytes | None]()
        for name, path in _walk(self.folder):
            now[name] = _mark(path)
            if self._sent.get(name) != now[name]:
                found[name] = path.read_bytes()
        found.update(dict.fromkeys(self._sent.keys() - now.keys()))
        self._sent = now
        return found


def take_over(news: Sequence[tuple[Path, Files]]) -> None:
    """Write what has changed in copies of folders."""
    for action in actions(news):
        action()


def actions(news: Sequence[tuple[Path, Files]]) -> Iterator[Callable[[], object]]:
    """What `take_over` does, one after the other.

    First records go that speak of files which are written over; then files come, then all records, the newest first, as students are thinned
    out when all of them are saved; what is gone goes last.
    """
    found = [(folder, PurePosixPath(name), data) for folder, files in news for name, data in files.items()]
    files = [(folder, name, data) for folder, name, data in found if name.name not in RECORDS]
    records = [(folder, name, data) for folder, name, data in found if name.name in RECORDS]
    for folder, name, data in files:
        for step in (parent for parent in name.parents if data and parent.name.startswith(STEP)):
            yield partial((folder / step / RECORDS[0]).unlink, missing_ok=True)
    # By name alone: of all students the newest step comes first.
    records.sort(key=lambda one: str(one[1]), reverse=True)
    for folder, name, data in (*files, *records):
        if data is not None:
            yield partial(write_bytes, folder / name, data)
    gone = [(folder, name) for folder, name, data in (*records, *files) if data is None]
    for folder, name in gone:
        yield partial((folder / name).unlink, missing_ok=True)
    for folder in dict.fromkeys(folder for folder, _ in gone):
        yield partial(_remove_empty, folder)


def _remove_empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(TEMPORARY):
            yield path.relative_to(folder).as_posix(), path


def _mark(path: Path) -> tuple[int, int, int]:
    """What a file that is replaced or appended to changes."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
