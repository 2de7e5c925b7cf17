"""Every key of the configuration with what it means, which values it takes and who reads it: from the tables' own docstrings."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from gepa_loop.config.kinds import Section
from gepa_loop.config.whole import TAGS, Config
from gepa_loop.errors import ConfigError

REQUIRED = object()
"""The default of a key that has none."""

LONG = 110
"""Characters of a sentence from which on a summary ends at its first colon."""

ALL = "all commands"
READERS = {
    "lora": "distill, loop, sweep",
    "optimize": "optimize, loop",
    "optimize.max_usd": "optimize, distill, loop",
    "optimize.reflection": "optimize, distill, loop",
    "distill": "distill, loop, sweep",
    "objective": "distill, loop, sweep",
    "teacher": "distill, loop, sweep",
    "race": "loop",
    "loop": "loop",
    "loop.alpha": "optimize, loop",
    "cluster": "optimize, distill, loop, evaluate",
    "cost": "plan, distill, loop",
    "track": "optimize, distill, loop, sweep",
}
"""Commands that read a table or a key, the narrowest name first; the others are read by all. `distill` has questions written by the
reflection model."""

MAKERS = ("optimize", "distill", "loop", "sweep")
"""Commands with tables of their own; what another one is given may be for the command that comes after it."""


@dataclass(frozen=True)
class Key:
    """A key, or a table."""

    name: str
    """Dotted: `distill.lr`."""
    about: str
    kind: str
    """Which values it takes, in words; empty for a table."""
    default: Any = REQUIRED
    under: str = ""
    """Where its table is one of several, which: `objective.type = full_kl`."""

    @property
    def table(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def readers(self) -> str:
        return _readers(self.name)

    @property
    def paragraphs(self) -> list[str]:
        """`about` without the line ends of the code: of a table's tag one for each table, else one."""
        table, _, tag = self.name.rpartition(".")
        texts = self.about.split("\n") if TAGS.get(table, ("",))[0] == tag else [self.about]
        return [" ".join(text.split()) for text in texts]

    @property
    def summary(self) -> str:
        """The first sentence of `about`."""
        text = self.paragraphs[0]
        first = re.split(r"(?<=[^.])\.(?: |$)", text, maxsplit=1)[0]
        return first if len(first) <= LONG else re.split(r"(?<=[^`])[:;] ", first, maxsplit=1)[0]


def all_keys_explained() -> tuple[Key, ...]:
    """The tables and keys of the configuration, in its order."""
    return tuple(_of(Config, "", ""))


def explained(wanted: str, known: Sequence[Key]) -> list[Key]:
    """A key (more than once where several tables of one place have it), or a table with all that is in it.

    Raises:
        ConfigError: There is none of this name.
    """
    found = [key for key in known if key.name == wanted or key.name.startswith(f"{wanted}.")]
    if not found:
        names = list(dict.fromkeys(key.name for key in known))
        inside = [name for name in names if name.rpartition(".")[2] == wanted]
        near = inside or difflib.get_close_matches(wanted, names, n=3, cutoff=0.4)
        raise ConfigError(
            f"config explain {wanted}: no such key",
            f"Nearest: {', '.join(near)}." if near else "`gepa-loop config explain` lists all.",
        )
    return found


def read_by(command: str, sets: Sequence[str]) -> list[str]:
    """Of settings as `--set` takes them, those that a command reads, or one that comes after it."""
    if command not in MAKERS:
        return list(sets)
    readers = (_readers(one.partition("=")[0].strip()) for one in sets)
    return [one for one, who in zip(sets, readers, strict=True) if who == ALL or command in who.split(", ")]


def _readers(name: str) -> str:
    parts = name.split(".")
    names = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((READERS[one] for one in names if one in READERS), ALL)


def _of(model: type[Section], at: str, under: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        if field.exclude:  # it is written in other keys
            continue
        path, tables = f"{at}{name}", _tables(field.annotation)
        about = _about(model, name)
        if not tables:
            tag = under and path == under.partition(" ")[0]
            default = REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
            yield Key(path, about, words(field.annotation, field.metadata), default, "" if tag else under)
        elif path in TAGS:
            yield from _one_of(path, tables)
        else:
            is_list = get_origin(field.annotation) is tuple
            yield Key(path, about or _doc(tables[0]), "list of tables" if is_list else "", None, under)
            yield from _of(tables[0], f"{path}.", under)


def _one_of(path: str, tables: Sequence[type[Section]]) -> Iterator[Key]:
    """The table that is one of several: its tag, what all have, and what each has besides."""
    tag, default = TAGS[path]
    names = {table: table.model_fields[tag].get_default() for table in tables}
    told = "\n".join(f"`{name}`: {' '.join(_doc(table).split())}" for table, name in names.items())
    yield Key(path, f"One of several tables; `{tag}` says which.", "", None)
    yield Key(f"{path}.{tag}", told, f"one of {', '.join(names.values())}", default)
    common = set.intersection(*(set(table.model_fields) for table in tables)) - {tag}
    first = tables[0]
    yield from (key for key in _of(first, f"{path}.", "") if key.name.removeprefix(f"{path}.") in common)
    for table, name in names.items():
        for key in _of(table, f"{path}.", f"{path}.{tag} = {name}"):
            if key.name.removeprefix(f"{path}.") not in {*common, tag}:
                yield key


def _about(model: type[Section], name: str) -> str:
    """A key's docstring, or where a table gives it another default that of the table it comes from."""
    for owner in model.__mro__:
        fields = getattr(owner, "model_fields", {})
        if name in fields and fields[name].description:
            return str(fields[name].description)
    return ""


def _doc(table: type[Section]) -> str:
    return (table.__doc__ or "").strip()


def _tables(annotation: Any) -> list[type[Section]]:
    """The tables that a type is made of; none where it is a value's."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [table for inner in get_args(annotation) for table in _tables(inner)]


def words(annotation: Any, bounds: Sequence[Any] = ()) -> str:
    """A type and its bounds in words: `whole number from 1`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        more = [m for one in inner[1:] for m in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return words(inner[0], [*more, *bounds])
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}" if len(inner) > 1 else str(inner[0])
    if origin in (Union, types.UnionType):
        kinds = [words(one, bounds) for one in inner if one is not type(None)]
        return " or ".join([*kinds, *(["none"] if type(None) in inner else [])])
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return f"list of: {words(inner[0])}"
        return f"list of {len(inner)}: {', '.join(words(one) for one in inner)}"
    if origin is dict or annotation is dict:
        return "table"
    named = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    return " ".join(
        [named.get(annotation, getattr(annotation, "__name__", str(annotation))), *_bounds(bounds)]
    )


def _bounds(bounds: Sequence[Any]) -> Iterator[str]:
    for bound in bounds:
        match bound:
            case Ge(ge=value):
                yield f"from {value:g}"
            case Gt(gt=value):
                yield f"above {value:g}"
            case Le(le=value):
                yield f"to {value:g}"
            case Lt(lt=value):
                yield f"below {value:g}"
            case str():
                yield bound
