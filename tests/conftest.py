"""Models that several test modules share; nothing may change them for good."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

# Without a GPU Triton's kernels run in its interpreter. Triton reads this when it is imported, which other packages do.
if not Path("/proc/driver/nvidia").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from gepa_loop.config.tables import ModelConfig
from gepa_loop.model.attention import use_grouped_attention
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.bundled import SMOLLM, TINY

# There is no Triton for macOS.
collect_ignore = (
    []
    if find_spec("triton")
    else [
        "sampling/cuda/test_sampler.py",
        "model/fused/test_training.py",
        "model/fused/test_bfloat16.py",
        "model/fused/test_product.py",
        "model/fused/test_training_attention.py",
    ]
)


@pytest.fixture(scope="session")
def tiny() -> Base:
    """The two-layer random model, float32 on the CPU."""
    return load_base(ModelConfig(name=TINY, dtype="float32", device="cpu"))


@pytest.fixture(scope="session")
def smollm() -> Base:
    """SmolLM2-135M-Instruct, float32 on the CPU; converted once into the user's cache (GEPA_LOOP_CACHE)."""
    return load_base(ModelConfig(name=SMOLLM, dtype="float32", device="cpu"))


@pytest.fixture
def of_family() -> Callable[..., Base]:
    """Makes a small random model of a `model_type`, on the GPU where there is one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(kind: str, std: float = 0.3, **more: object) -> Base:
        shape = {"hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "vocab_size": 259}
        heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**shape, **heads, "max_position_embeddings": 256, **more})
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=std if parameter.ndim > 1 else 0.5)
            parameter.requires_grad_(False)
        use_grouped_attention(model)
        return Base(kind, model, None, (2,), 256, kind)  # type: ignore[arg-type]

    return make
