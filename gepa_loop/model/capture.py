"""CUDA graphs of work that reads and writes tensors which stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@cache
def capture_stream(device: int) -> torch.cuda.Stream:
    """The stream of a GPU, given by its number, on which everything is captured.

    One for all: what was freed on a stream the allocator keeps for that stream alone, so each new one would hold the memory of
    what ran there before its capture.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def record(work: Callable[[], T], pool: Any) -> tuple[torch.cuda.CUDAGraph, T]:
    """Run something once, which compiles its kernels, and capture it; with what it returned then.

    Args:
        work: It may allocate; what it returns lies in the pool, and is written again at each replay.
        pool: Of graphs that never run at the same time, from `torch.cuda.graph_pool_handle`.
    """
    side = capture_stream(torch.cuda.current_device())
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=side):
        out = work()
    return graph, out
