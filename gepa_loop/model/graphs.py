"""From packed rows to hidden states: the model's own forward, or fused kernels; on a GPU replayed from captured graphs.

A small model's forward and backward are a few thousand small kernels, which take longer to launch than to run. A graph
launches them at once, and is compared with the model's own output and gradients when it is captured. Its shapes are
fixed, so rows are padded up to a bucket; padding attends to itself and counts for nothing. A capture takes as long as ten
launched passes: what is captured are shapes that came a few times, and no large batches, where launching does not matter.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gepa_loop.model.capture import capture_stream
from gepa_loop.model.forward import Eager, Forward, Prefix, States, hidden_states
from gepa_loop.model.fused.decoder import unsupported
from gepa_loop.model.fused.training import fused_states
from gepa_loop.model.packed import Packed, Spans
from gepa_loop.model.shapes import Shape, corner, pad_packed, shape_of
from gepa_loop.model.split import is_split

if TYPE_CHECKING:
    from transformers import PreTrainedModel


LARGEST = 2**36
"""Positions times hidden and inner size from which on a forward is not captured: 16,000 positions of a 0.5B model, where an H100
takes as long to run it as its host to launch it (benchmarks/capture.py)."""
LAUNCHED = 5
"""Passes of a shape that are launched before it is captured."""
KEPT = 32
"""Captured graphs that are kept: those used last."""

SAME = {torch.float32: 1e-3, torch.bfloat16: 0.05}
"""Largest relative difference between a captured graph and what was captured, which run the same kernels."""
SAME_IN_OTHER_KERNELS = {torch.float32: 1e-3, torch.bfloat16: 0.15}
"""The same between fused kernels and the model's own modules. In bfloat16 .013 was seen at 135M and .032 at 4B, in float32 1e-6;
a wrong formula gives 1."""
SAMPLE = 256
"""Positions by which the kernels are compared with the modules where a forward is too large to do it twice."""


def open_forward(model: PreTrainedModel, trained: Sequence[Tensor] = ()) -> Forward:
    """How a model is run in training, with the adapters that are active when it is called first.

    Args:
        model: The model, adapters included.
        trained: Parameters that get a gradient; their `grad` must exist and stay the same tensor. Without any, nothing
            is kept for a backward pass.
    """
    # The kernels of a split model would have to be launched on several devices, and a graph is of one.
    if model.device.type != "cuda" or is_split(model):
        return Eager(model)
    return Graphs(model, tuple(trained), hidden_states if unsupported(model) else fused_states)


@dataclass(eq=False)
class Graphs:
    """A `Forward` that captures a graph for a shape that comes often; its backward adds to `grad` in place."""

    model: PreTrainedModel
    trained: tuple[Tensor, ...]
    states: States
    """What is run and captured: `hidden_states`, or faster kernels for the same."""
    _captured: dict[Shape, Captured | None] = field(default_factory=dict)
    """Those used last come last."""
    _came: Counter[Shape] = field(default_factory=Counter)
    """How often a shape that can be captured was launched."""
    _pool: Any = None
    _prefix: Prefix | None = None
    _compared: bool = False
    """The kernels were once compared with the model's modules."""

    def __call__(self, packed: Packed, prefix: Prefix) -> Tensor:
        # Kernels and captures go to the device that is current, which need not be the model's.
        with torch.cuda.device(self.model.device):
            return self._run(packed, prefix)

    def release(self) -> None:
        self._captured.clear()
        self._came.clear()
        self._prefix = None

    def _run(self, packed: Packed, prefix: Prefix) -> Tensor:
        if prefix is not self._prefix:
            # Their keys and values lie elsewhere now.
            self.release()
            self._prefix, self._pool = prefix, torch.cuda.graph_pool_handle()
        shape = shape_of(packed)
        if self._large(shape):
            return self._launched(packed, prefix)
        # Padded when it is launched, too: then a graph changes nothing.
        padded, count = pad_packed(packed, *shape[1:]), len(packed.rows_N)
        if shape not in self._captured and self.trained and not torch.is_grad_enabled():
            # Without a backward pass it needs little memory, and its graph would keep all that one reads.
            return self._launched(padded, prefix)[:count]
        if self._came[shape] < LAUNCHED:
            self._came[shape] += 1
            return self._launched(padded, prefix)[:count]
        captured = self._captured_for(shape, padded, prefix)
        return (
            hidden_states(self.model, packed, prefix)
            if captured is None
            else self._replayed(captured, padded, count)
        )

    def _large(self, shape: Shape) -> bool:
        """Running it takes longer than launching."""
        sizes = self.model.config.get_text_config()
        inner = getattr(sizes, "intermediate_size", None) or 4 * sizes.hidden_size
        size: int = shape[0] * shape[1] * sizes.hidden_size * inner
        return size > LARGEST

    def _launched(self, packed: Packed, prefix: Prefix) -> Tensor:
        """Kernel by kernel; the first time they are compared with the modules, by a part of the rows."""
        if not self._compared:
            part = corner(packed, SAMPLE)
            modules = self._once(hidden_states, part, prefix)
            if bool(modules[0].isfinite().all()):
                self._trust(distance(self._once(self.states, part, prefix), modules))
        return self.states(self.model, packed, prefix)

    def _captured_for(self, shape: Shape, padded: Packed, prefix: Prefix) -> Captured | None:
        """The graphs of a shape, or None where they would compute something else than the modules do."""
        captured = self._captured.pop(shape) if shape in self._captured else self._capture(padded, prefix)
        if captured is None and self.states is not hidden_states:
            # The kernels are still trusted: it is the model whose numbers are not finite now, and these shapes may come again.
            return None
        if len(self._captured) == KEPT:
            oldest = next(iter(self._captured))
            del self._captured[oldest], self._came[oldest]
        self._captured[shape] = captured
        return captured

    def _replayed(self, captured: Captured, padded: Packed, count: int) -> Tensor:
        for static, new in zip(captured.inputs, _tensors(padded), strict=True):
            static.copy_(new)
        if not self.trained:
            captured.forward.replay()
            return captured.out_NH[:count].clone()
        # Not a parameter: as long as the result lives, autograd would tie it to this stream, and no capture could use it.
        anchor = torch.empty(0, device=padded.ids_BL.device, requires_grad=True)
        found: Tensor = _Replay.apply(anchor, captured)  # type: ignore[no-untyped-call]
        return found[:count]

    def _forward(self, states: States, packed: Packed, prefix: Prefix) -> Tensor:
        with torch.set_grad_enabled(bool(self.trained)):
            return states(self.model, packed, prefix)

    def _slopes(self, out_NH: Tensor, slope_NH: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out_NH, self.trained, slope_NH) if self.trained else ()

    def _once(self, states: States, packed: Packed, prefix: Prefix) -> list[Tensor]:
        """Output and gradients, for `_other` as the output's slope."""
        # What autograd keeps ends with this call: a capture on another stream must not find it.
        out_NH = self._forward(states, packed, prefix)
        return [out_NH.detach(), *self._slopes(out_NH, _other(out_NH.detach()))]

    def _trust(self, gap: float) -> bool:
        """Whether the kernels may be used that differ by `gap` from the model's modules; if not, those are from now on."""
        self._compared = True
        if gap <= SAME_IN_OTHER_KERNELS[self.model.dtype]:
            return True
        self.states = hidden_states
        warnings.warn(
            f"fused kernels are not used: they differ by {gap:.1e} from the model's own forward", stacklevel=2
        )
        return False

    def _capture(self, packed: Packed, prefix: Prefix) -> Captured | None:
        """The graphs of a shape, or None where they compute something else than the model itself does."""
        inputs = tuple(tensor.clone() for tensor in _tensors(packed))
        ids_BL, positions_BL, starts_BL, ends_BL, prompts_B, rows_N, columns_N, *students = inputs
        spans = Spans(starts_BL, ends_BL, prompts_B)
        static = Packed(ids_BL, positions_BL, spans, packed.prefix, rows_N, columns_N, *students)
        side = capture_stream(torch.cuda.current_device())
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            own, modules = (self._once(states, static, prefix) for states in (self.states, hidden_states))
        torch.cuda.current_stream().wait_stream(side)
        if not bool(modules[0].isfinite().all()) or not self._trust(distance(own, modules)):
            return None
        there, back = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(there, pool=self._pool, stream=side):
            out_NH = self._forward(self.states, static, prefix)
        slope_NH = torch.zeros_like(out_NH if self.trained else out_NH[:0], requires_grad=False)
        grads = [p.grad for p in self.trained if p.grad is not None]
        if self.trained:
            with torch.cuda.graph(back, pool=self._pool, stream=side):
                torch._foreach_add_(grads, self._slopes(out_NH, slope_NH))
        captured = Captured(inputs, out_NH.detach(), there, slope_NH, back)

        kept = [grad.clone() for grad in grads]
        captured.out_NH.zero_()  # or a graph in which nothing was captured would look right
        there.replay()
        if self.trained:
            torch._foreach_zero_(grads)
            slope_NH.copy_(_other(own[0]))
            back.replay()
        gap = distance([captured.out_NH, *grads], own)
        if self.trained:
            torch._foreach_copy_(grads, kept)
        if gap <= SAME[self.model.dtype]:
            return captured
        warnings.warn(
            f"a captured graph is not used: it differs by {gap:.1e} from what was captured", stacklevel=2
        )
        return None


