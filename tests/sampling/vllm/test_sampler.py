"""The vLLM sampler against the model it stands for, with real vLLM (`make test-vllm`); on a GPU where there is one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gepa_loop.config.tables import SamplingConfig
from gepa_loop.errors import ConfigError, Diverged, EnvironmentFault, ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.bundled import random_tiny
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.network import ModuleNetwork
from gepa_loop.sampling.plain import TorchSampler
from gepa_loop.sampling.vllm.options import missing
from gepa_loop.sampling.vllm.sampler import VllmSampler

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CUDA = DEVICE.type == "cuda"
DTYPE, TOLERANCE = (torch.bfloat16, 0.15) if CUDA else (torch.float32, 2e-4)
PROMPTS = [[60, 5, 7, *range(30, 30 + n)] for n in range(1, 9)]
LONG = [5 + n % 250 for n in range(200)]
"""Longer than one block of vLLM's cache, so that a part of it can be used again."""
# Random weights this large are less smooth than a trained model's: bfloat16 moves their log-probabilities by .03 nats.
SETTINGS = SamplingConfig(batch=32, canary=0.1 if CUDA else None)

pytestmark = [
    pytest.mark.skipif(
        missing(DEVICE) is not None,
        reason=f"{missing(DEVICE)}; make test-vllm has it in an environment of its own",
    ),
    pytest.mark.timeout(900),
]


def make_base(seed: int) -> Base:
    """A random Llama whose heads are wide enough for vLLM's kernels on the CPU; its output layer is its own."""
    _, tokenizer = random_tiny(torch.float32)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPE)
    return Base("random", model.to(DEVICE).eval().requires_grad_(False), tokenizer, (2,), 512, "random")


def make_adapter(base: Base, seed: int, rank: int = 4, std: float = 0.2) -> Adapter:
    tensors = {}
    source = torch.Generator().manual_seed(seed)
    for name, weight in base.model.named_parameters():
        if name.rpartition(".")[0].rpartition(".")[2] in ("q_proj", "v_proj", "down_proj"):
            (rows, columns), module = weight.shape, name.removesuffix(".weight")
            for side, shape in (("A", (rank, columns)), ("B", (rows, rank))):
                key = f"base_model.model.{module}.lora_{side}.weight"
                tensors[key] = torch.randn(shape, generator=source) * std
    return Adapter(rank, 2.0 * rank, ("down_proj", "q_proj", "v_proj"), tensors)


@pytest.fixture(scope="module")
def base() -> Base:
    return make_base(0)


@pytest.fixture(scope="module")
def sampler(base: Base) -> Iterator[VllmSampler]:
    """One engine for all tests that do not break it; each sets the student it needs."""
    made = VllmSampler(base, SETTINGS)
    yield made
    made.close()


def check_logprobs(
    base: Base, adapter: Adapter | None, prompts: list[list[int]], completions: list[Completion]
) -> None:
    """Against a plain forward with the adapter merged."""
    reference = ModuleNetwork(base)
    reference.write(adapter)
    sides: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        tokens = torch.tensor(completion.token_ids)
        ids = torch.tensor([[*prompt, *completion.token_ids]], device=DEVICE)
        with torch.no_grad():
            logits = reference._model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        sides[0].append(torch.tensor(completion.logprobs))
        sides[1].append(logits.float().log_softmax(-1).cpu().gather(-1, tokens[:, None])[:, 0])
    found, expected = map(torch.cat, sides)
    if CUDA:
        assert (found - expected).abs().mean() < TOLERANCE
    else:
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=1e-4)


def test_logprobs_are_the_models_at_any_temperature(base: Base, sampler: VllmSampler) -> None:
    for temperature in (1.0, 0.5, 0.0):
        done = sampler.generate(PROMPTS, Sampling(temperature, 12), list(range(8)), None)
        check_logprobs(base, None, PROMPTS, done)
        assert len({c.token_ids for c in done}) > 4
    assert sampler.mismatch is not None and sampler.mismatch < TOLERANCE
    assert sampler.sleep() == {"canary": sampler.mismatch}


