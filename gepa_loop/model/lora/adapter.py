"""LoRA adapters as values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from gepa_loop.model.origin import Origin, hash_tensors

if TYPE_CHECKING:
    from torch import Tensor

PREFIX, LORA_A, LORA_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""Around a module's name in the tensors' names, as PEFT writes them."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter as a value: for module m the weight change is (alpha / rank) * B @ A."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """The modules' names, or their last parts where all modules with them are meant."""
    tensors: Mapping[str, Tensor]
    """Float32 on the CPU under PEFT's names: "base_model.model.<module>.lora_A.weight" [rank, in] and
    "base_model.model.<module>.lora_B.weight" [out, rank]."""
    origin: Origin | None = None
    """What the folder says that it was read from."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the linear layers that are changed, as the base model calls them."""
        return tuple(module_of(name) for name in self.tensors if name.endswith(LORA_A))

    def pair(self, module: str) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank] of one module."""
        return self.tensors[f"{PREFIX}{module}{LORA_A}"], self.tensors[f"{PREFIX}{module}{LORA_B}"]

    @property
    def fingerprint(self) -> str:
        """8 hex digits over rank, alpha, and the tensors' names, shapes and bytes."""
        return self.digest[:8]

    @cached_property
    def digest(self) -> str:
        """The same, all 64 of them."""
        digest = hashlib.sha256(f"{self.rank} {float(self.alpha)}".encode())
        hash_tensors(digest, sorted(self.tensors.items()))
        return digest.hexdigest()


def module_of(tensor: str) -> str:
    """The name of the linear layer that a tensor belongs to."""
    return tensor.removeprefix(PREFIX).removesuffix(LORA_A).removesuffix(LORA_B)


def stack_adapters(adapters: Sequence[Adapter]) -> Adapter:
    """One adapter whose weight change is the sum of the others', by concatenating their ranks.

    Its alpha equals its rank: each B carries its own scale. A module that an adapter leaves alone gets zeros.

    Raises:
        ValueError: There is no adapter.
    """
    import torch

    if not adapters:
        raise ValueError("there is no adapter to stack")
    rank = sum(adapter.rank for adapter in adapters)
    tensors = {}
    for module in dict.fromkeys(module for adapter in adapters for module in adapter.modules):
        one, two = next(adapter.pair(module) for adapter in adapters if module in adapter.modules)
        parts_A, parts_B = [], []
        for adapter in adapters:
            if module in adapter.modules:
                a, b = adapter.pair(module)
            else:
                a, b = one.new_zeros(adapter.rank, one.shape[1]), two.new_zeros(two.shape[0], adapter.rank)
            parts_A.append(a)
            # Exact where alpha / rank is a power of two, as in all presets: then scaling changes exponents alone.
            parts_B.append(b * adapter.scale)
        tensors[f"{PREFIX}{module}{LORA_A}"] = torch.cat(parts_A, 0)
        tensors[f"{PREFIX}{module}{LORA_B}"] = torch.cat(parts_B, 1)
    targets = sorted({target for adapter in adapters for target in adapter.targets})
    return Adapter(rank, float(rank), tuple(targets), tensors)


def side_by_side(adapters: Sequence[Adapter]) -> Adapter:
    """One adapter with the ranks of several, for rows of which each computes with its own: with all, it would be their sum.

    Raises:
        ValueError: They differ in rank, alpha or modules.
    """
    import torch

    first = adapters[0]
    if len({(adapter.rank, adapter.alpha, adapter.modules) for adapter in adapters}) > 1:
        raise ValueError("adapters of different ranks, alphas or modules cannot lie side by side")
    tensors = {
        name: torch.cat([adapter.tensors[name] for adapter in adapters], 0 if name.endswith(LORA_A) else 1)
        for name in first.tensors
    }
    count = len(adapters)
    return Adapter(count * first.rank, count * first.alpha, first.targets, tensors)
