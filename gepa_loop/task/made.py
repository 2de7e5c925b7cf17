"""Items that a user's code makes: a function that returns records, or a class that extends `own.Task`."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gepa_loop.config.tables import TaskConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import TaskError
from gepa_loop.outside.code import attributes, class_code
from gepa_loop.outside.imports import imported_files
from gepa_loop.outside.modules import foreign, is_file, is_the_users, module_file, own_function
from gepa_loop.run.identity import fingerprint
from gepa_loop.task.environments import environment_file
from gepa_loop.task.own import Task
from gepa_loop.task.own_scorer import by_record, own_scorer
from gepa_loop.task.readings import Scorer
from gepa_loop.task.records import MOST, Item, Record, bounded


class Made(NamedTuple):
    """What a user's code gives."""

    records: list[Record]
    scorer: Scorer | None = None
    """Its own, where it has one."""


def made(config: TaskConfig, own: Task | None) -> Made:
    """Records of a factory, a class or an object of the user's."""
    where = f"task.name = {config.name!r}" if own is None else f"task {config.name}"
    factory = _called(config, where) if own is None else own
    with foreign(TaskError, f"{where}: the factory"):
        score = getattr(factory, "score", None)
        records = factory.items if callable(score) else factory
        if callable(score) and callable(records):
            records = records()
    if not isinstance(records, Iterable):
        raise TaskError(
            f"{where}: the factory returned {type(records).__name__}",
            "Return an iterable of records, or an object with `items` and `score`.",
        )
    found = bounded(_numbered(records, config.name, where), MOST, where)
    if config.scorer is not None or not callable(score) or (isinstance(factory, Task) and not factory.scores):
        return Made(found)
    if isinstance(factory, Task):
        return Made(found, own_scorer(score, where, factory.parallel))
    return Made(found, own_scorer(by_record(score), where))


def with_extract(config: TaskConfig, own: Task | None = None) -> TaskConfig:
    """A configuration that says what is read of a reply: all of it where a class scores and nobody has said otherwise.

    Raises:
        TaskError: The class cannot be had.
    """
    if config.kind != "python" or config.scorer is not None or "extract" in config.model_fields_set:
        return config
    kind: object = type(own)
    if own is None:
        kind = own_function(*_module_and_factory(config), f"task.name = {config.name!r}")
    if not (isinstance(kind, type) and issubclass(kind, Task) and kind.score is not Task.score):
        return config
    return config.model_copy(update={"extract": "whole"})


def _called(config: TaskConfig, where: str) -> Any:
    """What the function or class of a configuration gives for `task.options`."""
    module_name, attribute = _module_and_factory(config)
    factory = own_function(module_name, attribute, where)
    signature = inspect.signature(factory)
    try:
        signature.bind(**config.options)
    except TypeError as error:
        raise TaskError(f"task.options = {config.options}: {error}", f"{attribute}{signature}") from None
    with foreign(TaskError, f"{where}: the factory"):
        return factory(**config.options)


def _module_and_factory(config: TaskConfig) -> tuple[str, str]:
    module_name, _, attribute = config.name.rpartition(":")
    parts = [attribute] if is_file(module_name) else [*module_name.split("."), attribute]
    if not all(part.isidentifier() for part in parts):
        raise TaskError(
            f"task.name = {config.name!r}: not of the form file.py:Name or package.module:Name",
            "Name is a class that extends gepa_loop.Task, or a function that returns records.",
        )
    return module_name, attribute


def code_of(config: TaskConfig, own: Task | None = None) -> tuple[Path, ...]:
    """The files that a configuration names to be run: a factory's, unless there is an object in its place, an environment's, and a scorer's.

    Raises:
        TaskError: There is no such file, or none that may be run.
    """
    return tuple(dict.fromkeys(file for _, file in _modules(config, own)))


def _modules(config: TaskConfig, own: Task | None) -> list[tuple[str, Path]]:
    """The modules of these files, each with its name; raises as `code_of` does."""
    found = []
    if config.kind == "python" and own is None:
        name = _module_and_factory(config)[0]
        found.append((name, module_file(name, f"task.name = {config.name!r}")))
    if config.kind == "verifiers":
        file = environment_file(config)
        found.append((file.parent.name if file.name == "__init__.py" else file.stem, file))
    if config.scorer is not None and ":" in config.scorer:
        name = config.scorer.rpartition(":")[0]
        found.append((name, module_file(name, f"task.scorer = {config.scorer!r}")))
    return [("" if is_file(name) else name, file) for name, file in found]


def code_mark(config: TaskConfig, own: Task | None = None) -> str | None:
    """A fingerprint of the user's code that makes and scores a task's items: with other code a run would go on with other scores.

    It is over the files and those of the user's that they import, and of an object over its class, what its module imports and its
    attributes; None where there is none. Raises as `code_of` does.
    """
    found: list[object] = [_contents(imported_files(*module)) for module in _modules(config, own)]
    if own is not None:
        found += [class_code(type(own), Task), attributes(own)[0]]
        found += [_contents(files) for files in _class_files(type(own))]
    return fingerprint(found) if found else None


def code_marks(settings: Config, own: Task | None) -> dict[str, str]:
    """Marks of the user's code that makes and scores items: a run goes on only under the same."""
    control = settings.distill.control
    marks = {
        "task.code": code_mark(settings.task, own),
        "control.code": None if control is None else code_mark(control),
    }
    return {key: mark for key, mark in marks.items() if mark is not None}


def unmarked(own: Task | None) -> list[str]:
    """The attributes of an object that `code_mark` says nothing of: clients, models and other things without a lasting form."""
    return [] if own is None else attributes(own)[1]


def _class_files(kind: type) -> Iterator[dict[str, Path]]:
    """What the modules run that a class and those it extends are defined in. Of a program's own file, in which everything may
    stand, only what it imports; a notebook has none."""
    for name in dict.fromkeys(one.__module__ for one in kind.__mro__ if one not in Task.__mro__):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or not is_the_users(Path(file)):
            continue
        files = imported_files(name, Path(file))
        yield {one: place for one, place in files.items() if one or name != "__main__"}


def _contents(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def _numbered(records: Iterable[object], name: str, where: str) -> Iterator[Record]:
    with foreign(TaskError, f"{where}: the factory"):
        for number, record in enumerate(records, 1):
            # A copy: a generator may fill one dict again and again.
            taken = record.record if isinstance(record, Item) else record
            taken = dict(taken) if isinstance(taken, Mapping) else taken
            yield f"python:{number}", f"{name} record {number}", taken