def test_greedy_tokens_are_the_other_samplers(base: Base, sampler: VllmSampler) -> None:
    if CUDA:
        pytest.skip("bfloat16 moves an argmax")
    expected = TorchSampler(base, 8).generate(PROMPTS, Sampling(0.0, 12), list(range(8)), None)
    found = sampler.generate(PROMPTS, Sampling(0.0, 12), list(range(8)), None)
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]


def test_a_row_is_a_function_of_its_prompt_and_seed(sampler: VllmSampler) -> None:
    sampling, seeds = Sampling(1.0, 8), [2**63 - 1, 3, 5, 7, 11, 13, 17, 19]
    together = sampler.generate(PROMPTS, sampling, seeds, None)
    for n in (0, 3, 7):
        assert (
            sampler.generate([PROMPTS[n]], sampling, [seeds[n]], None)[0].token_ids == together[n].token_ids
        )
    same = sampler.generate([PROMPTS[0]] * 6, sampling, list(range(6)), None)
    assert len({c.token_ids for c in same}) == 6


def test_the_stop_token_is_kept_and_length_truncates(base: Base, sampler: VllmSampler) -> None:
    done = sampler.generate([[5, 6, 7]] * 120, Sampling(1.0, 40), list(range(120)), None)
    stopped = [c for c in done if c.finish_reason == "stop"]
    assert stopped and len(stopped) < 120
    for completion in done:
        ends = completion.token_ids[-1] in base.stop_ids
        assert ends == (completion.finish_reason == "stop")
        assert not any(t in base.stop_ids for t in completion.token_ids[:-1])
        assert ends or len(completion.token_ids) == 40


def test_every_version_of_an_adapter_is_served_as_it_is(base: Base, sampler: VllmSampler) -> None:
    sampling, seeds = Sampling(1.0, 10), list(range(8))
    before = sampler.generate(PROMPTS, sampling, seeds, None)
    numbers = []
    for seed in (1, 2, 3):
        adapter = make_adapter(base, seed)
        done = sampler.generate(PROMPTS, sampling, seeds, adapter)
        check_logprobs(base, adapter, PROMPTS, done)
        assert [c.token_ids for c in done] != [c.token_ids for c in before]
        numbers.append(sampler._request.lora_int_id)
        assert set(sampler._engine.llm_engine.list_loras()) == {numbers[-1]}
        assert [f.name for f in Path(sampler._scratch.name).glob("student-*")] == [f"student-{numbers[-1]}"]
    assert numbers == sorted(set(numbers))
    sampler.generate(PROMPTS[:1], sampling, [0], make_adapter(base, 3))
    assert sampler._request.lora_int_id == numbers[-1], "equal weights are not sent again"
    assert sampler.generate(PROMPTS, sampling, seeds, None) == before


def test_a_new_version_does_not_read_what_the_old_one_cached(base: Base, sampler: VllmSampler) -> None:
    from vllm import SamplingParams

    def cached() -> int:
        (output,) = sampler._engine.generate(
            [{"prompt_token_ids": LONG}],
            SamplingParams(max_tokens=1, detokenize=False),
            lora_request=sampler._request,
            use_tqdm=False,
        )
        return int(output.num_cached_tokens)

    for seed in (4, 5):
        adapter = make_adapter(base, seed)
        sampler.generate(PROMPTS[:1], Sampling(1.0, 1), [0], adapter)
        assert cached() == 0
        assert cached() > 0, "without a cache this test shows nothing"
        check_logprobs(base, adapter, [LONG], sampler.generate([LONG], Sampling(1.0, 6), [seed], adapter))


def test_an_adapter_that_is_not_finite_is_an_error(base: Base, sampler: VllmSampler) -> None:
    adapter = make_adapter(base, 6)
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in adapter.tensors.items()}
    with pytest.raises(Diverged, match="not finite"):
        sampler.generate(PROMPTS, Sampling(1.0, 4), list(range(8)), replace(adapter, tensors=broken))
    check_logprobs(
        base, adapter, PROMPTS, sampler.generate(PROMPTS, Sampling(1.0, 4), list(range(8)), adapter)
    )


