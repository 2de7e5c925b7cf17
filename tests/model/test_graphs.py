"""Captured training graphs against the model's own forward and gradients; only on a GPU."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch

from gepa_loop.config.load import load_config
from gepa_loop.model import graphs
from gepa_loop.model.base import Base
from gepa_loop.model.forward import Prefix, hidden_states, read_prefix
from gepa_loop.model.graphs import LAUNCHED, Graphs, distance, open_forward
from gepa_loop.model.lora.training import with_lora
from gepa_loop.model.packed import pack
from gepa_loop.model.shapes import corner, shape_of

PROMPTS = [[9, 8, 7], [9, 8, 7, 6, 5]]
COMPLETIONS = [[(1, 2, 3), (4,), (5, 6)], [(7, 7), (3, 2, 1, 4)]]


def test_distance_is_relative_and_looks_at_output_and_gradients() -> None:
    out, grad = torch.ones(3, 4), torch.linspace(-1, 1, 5)
    assert distance([out, grad], [out, grad]) == 0
    assert distance([out * 1.25, grad], [out, grad]) == pytest.approx(0.25)
    assert distance([out, grad * 3, grad], [out, grad, grad]) == pytest.approx(2**0.5)
    assert distance([out], [out * 2]) == pytest.approx(0.5)
    assert math.isnan(distance([out, grad], [out, grad * torch.nan]))
    assert distance([out, torch.zeros(5)], [out, torch.zeros(5)]) == 0


def test_a_corner_reads_what_the_whole_reads(tiny: Base) -> None:
    past = [11, 12, 13, 14]
    prefix = read_prefix(tiny.model, past)
    packed = pack(PROMPTS, COMPLETIONS, len(past), tiny.device)
    whole = hidden_states(tiny.model, packed, prefix)
    for length in (4, 6, 100):
        part = corner(packed, length)
        inside = (packed.rows_N == 0) & (packed.columns_N < length)
        assert part.ids_BL.shape == (1, min(length, packed.ids_BL.shape[1])) and inside.sum() > 0
        torch.testing.assert_close(hidden_states(tiny.model, part, prefix), whole[inside])
    one = corner(packed, 1)  # predicts nothing: the first completion token comes after the prompt's third
    assert one.columns_N.tolist() == [0] and hidden_states(tiny.model, one, prefix).isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("large", [False, True], ids=["captured", "large"])
def test_kernels_that_compute_something_else_are_not_used(
    tiny: Base, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = replace(tiny, model=copy.deepcopy(tiny.model).to("cuda"))
    packed = pack(PROMPTS, COMPLETIONS, 0, base.device)
    expected = hidden_states(base.model, packed, Prefix())
    monkeypatch.setattr(graphs, "LARGEST" if large else "LAUNCHED", 0)
    forward = Graphs(base.model, (), lambda *given: hidden_states(*given) * 1.01)
    with pytest.warns(UserWarning, match="fused kernels are not used: they differ by 1.0e-02"):
        torch.testing.assert_close(forward(packed, Prefix()), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(forward(packed, Prefix()), expected)


def test_shapes_are_rounded_so_that_few_differ(tiny: Base) -> None:
    rows = pack(PROMPTS, COMPLETIONS, 0, tiny.device)
    assert shape_of(rows) == (2, 16, 32)  # 11 tokens are predicted
    assert shape_of(pack(PROMPTS, [[(1,) * 20], [(1,)]], 0, tiny.device)) == (2, 32, 64)
    # More tokens than there are positions.
    assert shape_of(pack([[9]], [[(1,)] * 40], 0, tiny.device)) == (1, 16, 48)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_graphs_that_were_used_last_are_kept(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "KEPT", 2)
    monkeypatch.setattr(graphs, "LAUNCHED", 1)
    base = replace(tiny, model=copy.deepcopy(tiny.model).to("cuda"))
    forward, prefix = Graphs(base.model, (), hidden_states), Prefix()
    packs = [pack(PROMPTS[:1] * n, COMPLETIONS[:1] * n, 0, base.device) for n in (1, 2, 3)]
    shapes = [shape_of(packed) for packed in packs]
    for n, kept in ((0, [0]), (1, [0, 1]), (0, [1, 0]), (2, [0, 2]), (1, [2, 1])):
        for _ in range(2):
            torch.testing.assert_close(forward(packs[n], prefix), hidden_states(base.model, packs[n], prefix))
        assert list(forward._captured) == [shapes[place] for place in kept]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_runs_before_a_capture_is_held_once(tiny: Base) -> None:
    base = replace(tiny, model=copy.deepcopy(tiny.model).to("cuda"))
    forward, prefix, held = Graphs(base.model, (), hidden_states), Prefix(), []
    for rows in range(4096, 4086, -1):
        packed = pack(PROMPTS[:1] * rows, COMPLETIONS[:1] * rows, 0, base.device)
        with torch.no_grad():
            for _ in range(LAUNCHED + 1):
                forward(packed, prefix)
        held.append(torch.cuda.memory_reserved())
    states = 4096 * 16 * base.model.config.hidden_size * 4
    # A graph has its own input and output; the forward before it needs more than eight times as much.
    assert held[-1] - held[2] < 7 * 2 * states < held[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("past", [[], [11, 12, 13, 14]])
def test_graphs_equal_the_models_own_forward_and_gradients(tiny: Base, past: list[int]) -> None:
    base = replace(tiny, model=copy.deepcopy(tiny.model).to("cuda"))
    model = with_lora(base, load_config("smoke", env={}).lora, 0, None)
    trained = tuple(p for p in model.parameters() if p.requires_grad)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_(std=0.1)
            parameter.grad = torch.zeros_like(parameter)
    prefix = read_prefix(base.model, past) if past else Prefix()
    packed = pack(PROMPTS, COMPLETIONS, len(past), base.device)
    own = hidden_states(base.model, packed, prefix)
    slope = torch.randn_like(own)
    expected = torch.autograd.grad(own, trained, slope)
    # A graph of this stream that is still alive could not be captured on another.
    own = own.detach()
    graphs = open_forward(base.model, trained)
    assert isinstance(graphs, Graphs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Launched, captured, replayed: each adds to the gradients that are there.
        for times in range(1, LAUNCHED + 3):
            found = graphs(packed, prefix)
            torch.testing.assert_close(found, own, atol=1e-4, rtol=1e-4)
            found.backward(slope)  # type: ignore[no-untyped-call]
            del found  # or what is alive of this stream could not be captured on another
            for parameter, grad in zip(trained, expected, strict=True):
                torch.testing.assert_close(parameter.grad, times * grad, atol=1e-3, rtol=1e-3)
        graphs.release()
        for _ in range(LAUNCHED + 1):
            torch.testing.assert_close(graphs(packed, prefix).detach(), own, atol=1e-4, rtol=1e-4)
