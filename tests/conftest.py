"""Models that several test modules share; nothing may change them for good."""

from __future__ import annotations

import pytest

from gepa_loop.bundled import SMOLLM, TINY
from gepa_loop.models import Base, load_base
from gepa_loop.schema import ModelConfig


@pytest.fixture(scope="session")
def tiny() -> Base:
    """The two-layer random model, float32 on the CPU."""
    return load_base(ModelConfig(name=TINY, dtype="float32", device="cpu"))


@pytest.fixture(scope="session")
def smollm() -> Base:
    """SmolLM2-135M-Instruct, float32 on the CPU; converted once into the user's cache (GEPA_LOOP_CACHE)."""
    return load_base(ModelConfig(name=SMOLLM, dtype="float32", device="cpu"))
