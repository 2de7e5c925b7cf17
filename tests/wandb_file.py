"""What Weights & Biases has written into the file of an offline run: LevelDB's log format after a header of 7 bytes."""

import json
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2

BLOCK, HEAD = 32768, 7


def _records(data: bytes) -> list[bytes]:
    at, whole, part = HEAD, [], b""
    while at + HEAD <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEAD:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + HEAD : at + HEAD + size]
        at += HEAD + size
        if kind in (1, 4):  # whole, or the last part
            whole.append(part)
            part = b""
    return whole


def written(folder: Path) -> list[bytes]:
    """The files of all offline runs of a folder, in their order; its own process writes them, which is ended before."""
    wandb.teardown()
    return [file.read_bytes() for file in sorted(folder.glob("offline-run-*/run-*.wandb"))]


def rows(folder: Path, kind: str = "history") -> list[dict[str, Any]]:
    """The items of the records of a kind (`history`, `summary`; of `run` its configuration), of all files of a folder in their order."""
    found = []
    for file in written(folder):
        for data in _records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == kind:
                one = getattr(record, kind)
                items = {"history": lambda r: r.item, "run": lambda r: r.config.update}.get(
                    kind, lambda r: r.update
                )(one)
                found.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    return found
