"""Ranks that vLLM serves."""

from __future__ import annotations

import pytest
import torch

from gepa_loop.errors import ConfigError
from gepa_loop.model.lora.adapter import LORA_A, LORA_B, PREFIX, Adapter
from gepa_loop.model.lora.rank import padded
from gepa_loop.serving.rank import in_rank


def _student(rank: int) -> Adapter:
    made = torch.Generator().manual_seed(0)
    a, b = torch.randn(rank, 16, generator=made), torch.randn(12, rank, generator=made)
    return Adapter(rank, 2.0 * rank, ("q",), {f"{PREFIX}q{LORA_A}": a, f"{PREFIX}q{LORA_B}": b})


def _change(adapter: Adapter) -> torch.Tensor:
    a, b = adapter.pair("q")
    return adapter.scale * b.double() @ a.double()


@pytest.mark.parametrize(
    ("rank", "asked", "becomes", "how", "narrowed"),
    [
        (8, None, 8, "", False),
        (3, None, 8, "of 3, filled up with zeros, as vLLM serves certain ranks only", False),
        (3, 3, 3, "", False),
        (3, 5, 5, "of 3, filled up with zeros", False),
        (3, 2, 2, "of 3, by its largest singular values", True),
    ],
)
def test_a_rank(rank: int, asked: int | None, becomes: int, how: str, narrowed: bool) -> None:
    student = _student(rank)
    found = in_rank(student, asked)
    assert (found.adapter.rank, found.how, found.narrowed) == (becomes, how, narrowed)
    same = torch.allclose(_change(found.adapter), _change(student), atol=1e-6)
    assert same is not narrowed


def test_more_than_vllm_serves_is_compressed() -> None:
    student = padded(_student(8), 600)
    found = in_rank(student, None)
    assert found.adapter.rank == 512 and found.narrowed
    assert found.how == "of 600, by its largest singular values, as vLLM serves no higher one"
    torch.testing.assert_close(_change(found.adapter), _change(student), atol=1e-4, rtol=1e-4)
    assert in_rank(student, 600).adapter is student


def test_no_rank() -> None:
    with pytest.raises(ConfigError, match="--rank 0"):
        in_rank(_student(3), 0)
