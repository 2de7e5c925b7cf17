"""What a checkpoint holds stays as it was, whatever goes on from it."""

from __future__ import annotations

import torch

from gepa_loop.training.checkpoint import optimizer_moments, restore_moments


def test_training_that_goes_on_leaves_the_moments_it_went_on_from() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.AdamW([parameter], betas=(0.9, 0.95))
    parameter.grad = torch.tensor([1.0, 2.0])
    optimizer.step()
    moments = optimizer_moments(optimizer)
    for _ in range(2):
        restore_moments(optimizer, moments)
        optimizer.step()
        now = optimizer_moments(optimizer)
        torch.testing.assert_close(
            now["0.exp_avg"], torch.tensor([0.19, 0.38])
        )  # .9 x .1 + .1, of the slopes
        assert now["0.step"] == 2
    torch.testing.assert_close(moments["0.exp_avg"], torch.tensor([0.1, 0.2]))
    assert moments["0.step"] == 1
