"""Adapters of another rank."""

from __future__ import annotations

import pytest
import torch

from gepa_loop.model.lora.adapter import LORA_A, LORA_B, PREFIX, Adapter, stack_adapters
from gepa_loop.model.lora.rank import compressed, padded

SHAPES = {"layers.0.q": (12, 20), "layers.0.o": (4, 9)}


def _adapter(rank: int, alpha: float, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out, inner) in SHAPES.items():
        tensors[f"{PREFIX}{name}{LORA_A}"] = torch.randn(rank, inner, generator=generator)
        tensors[f"{PREFIX}{name}{LORA_B}"] = torch.randn(out, rank, generator=generator)
    return Adapter(rank, alpha, ("q", "o"), tensors)


def _change(adapter: Adapter, module: str) -> torch.Tensor:
    a, b = (tensor.double() for tensor in adapter.pair(module))
    return adapter.scale * b @ a


def test_zeros_change_nothing() -> None:
    adapter = _adapter(3, 6.0, 0)
    wider = padded(adapter, 8)
    assert (wider.rank, wider.scale, wider.modules) == (8, adapter.scale, adapter.modules)
    for module in SHAPES:
        assert wider.pair(module)[0].shape[0] == wider.pair(module)[1].shape[1] == 8
        assert torch.equal(_change(wider, module), _change(adapter, module))
    with pytest.raises(ValueError, match="does not fit"):
        padded(adapter, 2)


def test_the_best_approximation_of_a_lower_rank() -> None:
    adapter = stack_adapters([_adapter(3, 6.0, 0), _adapter(3, 3.0, 1)])
    assert adapter.rank == 6
    for rank in (1, 2, 5, 6):
        lower = compressed(adapter, rank)
        assert lower.rank == rank and lower.scale == 1
        for module in SHAPES:
            whole = _change(adapter, module)
            u, s, vh = torch.linalg.svd(whole, full_matrices=False)
            best = u[:, :rank] * s[:rank] @ vh[:rank]  # Eckart and Young
            assert lower.pair(module)[0].shape[0] == rank
            torch.testing.assert_close(_change(lower, module), best, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="has no more than that"):
        compressed(adapter, 7)


def test_an_adapter_of_two_equal_halves_loses_nothing_at_half_the_rank() -> None:
    one = _adapter(2, 4.0, 2)
    both = stack_adapters([one, one])
    for module in SHAPES:
        torch.testing.assert_close(
            _change(compressed(both, 2), module), _change(both, module), atol=1e-5, rtol=1e-4
        )
