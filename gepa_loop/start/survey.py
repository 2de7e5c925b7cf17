"""What a user's data are: their kind, and what their fields hold."""

from __future__ import annotations

import codecs
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

from gepa_loop.errors import ConfigError
from gepa_loop.outside.files import found_at
from gepa_loop.task.fields import turn_of
from gepa_loop.task.files import read_records
from gepa_loop.task.hub import dataset_rows
from gepa_loop.task.quantity import quantity
from gepa_loop.task.records import Record, is_turn, short

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
}

LABELS = 200
"""Most values of a field that holds labels."""
LABEL_WORDS = 6
"""Most words of a label."""
INNER = 50
"""Most fields of an object that are named: those of more are values, as a customer's number is."""
EACH = 3
"""Times that a label occurs at least, in the mean: fewer are texts that happen to be equal."""

FieldKind = Literal["turns", "text", "label", "number", "object", "id", "list", "mixed", "empty"]


@dataclass(frozen=True)
class Field:
    """A field of the records, over all of them."""

    name: str
    """Dotted where it is one of an object."""
    kind: FieldKind
    filled: int
    """Records that have something in it."""
    distinct: int
    words: float
    """Median of its texts; 0 where it holds none."""
    example: str
    depth: int = 0
    """Objects around it."""

    @property
    def leaf(self) -> str:
        """Its own name, in small letters."""
        return self.name.split(".", self.depth)[-1].lower()


@dataclass(frozen=True)
class Survey:
    """A user's data as they are, before any field means anything."""

    kind: str
    """`task.kind`."""
    name: str
    """`task.name`: the path as it was given, or a dataset's id."""
    records: tuple[Record, ...]
    fields: tuple[Field, ...]

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        return [row for _, _, row in self.records if isinstance(row, Mapping)]

    def at(self, name: str) -> Survey:
        """The same under another path."""
        return self if self.kind == "hf" and not Path(self.name).is_dir() else replace(self, name=name)

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


def survey(name: str, options: Mapping[str, Any] | None = None) -> Survey:
    """Read a file, a dataset's folder, or a dataset of the hub, and look at its fields.

    Args:
        name: As `kind_of` has it.
        options: `task.options` by which it is read.

    Raises:
        ConfigError: There is no such file, or none of a kind that is read, or its records are no objects.
        TaskError: As reading the task does.
        EnvironmentFault: So, too.
    """
    kind = kind_of(name)
    options = options or {}
    records = tuple(dataset_rows(name, options) if kind == "hf" else read_records(kind, Path(name), options))
    rows = [row for _, _, row in records if isinstance(row, Mapping)]
    if len(rows) < len(records) or not rows:
        what = (
            f"{len(records) - len(rows):,} records are no objects with fields"
            if records
            else "it has no records"
        )
        raise ConfigError(f"--data {name}: {what}", "Each record has fields, as a question and its answer.")
    return Survey(kind, name, records, tuple(_fields(rows, "", 0)))


def _fields(rows: Sequence[Mapping[str, Any]], at: str, depth: int) -> Iterator[Field]:
    """The fields of objects, each before those of the objects in it."""
    names = dict.fromkeys(key for row in rows for key in row)
    if depth and len(names) > INNER:
        return
    for key in names:
        values = [row.get(key) for row in rows]
        found = field_of(f"{at}{key}", values)
        yield replace(found, depth=depth)
        # An object may also be a text that is JSON, which nobody reads on; and a name with a dot would be read as two.
        if (
            found.kind == "object"
            and "." not in key
            and all(isinstance(one, Mapping) for one in values if not _is_blank(one))
        ):
            inner = [one if isinstance(one, Mapping) else {} for one in values]
            yield from _fields(inner, f"{at}{key}.", depth + 1)


def kind_of(name: str) -> str:
    """`task.kind` of a file by its ending, of a folder, or of what looks like a dataset's id on the hub.

    Raises:
        ConfigError: It is none of these.
    """
    path = Path(name)
    if found_at(path, Path.is_dir):
        return "hf"
    suffix = path.suffix.lower()
    if found_at(path):
        if (kind := file_kind(path)) is not None:
            return kind
        more = " Save a spreadsheet as CSV (UTF-8)." if suffix in (".xlsx", ".xls", ".ods") else ""
        raise ConfigError(
            f"--data {name}: files ending in {suffix or 'nothing'} are not read",
            f"Read are {', '.join(SUFFIXES)}, folders, and datasets of the Hugging Face hub by their id.{more}",
        )
    if suffix not in SUFFIXES and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return "hf"
    raise ConfigError(f"--data {name}: no such file", f"It is looked for in {Path.cwd()}.")


def file_kind(path: Path) -> str | None:
    """`task.kind` of a file by its ending, and of a .json that is there by its first lines; None of another ending."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind == "json" and found_at(path):
        # Many write one object a line into a file of this ending.
        with path.open("rb") as file:
            lines = (line.removeprefix(codecs.BOM_UTF8).strip() for line in islice(file, 100))
            first, second = [*islice(filter(None, lines), 2), b"", b""][:2]
        if first.startswith(b"{") and first.endswith(b"}") and second.startswith(b"{"):
            return "jsonl"
    return kind


def field_of(name: str, values: Sequence[object]) -> Field:
    """What a field holds."""
    given = [value for value in values if not _is_blank(value)]
    texts = [_text(value) for value in given]
    counts = Counter(texts)
    kind = _kind(given, texts, counts)
    words = [len(text.split()) for text, value in zip(texts, given, strict=True) if isinstance(value, str)]
    example = short(" ".join(counts.most_common(1)[0][0].split()), 60) if counts else ""
    return Field(name, kind, len(given), len(counts), statistics.median(words) if words else 0.0, example)


def _kind(given: Sequence[object], texts: Sequence[str], counts: Mapping[str, int]) -> FieldKind:
    if not given:
        return "empty"
    if all(map(is_turns, given)):
        return "turns"
    if all(isinstance(value, Mapping) for value in given):
        return "object"
    if any(isinstance(value, list | Mapping) for value in given):
        return "list" if all(isinstance(value, list) for value in given) else "mixed"
    if all(_is_object(text) for text in texts):
        return "object"
    is_short = all(len(text.split()) <= LABEL_WORDS and len(text) <= 80 for text in texts)
    if is_short and len(counts) <= LABELS and len(counts) * EACH <= len(texts):
        return "label"
    if all(_is_number(text) for text in texts):
        rising = all(float(a) < float(b) for a, b in pairwise(texts) if _plain(a) and _plain(b))
        return "id" if rising and len(counts) == len(texts) > 2 and all(map(_plain, texts)) else "number"
    if len(counts) == len(texts) > 2 and all(
        len(text.split()) == 1 and any(map(str.isdigit, text)) for text in texts
    ):
        return "id"
    return "text"


def is_turns(value: object) -> bool:
    """Whether a value is a list of chat turns, in any of the forms that are read."""
    return isinstance(value, list | tuple) and bool(value) and all(is_turn(turn_of(turn)) for turn in value)


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _is_object(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_number(text: str) -> bool:
    return quantity(text) is not None


def _plain(text: str) -> bool:
    """Whether it is a whole number, as numbers of rows are."""
    return text.isascii() and text.removeprefix("-").isdigit()


def common_system(turns: Iterable[object]) -> str | None:
    """The system turn that all chats begin with; None where they begin with none, or with different ones."""
    found = set()
    for chat in turns:
        first = turn_of(chat[0]) if isinstance(chat, list | tuple) and chat else {}
        found.add(first.get("content") if first.get("role") == "system" else None)
    return found.pop() if len(found) == 1 else None
