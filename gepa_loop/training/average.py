"""An average of the student's weights over its steps: what checks judge and a run keeps, while training goes on from the weights.

At a constant learning rate the weights wander about where they have arrived, and a prompt's greedy replies with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


class Average:
    """Polynomial-decay averaging (Shamir and Zhang, arXiv 1212.1824): step n counts in proportion to about n^(1 / share - 2).

    Args:
        optimizer: Of `make_optimizer`; all its parameters lie in one tensor, or in one on each device.
        share: Of the steps so far by which the average is behind, from 0, which is the weights themselves, to .5, which counts all
            steps alike.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, share: float) -> None:
        [self._weights] = [group["params"] for group in optimizer.param_groups]
        self.share = share
        self._means = [weights.detach().clone() for weights in self._weights]

    @torch.no_grad()
    def restart(self) -> None:
        """The present weights are an average that was saved."""
        _copy(self._means, self._weights)

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Take in the weights after `step` steps, counted from 1."""
        for mean, weights in zip(self._means, self._weights, strict=True):
            mean.lerp_(weights, (1 - self.share) / (1 + self.share * (step - 2)))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model computes with the average."""
        own = [weights.detach().clone() for weights in self._weights]
        with torch.no_grad():
            _copy(self._weights, self._means)
        try:
            yield
        finally:
            with torch.no_grad():
                _copy(self._weights, own)


def _copy(into: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    for tensor, value in zip(into, values, strict=True):
        tensor.copy_(value)