def test_what_does_not_fit_is_refused_before_the_engine_sees_it(base: Base, sampler: VllmSampler) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    odd = Adapter(1, 1.0, ("q_proj",), {key.format(x): torch.zeros(1, 1) for x in "AB"})
    one = PROMPTS[:1], Sampling(1.0, 4), [0]
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_proj \(1, 1\), which is \(64, 64\)"):
        sampler.generate(*one, odd)
    with pytest.raises(ConfigError, match="rank 600"):
        sampler.generate(*one, make_adapter(base, 0, rank=600))
    with pytest.raises(ValueError, match="none empty"):
        sampler.generate([[]], Sampling(1.0, 4), [0], None)


@pytest.mark.skipif(not CUDA, reason="vLLM's sleep needs a GPU")
def test_sleep_gives_memory_back_and_wakes_up_unchanged(base: Base, sampler: VllmSampler) -> None:
    adapter = make_adapter(base, 7)
    before = sampler.generate(PROMPTS, Sampling(1.0, 8), list(range(8)), adapter)
    free, _ = torch.cuda.mem_get_info()
    sampler.sleep()
    assert torch.cuda.mem_get_info()[0] > free + 2**30
    sampler.sleep()
    assert sampler.generate(PROMPTS, Sampling(1.0, 8), list(range(8)), adapter) == before
    check_logprobs(base, adapter, PROMPTS, before)


def test_the_output_layer_is_served_and_the_embedding_refused(base: Base, sampler: VllmSampler) -> None:
    def adapter(layer: str) -> Adapter:
        key = f"base_model.model.{layer}.lora_{{}}.weight"
        source = torch.Generator().manual_seed(0)
        shapes = {"A": (4, 64), "B": (259, 4)}
        tensors = {key.format(x): torch.randn(shape, generator=source) * 0.1 for x, shape in shapes.items()}
        return Adapter(4, 4.0, (layer.rpartition(".")[2],), tensors)

    head = adapter("lm_head")
    check_logprobs(base, head, PROMPTS, sampler.generate(PROMPTS, Sampling(1.0, 4), list(range(8)), head))
    with pytest.raises(ModelError, match=r"embed_tokens \(259, 64\), which is no linear layer"):
        sampler.generate(PROMPTS[:1], Sampling(1.0, 4), [0], adapter("model.embed_tokens"))


def test_an_engine_that_died_is_an_error_and_then_made_again_with_more_room(
    base: Base, sampler: VllmSampler
) -> None:
    sampler.generate(PROMPTS, Sampling(1.0, 4), list(range(8)), None)
    engines = [p for p in multiprocessing.active_children() if "EngineCore" in p.name]
    assert engines
    for process in engines:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match="failed while generating") as caught:
        sampler.generate(PROMPTS, Sampling(1.0, 4), list(range(8)), None)
    assert caught.value.exit_code == 3 and caught.value.hint
    wide = make_adapter(base, 8, rank=24, std=0.1)
    check_logprobs(base, wide, PROMPTS, sampler.generate(PROMPTS, Sampling(1.0, 8), list(range(8)), wide))
    assert sampler._rank == 32


def test_a_process_that_ends_takes_its_engine_with_it(tmp_path: Path) -> None:
    """Nobody closes the sampler, and a finalizer older than multiprocessing's own makes weakref's run after it."""
    script = tmp_path / "ends.py"
    script.write_text(
        """
import weakref
class Early: pass
early = Early()
weakref.finalize(early, int)
from test_sampler import PROMPTS, SETTINGS, Sampling, VllmSampler, make_base
if __name__ == "__main__":
    sampler = VllmSampler(make_base(0), SETTINGS)
    sampler.generate(PROMPTS, Sampling(1.0, 2), list(range(8)), None)
    print("left", sampler._scratch.name)
"""
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=300, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("left ")]
    assert not Path(line.removeprefix("left ")).exists()


def test_the_canary_stops_an_engine_with_other_weights(base: Base, tmp_path: Path) -> None:
    make_base(1).model.save_pretrained(tmp_path)
    other = make_base(0)
    other.model.name_or_path = str(tmp_path)
    other.model.config._name_or_path = str(tmp_path)
    wrong = VllmSampler(other, SETTINGS)
    with pytest.raises(ModelError, match=r"differ from the trained model's by .* sampling.canary allows"):
        wrong.generate(PROMPTS, Sampling(1.0, 4), list(range(8)), None)
    wrong.close()
