"""Runs by name: below ./runs, by the path of a folder, or `last`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gepa_loop.errors import ConfigError
from gepa_loop.outside.files import found_at
from gepa_loop.run.identity import read_manifest

LAST = "last"
"""The run that wrote something last."""


def all_runs(place: Path | None = None) -> list[Path]:
    """The run directories below a folder, ./runs by default, the last that was written to first."""
    found = [path.parent for path in (place or Path("runs")).glob("*/manifest.json")]
    return sorted(found, key=lambda path: (-written(path), path.name))


def written(run: Path) -> float:
    """When a run wrote its last event or its result, in seconds since the epoch."""
    found = 0.0
    for name in ("events.jsonl", "result.json", "manifest.json"):
        with suppress(FileNotFoundError):
            found = max(found, (run / name).stat().st_mtime)
    return found


def run_folder(run: str, wanted: Callable[[Path], bool] = lambda _: True, what: str = "Runs") -> Path:
    """The folder of a run.

    Args:
        run: A name below ./runs, the path of a run directory, or `last`.
        wanted: Of which runs `last` is the last, and which a message lists; without one, it is the last of all, which may be one that is
            not finished.
        what: What those are called.

    Raises:
        ConfigError: There is no such run.
    """
    places = (Path("runs") / run, Path(run))
    for place in places:
        if found_at(place / "manifest.json"):
            return place
    if run == LAST and (every := all_runs()):
        return next(filter(wanted, every), every[0])
    there = [place for place in places if found_at(place, Path.is_dir)]
    raise ConfigError(
        f"{there[0]}: no run directory" if there else f"{run}: no such run", known_runs(wanted, what)
    )


def named_run(name: str) -> Path:
    """The folder of a run below ./runs, for what is not undone: a plain name, whose manifest is a run's.

    Raises:
        ConfigError: There is none of this name.
        RunDirectoryError: Its manifest is not as it was written.
    """
    folder = Path("runs") / name
    if name == LAST and not found_at(folder / "manifest.json") and (every := all_runs()):
        raise ConfigError(
            f"{LAST!r}: what is deleted is called by its own name", f"The last run is {every[0].name}."
        )
    if name in ("", ".", "..") or Path(name).name != name or not found_at(folder / "manifest.json"):
        raise ConfigError(
            f"{name!r}: no run below {Path('runs').resolve()}", known_runs(lambda _: True, "Runs")
        )
    read_manifest(folder)
    return folder


def known_runs(wanted: Callable[[Path], bool], what: str) -> str:
    """Which runs there are of a kind, in a sentence."""
    names = ", ".join(sorted(path.name for path in all_runs() if wanted(path)))
    return f"{what}: {names}." if names else f"{what}: none below {Path('runs').resolve()}."
