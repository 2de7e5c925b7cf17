"""What W&B has written of a run on this machine: the files of its processes, which it keeps in memory for some seconds at a time.

The format is LevelDB's log after a header of 7 bytes (github.com/wandb/wandb, core/internal/transactionlog); its records are protobuf
messages. The library has no reader of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gepa_loop.tracking.base import NOTHING

BLOCK = 32_768
"""Bytes; a record's part never goes over their edge."""
HEAD = 7
"""Bytes before the first record, and of a part's own: a checksum (4), its length (2), its kind (1)."""
WHOLE, LAST = 1, 4
"""Kinds of parts that end a record."""
NUMBER = "_step"


def steps_in(files: list[Path]) -> dict[str, int] | None:
    """The last step of each series, by the name of its axis (`<series>/step`); None where the first process's file is gone.

    Args:
        files: Of all processes of a tracked run, in their order.
    """
    steps: dict[str, int] = {}
    for place, file in enumerate(files):
        for row in _history(file.read_bytes()):
            # `wandb sync --clean` deletes what it has sent: what is left does not tell what is there.
            if not place and not steps and row.get(NUMBER) != 0:
                return None
            for name, value in row.items():
                if name.endswith("/step"):
                    steps[name] = max(value, steps.get(name, NOTHING))
    return steps if files else None


def _history(data: bytes) -> Iterator[dict[str, int]]:
    """The whole numbers of each row."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for content in _records(data):
        record = Record()
        try:
            record.ParseFromString(content)
        except DecodeError:  # a kill may leave a part that nothing follows
            return
        if record.WhichOneof("record_type") == "history":
            row = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            yield {name: int(value) for name, value in row.items() if isinstance(value, int | float)}


def _records(data: bytes) -> Iterator[bytes]:
    at, parts = HEAD, b""
    while at + HEAD <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEAD:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        at += HEAD + size
        if at > len(data):
            return
        parts += data[at - size : at]
        if kind in (WHOLE, LAST):
            yield parts
            parts = b""
