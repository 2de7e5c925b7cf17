"""The fused weights of the in-process sampler against the model's own modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gepa_loop.config.tables import LoraConfig
from gepa_loop.model.base import Base
from gepa_loop.model.fused.columns import FusedNetwork
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.network import ModuleNetwork, Network, open_network
from gepa_loop.sampling.plain import TorchSampler

SHARED = [9, 8, 7, 6, 5]
PROMPTS = [[*SHARED, 11, 12, 13], [*SHARED, 14], [*SHARED, 11, 12, 13], [*SHARED, 15, 16]]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="fused weights are for the CPU; the GPU has kernels"
)


def sample(
    base: Base, network: Network, prompts: list[list[int]], adapter: Adapter | None = None
) -> list[Completion]:
    sampler = TorchSampler(base, 3, network, share_from=0)
    return sampler.generate(prompts, Sampling(1.0, 8), list(range(len(prompts))), adapter)


def same(one: list[Completion], other: list[Completion]) -> None:
    assert [c.token_ids for c in one] == [c.token_ids for c in other]
    flat = [torch.tensor([p for c in found for p in c.logprobs]) for found in (one, other)]
    torch.testing.assert_close(*flat, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("prompts", [PROMPTS, [[3, 4], [5, 6, 7]], [[3, 4, 5]]], ids=["shared", "own", "one"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_fused_weights_sample_what_the_modules_do(
    of_family: Callable[..., Base], kind: str, prompts: list[list[int]]
) -> None:
    base = of_family(kind, std=0.15, sliding_window=None)
    same(sample(base, FusedNetwork(base), prompts), sample(base, ModuleNetwork(base), prompts))


@pytest.mark.parametrize("prompts", [PROMPTS, [[3, 4], [5, 6, 7]]], ids=["shared", "own"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_bfloat16_is_as_close_to_float32_as_the_modules(
    of_family: Callable[..., Base], kind: str, prompts: list[list[int]]
) -> None:
    """Mean difference from a forward in float32 with the same, rounded weights: at most twice that of the modules."""
    base = of_family(kind, std=0.1)
    rotary = copy.deepcopy(base.model.get_decoder().rotary_emb)
    narrow = replace(base, model=base.model.to(torch.bfloat16))
    narrow.model.get_decoder().rotary_emb = rotary
    wide = copy.deepcopy(narrow.model).float()
    gaps = []
    for network in (FusedNetwork(narrow), ModuleNetwork(narrow)):
        found = []
        for completion, prompt in zip(sample(narrow, network, prompts), prompts, strict=True):
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            log_p = wide(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            own = log_p.gather(-1, ids[0, len(prompt) :, None])[:, 0]
            found.append((torch.tensor(completion.logprobs) - own).abs())
        gaps.append(float(torch.cat(found).mean()))
    assert gaps[0] < 2 * gaps[1] < 0.05


def test_an_adapter_computes_and_is_taken_out_again(tiny: Base) -> None:
    model = with_lora(tiny, LoraConfig(rank=4, alpha=8.0, targets=TARGETS), 0, None)
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            source = torch.Generator().manual_seed(number)
            parameter.copy_(torch.randn(parameter.shape, generator=source) / 5)
    adapter = student_adapter(model)
    remove_lora(model)
    # One that changes less: what it leaves alone must be the base's again.
    less = replace(
        adapter, targets=("o_proj",), tensors={k: v for k, v in adapter.tensors.items() if "o_proj" in k}
    )
    fused, modules = (
        TorchSampler(tiny, 3, network(tiny), share_from=0) for network in (FusedNetwork, ModuleNetwork)
    )
    asked = PROMPTS, Sampling(1.0, 8), list(range(len(PROMPTS)))
    plain = fused.generate(*asked, None)
    for student in (adapter, adapter, less, None, adapter):
        found = fused.generate(*asked, student)
        same(found, modules.generate(*asked, student))
        assert (student is None) == ([c.token_ids for c in found] == [c.token_ids for c in plain])


def test_the_faster_network_is_for_families_it_knows(tiny: Base, of_family: Callable[..., Base]) -> None:
    assert isinstance(open_network(tiny), FusedNetwork)
    other = of_family("olmo2")
    assert isinstance(open_network(other), ModuleNetwork)
