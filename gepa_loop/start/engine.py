"""What is said of the sampler."""

from __future__ import annotations

from collections.abc import Iterator

from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError
from gepa_loop.model.split import SPLIT
from gepa_loop.start.findings import Finding


def engine(config: Config) -> Iterator[Finding]:
    """Whether what `sampling.engine` names can generate here.

    Raises:
        ConfigError: It cannot.
    """
    from gepa_loop.model.base import find_device
    from gepa_loop.sampling.vllm.options import install_hint, missing

    named = config.sampling.engine
    if config.model.device == SPLIT:
        if named in ("cuda", "vllm"):
            raise ConfigError(
                f"sampling.engine = {named!r}: it needs a second copy of the weights, and model.device = {SPLIT!r}",
                "Set sampling.engine to auto or torch.",
            )
        yield Finding("engine", "ok", f"sampling.engine = {named}: a split model samples by its own modules")
        return
    device = find_device(config.model.device)
    if named == "cuda" and device.type != "cuda":
        raise ConfigError(
            f"sampling.engine = 'cuda': the model lies on {device}",
            "Set sampling.engine to auto or torch.",
        )
    if named == "vllm" and (why := missing(device)) is not None:
        raise ConfigError(f"sampling.engine = 'vllm': {why}", install_hint(device))
    if named == "auto" and device.type == "cuda" and missing(device) is not None:
        yield Finding(
            "engine",
            "note",
            "vLLM is not installed: families without fused kernels, and models from 1 billion parameters on, sample slower",
            install_hint(device),
        )
        return
    yield Finding("engine", "ok", f"sampling.engine = {named}")
