"""What the captured graphs of the sampler read and write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gepa_loop.model.capture import record
from gepa_loop.model.device import free_bytes
from gepa_loop.model.fused.rows import Past, Rows
from gepa_loop.sampling.cuda.drawn import Drawn

if TYPE_CHECKING:
    from torch import Tensor

    from gepa_loop.model.fused.decoder import Decoder
    from gepa_loop.model.lora.adapter import Adapter


@dataclass(frozen=True, eq=False)
class Buffers:
    """What the captured graphs read and write; their addresses never change."""

    keys: list[Past]
    values: list[Past]
    rows: Rows
    drawn: Drawn
    slots: int
    """Without the one for rows that only fill a launch up."""

    @property
    def capacity(self) -> tuple[int, int, int, int]:
        """Of slots, shared tokens, prompts' tokens and completion tokens."""
        key = self.keys[0]
        return (
            self.slots,
            key.shared_GCD.shape[1],
            key.prompt_UGPD.shape[2],
            key.completion_RGTD.shape[2],
        )


def make_buffers(decoder: Decoder, dtype: torch.dtype, wanted: tuple[int, ...]) -> Buffers:
    """Empty buffers where the decoder lies.

    Args:
        decoder: Whose keys and values are kept.
        dtype: Of those.
        wanted: Slots, shared tokens, prompts' tokens and completion tokens, at least.
    """
    slots, shared, prompt, completion = wanted[0], *(-(-n // 64) * 64 for n in wanted[1:])
    # Candidates grow from one to the next, and what is captured is lost with the cache; this part is there once.
    shared = 1 << (shared - 1).bit_length() if shared else 0
    layers, heads, device = len(decoder.layers), decoder.kv_heads, decoder.embed_VH.device

    def cache(*shape: int) -> Tensor:
        return torch.zeros(layers, *shape, decoder.width, device=device, dtype=dtype)

    def past() -> list[Past]:
        parts = cache(heads, shared), cache(slots, heads, prompt), cache(slots + 1, heads, completion)
        return [Past(*(part[n] for part in parts)) for n in range(layers)]

    def ints(size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.int32, device=device)

    rows = Rows(ints(slots), ints(1), ints(slots + 1), ints(slots), ints(slots + 1), ints(slots + 1))
    drawn = Drawn(
        torch.zeros(slots + 1, completion, device=device),
        torch.zeros(slots + 1, dtype=torch.long, device=device),
        torch.zeros(slots + 1, completion, dtype=torch.int32, device=device),
        torch.zeros(slots + 1, completion, device=device),
        ints(slots + 1),
    )
    return Buffers(past(), past(), rows, drawn, slots)


def fitting_rows(decoder: Decoder, buffers: Buffers | None, tokens: int, share: float) -> int:
    """Rows of at least so many tokens whose keys and values take `share` of the memory that is free but for the buffers; 0 without a GPU."""
    device = decoder.embed_VH.device
    if device.type == "cpu":
        return 0
    slots, _, prompt, completion = (0, 0, 0, 0) if buffers is None else buffers.capacity
    position = 2 * len(decoder.layers) * decoder.kv_heads * decoder.width * decoder.embed_VH.dtype.itemsize
    free = free_bytes(device) + slots * (prompt + completion) * position
    # What is there is never made shorter.
    return int(share * free / (max(tokens, prompt + completion) * position))


@dataclass(frozen=True, eq=False)
class Writer:
    """Writes the adapter whose matrices were copied to `factors`, A and B of each module, to the decoder's weights."""

    key: tuple[Any, ...]
    factors: list[Tensor]
    write: Callable[[], None]


def make_writer(decoder: Decoder, adapter: Adapter, key: tuple[Any, ...], pool: Any) -> Writer:
    """What writes adapters of this one's shape, which `key` tells: on a GPU one graph, in that pool, instead of a launch for each matrix."""
    device = decoder.embed_VH.device
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for module in adapter.modules:
        a, b = (torch.empty_like(tensor, device=device) for tensor in adapter.pair(module))
        pairs[module] = a, b
    factors = [tensor for pair in pairs.values() for tensor in pair]

    def write() -> None:
        decoder.write(pairs, adapter.scale)

    if device.type == "cpu":
        return Writer(key, factors, write)
    graph, _ = record(write, pool)
    return Writer(key, factors, graph.replay)
