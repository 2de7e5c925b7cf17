"""Records of files: JSONL, JSON, CSV and Parquet."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from gepa_loop.errors import EnvironmentFault, TaskError
from gepa_loop.outside.files import check_regular, read_file
from gepa_loop.task.records import DIGITS, MOST, Record, short

LARGEST = 2**30
"""Bytes of the largest file."""

DELIMITERS = (",", ";", "\t", "|")
"""What parts the cells of a table, the likeliest first."""

NONE = "\x1f"
"""What parts the cells of a table of a single column, whose texts may hold all of those: a character that none has."""

LOOKED_AT = 50
"""Rows by which it is found out."""

SEPARATOR = re.compile(r'"?sep=([^\r\n])"?(\r\n|\r|\n|\Z)', re.IGNORECASE)
"""A first line by which Excel says what parts cells."""

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # That of UTF-32 begins as that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""By how a file begins; Excel saves texts as UTF-16."""

NULS = 0.01
"""Share of bytes that are 0 from which on a text is none in UTF-8: in UTF-16 each space and each delimiter has one."""
ON_ONE_SIDE = 0.9
"""Share of them in the first or in the second byte of each pair, from which on it is UTF-16."""


def read_records(kind: str, path: Path, options: Mapping[str, Any]) -> Iterator[Record]:
    """The records of a file.

    Args:
        kind: `jsonl`, `json`, `csv` or `parquet`.
        path: The file.
        options: `task.options`.

    Raises:
        TaskError: It cannot be read, or is not what `kind` says; names the line or the row.
        EnvironmentFault: What reads Parquet is not installed.
    """
    match kind:
        case "jsonl":
            return json_lines(path)
        case "json":
            return json_list(path)
        case "csv":
            return csv_rows(path, options.get("delimiter"), options.get("encoding"))
        case "parquet":
            return parquet_rows(path)
    raise ValueError(f"unknown kind of file {kind!r}")


