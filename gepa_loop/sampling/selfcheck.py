"""The check of a model when it is loaded: do masks, positions and a cache of our own give what the model itself computes?

Sampler and training hand a model masks, positions and a key-value cache. What a family does beside them (convolutions,
recurrent states, biases that grow with distance, caps on scores) is found here, and not by a list of names.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from gepa_loop.errors import ModelError
from gepa_loop.model.attention import sliding_window
from gepa_loop.model.families import FAULTS
from gepa_loop.model.lora.low_rank import twin
from gepa_loop.sampling.network import ModuleNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from gepa_loop.model.base import Base

SAME = {torch.float32: 1e-4, torch.bfloat16: 0.2}
"""Largest relative difference of logits. In float32 1e-6 was seen, and .1 and more where one token too many was attended to; in
bfloat16 a mixture of experts may choose other ones."""
NARROW = 3
"""The sliding window that is tried, so that a few tokens show whether it is kept."""


def check_reading(base: Base) -> None:
    """Compare what the sampler's network reads with what the model's own modules read by eager attention, without mask or cache.

    Raises:
        ModelError: They differ, or the model cannot be read; the message says how.
    """
    try:
        wide_RV = _compare(base)
        if sliding_window(base.model.config) is None:
            return
        narrow = twin(base.model)
        narrow.config.sliding_window = NARROW
        narrow_RV = _compare(replace(base, model=narrow))
    except FAULTS as error:
        reason = str(error).strip().partition("\n")[0]
        raise _refusal(base, f"{type(error).__name__}: {reason}") from error
    # A window of 3 changes what comes of 8 to 13 tokens, unless the model leaves it out.
    if _distance(narrow_RV, wide_RV) < 1e-6:
        raise _refusal(base, "its sliding window is not the one of its config")


@torch.inference_mode()
def _compare(base: Base) -> Tensor:
    """The model's own logits [5, V], from which those of the sampler's network must not differ."""
    ids = _spread(base.model.get_input_embeddings().weight.shape[0], 17)
    # The start is longer than `NARROW`; prompts of 5 and of 1 token, so that one row is padded; then a pair of completions.
    start, one, other, first, second, new = (
        ids[a:b] for a, b in itertools.pairwise((0, 6, 11, 12, 14, 16, 17))
    )
    plain = twin(base.model)
    # A model's own definition of its attention, of which `sdpa` does not know all: Gemma 2's cap on scores, for one.
    plain.set_attn_implementation("eager")
    texts = one + new, other + new, one + second
    own = [
        plain(input_ids=torch.tensor([start + rest], device=base.device)).logits[0].float() for rest in texts
    ]
    expected_RV = torch.stack([own[0][-2], own[1][-2], own[0][-1], own[1][-1], own[2][-1]])
    network = ModuleNetwork(base)
    found_RV = torch.cat(
        [
            *_decoded(base.device, network, start, [one, other], new),
            _packed(base.device, network, start, one, (first, second)),
        ]
    ).float()
    gap = _distance(found_RV, expected_RV)
    # Not `gap > ...`, which is False of NaN.
    if not gap <= SAME[base.model.dtype]:
        raise _refusal(base, f"logits differ by {gap:.1g} of their size")
    return expected_RV


def _decoded(
    device: torch.device, network: ModuleNetwork, start: list[int], rests: list[list[int]], new: list[int]
) -> list[Tensor]:
    """Logits after a shared start and each rest, padded on the left, and after one more token of each."""
    size, rows = max(map(len, rests)), len(rests)
    padded = torch.zeros(rows, size, dtype=torch.long)
    valid = torch.zeros(rows, size + 1, dtype=torch.bool)
    for row, rest in enumerate(rests):
        padded[row, size - len(rest) :] = torch.tensor(rest)
        valid[row, size - len(rest) :] = True
    ids_RT, valid_RS = padded.to(device), valid.to(device)
    places_RS = len(start) + (valid_RS.cumsum(1) - 1).clamp(min=0)
    causal_TT = torch.ones(size, size, dtype=torch.bool, device=device).tril()
    mask_RTT = (causal_TT & valid_RS[:, None, :size]) | torch.eye(size, dtype=torch.bool, device=device)
    past = network.past(network.prefill(start), rows, size + 1)
    before_RV = network.forward(ids_RT, past, places_RS[:, :size], mask_RTT)
    new_R1 = torch.tensor([new] * rows, device=device)
    after_RV = network.forward(new_R1, past, places_RS[:, size:], valid_RS[:, None])
    return [before_RV, after_RV]


def _packed(
    device: torch.device,
    network: ModuleNetwork,
    start: list[int],
    prompt: list[int],
    pair: tuple[list[int], list[int]],
) -> Tensor:
    """Logits [1, V] after the second of a pair of completions of one prompt that lie in one row."""
    first, second = pair
    row = prompt + first + second
    places = [*range(len(prompt + first)), *range(len(prompt), len(prompt + second))]
    mask_TT = torch.ones(len(row), len(row), dtype=torch.bool).tril()
    mask_TT[len(prompt + first) :, len(prompt) : len(prompt + first)] = False
    ids, positions = (torch.tensor([line], device=device) for line in (row, places))
    past = network.past(network.prefill(start), 1, len(row))
    return network.forward(ids, past, len(start) + positions, mask_TT[None].to(device))


def _spread(vocabulary: int, count: int) -> list[int]:
    """Some tokens from all over the vocabulary."""
    # Of a prime: none comes twice, unless the vocabulary is its multiple.
    return [7919 * (n + 1) % vocabulary for n in range(count)]


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _refusal(base: Base, reason: str) -> ModelError:
    return ModelError(
        f"model.name = {base.name!r}: models of type {base.model.config.model_type} cannot be used: with masks, positions and a "
        f"cache of our own it does not compute what it does by itself ({reason})",
        "docs/reference/models.md lists families that work.",
    )
