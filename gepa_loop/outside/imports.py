"""Which files of the user's a module runs: itself and what it imports. They are read, not run, and what this process has imported
before makes no difference."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path

from gepa_loop.outside.modules import is_the_users, located


def imported_files(name: str, file: Path) -> dict[str, Path]:
    """The files of the user's that importing a module runs, directly or through others, by the names of their modules; its own by "".

    Imports inside functions count; a name that is put together only when the code runs is not found. Of an installed package
    they are all its files.

    Args:
        name: Of the module, with its package where it has one.
        file: Of the module.
    """
    if not is_the_users(file):
        return _of_a_package(file)
    places = [*sys.path, str(Path.cwd()), str(file.parent)]
    found = {"": file}
    waiting = [*_named(name, places), (name, file)]
    while waiting:
        module, inside = waiting.pop()
        for wanted in _imports(module, inside):
            for one, place in _named(wanted, places):
                if one not in found:
                    found[one] = place
                    waiting.append((one, place))
    return {**found, **{one: place for one, place in _named(name, places) if place != file}}


def _of_a_package(file: Path) -> dict[str, Path]:
    if file.name != "__init__.py":
        return {"": file}
    return {str(one.relative_to(file.parent)): one for one in file.parent.rglob("*.py")}


def _named(name: str, places: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The modules that importing a dotted name runs one after the other, as far as they are the user's."""
    whole, within = "", list(places)
    for part in name.split("."):
        whole = f"{whole}.{part}".lstrip(".")
        # By its last part, since what a folder without `__init__` holds is looked up by the name of its parent, which is not imported.
        spec = PathFinder.find_spec(part, within)
        file = located(spec)
        if spec is None or (file is not None and not is_the_users(file)):
            return
        if file is not None and file.suffix == ".py":
            yield whole, file
        within = list(spec.submodule_search_locations or ())


def _imports(module: str, file: Path) -> Iterator[str]:
    """The names that a file imports; none where it is no Python, which is said when it is run."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the top, which is said when it is run
                continue
            yield from (base if one.name == "*" else f"{base}.{one.name}" for one in node.names)
