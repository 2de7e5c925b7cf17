"""Every fast path in bfloat16 on a GPU, against the plain path in float32; the same equalities in float32 are in the modules' tests.

A path may be off by what bfloat16 itself costs: at most 1.3 times the error of the plain path in bfloat16, both against
float32. The models are random, four layers, and small enough for a second; with TEST_MODEL set to a folder or a
hub id, every test is run on that model, too. Only trained weights have keys of some hundreds and massive activations.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gepa_loop.config.tables import LoraConfig, ModelConfig
from gepa_loop.model.base import Base, calm_host, load_base
from gepa_loop.model.forward import Prefix, hidden_states, read_prefix
from gepa_loop.model.fused.training import fused_states
from gepa_loop.model.graphs import LAUNCHED, Graphs, open_forward
from gepa_loop.model.lora.training import with_lora
from gepa_loop.model.packed import Packed, pack
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.cuda.sampler import CudaSampler
from gepa_loop.training.head.chunked import Dense, Divergence, TokenStats, Wanted, token_stats

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
if torch.cuda.is_available():
    calm_host(torch.device("cuda"))  # as loading a model does

SLACK = 1.3
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
REAL = os.environ.get("TEST_MODEL")
KINDS = ["llama", "qwen2", "qwen3", *([REAL] if REAL else [])]
LIMITS = {"llama": 0.05, "qwen3": 0.05, "qwen2": 0.2, REAL: 0.5}
"""Errors that bfloat16 itself may cost a model; large keys make its gradients coarse."""
PAST = list(range(100, 140))


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(3, 250, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


PROMPTS = [tokens(20 + n, n) for n in range(4)]
COMPLETIONS = [[tuple(tokens(12 - m, 10 * n + m)) for m in range(3)] for n in range(4)]


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, of_family: Callable[..., Base]) -> tuple[Base, Base]:
    """The same model in float32 and in bfloat16, whose weights are the rounded ones in both."""
    if request.param == REAL:
        narrow = load_base(ModelConfig(name=REAL, dtype="bfloat16", device="cuda"))
        return replace(narrow, model=copy.deepcopy(narrow.model).float()), narrow
    shape = {"hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 4}
    narrow = of_family(request.param, std=0.1, **shape)
    if request.param == "qwen2":
        large_keys(narrow)
    rotary = copy.deepcopy(narrow.model.get_decoder().rotary_emb)
    narrow = replace(narrow, model=narrow.model.to(torch.bfloat16))
    narrow.model.get_decoder().rotary_emb = rotary  # its frequencies stay float32
    wide = replace(narrow, model=copy.deepcopy(narrow.model).float())
    return wide, narrow


def large_keys(base: Base) -> None:
    """Give all keys a component of 200 that turns with no position, and queries one of -6: all scores are near -300."""
    for layer in base.model.get_decoder().layers:
        for part, value in ((layer.self_attn.q_proj, -6.0), (layer.self_attn.k_proj, 200.0)):
            part.bias.data.view(-1, 16)[:, 7] = value  # the slowest angle of 16 numbers a head


def copied(base: Base) -> Base:
    return replace(base, model=copy.deepcopy(base.model))


def adapted(base: Base) -> tuple[torch.nn.Parameter, ...]:
    model = with_lora(base, LoraConfig(rank=4, alpha=8.0, targets=TARGETS), 0, None)
    trained = tuple(p for p in model.parameters() if p.requires_grad)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained:
            # So much on trained weights would leave nothing of the model.
            value = torch.randn(parameter.shape, generator=source) / (100 if base.name == REAL else 20)
            parameter.copy_(value.bfloat16())
            parameter.grad = torch.zeros_like(parameter)
    return trained


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error."""
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm())


def everything(
    base: Base, states: Callable[..., torch.Tensor], packed: Packed, past: list[int]
) -> list[torch.Tensor]:
    """States, and all gradients in one tensor, with adapters."""
    trained = adapted(base)
    out = states(base.model, packed, read_prefix(base.model, past))
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    grads = torch.autograd.grad(out, trained, slope)
    return [out.detach(), torch.cat([grad.flatten() for grad in grads])]


@pytest.mark.parametrize("past", [[], PAST], ids=["whole", "prefix"])
def test_fused_forward_and_gradients(pair: tuple[Base, Base], past: list[int]) -> None:
    wide, narrow = pair
    packed = pack(PROMPTS, COMPLETIONS, len(past), wide.device)
    exact = everything(wide, hidden_states, packed, past)
    plain = everything(copied(narrow), hidden_states, packed, past)
    fused = everything(copied(narrow), fused_states, packed, past)
    for fast, slow, right in zip(fused, plain, exact, strict=True):
        assert error(fast, right) < SLACK * error(slow, right) < LIMITS[wide.name]


