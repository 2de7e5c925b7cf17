"""What a run is recognised by: fingerprints of values, and its manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gepa_loop.errors import RunDirectoryError
from gepa_loop.run.files import read_json
from gepa_loop.run.marks import RIGHTS
from gepa_loop.run.records import ManifestRecord


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the sha256 of a JSON value, keys sorted."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_manifest(path: Path) -> ManifestRecord:
    """The manifest of a run directory.

    Raises:
        RunDirectoryError: It is not as it was written.
    """
    try:
        return read_json(path / "manifest.json", ManifestRecord)
    except RunDirectoryError as error:
        if error.hint == RIGHTS:
            raise
        # Without it the folder would be taken for somebody else's.
        raise RunDirectoryError(
            str(error), "Start again with --fresh, or choose another --run-name."
        ) from None


def check_manifest(path: Path, manifest: ManifestRecord, identity: Mapping[str, object]) -> str:
    """The birth of a run that has this identity.

    Raises:
        RunDirectoryError: It has another one; each differing value is listed.
    """
    old, new = manifest["identity"], json.loads(json.dumps(identity))
    changed = [
        f"  {key}: {old.get(key, '(absent)')!r} in the run, now {new.get(key, '(absent)')!r}"
        for key in sorted({*old, *new})
        if key not in old or key not in new or old[key] != new[key]
    ]
    if changed:
        raise RunDirectoryError(
            f"{path} was made with other values:\n" + "\n".join(changed),
            "Put them back to continue it, choose another --run-name, or start again with --fresh.",
        )
    if not isinstance(birth := manifest.get("birth"), str):
        raise RunDirectoryError(
            f"{path} was made by an earlier version of gepa-loop: its manifest.json names no birth",
            "Choose another --run-name, or start again with --fresh.",
        )
    return birth


def flatten(value: object, at: str = "") -> dict[str, object]:
    """Nested mappings as one mapping with dotted keys; lists stay values."""
    if not isinstance(value, Mapping):
        return {at: value}
    flat: dict[str, object] = {}
    for key, inner in value.items():
        flat.update(flatten(inner, f"{at}.{key}" if at else str(key)))
    return flat
