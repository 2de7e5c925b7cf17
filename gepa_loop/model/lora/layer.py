"""PEFT's LoRA of a linear layer with a shorter forward: half the kernels, and the adapter computes in the model's type.

Students that are trained together are adapters of one model, side by side: one product for all positions, of which each
computes with the ranks of its own student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import peft.tuners.lora
import torch
from torch import Tensor

from gepa_loop.model.lora.low_rank import project


@dataclass(eq=False)
class Adapted:
    """What the LoRA layers of one model share: the one place that says which adapters compute.

    PEFT keeps that in every layer, and takes 40 ms to change it in a model of 210.
    """

    parameters: Mapping[str, Mapping[str, torch.nn.Parameter]]
    """Each adapter's, under their names on disk."""
    active: tuple[str, ...] = ()
    """Adapters that compute."""
    places: Mapping[str, int] = field(default_factory=dict)
    """The students' numbers."""
    _only: int | None = None
    """The one student whose positions all are, where that is known."""
    _student_N: Tensor | None = None
    _masks: dict[tuple[torch.device, tuple[int, ...]], Tensor] = field(default_factory=dict)
    _whose: dict[tuple[torch.device, tuple[int, ...]], Tensor] = field(default_factory=dict)

    def divide(self, students_B: Tensor, length: int) -> None:
        """From now on each position of these rows, of `length` each, computes with the ranks of its row's student alone."""
        self._only = None
        # A GPU is not asked, and a captured graph is for any rows.
        if students_B.device.type == "cpu" and bool((students_B == students_B[0]).all()):
            self._only = int(students_B[0])
        self._student_N = students_B[:, None].expand(-1, length).flatten()
        self._masks.clear()

    @property
    def computing(self) -> tuple[str, ...]:
        """Adapters that compute, without students that are known to have no row."""
        if self._only is None or sum(name in self.places for name in self.active) < 2:
            return self.active
        return tuple(name for name in self.active if self.places.get(name, self._only) == self._only)

    def others_NR(self, adapters: Sequence[tuple[str, int]], device: torch.device) -> Tensor | None:
        """True for the ranks of students that a position [N] is not for; None where one student computes at most.

        Args:
            adapters: A layer's that compute, with their ranks; those that are no students' do so everywhere.
            device: Where the layer lies.

        Raises:
            ValueError: Several students compute, and nobody has said whose the positions are.
        """
        if sum(name in self.places for name, _ in adapters) < 2:
            return None
        if self._student_N is None:
            raise ValueError("several students compute, and `divide` has not said whose each position is")
        whose = tuple(self.places.get(name, -1) for name, rank in adapters for _ in range(rank))
        key = device, whose
        if key not in self._whose:
            # Kept: nothing can be copied to a GPU while a graph is captured.
            self._whose[key] = torch.tensor(whose, device=device)
        if key not in self._masks:
            whose_R = self._whose[key]
            self._masks[key] = (whose_R >= 0) & (whose_R != self._student_N.to(device)[:, None])
        return self._masks[key]


class LoraLinear(peft.tuners.lora.Linear):  # type: ignore[misc]
    """W x + s B A x in one sum (`low_rank.project`); A and B are float32 parameters that are rounded to the type of x.

    PEFT would widen x to float32 for every layer: with bfloat16 more work than the layer itself.
    """

    shared: Adapted

    def forward(self, x: Tensor) -> Tensor:
        names = [name for name in self.shared.computing if name in self.lora_A]  # others are for other layers
        if not names:
            out: Tensor = self.base_layer(x)
            return out
        pairs = [side[name].weight for name in names for side in (self.lora_A, self.lora_B)]
        scales = tuple(self.scaling[name] for name in names)
        base, x_NI = self.base_layer, x.flatten(0, -2)
        ranks = [(name, len(self.lora_A[name].weight)) for name in names]
        others_NR = self.shared.others_NR(ranks, x.device)
        found: Tensor = _Sum.apply(x_NI, base.weight, base.bias, scales, others_NR, *pairs)  # type: ignore[no-untyped-call]
        return found.view(*x.shape[:-1], -1)


class _Sum(torch.autograd.Function):
    """W x + bias + the sum of s B A x; on a GPU the gradients of A and B are float32 sums, never rounded to the type of x.

    The adapters lie side by side, so that several cost the launches of one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_NI: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scales: tuple[float, ...],
        others_NR: Tensor | None,
        *pairs: Tensor,
    ) -> Tensor:
        down_RI = _joined([a.to(x_NI.dtype) for a in pairs[::2]], 0)
        up_OR = _joined([(b * s).to(x_NI.dtype) for b, s in zip(pairs[1::2], scales, strict=True)], 1)
        out_NO, low_NR = project(x_NI, weight, bias, (down_RI, up_OR), others_NR)
        ctx.save_for_backward(x_NI, weight, down_RI, up_OR, low_NR, others_NR)
        ctx.scales, ctx.ranks = scales, [len(a) for a in pairs[::2]]
        return out_NO

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> Any:
        x_NI, weight, down_RI, up_OR, low_NR, others_NR = ctx.saved_tensors
        grad_NI = grad_NO @ weight if ctx.needs_input_grad[0] else None
        slope_NR = grad_NO @ up_OR
        if others_NR is not None:
            slope_NR.masked_fill_(others_NR, 0)
        if grad_NI is not None:
            grad_NI.addmm_(slope_NR, down_RI)
        wanted = ctx.needs_input_grad[5::2]
        # Those that are trained come last: what lies below them gets no gradient.
        first = wanted.index(True) if any(wanted) else len(wanted)
        skip, ranks = sum(ctx.ranks[:first]), ctx.ranks[first:]
        grads: list[Tensor | None] = [None] * (2 * first)
        if ranks:
            downs = torch.split(_product(slope_NR[:, skip:], x_NI), ranks)
            ups = torch.split(_product(grad_NO, low_NR[:, skip:]), ranks, 1)
            for down, up, scale in zip(downs, ups, ctx.scales[first:], strict=True):
                grads += [down, up * scale]
        return (grad_NI, None, None, None, None, *grads)


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)


def _product(left_NI: Tensor, right_NO: Tensor) -> Tensor:
    """left^T right, [I, O], in float32 where the factors are narrower."""
    if left_NI.dtype == torch.float32 or left_NI.device.type == "cpu":
        wide = torch.promote_types(left_NI.dtype, torch.float32)
        return (left_NI.T @ right_NO).to(wide)
    return torch.mm(left_NI.T, right_NO, out_dtype=torch.float32)
