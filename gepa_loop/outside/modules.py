"""Python modules that a configuration names: whose code may run, and what becomes of what it raises.

A `gepa-loop.toml` is read wherever a command is started, so a task may only run files that lie beside it, that the user put on Python's
path or that it names by their path: nothing of the Python installation (`os:system`), nothing of gepa-loop.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import linecache
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from gepa_loop.errors import GepaLoopError, TaskError

OURS = Path(__file__).resolve().parents[1]


def is_file(name: str) -> bool:
    """Whether a module is named by its file's path, as in `tasks/tickets.py`, and not as in `import tasks.tickets`."""
    return name.endswith(".py")


def module_file(name: str, where: str) -> Path:
    """The file that importing a module by its dotted name would run; nothing is run.

    Args:
        name: As in `import name`, or the path of a file.
        where: The key and value that name it, for the message of an error.

    Raises:
        TaskError: It is neither in the working directory nor on PYTHONPATH, or another module has its name; or there is no such
            file, or none that may be run.
    """
    if is_file(name):
        return _named_file(Path(name), where)
    here = str(Path.cwd())
    places = [here, *filter(None, sys.path)]
    top, *inner = name.split(".")
    spec = None if top == "gepa_loop" else PathFinder.find_spec(top, places)
    first = spec
    for part in inner:
        top += f".{part}"
        spec = spec and PathFinder.find_spec(top, spec.submodule_search_locations or [])
    file = located(spec)
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
    file = module_file(name, where)
    with foreign(TaskError, f"{where}: importing {name}"):
        module = _imported(file) if is_file(name) else importlib.import_module(name)
        function = getattr(module, attribute, None)
    if not callable(function):
        raise TaskError(f"{where}: {name} has no function {attribute!r}")
    found: Callable[..., Any] = function
    return found


def is_the_users(path: Path) -> bool:
    """Whether a file is neither of the Python installation nor of gepa-loop."""
    return not (_installed(path) or path.resolve().is_relative_to(OURS))


@contextmanager
def foreign(kind: type[GepaLoopError], what: str, hint: str = "") -> Iterator[None]:
    """Turn whatever a user's code raises, `sys.exit` and cancelled tasks too, into an error that says where it came from."""
    try:
        yield
    except (GepaLoopError, KeyboardInterrupt, GeneratorExit):  # a signal's; and a generator's that is closed
        raise
    except BaseException as error:
        raise kind(f"{what} failed: {type(error).__name__}: {error}{_own_line(error)}", hint) from error


def _own_line(error: BaseException) -> str:
    """Where in the user's code an exception came from, with the source line; nothing where none of its frames is the user's."""
    places = [(one.filename, one.lineno) for one in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        places.append((error.filename, error.lineno))
    # What a dataclass makes of itself (`<string>`) has no lines.
    own = [
        (Path(file), line, source)
        for file, line in places
        if line
        and not file.startswith("<frozen")
        and is_the_users(Path(file))
        and (source := linecache.getline(file, line).strip())
    ]
    if not own:
        return ""
    path, line, source = own[-1]
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"\n  {shown}, line {line}: {source}"


def _named_file(path: Path, where: str) -> Path:
    whole = path.expanduser().resolve()
    if not whole.is_file():
        raise TaskError(f"{where}: there is no file {path}", "Name a Python file of yours.")
    if not is_the_users(whole):
        raise TaskError(
            f"{where}: {path} is no file of yours",
            "Files of the Python installation and of gepa-loop are not run: write one that imports what you need from them.",
        )
    return whole


class _Uncached(SourceFileLoader):
    """Compiles a file whenever it is asked: bytecode on disk counts as that of an edited file within one second."""

    def path_stats(self, path: str) -> Any:
        raise OSError(f"no bytecode is kept of {path}")


def _imported(file: Path) -> ModuleType:
    """The module of a file as it is now: an edited one is another module, so that a notebook's next call runs it."""
    text = hashlib.sha256(str(file).encode() + file.read_bytes()).hexdigest()[:8]
    name = f"{file.stem}_{text}"
    if name in sys.modules:
        return sys.modules[name]
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    linecache.checkcache(str(file))
    spec = importlib.util.spec_from_file_location(name, file, loader=_Uncached(name, str(file)))
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be read as a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def located(spec: ModuleSpec | None) -> Path | None:
    """The file of a module that was found; None where it has none, as a folder without `__init__` has none."""
    return Path(spec.origin) if spec is not None and spec.origin is not None and spec.has_location else None


def _places(spec: ModuleSpec) -> set[Path]:
    """Where a module lies: its file, or a namespace's folders."""
    file = located(spec)
    return {file.resolve()} if file else {Path(p).resolve() for p in spec.submodule_search_locations or []}


def _installed(path: Path) -> bool:
    """Whether a file or folder belongs to the Python installation."""
    whole = path.resolve()
    roots = map(sysconfig.get_path, ("stdlib", "platstdlib", "scripts"))
    return bool({"site-packages", "dist-packages"} & set(whole.parts)) or any(
        whole.is_relative_to(Path(root).resolve()) for root in roots
    )
