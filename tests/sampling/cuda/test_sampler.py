"""The fused sampler against the model's own forward; without a GPU its kernels run in Triton's interpreter."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gepa_loop.config.load import load_config
from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.fused.decoder import unsupported
from gepa_loop.model.fused.rows import Rows
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.choose import open_sampler
from gepa_loop.sampling.cuda.draw import draw_rows
from gepa_loop.sampling.cuda.drawn import Drawn
from gepa_loop.sampling.cuda.prefill import PREFILL_TOKENS
from gepa_loop.sampling.cuda.sampler import CudaSampler
from gepa_loop.sampling.plain import TorchSampler, draw

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
SHARED = [[9, 8, 7, 6, *range(40, 40 + n)] for n in (1, 3, 2)]
MIXED = [[260 - 200, 5, 7], [11, 12], [260 - 200, 5, 7]]


@pytest.fixture(scope="module")
def base(tiny: Base) -> Base:
    return replace(tiny, model=copy.deepcopy(tiny.model).to(DEVICE))


def same(one: list[Completion], other: list[Completion]) -> None:
    assert [(c.token_ids, c.finish_reason) for c in one] == [(c.token_ids, c.finish_reason) for c in other]
    flat = [torch.tensor([p for c in found for p in c.logprobs]) for found in (one, other)]
    torch.testing.assert_close(*flat, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "share_from"), [(SHARED, 1), (SHARED, 99), (MIXED, 1)], ids=["shared", "whole", "mixed"]
)
def test_completions_are_those_of_the_models_own_forward(
    base: Base, prompts: list[list[int]], share_from: int
) -> None:
    seeds = list(range(len(prompts)))
    fused, plain = CudaSampler(base, 64, share_from), TorchSampler(base, 64)
    for sampling in (Sampling(1.0, 5), Sampling(0.0, 3), Sampling(0.6, 2)):
        same(fused.generate(prompts, sampling, seeds, None), plain.generate(prompts, sampling, seeds, None))


@pytest.mark.skipif(not CUDA, reason="needs a GPU: too many tokens for the interpreter")
@pytest.mark.parametrize("share_from", [1, 10**9], ids=["shared", "whole"])
def test_more_prompts_than_are_read_together(base: Base, share_from: int) -> None:
    common = [5 + n % 250 for n in range(100)]
    prompts = [[*common, *(5 + (7 * n + m * m) % 250 for m in range(40 + n % 9))] for n in range(420)]
    assert sum(len(prompt) - len(common) for prompt in prompts) > PREFILL_TOKENS
    seeds, sampling = list(range(420)), Sampling(0.0, 3)
    fused, plain = CudaSampler(base, 420, share_from), TorchSampler(base, 420)
    same(fused.generate(prompts, sampling, seeds, None), plain.generate(prompts, sampling, seeds, None))


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_biases_and_head_norms(kind: str, of_family: Callable[..., Base]) -> None:
    other = of_family(kind, tie_word_embeddings=True)
    same(
        CudaSampler(other, 2).generate(MIXED, Sampling(1.0, 3), [5, 6, 7], None),
        TorchSampler(other, 2).generate(MIXED, Sampling(1.0, 3), [5, 6, 7], None),
    )


def test_rows_that_end_leave_and_change_nothing(base: Base) -> None:
    """Three of four rows end early, so that the launch shrinks at the second look."""
    prompts, seeds, sampling = [[5, 6, 7]] * 4, [0, 1, 2, 3], Sampling(1.0, 11)
    plain = TorchSampler(base, 4).generate(prompts, sampling, seeds, None)
    easy = replace(base, stop_ids=tuple({*base.stop_ids, *(c.token_ids[2] for c in plain[:3])}))
    done = CudaSampler(easy, 4).generate(prompts, sampling, seeds, None)
    same(done, TorchSampler(easy, 4).generate(prompts, sampling, seeds, None))
    assert sorted(len(c.token_ids) for c in done)[2] <= 3


def test_a_cache_that_grows_and_is_used_again_gives_the_same(base: Base) -> None:
    fused = CudaSampler(base, 4)
    first = fused.generate(MIXED[:1], Sampling(1.0, 2), [3], None)
    fused.generate([[*range(5, 75)]], Sampling(1.0, 2), [3], None)
    same(fused.generate(MIXED[:1], Sampling(1.0, 2), [3], None), first)


def test_what_was_closed_gives_the_same_and_holds_no_copy_of_the_weights(base: Base) -> None:
    fused, adapter = CudaSampler(base, 4), random_adapter(base)
    asked = MIXED[:1], Sampling(1.0, 2), [3]
    first = [fused.generate(*asked, one) for one in (None, adapter)]
    copy = weakref.ref(fused._decoder)
    for _ in range(2):
        fused.close()
    gc.collect()
    assert copy() is None
    # The adapter is written anew, into the new copy.
    for one, expected in zip((adapter, None), reversed(first), strict=True):
        same(fused.generate(*asked, one), expected)
    assert first[0] != first[1]


def random_adapter(base: Base) -> Adapter:
    lora = load_config("smoke", env={}).lora
    peft = with_lora(base, lora, 0, None)
    blank = student_adapter(peft)
    remove_lora(peft)
    torch.manual_seed(1)
    tensors = {name: torch.randn_like(tensor) * 0.1 for name, tensor in blank.tensors.items()}
    return replace(blank, tensors=tensors)


def test_an_adapter_computes_and_is_taken_out_again(base: Base) -> None:
    adapter = random_adapter(base)
    fused, plain = CudaSampler(base, 2), TorchSampler(base, 2)
    before = fused.generate(MIXED[:2], Sampling(1.0, 3), [1, 2], None)
    changed = fused.generate(MIXED[:2], Sampling(1.0, 3), [1, 2], adapter)
    same(changed, plain.generate(MIXED[:2], Sampling(1.0, 3), [1, 2], adapter))
    assert changed != before
    same(
        fused.generate(MIXED[:2], Sampling(1.0, 3), [1, 2], None), before
    )  # zeros behind the weights: sums in another order
    name = "base_model.model.model.embed_tokens"
    odd = Adapter(1, 1.0, ("embed_tokens",), {f"{name}.lora_{x}.weight": torch.zeros(1, 1) for x in "AB"})
    with pytest.raises(ModelError, match=r"model\.embed_tokens \(1, 1\), which is no linear"):
        fused.generate(MIXED[:2], Sampling(1.0, 3), [1, 2], odd)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_tokens_are_drawn_as_by_the_reference(temperature: float) -> None:
    """Over several blocks of the vocabulary, with uniforms at both ends and logits that rule most tokens out."""
    torch.manual_seed(0)
    logits = torch.randn(6, 5000) * 3
    logits[3, 10:] = -torch.inf
    logits[4, :4990] = -torch.inf
    logits[5] = 0.0
    uniforms = torch.tensor([0.0, 0.3, 0.7, 1 - 2**-24, 1 - 2**-24, 0.5])
    expected, logprobs = draw(logits, uniforms, temperature)

    def ints(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=DEVICE)

    slots = [6, 4, 2, 0, 1, 3]
    rows = Rows(ints(*slots), ints(0), ints(*[0] * 7), ints(1), ints(*[1] * 7), ints(*[0] * 7))
    table = torch.zeros(7, 3, device=DEVICE)
    table[slots, 1] = uniforms.to(DEVICE)
    drawn = Drawn(
        table,
        torch.zeros(7, dtype=torch.long, device=DEVICE),
        torch.zeros(7, 3, dtype=torch.int32, device=DEVICE),
        torch.zeros(7, 3, device=DEVICE),
        ints(*[0] * 7),
    )
    stops = expected[1:2].to(DEVICE)
    draw_rows(logits.to(DEVICE), temperature, stops, rows, drawn)
    assert drawn.tokens_RT[slots, 1].tolist() == expected.tolist() == drawn.last_R[slots].tolist()
    torch.testing.assert_close(drawn.logprobs_RT[slots, 1].cpu(), logprobs, atol=1e-5, rtol=1e-5)
    assert [bool(x) for x in drawn.done_R[slots]] == [token == expected[1] for token in expected]
    assert rows.lengths_R[slots].tolist() == [2] * 6 and rows.lengths_R[5] == 1


def test_the_engine_says_why(tiny: Base) -> None:
    settings = load_config("smoke", env={}).sampling
    sampler, words = open_sampler(tiny, settings)
    assert isinstance(sampler, TorchSampler) and "the model lies on cpu" in words
    with pytest.raises(ConfigError, match=r"sampling.engine = 'cuda': the model lies on cpu"):
        open_sampler(tiny, settings.model_copy(update={"engine": "cuda"}))
    assert unsupported(tiny.model) is None
    assert "gpt2" in str(
        unsupported(AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_layer=1)))
    )
