"""A captured forward and backward pass beside a launched one, by positions: where launching takes longer than running.

What `gepa_loop.model.graphs.LARGEST` is set by. Needs a GPU.

    python -m benchmarks.capture --case F
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, Case, make_base
from gepa_loop.config.load import load_config
from gepa_loop.model import graphs
from gepa_loop.model.forward import Prefix
from gepa_loop.model.lora.training import remove_lora, student_parameters, with_lora
from gepa_loop.model.packed import pack

POSITIONS = 512, 1024, 2048, 4096, 8192, 16384
ROW = 128
"""Positions of a row: a question and a completion of half of it each."""


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median of one call, as a step has it: the host goes on when the device has ended."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(case: Case, positions: int, repeats: int) -> dict[str, float]:
    """Seconds launched, replayed and of the capture itself."""
    base, prefix = make_base(case), Prefix()
    model = with_lora(base, load_config("smoke", env={}).lora, 0, None)
    trained = student_parameters(model)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    tokens = torch.randint(3, base.model.config.vocab_size, (positions // ROW, ROW)).tolist()
    half = ROW // 2
    packed = pack([row[:half] for row in tokens], [[tuple(row[half:])] for row in tokens], 0, base.device)
    forward = graphs.open_forward(base.model, trained)

    def once() -> None:
        forward(packed, prefix).float().square().sum().backward()  # type: ignore[no-untyped-call]

    try:
        graphs.LARGEST = 0
        once()  # compiles
        launched = seconds(once, repeats)
        graphs.LARGEST = 2**60
        for _ in range(graphs.LAUNCHED):
            once()
        capture = seconds(once, 1)
        return {"launched": launched, "replayed": seconds(once, repeats), "capture": capture}
    finally:
        remove_lora(model)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", default="F")
    parser.add_argument("--positions", type=int, nargs="+", default=POSITIONS)
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    shape = replace(CASES[given.case], device="cuda")
    out = Table(title=f"{shape.shape}: forward and backward", box=SIMPLE_HEAD)
    for head in ("positions", "size, 2^", "launched, ms", "replayed, ms", "capture, ms"):
        out.add_column(head, justify="right")
    sizes = make_base(shape).model.config
    for count in given.positions:
        found = measure(shape, count, given.repeats)
        size = torch.tensor(float(count * sizes.hidden_size * sizes.intermediate_size)).log2()
        times = (f"{1000 * found[name]:.1f}" for name in ("launched", "replayed", "capture"))
        out.add_row(str(count), f"{float(size):.1f}", *times)
    Console(width=100).print(out)
