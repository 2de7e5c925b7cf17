"""The optimiser of a distillation, and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gepa_loop.config.recipe import DistillConfig
from gepa_loop.model.split import by_device


def make_optimizer(
    settings: DistillConfig, parameters: Sequence[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """AdamW over the student's parameters, which lie side by side in one tensor from now on, as their gradients do.

    Where the model is split, in one of each stretch that is on one device.
    """
    wholes = [_side_by_side(run) for run in by_device(parameters)]
    return torch.optim.AdamW(
        wholes,
        lr=settings.lr,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=wholes[0].device.type == "cuda",
    )


def _side_by_side(parameters: Sequence[torch.nn.Parameter]) -> torch.nn.Parameter:
    """One tensor of which the parameters, and their gradients, are parts from now on."""
    whole = torch.nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    whole.grad = torch.zeros_like(whole)
    sizes = [p.numel() for p in parameters]
    parts = zip(parameters, torch.split(whole.detach(), sizes), torch.split(whole.grad, sizes), strict=True)
    for parameter, value, grad in parts:
        parameter.data, parameter.grad = value.view_as(parameter), grad.view_as(parameter)
    return whole


def learning_rate(settings: DistillConfig, done: int) -> float:
    """The learning rate after `done` optimiser steps: linear warm-up, then constant or half a cosine, 0 at the last."""
    if done < settings.warmup:
        return settings.lr * (done + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    rest = max(1, settings.steps * settings.updates - 1 - settings.warmup)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - settings.warmup) / rest)))
