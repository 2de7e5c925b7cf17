"""Which sampler generates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gepa_loop.errors import ConfigError
from gepa_loop.model.split import is_split

if TYPE_CHECKING:
    from gepa_loop.config.tables import SamplingConfig
    from gepa_loop.model.base import Base
    from gepa_loop.sampling.base import Sampler

LARGE, LONG = 1_000_000_000, 128
"""Parameters and completion tokens from which on vLLM's start, about a minute, is less than what it saves: a run samples
fifty batches and more, and a token of a batch takes 28 ms less than in transformers' own loop (135M, 64 rows, one H100)."""

TWICE = 0.8
"""Of a GPU's memory, what a model and a second copy of its weights may take for `auto`; activations and a cache need the rest."""

Engine = Literal["torch", "cuda", "vllm"]


def open_sampler(base: Base, settings: SamplingConfig) -> tuple[Sampler, str]:
    """The sampler of `sampling.engine` for a model, and what it is in words.

    Raises:
        ConfigError: The engine cannot generate from this model here.
        EnvironmentFault: vLLM's copy of the model cannot be written.
    """
    engine, why = resolve_engine(base, settings)
    if engine == "cuda":
        from gepa_loop.sampling.cuda.sampler import CudaSampler

        return CudaSampler(base, settings.batch), f"cuda, fused and captured in graphs ({why})"
    if engine == "vllm":
        from gepa_loop.sampling.vllm.sampler import VllmSampler

        sampler = VllmSampler(base, settings)
        return sampler, f"{sampler.name}, beside the model ({why})"
    from gepa_loop.sampling.plain import TorchSampler

    return TorchSampler(base, settings.batch), f"torch, in this process ({why})"


def resolve_engine(base: Base, settings: SamplingConfig) -> tuple[Engine, str]:
    """What `sampling.engine` means for a model, and why; nothing is started.

    Raises:
        ConfigError: The engine cannot generate from this model here.
    """
    from gepa_loop.sampling.vllm.options import install_hint, missing

    # Who names an engine may have it wherever it can be had at all.
    alone = _alone(base, TWICE if settings.engine == "auto" else 1.0)
    no_cuda, no_vllm = alone or _no_cuda(base), alone or missing(base.device)
    if settings.engine == "auto" and alone:
        return "torch", alone
    if settings.engine == "auto":
        parameters = sum(parameter.numel() for parameter in base.model.parameters())
        return choose_engine(base.device.type, no_cuda, no_vllm, parameters, settings.max_tokens)
    if settings.engine == "cuda" and no_cuda:
        raise ConfigError(f"sampling.engine = 'cuda': {no_cuda}", "Set sampling.engine to auto or torch.")
    if settings.engine == "vllm" and no_vllm:
        hint = "Set sampling.engine to auto or torch." if alone else install_hint(base.device)
        raise ConfigError(f"sampling.engine = 'vllm': {no_vllm}", hint)
    return settings.engine, "as sampling.engine says"


def choose_engine(
    device: str, no_cuda: str | None, no_vllm: str | None, parameters: int, max_tokens: int
) -> tuple[Engine, str]:
    """What `sampling.engine = "auto"` means, and why.

    Args:
        device: "cpu" or "cuda".
        no_cuda: Why the fused sampler cannot generate from the model; None if it can.
        no_vllm: Why vLLM cannot; None if it can.
        parameters: Of the model.
        max_tokens: Longest completion.
    """
    if device != "cuda":
        return "torch", f"the model lies on {device}, where vLLM is slower with an adapter"
    if no_cuda is None:
        return "cuda", "the model is of a family it knows"
    size = f"{parameters / 1e9:.1f}B parameters and {max_tokens} tokens"
    if no_vllm is not None:
        return "torch", f"{no_cuda}; {no_vllm}"
    if parameters >= LARGE or max_tokens >= LONG:
        return "vllm", f"{no_cuda}; {size} are worth vLLM's start"
    return "torch", f"{no_cuda}; {size} are not worth vLLM's start of a minute"


def _alone(base: Base, share: float) -> str | None:
    """Why no second copy of a model's weights, which the fused sampler and vLLM have, can lie beside it; None if one can.

    Both may take `share` of a GPU.
    """
    if is_split(base.model):
        return f"{base.name} is split over {base.where}"
    if base.device.type != "cuda":
        return None
    import torch

    # Of the whole memory and not of what is free: the same on every start, as a run goes on with the engine that it began with.
    size, memory = (
        base.model.get_memory_footprint(),
        torch.cuda.get_device_properties(base.device).total_memory,
    )
    return no_room(size, memory, share)


def no_room(size: float, memory: float, share: float) -> str | None:
    """Why weights of `size` bytes cannot lie twice on that share of a GPU of `memory` bytes; None if they can."""
    if 2 * size <= share * memory:
        return None
    return f"its weights, {size / 2**30:.1f} GiB, do not fit twice on a GPU of {memory / 2**30:.1f} GiB"


def _no_cuda(base: Base) -> str | None:
    from gepa_loop.model.fused.decoder import unsupported

    if base.device.type != "cuda":
        return f"the model lies on {base.device}"
    return unsupported(base.model)
