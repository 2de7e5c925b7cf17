"""The grids of a sweep: variants of a config.

A grid is a TOML file: `config` (the preset it is made for), `baseline` (a cell) and `[cells]`, each a list of
`key.path=value`.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gepa_loop.config.layers import DEFAULT_PRESET, find_source
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, GepaLoopError
from gepa_loop.outside.files import SETTINGS, found_at, parse_toml, read_file

LONGEST = 200
"""Bytes of a cell's name: a folder's may have 255, of which the seed takes some."""

QUOTED = r"""(?<![^\s=,:\[{])(?:"(?:[^"\\]|\\.)*"|'[^']*')"""
"""A quoted value, or a quoted text within one; an apostrophe inside of a word begins none."""


@dataclass(frozen=True)
class Grid:
    """Variants of a config."""

    name: str
    config: str | None
    """The preset it is made for."""
    baseline: str
    cells: Mapping[str, tuple[str, ...]]


def grids() -> dict[str, str]:
    """The shipped grids: name -> first comment line of its file."""
    folder = resources.files("gepa_loop.config") / "sweeps"
    texts = {
        f.name.removesuffix(".toml"): f.read_text("utf-8")
        for f in folder.iterdir()
        if f.name.endswith(".toml")
    }
    return {name: texts[name].split("\n", 1)[0].lstrip("# ") for name in sorted(texts)}


def load_grid(source: str) -> Grid:
    """A shipped grid by name, or a TOML file.

    Raises:
        ConfigError: There is none, or it is no grid.
    """
    if source in grids():
        text = (resources.files("gepa_loop.config") / "sweeps" / f"{source}.toml").read_text("utf-8")
    elif found_at(Path(source)):
        try:
            text = read_file(Path(source), SETTINGS).decode("utf-8", "replace")
        except OSError as error:
            raise ConfigError(f"--preset {source}: {error.strerror or error}", "Name a TOML file.") from None
    else:
        near = difflib.get_close_matches(source, grids(), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"--preset {source}: neither a file nor a grid", f"Grids: {', '.join(grids())}.{hint}"
        )
    try:
        table = parse_toml(text)
        cells = {str(name): tuple(map(str, sets)) for name, sets in table.pop("cells").items()}
        config = table.pop("config", None)
        grid = Grid(
            Path(source).stem, None if config is None else str(config), str(table.pop("baseline")), cells
        )
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"--preset {source}: not a grid: {error}",
            'It needs baseline = "..." and [cells] of name = ["key.path=value", ...].',
        ) from None
    if table or grid.baseline not in cells:
        what = f"unknown key {next(iter(table))}" if table else f"baseline = {grid.baseline!r} is no cell"
        raise ConfigError(f"--preset {source}: {what}", f"Its cells are {', '.join(cells)}.")
    for name, sets in cells.items():
        _check_length(name, f"--preset {source}")
        if Path(name).name != name or not name.strip("."):
            raise ConfigError(f"--preset {source}: cell {name!r} is not a plain folder name")
        if not all("=" in one for one in sets):
            raise ConfigError(
                f"--preset {source}: cell {name!r} is not a list of key.path=value",
                'A name with a dot needs quotes: "0.5" = [...].',
            )
    return grid


def parse_grid(text: str) -> Grid:
    """A grid from a line: `distill.lr=1e-5,5e-5 x objective.type=full_kl,token_kl`, the first of each being the baseline's.

    Raises:
        ConfigError: It is none, two cells would have one name, or one has a name that is too long.
    """
    factors = []
    for part in _split(text.strip(), r"\s+x\s+"):
        key, equals, values = part.partition("=")
        found = [value.strip() for value in _split(values, ",")]
        if not equals or not key.strip() or not all(found):
            raise ConfigError(
                f"--grid {text!r}: {part!r} is not of the form key=value,value",
                "Example: --grid 'distill.lr=1e-5,5e-5 x objective.type=full_kl,token_kl'",
            )
        factors.append([(key.strip(), value) for value in found])
    cells = {}
    for chosen in itertools.product(*factors):
        name = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in chosen).replace("/", "-")
        if name in cells:
            raise ConfigError(f"--grid {text!r}: two cells are called {name!r}", "Name each value once.")
        _check_length(name, "--grid")
        cells[name] = tuple(f"{key}={value}" for key, value in chosen)
    return Grid("grid", None, next(iter(cells)), cells)


def _split(text: str, between: str) -> list[str]:
    """The parts of a text between matches of a pattern that stand outside of quotes and brackets."""
    parts, depth = [""], 0
    for found in re.finditer(rf"{QUOTED}|(?P<between>{between})|.", text, re.DOTALL):
        if found["between"] and not depth:
            parts.append("")
            continue
        depth = max(0, depth + (found[0] in ("[", "{")) - (found[0] in ("]", "}")))
        parts[-1] += found[0]
    return parts


def _check_length(name: str, where: str) -> None:
    if (length := len(name.encode())) > LONGEST:
        raise ConfigError(
            f"{where}: the name of cell {f'{name[:40]}...'!r} is too long for a folder: {length} bytes of at most {LONGEST}",
            'A TOML file gives cells names of their own: NAME = ["key.path=value"] below [cells].',
        )


def grid_source(grid: Grid, source: str | None) -> str:
    """Where the config that the cells change comes from; without another the preset that the grid is made for."""
    return find_source(source, grid.config or DEFAULT_PRESET)


def cell_configs(
    grid: Grid, source: str | None, sets: Sequence[str], seeds: int
) -> dict[tuple[str, int], Config]:
    """The config of each cell and seed; a cell's own values come last.

    Raises:
        ConfigError: A cell's values do not fit the config, it changes what students are paired by, or two cells are one recipe.
    """
    source = grid_source(grid, source)
    whole = load_config(source, sets)
    found = {}
    for seed in range(whole.seed, whole.seed + seeds):
        for name, own in grid.cells.items():
            with cell_of(grid, name):
                cell = load_config(source, [*sets, *own, f"seed={seed}"])
                if (cell.task, cell.evaluate) != (whole.task, whole.evaluate) or any(
                    one.startswith("seed=") for one in own
                ):
                    raise ConfigError(
                        "it changes the task, how it is scored or the seed, and students are paired by item",
                        "Set task and evaluate for the whole sweep with --set, and the seeds with --seeds.",
                    )
                found[name, seed] = cell
    _refuse_equal(grid, {name: found[name, whole.seed] for name in grid.cells})
    return found


def _refuse_equal(grid: Grid, configs: Mapping[str, Config]) -> None:
    first: dict[str, str] = {}
    for name, config in configs.items():
        if (other := first.setdefault(config.model_dump_json(), name)) != name:
            raise ConfigError(
                f"grid {grid.name}: cells {other!r} and {name!r} are one recipe",
                "Leave one of them out: a recipe would be compared with itself.",
            )


@contextmanager
def cell_of(grid: Grid, name: str) -> Iterator[None]:
    """Say in an error which cell it is of."""
    try:
        yield
    except GepaLoopError as error:
        raise type(error)(f"grid {grid.name}, cell {name!r}: {error}", error.hint) from error
