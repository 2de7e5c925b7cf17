"""The check of a model's readings when it is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gepa_loop.errors import ModelError
from gepa_loop.model.attention import grouped_sdpa
from gepa_loop.model.base import Base
from gepa_loop.model.lora.low_rank import Twin
from gepa_loop.sampling.selfcheck import check_reading


def beside(base: Base, hook: Any) -> Base:
    """The model with something in its first layer that our masks and cache do not know of."""
    model = Twin(base.model).model
    model.model.layers[0].mlp.register_forward_hook(hook)
    return replace(base, model=model)


def convolve(_: Any, __: Any, out: Tensor) -> Tensor:
    return out + 0.1 * torch.nn.functional.pad(out, (0, 0, 1, 0))[:, :-1]


def count(_: Any, __: Any, out: Tensor) -> Tensor:
    return out * (1 + 0.02 * torch.arange(out.shape[1])[None, :, None])


def fail(_: Any, __: Any, out: Tensor) -> Tensor:
    raise TypeError("no\nsuch cache")


def test_a_plain_model_passes_as_it_is(tiny: Base) -> None:
    before = tiny.model.config.to_dict()
    check_reading(tiny)
    assert tiny.model.config.to_dict() == before


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (convolve, "logits differ by"),
        (count, "logits differ by"),
        (fail, r"\(TypeError: no\)"),
    ],
)
def test_what_reads_columns_beside_attention_is_refused(tiny: Base, hook: Any, message: str) -> None:
    with pytest.raises(ModelError, match=f"models of type llama cannot be used: .*{message}"):
        check_reading(beside(tiny, hook))


def test_attention_with_more_than_a_mask_is_refused() -> None:
    query = key = value = torch.randn(1, 2, 3, 4)
    grouped_sdpa(None, query, key, value, None, sliding_window=4, output_attentions=False, softcap=None)
    for odd in ({"softcap": 50.0}, {"s_aux": torch.zeros(2)}, {"position_bias": torch.zeros(3, 3)}):
        with pytest.raises(NotImplementedError, match=f"its attention takes {next(iter(odd))}"):
            grouped_sdpa(None, query, key, value, None, **odd)