@pytest.mark.parametrize("length", [64, 120, 192, 256, 320])
def test_gradients_are_finite_for_every_number_of_keys(pair: tuple[Base, Base], length: int) -> None:
    """An odd multiple of 64 keys, all of low scores, gave NaN with cuDNN's attention."""
    wide, narrow = pair
    rows = [tokens(length - 20, n) for n in range(3)]
    packed = pack(rows, [[tuple(tokens(11, n)), tuple(tokens(11, n + 9))] for n in range(3)], 0, wide.device)
    assert packed.ids_BL.shape[1] == length
    exact = everything(wide, hidden_states, packed, [])
    plain = everything(copied(narrow), hidden_states, packed, [])
    fused = everything(copied(narrow), fused_states, packed, [])
    for fast, slow, right in zip(fused, plain, exact, strict=True):
        assert error(fast, right) < SLACK * error(slow, right) < LIMITS[wide.name]


def test_captured_graphs_equal_the_eager_kernels(pair: tuple[Base, Base]) -> None:
    _, narrow = pair
    packed = pack(PROMPTS, COMPLETIONS, 0, narrow.device)
    eager = everything(copied(narrow), fused_states, packed, [])
    trained = adapted(narrow)
    graphs = open_forward(narrow.model, trained)
    assert isinstance(graphs, Graphs)
    prefix = Prefix()
    for _ in range(LAUNCHED):
        graphs(packed, prefix)
    assert not graphs._captured
    out = graphs(packed, prefix)
    assert all(graphs._captured.values()) and len(graphs._captured) == 1
    slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    out.backward(slope)  # type: ignore[no-untyped-call]
    grads = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    allowed = LIMITS[narrow.name] / 5
    assert error(out.detach(), eager[0]) < allowed and error(grads, eager[1]) < allowed


def test_packed_rows_equal_separate_ones_and_a_prefix_equals_reading_it(pair: tuple[Base, Base]) -> None:
    wide, narrow = pair
    prompts = [[*PAST, *prompt] for prompt in PROMPTS]
    exact = hidden_states(wide.model, pack(prompts, COMPLETIONS, 0, wide.device), Prefix())
    alone = torch.cat(
        [
            hidden_states(narrow.model, pack([prompt], [[completion]], 0, narrow.device), Prefix())
            for prompt, group in zip(prompts, COMPLETIONS, strict=True)
            for completion in group
        ]
    )
    prefix = read_prefix(narrow.model, PAST)
    fast = fused_states(narrow.model, pack(PROMPTS, COMPLETIONS, len(PAST), narrow.device), prefix)
    assert error(fast, exact) < SLACK * error(alone, exact) < LIMITS[wide.name]


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl"])
def test_divergence_by_chunks_equals_the_dense_one(kind: str) -> None:
    """Loss and gradient over 3 chunks of a large vocabulary, from hidden states that are bfloat16 in both."""
    source = torch.Generator().manual_seed(0)
    size, count = 150_000, 1000
    draw = [torch.randn(n, 64, generator=source).to("cuda", torch.bfloat16) / 4 for n in (count, count, size)]
    student, teacher, head = draw
    picked = torch.randint(size, (count,), generator=source).cuda()

    def of(dtype: torch.dtype, **divergence: object) -> tuple[TokenStats, torch.Tensor]:
        hidden = student.to(dtype, copy=True).requires_grad_()
        asked = Divergence(kind, **divergence)  # type: ignore[arg-type]
        stats = token_stats(
            hidden, head.to(dtype), picked, Dense(teacher.to(dtype), head.to(dtype)), Wanted(asked)
        )
        stats.divergence_N.mean().backward()  # type: ignore[no-untyped-call]
        assert hidden.grad is not None
        return stats, hidden.grad

    exact, slope = of(torch.float64)
    fast, fast_slope = of(torch.bfloat16)
    plain, plain_slope = of(torch.bfloat16, top_k=size)  # the whole vocabulary, without the kernel
    for mine, own, right in zip(fast, plain, exact, strict=True):
        assert error(mine, right) < max(1e-4, SLACK * error(own, right)) < 0.05
    assert error(fast_slope, slope) < SLACK * error(plain_slope, slope) < 0.05


def test_group_shared_prompts_sample_as_separate_ones_and_score_as_the_model(pair: tuple[Base, Base]) -> None:
    wide, narrow = pair
    sampling, seeds = Sampling(1.0, 16), list(range(12))
    grouped = [prompt for prompt in PROMPTS for _ in range(3)]
    together = CudaSampler(narrow, 64).generate(grouped, sampling, seeds, None)
    alone = [
        CudaSampler(narrow, 1).generate([prompt], sampling, [seed], None)[0]
        for prompt, seed in zip(grouped, seeds, strict=True)
    ]
    same = [a.token_ids == b.token_ids for a, b in zip(together, alone, strict=True)]
    assert (
        sum(same) >= 9
    )  # a token whose probability rounds across the drawn number differs, and all after it
    assert gap(together, grouped, wide) < SLACK * gap(alone, grouped, wide) + 5e-3


def gap(done: list[Completion], prompts: list[list[int]], base: Base) -> float:
    """Mean difference of the sampler's log-probabilities from a forward in float32, in nats."""
    gaps = []
    for completion, prompt in zip(done, prompts, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids]], device=base.device)
        with torch.no_grad():
            log_p = base.model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        own = log_p.gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu()
        gaps.append((torch.tensor(completion.logprobs) - own).abs())
    return float(torch.cat(gaps).mean())
