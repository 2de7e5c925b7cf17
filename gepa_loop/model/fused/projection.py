"""The matrices of a fused decoder, and what an adapter puts behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

if TYPE_CHECKING:
    from torch import Tensor

    from gepa_loop.model.fused.product import Gpu, Tiling
    from gepa_loop.model.fused.rows import Whose


@dataclass(eq=False)
class Projection:
    """Linear layers that read the same input, side by side, with columns for an adapter behind their weights.

    W x + s B (A x) is [W | s B] times [x, A x], in one sum; see `low_rank`.
    """

    modules: Mapping[str, int]
    """The layers' names in the model, and their outputs."""
    weight_OX: Tensor
    """[out, in + rank]; the layers' s B stand in a diagonal behind W, each over `rank / layers` columns."""
    down_RI: Tensor
    """Their A, one below the other; [rank, in]."""
    bias_O: Tensor | None
    gpu: Gpu | None = None
    """Where one kernel can compute a launch with an adapter."""
    counters_T: Tensor | None = None
    """What it counts with."""

    @property
    def inputs(self) -> int:
        return self.down_RI.shape[1]

    @property
    def rank(self) -> int:
        """Columns that whoever makes an input leaves free behind it."""
        return self.down_RI.shape[0]

    def __call__(self, x_NX: Tensor, whose: Whose | None = None) -> Tensor:
        """Outputs [N, out] of inputs [N, in + rank], whose last `rank` columns are written here; `whose` says which count."""
        if (tiles := self._tiling(x_NX)) is not None:
            from gepa_loop.model.fused.product import Launch, adapted_product

            assert self.counters_T is not None
            sizes = tuple(self.modules.values())
            launch = Launch(tiles, self.counters_T)
            return adapted_product(x_NX, self.weight_OX, self.down_RI, self.bias_O, sizes, launch, whose)
        if self.rank:
            # Written into columns that are free already: joining [x, A x] would copy x.
            low_NR = x_NX[:, self.inputs :]
            torch.mm(x_NX[:, : self.inputs], self.down_RI.T, out=low_NR)
            if whose is not None:
                low_NR.view(len(low_NR), len(self.modules), -1).masked_fill_(whose.others_NR[:, None], 0)
        return linear(x_NX, self.weight_OX, self.bias_O)

    def _tiling(self, x_NX: Tensor) -> Tiling | None:
        """How one kernel computes these few rows; None where two launches are faster, or float32 is to stay exact."""
        if not self.rank or self.gpu is None or x_NX.dtype.itemsize > 2:
            return None
        from gepa_loop.model.fused.product import ROWS, tiling

        # Two launches win from 256 rows on for the widest products of 0.5B, and from 128 on at 4B (a layer: 127 us, in one
        # 144; H100), which `tiling` knows by their cost.
        if len(x_NX) > ROWS:
            return None
        sizes = tuple(self.modules.values())
        return tiling(len(x_NX), sizes, self.inputs, self.rank // len(sizes), self.gpu)

    def columns(self, x_XN: Tensor, whose: Whose | None = None) -> Tensor:
        """`__call__` of columns without the bias: inputs [in + rank, N], outputs [out, N]."""
        # On a CPU .53 ms for 16 columns and weights of 576 x 3,072, and 1.06 for 16 rows times the transpose.
        return self.weight_OX @ self.lowered(x_XN, whose)

    def lowered(self, x_XN: Tensor, whose: Whose | None = None) -> Tensor:
        """`x_XN` with its last `rank` rows written."""
        if self.rank:
            low_RN = x_XN[self.inputs :]
            torch.mm(self.down_RI, x_XN[: self.inputs], out=low_RN)
            if whose is not None:
                low_RN.view(len(self.modules), -1, low_RN.shape[1]).masked_fill_(whose.others_NR.T, 0)
        return x_XN

    def reserve(self, rank: int) -> None:
        """Capacity for adapters of this rank; what was there of an earlier one is gone."""
        inputs, total = self.inputs, rank * len(self.modules)
        # Zeros, since off the diagonal of s B nothing is ever written.
        wide_OX = self.weight_OX.new_zeros(len(self.weight_OX), inputs + total)
        wide_OX[:, :inputs] = self.weight_OX[:, :inputs]
        self.weight_OX, self.down_RI = wide_OX, self.down_RI.new_zeros(total, inputs)
        if wide_OX.is_cuda:
            from gepa_loop.model.fused.product import gpu_of

            self.use_kernel(gpu_of(wide_OX.device))

    def use_kernel(self, gpu: Gpu) -> None:
        """Compute launches of few rows in one kernel, where that is faster."""
        from gepa_loop.model.fused.product import counters

        self.gpu, self.counters_T = gpu, counters(tuple(self.modules.values()), self.weight_OX.device)

    def places(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Of each layer its name, and where its A [rank, in] and s B [out, rank] go."""
        each, row = self.rank // len(self.modules), 0
        for number, (name, outputs) in enumerate(self.modules.items()):
            ranks = slice(number * each, (number + 1) * each)
            behind = slice(self.inputs + ranks.start, self.inputs + ranks.stop)
            yield name, self.down_RI[ranks], self.weight_OX[row : row + outputs, behind]
            row += outputs
