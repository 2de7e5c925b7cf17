"""Models that several test modules share; nothing may change them for good."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

# Without a GPU Triton's kernels run in its interpreter. Triton reads this when it is imported, which other packages do.
if not Path("/proc/driver/nvidia").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from gepa_loop.bundled import SMOLLM, TINY
from gepa_loop.models import Base, load_base
from gepa_loop.schema import ModelConfig

# There is no Triton for macOS.
collect_ignore = [] if find_spec("triton") else ["test_cuda_sampler.py"]


@pytest.fixture(scope="session")
def tiny() -> Base:
    """The two-layer random model, float32 on the CPU."""
    return load_base(ModelConfig(name=TINY, dtype="float32", device="cpu"))


@pytest.fixture(scope="session")
def smollm() -> Base:
    """SmolLM2-135M-Instruct, float32 on the CPU; converted once into the user's cache (GEPA_LOOP_CACHE)."""
    return load_base(ModelConfig(name=SMOLLM, dtype="float32", device="cpu"))
