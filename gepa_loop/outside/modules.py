"""Python modules that a configuration names: whose code may run, and what becomes of what it raises.

A `gepa-loop.toml` is read wherever a command is started, so a task may only run files that lie beside it or that the user
put on Python's path: nothing of the Python installation (`os:system`), nothing of gepa-loop.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from gepa_loop.errors import GepaLoopError, TaskError


def module_file(name: str, where: str) -> Path:
    """The file that importing a module by its dotted name would run; nothing is run.

    Args:
        name: As in `import name`.
        where: The key and value that name it, for the message of an error.

    Raises:
        TaskError: It is neither in the working directory nor on PYTHONPATH, or another module has its name.
    """
    here = str(Path.cwd())
    places = [here, *filter(None, sys.path)]
    top, *inner = name.split(".")
    spec = None if top == "gepa_loop" else PathFinder.find_spec(top, places)
    first = spec
    for part in inner:
        top += f".{part}"
        spec = spec and PathFinder.find_spec(top, spec.submodule_search_locations or [])
    file = _file(spec)
    if file is None or _installed(file):
        raise TaskError(
            f"{where}: there is no file of {name} in {here} or on PYTHONPATH",
            "Modules of the Python installation are not run: write a file that imports what you need from them.",
        )
    if file.is_relative_to(here) and here not in sys.path:
        sys.path.append(here)
    taken = sys.modules.get(name.partition(".")[0])
    found = taken.__spec__ if taken else importlib.util.find_spec(name.partition(".")[0])
    if first is not None and found is not None and _places(found) != _places(first):
        raise TaskError(
            f"{where}: {file} cannot be imported, as {found.origin or found.name} has the same name",
            "Rename it.",
        )
    return file


def own_function(name: str, attribute: str, where: str) -> Callable[..., Any]:
    """A function of a module that `module_file` finds; `name` and `where` are as there.

    Raises:
        TaskError: There is no such function; also what the module raises.
    """
    module_file(name, where)
    with foreign(TaskError, f"{where}: importing {name}"):
        function = getattr(importlib.import_module(name), attribute, None)
    if not callable(function):
        raise TaskError(f"{where}: {name} has no function {attribute!r}")
    found: Callable[..., Any] = function
    return found


@contextmanager
def foreign(kind: type[GepaLoopError], what: str, hint: str = "") -> Iterator[None]:
    """Turn whatever a user's code raises, `sys.exit` and cancelled tasks too, into an error that says where it came from."""
    try:
        yield
    except (GepaLoopError, KeyboardInterrupt, GeneratorExit):  # a signal's; and a generator's that is closed
        raise
    except BaseException as error:
        raise kind(f"{what} failed: {type(error).__name__}: {error}", hint) from error


def _file(spec: ModuleSpec | None) -> Path | None:
    return Path(spec.origin) if spec is not None and spec.origin is not None and spec.has_location else None


def _places(spec: ModuleSpec) -> set[Path]:
    """Where a module lies: its file, or a namespace's folders."""
    file = _file(spec)
    return {file.resolve()} if file else {Path(p).resolve() for p in spec.submodule_search_locations or []}


def _installed(path: Path) -> bool:
    """Whether a file or folder belongs to the Python installation."""
    whole = path.resolve()
    roots = map(sysconfig.get_path, ("stdlib", "platstdlib", "scripts"))
    return bool({"site-packages", "dist-packages"} & set(whole.parts)) or any(
        whole.is_relative_to(Path(root).resolve()) for root in roots
    )
