"""Adapters of another rank: with zeros, which is exact, or by what matters most."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gepa_loop.model.lora.adapter import LORA_A, LORA_B, PREFIX, Adapter

if TYPE_CHECKING:
    from torch import Tensor


def padded(adapter: Adapter, rank: int) -> Adapter:
    """The same weight change with a higher rank: the further rows of A and columns of B are zeros.

    Raises:
        ValueError: The rank is lower than the adapter's.
    """
    from torch.nn.functional import pad

    if rank < adapter.rank:
        raise ValueError(f"an adapter of rank {adapter.rank} does not fit into rank {rank} as it is")
    more, tensors = rank - adapter.rank, {}
    for module in adapter.modules:
        a, b = adapter.pair(module)
        tensors[f"{PREFIX}{module}{LORA_A}"] = pad(a, (0, 0, 0, more))
        tensors[f"{PREFIX}{module}{LORA_B}"] = pad(b, (0, more))
    # alpha / rank stays as it is.
    return replace(adapter, rank=rank, alpha=adapter.alpha * rank / adapter.rank, tensors=tensors)


def compressed(adapter: Adapter, rank: int) -> Adapter:
    """The best approximation of the weight change by a lower rank, layer by layer: the first terms of its singular value decomposition.

    The decomposition is of a matrix as small as the adapter's rank: with B = Q_b R_b and A^T = Q_a R_a it is that of R_b R_a^T.

    Raises:
        ValueError: The rank is higher than the adapter's.
    """
    import torch

    if rank > adapter.rank:
        raise ValueError(f"an adapter of rank {adapter.rank} has no more than that")
    tensors = {}
    for module in adapter.modules:
        a, b = (tensor.double() for tensor in adapter.pair(module))
        q_b, r_b = torch.linalg.qr(b)
        q_a, r_a = torch.linalg.qr(a.T)
        u, s, vh = torch.linalg.svd(r_b @ r_a.T * adapter.scale, full_matrices=False)
        root = s[:rank].sqrt()
        up, down = q_b @ u[:, :rank] * root, (q_a @ vh[:rank].T * root).T
        # A layer smaller than the rank has fewer singular values.
        up, down = _filled(up, 1, rank), _filled(down, 0, rank)
        tensors[f"{PREFIX}{module}{LORA_A}"] = down.float().contiguous()
        tensors[f"{PREFIX}{module}{LORA_B}"] = up.float().contiguous()
    return replace(adapter, rank=rank, alpha=float(rank), tensors=tensors)


def _filled(matrix: Tensor, axis: int, size: int) -> Tensor:
    from torch.nn.functional import pad

    short = size - matrix.shape[axis]
    return pad(matrix, (0, short) if axis == 1 else (0, 0, 0, short)) if short else matrix