def _other(out_NH: Tensor) -> Tensor:
    """Some slope; not the output itself, which a norm has made as long as any other: its gradient is 0."""
    return out_NH.flip(-1)


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Relative difference of the outputs, which come first, or of all gradients together; the larger. NaN where any is."""
    pairs = ((found[:1], expected[:1]), (found[1:], expected[1:]))
    gaps = []
    for mine, theirs in pairs:
        gap = sum(float((m.float() - t.float()).square().sum()) for m, t in zip(mine, theirs, strict=True))
        size = sum(float(t.float().square().sum()) for t in theirs)
        gaps.append(math.sqrt(gap / size) if size else math.sqrt(gap))
    return math.nan if any(map(math.isnan, gaps)) else max(gaps)


@dataclass(frozen=True, eq=False)
class Captured:
    """The graphs of one shape, and the tensors that they read and write."""

    inputs: tuple[Tensor, ...]
    out_NH: Tensor
    forward: torch.cuda.CUDAGraph
    slope_NH: Tensor
    backward: torch.cuda.CUDAGraph


class _Replay(torch.autograd.Function):
    """Replays a forward, and in the backward pass the graph that adds to the parameters' gradients."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, captured: Captured) -> Tensor:  # noqa: ARG004 (makes the result need a gradient)
        ctx.captured = captured
        captured.forward.replay()
        return captured.out_NH.clone()

    @staticmethod
    def backward(ctx: Any, grad_NH: Tensor) -> Any:
        captured = ctx.captured
        captured.slope_NH.copy_(grad_NH)
        captured.backward.replay()
        return None, None


def _tensors(packed: Packed) -> tuple[Tensor, ...]:
    students = () if packed.students_B is None else (packed.students_B,)
    return packed.ids_BL, packed.positions_BL, *packed.spans, packed.rows_N, packed.columns_N, *students
