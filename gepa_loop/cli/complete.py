"""What a shell offers where the values of an argument or an option are known: quickly, and never an error.

Each function names all values; typer keeps those that begin with what was typed. Where none does, the shell offers files.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gepa_loop.errors import GepaLoopError

if TYPE_CHECKING:
    from gepa_loop.config.reference import Key


def run_names() -> list[str]:
    """Of runs that `runs remove` and `--run-name` take: those of this folder."""
    return list(_runs(_is_whole))


def removable(context: typer.Context) -> list[str]:
    """The same, without those that are named already."""
    return [name for name in run_names() if name not in (context.params.get("names") or ())]


def students() -> list[str]:
    """Of finished runs that make a student."""
    return _or_last(_has_result)


def searched() -> list[str]:
    """Of runs with a search."""
    from gepa_loop.show.searches import has_search

    return _or_last(lambda run: _is_whole(run) and has_search(run))


def sweeps() -> list[str]:
    """Of sweeps, begun or finished."""
    return _or_last(_is_sweep)


def reported() -> list[str]:
    """Of runs that have a page."""
    return _or_last(lambda run: _has_result(run) or _is_sweep(run))


def _or_last(wanted: Callable[[Path], bool]) -> list[str]:
    from gepa_loop.run.find import LAST

    names = list(_runs(wanted))
    return [LAST, *names] if names else []


def _runs(wanted: Callable[[Path], bool]) -> Iterator[str]:
    """Runs of this folder; one that cannot be read is none."""
    with suppress(OSError):
        for manifest in sorted(Path("runs").glob("*/manifest.json")):
            with suppress(OSError, GepaLoopError, LookupError):
                if wanted(manifest.parent):
                    yield manifest.parent.name


def _is_whole(run: Path) -> bool:
    return bool(_command(run))


def _is_sweep(run: Path) -> bool:
    return _command(run) == "sweep"


def _has_result(run: Path) -> bool:
    return _command(run) in ("distill", "loop") and (run / "result.json").exists()


def _command(run: Path) -> object:
    from gepa_loop.run.identity import read_manifest

    return read_manifest(run)["identity"].get("command")


def jobs() -> list[str]:
    """Of jobs that were submitted from this folder."""
    from gepa_loop.jobs.folder import known_jobs

    with suppress(OSError):
        return known_jobs()
    return []


def submitted() -> list[str]:
    """Commands that `submit` takes."""
    from gepa_loop.jobs.records import COMMANDS

    return list(COMMANDS)


def candidates(context: typer.Context) -> list[str]:
    """Of the search that is named before: names and ids."""
    from gepa_loop.show.names import nickname
    from gepa_loop.show.searches import read_search

    with suppress(OSError, GepaLoopError, LookupError):
        ids = list(read_search(_run_before(context), context.params.get("number")).own)
        return ["seed", "best", *map(nickname, ids), *ids] if ids else []
    return []


def rounds(context: typer.Context) -> list[str]:
    """Those of the run that is named before which have a search."""
    from gepa_loop.run.find import run_folder
    from gepa_loop.show.searches import has_search, search_folders

    with suppress(OSError, GepaLoopError, LookupError):
        folder = run_folder(_run_before(context), has_search)
        return [str(number) for number in search_folders(folder) if number is not None]
    return []


def _run_before(context: typer.Context) -> str:
    """What was typed for RUN; behind an option that still lacks its value arguments are not told apart yet."""
    return str(context.params["name"] or context.args[0])


def sources(incomplete: str) -> list[str]:
    """Of `--config`: presets, and TOML files of the folder that is typed."""
    from gepa_loop.config.layers import presets

    return [*_toml_files(incomplete), *presets()]


def grid_sources(incomplete: str) -> list[str]:
    """Of `sweep --preset`, likewise."""
    from gepa_loop.config.grids import grids

    return [*_toml_files(incomplete), *grids()]


def _toml_files(incomplete: str) -> list[str]:
    folder = incomplete[: incomplete.rfind("/") + 1]
    with suppress(OSError):
        return [f"{folder}{path.name}" for path in sorted(Path(folder).glob("*.toml"))]
    return []


def keys_and_tables() -> list[str]:
    """Of `config explain`."""
    from gepa_loop.config.explain import all_keys

    return all_keys()


def keys() -> list[str]:
    """Of `--grid`: keys with their sign of equality."""
    return [f"{name}=" for name in _by_name()]


def settings(incomplete: str) -> list[str]:
    """Of `--set`: keys, and where only one is left, the values that it can have, or its default.

    A shell ends a word that is the only one left with a space, and a key is not to be ended before it has its value.
    """
    found = _by_name()
    typed, equals, _ = incomplete.partition("=")
    left = [name for name in found if name == typed or (not equals and name.startswith(typed))]
    if len(left) > 1:
        return [f"{name}=" for name in left]
    return [f"{name}={value}" for name in left for value in ("", *_values(found[name]))]


def _by_name() -> dict[str, Key]:
    """The keys that hold a value; of those that several tables have the first."""
    from gepa_loop.config.reference import all_keys_explained

    return {key.name: key for key in reversed(all_keys_explained()) if key.kind}


def _values(key: Key) -> list[str]:
    if key.kind == "true or false":
        return ["true", "false"]
    if key.kind.startswith("one of "):
        return key.kind.removeprefix("one of ").split(", ")
    default = str(key.default) if isinstance(key.default, str | int | float) else ""
    # What a shell would take apart is not offered as it is.
    return [default] if shlex.quote(default) == default else []


def trackers() -> list[str]:
    """Of `--track`."""
    from gepa_loop.config.track import TRACKERS

    return list(TRACKERS)


def splits() -> list[str]:
    """Of `--split`."""
    from gepa_loop.task.splits import SPLITS

    return list(SPLITS)


def gguf_types() -> list[str]:
    """Of `--gguf`."""
    from gepa_loop.serving.gguf_file import KINDS

    return [*KINDS, "lora"]
