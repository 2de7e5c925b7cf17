"""Whether files of runs are as their records say: every key is in the record, every key of the record is there, of its type."""

from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, is_typeddict

import typing_extensions
from pydantic import ConfigDict, TypeAdapter
from runs_readme import FILES, File, Record, keys

from gepa_loop.run.files import read_json, read_jsonl

OTHERS = ("config.json", "programs", "adapter_config.json")
"""Of pydantic, DSPy and PEFT."""
OPEN = {"events.jsonl"}
"""Files whose rows have further keys."""


@cache
def strict(record: Record, extra: str = "forbid") -> Any:
    """A TypedDict that pydantic takes, with all that it is made of: on Python 3.11 it knows those of typing_extensions alone."""
    fields = {
        key.name: _strict(key.hint) if key.always else typing_extensions.NotRequired[_strict(key.hint)]
        for key in keys(record)
    }
    made = typing_extensions.TypedDict(record.__name__, fields)  # type: ignore[operator]
    made.__pydantic_config__ = ConfigDict(extra=extra)  # type: ignore[typeddict-item]
    return made


def _strict(hint: Any) -> Any:
    if is_typeddict(hint):
        return strict(hint)
    if not (arguments := get_args(hint)) or not any(map(_holds_records, arguments)):
        return hint
    made = tuple(map(_strict, arguments))
    origin = get_origin(hint)
    return origin[made] if origin in (list, dict) else made[0] | made[1]


def _holds_records(hint: Any) -> bool:
    return is_typeddict(hint) or any(map(_holds_records, get_args(hint)))


def check_row(file: File, row: Any) -> None:
    """Raise pydantic's ValidationError where a row is not as its record says."""
    kind = strict(file.record, "allow" if file.title in OPEN else "forbid")
    TypeAdapter(kind).validate_python(row, strict=True)


def recorded(folder: Path) -> set[str]:
    """Check every file of the runs in a folder, as it was written but for what all files have; the titles of those that were there."""
    seen = set()
    for path in sorted({*folder.rglob("*.json"), *folder.rglob("*.jsonl")}):
        if path.name in OTHERS or path.parent.name in OTHERS:
            continue
        run = next((place for place in path.parents if (place / "manifest.json").exists()), folder)
        manifest = run / "manifest.json"
        identity = read_json(manifest, dict[str, Any])["identity"] if manifest.exists() else {}
        command = identity.get("command", "")
        where = str(path.relative_to(run))
        file = next((one for one in FILES if one.at(where, command)), None)
        assert file is not None, f"{where} has no record"
        rows: list[dict[str, Any]] = read_jsonl(path) if path.suffix == ".jsonl" else [read_json(path)]
        for row in rows:
            if path.suffix == ".json":
                row.pop("files", None)
            check_row(file, row)
        assert rows or where.startswith("distill/"), f"{where} is empty"
        seen.add(file.title)
    return seen
