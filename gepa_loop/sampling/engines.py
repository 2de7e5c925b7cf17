"""Which sampler generates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gepa_loop.errors import ConfigError

if TYPE_CHECKING:
    from gepa_loop.models import Base
    from gepa_loop.sampling.base import Sampler
    from gepa_loop.schema import SamplingConfig


def open_sampler(base: Base, settings: SamplingConfig) -> tuple[Sampler, str]:
    """The sampler of `sampling.engine` for a model, and what it is in words.

    Raises:
        ConfigError: The engine cannot generate from this model here.
    """
    from gepa_loop.sampling.torch import TorchSampler

    why_not = _no_cuda(base)
    if settings.engine == "cuda" and why_not:
        raise ConfigError(f"sampling.engine = 'cuda': {why_not}", "Set sampling.engine to auto or torch.")
    if settings.engine == "torch" or why_not:
        why = why_not if settings.engine == "auto" else "as sampling.engine says"
        return TorchSampler(base, settings.batch), f"torch, the model's own forward ({why})"
    from gepa_loop.sampling.cuda import CudaSampler

    return CudaSampler(base, settings.batch), "cuda, fused and captured in graphs"


def _no_cuda(base: Base) -> str | None:
    from gepa_loop.sampling.decoder import unsupported

    if base.device.type != "cuda":
        return f"the model lies on {base.device}"
    return unsupported(base.model)
