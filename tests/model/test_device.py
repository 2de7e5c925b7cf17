"""Where a second model lies."""

from __future__ import annotations

import torch

from gepa_loop.model.base import Base
from gepa_loop.model.device import ROOM, place_beside, with_room


def test_a_gpu_takes_a_second_model_where_its_memory_does() -> None:
    gpu, size = torch.device("cuda", 1), 8.0
    assert with_room(gpu, ROOM * size, size) == gpu
    assert with_room(gpu, ROOM * size - 1, size) == torch.device("cpu")


def test_beside_a_model_on_the_cpu_there_is_the_cpu(tiny: Base) -> None:
    assert place_beside(tiny.model) == torch.device("cpu")
