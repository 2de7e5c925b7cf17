"""Which base model an adapter belongs to: a file of ours beside PEFT's, and the check when the adapter is read."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from gepa_loop.errors import ModelError
from gepa_loop.outside.files import SETTINGS, parse_json, read_file
from gepa_loop.run.files import write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FILE = "base.json"


@dataclass(frozen=True)
class Origin:
    """The base model that an adapter belongs to."""

    name: str
    weights: str
    """16 hex digits over the weights rounded to bfloat16, so that the type they are loaded in makes no difference."""


class OriginRecord(TypedDict):
    """Beside PEFT's files: which base model the adapter belongs to."""

    name: str
    """The base's name."""
    weights: str
    """Its fingerprint: 16 hex digits over the weights rounded to bfloat16."""


def hash_weights(named: Iterable[tuple[str, Tensor]]) -> str:
    """`Origin.weights` of a model's parameters; its adapters are left out."""
    import torch

    digest: Any = hashlib.sha256()
    own = ((name, tensor) for name, tensor in named if ".lora_" not in name)
    for name, tensor, data in _on_host(own, torch.bfloat16):
        digest.update(f"{name.replace('.base_layer', '')} {tuple(tensor.shape)}\n".encode())
        digest.update(data)
    return str(digest.hexdigest())[:16]


def write_origin(folder: Path, base: Origin) -> None:
    """Write the file that `read_origin` reads."""
    record: OriginRecord = {"name": base.name, "weights": base.weights}
    write_json(folder / _FILE, record)


def read_origin(folder: Path) -> Origin | None:
    """What an adapter's folder says of its base; None where it says nothing.

    Raises:
        ModelError: The file is damaged.
    """
    file = folder / _FILE
    if not file.exists():
        return None
    try:
        record = parse_json(read_file(file, SETTINGS))
        return Origin(str(record["name"]), str(record["weights"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"{file}: it does not say which base model the adapter belongs to: {error}",
            "Delete it if you know that the model is the right one.",
        ) from error


def check_origin(found: Origin | None, base: Origin, source: str) -> str | None:
    """Refuse an adapter of other weights than the base's.

    Args:
        found: What the adapter says; None is nothing.
        base: The model that it is read with.
        source: Where the adapter came from.

    Returns:
        A note for the user where the adapter says nothing.

    Raises:
        ModelError: Names both models.
    """
    if found is None:
        return f"{source}: it does not say on which weights it was trained, so whether those are {base.name}'s is not checked"
    if found.weights == base.weights:
        return None
    raise ModelError(
        f"{source}: the adapter was trained on {found.name} (weights {found.weights}), and model.name = {base.name!r} has other "
        f"weights ({base.weights})",
        f"Set model.name to {found.name}, or train it again on {base.name}.",
    )


def hash_tensors(digest: Any, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Feed names, types, shapes and bytes into a hash, in place; a tensor with two names goes in once."""
    once: dict[int, tuple[str, Tensor]] = {}
    for entry in tensors:
        once.setdefault(id(entry[1]), entry)
    for name, tensor, data in _on_host(once.values(), None):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(data)


def _on_host(
    named: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor, Any]]:
    """Each tensor with its bytes, rounded to a type where one is given; the next one comes from the GPU while this one is used.

    One after the other took .7 GB a second, a minute and a half for 65 GB (an H100 and its host).
    """
    import torch

    def read(entry: tuple[str, Tensor]) -> tuple[str, Tensor, Any]:
        data = entry[1].detach().to(dtype=dtype).cpu().contiguous().reshape(-1)
        return *entry, data.view(torch.uint8).numpy()

    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[str, Tensor, Any]]] = deque()
        for entry in named:
            waiting.append(pool.submit(read, entry))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
