"""What an adapter adds, inside the layer's sum: by hand, in the mean of many roundings, and on a whole model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gepa_loop.config.tables import LoraConfig
from gepa_loop.errors import ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.fused.columns import FusedNetwork
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.low_rank import Twin, factors, project
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.sampling.network import ModuleNetwork, Network
from gepa_loop.sampling.plain import TorchSampler

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_sum_is_rounded_once() -> None:
    # bfloat16 has steps of 2^-7 above 1. W x is 1 + 2^-8, which alone rounds to 1; the adapter's 2^-9 alone would be lost.
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    weight = torch.tensor([[1.0, 2**-8]], dtype=torch.bfloat16)
    down, up = (
        torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16),
        torch.tensor([[2**-9]], dtype=torch.bfloat16),
    )
    out, low = project(x, weight, None, (down, up))
    assert out.item() == 1 + 2**-7
    assert low.tolist() == [[1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_several_adapters_of_any_rank_and_a_bias(dtype: torch.dtype) -> None:
    x, weight, bias = (t.to(dtype) for t in (drawn(5, 24), drawn(7, 24, seed=1), drawn(7, seed=2)))
    pairs = [(drawn(r, 24, seed=r).to(dtype), drawn(7, r, seed=9 + r).to(dtype) / 8) for r in (3, 8)]
    exact = x.double() @ weight.double().T + bias.double()
    for down, up in pairs:
        exact += x.double() @ down.double().T @ up.double().T
    side_by_side = torch.cat([down for down, _ in pairs]), torch.cat([up for _, up in pairs], 1)
    limit = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 5e-3}[dtype]
    out, low = project(x, weight, bias, side_by_side)
    assert out.dtype == dtype and low.shape == (5, 11)
    assert float((out.double() - exact).norm() / exact.norm()) < limit
    # Each row with one of the adapters alone.
    others = torch.zeros(5, 11, dtype=torch.bool)
    others[:2, 3:] = others[2:, :3] = True
    own, low = project(x, weight, bias, side_by_side, others)
    for rows, pair in ((slice(0, 2), pairs[0]), (slice(2, 5), pairs[1])):
        alone, _ = project(x[rows], weight, bias, pair)
        assert float((own[rows] - alone).norm() / alone.norm()) < limit
    assert not low[:2, 3:].any() and not low[2:, :3].any()


def test_a_change_below_half_a_step_is_right_in_the_mean() -> None:
    """Outputs near 8 have steps of 2^-4; the adapter adds 2^-9, a thirty-second of one, to each of 20,000."""
    x = torch.cat([drawn(1, 64), torch.full((1, 1), 8.0)], 1).to(torch.bfloat16)
    weight = torch.cat([drawn(20_000, 64, seed=1) / 32, torch.ones(20_000, 1)], 1).to(torch.bfloat16)
    down = torch.zeros(1, 65, dtype=torch.bfloat16)
    down[0, 64] = 1 / 8
    up = torch.full((20_000, 1), 2**-9, dtype=torch.bfloat16)
    before, after = (project(x, weight, None, (down, u))[0].double() for u in (torch.zeros_like(up), up))
    assert float((after - before).mean()) == pytest.approx(2**-9, rel=0.15)
    merged = (weight.float() + (up.float() @ down.float())).to(torch.bfloat16)
    lost = project(x, merged, None, (down, torch.zeros_like(up)))[0].double() - before
    assert abs(float(lost.mean())) < 2**-11  # what merging into the weights would keep


def adapter_of(base: Base, scale: float, rank: int = 4, targets: tuple[str, ...] = TARGETS) -> Adapter:
    model = with_lora(base, LoraConfig(rank=rank, alpha=3.0 * rank, targets=targets), 0, None)
    blank = student_adapter(model)
    remove_lora(model)
    return replace(
        blank,
        tensors={n: drawn(*t.shape, seed=k) * scale for k, (n, t) in enumerate(blank.tensors.items())},
    )


def test_a_twin_carries_an_adapter_and_the_model_does_not(tiny: Base) -> None:
    adapter = adapter_of(tiny, 0.1)
    twin, ids = Twin(tiny.model), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = tiny.model(ids).logits
        weights = {
            f"{m}.weight": tiny.model.get_parameter(f"{m}.weight")
            + adapter.scale * adapter.pair(m)[1] @ adapter.pair(m)[0]
            for m in adapter.modules
        }
        expected = torch.func.functional_call(tiny.model, weights, (ids,)).logits
        twin.set_adapter(adapter)
        torch.testing.assert_close(twin.model(ids).logits, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(tiny.model(ids).logits, plain)
        less = adapter_of(tiny, 0.1, targets=("o_proj",))
        twin.set_adapter(less)
        changed = {n for n, m in twin.model.named_modules() if type(m).__name__ == "AdaptedLinear"}
        assert changed == set(less.modules)
        twin.set_adapter(None)
        assert torch.equal(twin.model(ids).logits, plain)
    shared = dict(tiny.model.named_parameters())
    assert all(parameter is shared[name] for name, parameter in twin.model.named_parameters())


def test_an_adapter_of_another_model_is_refused(tiny: Base) -> None:
    adapter = adapter_of(tiny, 0.1)
    name = adapter.modules[0]
    wide = {k: torch.cat([t, t], 1) if name in k and "lora_A" in k else t for k, t in adapter.tensors.items()}
    odd = {k.replace("layers.0", "layers.7"): t for k, t in adapter.tensors.items()}
    for network in (ModuleNetwork(tiny), FusedNetwork(tiny)):
        with pytest.raises(ModelError, match=rf"the adapter changes {name} .* which is \(\d+, \d+\)"):
            network.write(replace(adapter, tensors=wide))
        with pytest.raises(ModelError, match="which is no linear layer in the base model"):
            network.write(replace(adapter, tensors=odd))


def test_factors_carry_the_scale(tiny: Base) -> None:
    adapter = adapter_of(tiny, 0.1)
    module = adapter.modules[0]
    down, up = factors(adapter, module, torch.empty(0, dtype=torch.float64))
    a, b = adapter.pair(module)
    assert adapter.scale == 3 and down.dtype == up.dtype == torch.float64
    torch.testing.assert_close(up @ down, 3 * b.double() @ a.double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("network", [FusedNetwork, ModuleNetwork])
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="of_family puts its models on the GPU; the GPU has kernels"
)
def test_samplers_keep_in_bfloat16_what_float32_has(
    of_family: Callable[..., Base], network: Callable[[Base], Network]
) -> None:
    """The adapter's effect on the log-probabilities of given tokens, as a share of its effect in float32.

    Merged into the weights, or added to a rounded W x, a third of it is left.
    """
    base = of_family("llama", std=0.15, num_hidden_layers=3)
    rotary = copy.deepcopy(base.model.get_decoder().rotary_emb)
    narrow = replace(base, model=base.model.to(torch.bfloat16))
    narrow.model.get_decoder().rotary_emb = rotary
    wide = replace(narrow, model=copy.deepcopy(narrow.model).float())
    adapter = adapter_of(wide, 0.003, rank=8)
    prompts = [
        [int(n) for n in torch.randint(3, 250, (12,), generator=torch.Generator().manual_seed(s))]
        for s in range(60)
    ]

    def logprobs(base: Base, adapter: Adapter | None) -> Tensor:
        running = network(base)
        running.write(adapter)
        sampler = TorchSampler(base, 64, running, share_from=10**9)
        return torch.stack([logits(sampler, prompt) for prompt in prompts]).double()

    effect = logprobs(wide, adapter) - logprobs(wide, None)
    kept = logprobs(narrow, adapter) - logprobs(narrow, None)
    share = float((kept * effect).sum() / effect.square().sum())
    assert share == pytest.approx(1, abs=0.15)


def logits(sampler: TorchSampler, prompt: list[int]) -> Tensor:
    """Log-probabilities [V] of the token after a prompt, as the sampler finds them."""
    found, _, _ = sampler._prefill([(None, tuple(prompt))], None, 0)
    return found[0].float().log_softmax(-1)
