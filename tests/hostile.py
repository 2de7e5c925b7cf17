"""Runs whose every text tries to become a part of the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gepa_loop.run.files import read_json, read_jsonl, write_json, write_jsonl, write_record

HOSTILE = (
    "</script></textarea></style><script>alert(1)</script><img src=x onerror=alert(2)>"
    "<svg/onload=alert(3)>\u2028{{ 7 * 7 }} {% raw %} \"' & &lt; <!-- \u202eesrever"
)
TEXTS = {
    "answer",
    "base",
    "commonest_answer",
    "completion",
    "content",
    "ended",
    "extracted",
    "feedback",
    "how",
    "kind",
    "name",
    "prompted",
    "question",
    "reason",
    "role",
    "skipped",
    "student",
    "text",
    "warnings",
    "model.name",
    "model.resolved",
    "task.name",
    "version.torch",
}
"""Keys whose values are shown as they are. Some name records of numbers elsewhere, which stay."""


def make_hostile(folder: Path) -> None:
    """Put `HOSTILE` behind the texts of a run's files, in place, each marked as if it had been written so."""
    for path in folder.rglob("prompts/*.txt"):
        path.write_text(f"{path.read_text()}{HOSTILE}\n")
    for path in folder.rglob("*.jsonl"):
        if "gepa" not in path.parts:
            write_jsonl(path, [_hostile(row) for row in read_jsonl(path, dict[str, Any])])
    # Those that list the sums of others come after them.
    for path in sorted(folder.rglob("*.json"), key=lambda path: -len(path.parts)):
        if path.name not in ("adapter_config.json", "base.json") and path.parent.name != "programs":
            value = _hostile(read_json(path, dict[str, Any]))
            places = value.pop("files", None)
            write_json(path, value) if places is None else write_record(path, value, *places)


def _hostile(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _hostile(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        if key == "pieces" and value:
            return [*value[:-1], value[-1] + HOSTILE]
        return [_hostile(inner, key) for inner in value]
    fingerprint = key == "student" and isinstance(value, str) and len(value) == 8
    return f"{value}{HOSTILE}" if key in TEXTS and isinstance(value, str) and not fingerprint else value


Change = Callable[[dict[str, Any]], None]


def changed(path: Path, change: Change) -> None:
    """Change a JSON file of a run, in place, marked as if it had been written so."""
    value = json.loads(path.read_text())
    for key in ("schema_version", "check"):
        value.pop(key)
    places = value.pop("files", None)
    change(value)
    write_json(path, value) if places is None else write_record(path, value, *places)