def json_lines(path: Path) -> Iterator[Record]:
    """The records of a JSONL file; empty lines are passed over. Raises as `read_records` does."""
    for number, line in enumerate(io.BytesIO(_content(path).removeprefix(codecs.BOM_UTF8)), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield f"jsonl:{number}", where, _json(line, where, "Each line is one JSON object.")


def json_list(path: Path) -> Iterator[Record]:
    """The records of a JSON file: a list of objects, or an object with one list. Raises as `read_records` does."""
    hint = "The file is one list of JSON objects; a file with one object in each line is of kind jsonl."
    found = _json(_content(path).removeprefix(codecs.BOM_UTF8), str(path), hint)
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else found
    if not isinstance(found, list):
        raise TaskError(f"{path}: not a list of records, but {short(repr(found), 60)}", hint)
    for number, record in enumerate(found, 1):
        yield f"json:{number}", f"{path}, record {number}", record


def csv_rows(path: Path, delimiter: str | None = None, encoding: str | None = None) -> Iterator[Record]:
    """The rows of a table whose first row that is not empty has the fields' names; their numbers are those of a spreadsheet.

    Args:
        path: The file.
        delimiter: What parts cells; None is what a first line `sep=` says, else what makes the first rows equally long, and then longest.
        encoding: Of the file; None is UTF-8, or UTF-16 where the file looks like it.

    Raises:
        TaskError: As `read_records` does.
    """
    text = _decoded(path, encoding)
    if delimiter is not None and (not isinstance(delimiter, str) or len(delimiter) != 1):
        raise TaskError(
            f"task.options.delimiter = {delimiter!r}: not one character", r'Example: ";" or "\t".'
        )
    said = SEPARATOR.match(text)
    if said is not None:
        text = text[said.end() :]
    rows = _cells(path, text, delimiter or (delimiter_of(text) if said is None else said[1]))
    numbered = ((n, row) for n, row in enumerate(rows, 1) if any(cell.strip() for cell in row))
    _, header = next(numbered, (0, None))
    if header is None:
        raise TaskError(f"{path}: it is empty", "Its first row has the fields' names.")
    names = [name.strip() or f"column {place}" for place, name in enumerate(header, 1)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise TaskError(f"{path}: two columns are named {short(twice)!r}", "Give each a name of its own.")
    for number, row in numbered:
        where = f"{path}, row {number}"
        if any(cell.strip() for cell in row[len(names) :]):
            raise TaskError(
                f"{where} has {len(row)} cells, and the header {len(names)}: {short(repr(row), 120)}",
                'A cell with the delimiter, a quote or a line end in it stands in "quotes", and a quote in it twice. '
                "task.options.delimiter says what parts cells.",
            )
        yield f"csv:{number}", where, dict(zip(names, row + [""] * (len(names) - len(row)), strict=False))


def delimiter_of(text: str) -> str:
    """What parts the cells of a table."""

    def fit(delimiter: str) -> tuple[bool, int]:
        widths = []
        # One row that is badly quoted is named when it is read; the others tell.
        with contextlib.suppress(csv.Error):
            for row, _ in zip(_reader(text, delimiter), range(LOOKED_AT), strict=False):
                widths += [len(row)] if any(cell.strip() for cell in row) else []
        return len(set(widths)) == 1, widths[0] if widths else 0

    # `max` takes the first of equals.
    fits = {delimiter: fit(delimiter) for delimiter in DELIMITERS}
    parted = [delimiter for delimiter in DELIMITERS if fits[delimiter][1] > 1]
    return max(parted, key=fits.__getitem__) if parted else NONE


def parquet_rows(path: Path) -> Iterator[Record]:
    """The rows of a Parquet file. Raises as `read_records` does."""
    try:
        import pyarrow.lib
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise missing_reader(f"{path}: Parquet is read by pyarrow", error) from error
    try:
        check_regular(path)
        table = parquet.ParquetFile(path)
        if table.metadata.num_rows > MOST:
            raise TaskError(f"{path}: {table.metadata.num_rows:,} rows, and at most {MOST:,} are read")
        rows = table.read().to_pylist()
    except OSError as error:
        raise _unreadable(path, error) from None
    except pyarrow.lib.ArrowException as error:
        raise TaskError(f"{path}: not Parquet: {error}") from None
    for number, row in enumerate(rows, 1):
        yield f"parquet:{number}", f"{path}, row {number}", {key: plain(value) for key, value in row.items()}


def missing_reader(what: str, error: ImportError) -> EnvironmentFault:
    """What to say where a package of the extra `data` is not installed."""
    return EnvironmentFault(f"{what}: {error}", "Install it: pip install 'gepa-loop[data]'.")


def plain(value: object) -> object:
    """A value of a table as JSON has it: dates and decimals as texts, no number where there is none (NaN), bytes as nothing."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    if isinstance(value, date | time | Decimal):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else None


def _content(path: Path) -> bytes:
    try:
        return read_file(path, LARGEST)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> TaskError:
    return TaskError(f"task.name = {str(path)!r}: {error.strerror or error}", "Name an existing file.")


def _decoded(path: Path, encoding: str | None) -> str:
    if encoding is not None and not isinstance(encoding, str):
        raise TaskError(f"task.options.encoding = {encoding!r}: not a text", "Examples: utf-8, cp1252.")
    content = _content(path)
    used = encoding or _encoding_of(path, content)
    try:
        return content.decode(used).removeprefix("\ufeff")
    except LookupError:
        raise TaskError(
            f"task.options.encoding = {encoding!r}: no such encoding", "Examples: utf-8, cp1252."
        ) from None
    except UnicodeError as error:
        place = f" (byte {error.start:,})" if isinstance(error, UnicodeDecodeError) else ""
        hint = "Save it as UTF-8, or say what it is: --set task.options.encoding=cp1252 for files of a Windows program."
        raise TaskError(f"{path}: not {used} text{place}", hint) from None


def _encoding_of(path: Path, content: bytes) -> str:
    """That of its mark, else UTF-8, unless so many bytes are 0 that it is UTF-16 without a mark, or no text at all."""
    if marked := next((name for mark, name in MARKS if content.startswith(mark)), None):
        return marked
    nuls, second = content.count(0), content[1::2].count(0)
    if nuls <= NULS * len(content):
        return "utf-8"
    for name, count in (("utf-16-le", second), ("utf-16-be", nuls - second)):
        if count >= ON_ONE_SIDE * nuls:
            return name
    raise TaskError(f"{path}: not a text: {nuls:,} of its {len(content):,} bytes are 0", "Save it as UTF-8.")


def _reader(text: str, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(LARGEST)
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)


def _cells(path: Path, text: str, delimiter: str) -> Iterator[list[str]]:
    rows, number = _reader(text, delimiter), 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            hint = 'A cell with the delimiter, a quote or a line end in it stands in "quotes", and a quote in it twice.'
            raise TaskError(f"{path}, row {number + 1}: {error}", hint) from None
        if row is None:
            return
        number += 1
        yield row


def _json(text: bytes, where: str, hint: str) -> Any:
    try:
        return json.loads(
            text.decode(), parse_int=_integer, parse_constant=_not_json, object_pairs_hook=_once
        )
    except UnicodeDecodeError as error:
        raise TaskError(f"{where}: not UTF-8 text (byte {error.start})", "Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise TaskError(f"{where}: not JSON: {error}", hint) from None
    except RecursionError:
        raise TaskError(f"{where}: nested too deeply", hint) from None
    except ValueError as error:
        raise TaskError(f"{where}: {error}") from None


def _integer(text: str) -> int:
    # Python itself reads no more than 4,300 digits.
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text):,} digits; write it as a text")
    return int(text)


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
        raise ValueError(f"the field {short(twice)!r} stands there twice")
    return found
