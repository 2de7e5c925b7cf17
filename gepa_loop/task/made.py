"""Items that a user's code makes: a function that returns records, or a class that extends `own.Task`."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import TaskError
from gepa_loop.outside.code import class_code, plain_attributes
from gepa_loop.outside.modules import foreign, is_file, module_file, own_function
from gepa_loop.run.identity import fingerprint
from gepa_loop.task.environments import environment_file
from gepa_loop.task.own import Task
from gepa_loop.task.records import MOST, Item, Record, bounded
from gepa_loop.task.scorers import Scorer, by_record, own_scorer


class Made(NamedTuple):
    """What a user's code gives."""

    records: list[Record]
    scorer: Scorer | None = None
    """Its own, where it has one."""
    reads_all: bool = False
    """The scorer is a class's, for which nothing is to be read of a reply before, unless somebody asks for it."""


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
        return Made(found, own_scorer(score, where, factory.parallel), reads_all=True)
    return Made(found, own_scorer(by_record(score), where))


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
    """The files that loading a task runs: a factory's, unless there is an object in its place, an environment's, and a scorer's.

    Raises:
        TaskError: There is no such file, or none that may be run.
    """
    files = []
    if config.kind == "python" and own is None:
        files.append(module_file(_module_and_factory(config)[0], f"task.name = {config.name!r}"))
    if config.kind == "verifiers":
        files.append(environment_file(config))
    if config.scorer is not None and ":" in config.scorer:
        files.append(module_file(config.scorer.rpartition(":")[0], f"task.scorer = {config.scorer!r}"))
    return tuple(dict.fromkeys(files))


def code_mark(config: TaskConfig, own: Task | None = None) -> str | None:
    """A fingerprint of the user's code that makes and scores a task's items: with other code a run would go on with other scores.

    It is over the files, and of an object over its class and its attributes; None where there is none. Raises as `code_of` does.
    """
    found: list[object] = [hashlib.sha256(file.read_bytes()).hexdigest() for file in code_of(config, own)]
    if own is not None:
        found += [class_code(type(own), Task), plain_attributes(own)]
    return fingerprint(found) if found else None


def _numbered(records: Iterable[object], name: str, where: str) -> Iterator[Record]:
    with foreign(TaskError, f"{where}: the factory"):
        for number, record in enumerate(records, 1):
            # A copy: a generator may fill one dict again and again.
            taken = record.record if isinstance(record, Item) else record
            taken = dict(taken) if isinstance(taken, Mapping) else taken
            yield f"python:{number}", f"{name} record {number}", taken
