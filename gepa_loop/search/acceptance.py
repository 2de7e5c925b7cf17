"""What noisy scores are worth: posterior means, and whether a child is better than its parent. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gepa_loop.config.search import OptimizeConfig

PRIOR_SAMPLES = 2.0
"""How many samples of an item the prior counts as. By 2, one lucky solve by a prompt that solves little else does not
outweigh a prompt that solves much."""

DIGITS = 9
"""Decimals to which scores are equal."""

EXACT_FLIPS = 9999
"""Sign flips that are tried; all of them where there are no more."""


def posterior_means(scores: Sequence[Mapping[Any, float]], samples: int) -> list[dict[Any, float]]:
    """Each candidate's expected score on each item, given all candidates' scores.

    The prior of a candidate on an item is additive: the item's mean over candidates, plus how far the candidate's mean
    over items is above the average candidate's, within [0, 1]. It counts as `PRIOR_SAMPLES` samples. So of two
    candidates with equal scores on an item the generally better one is expected to do better, and a single
    lucky sample is not taken at its face.

    Args:
        scores: For each candidate, item -> mean of its samples; all have the same items.
        samples: Samples of each mean.
    """
    items = list(scores[0])
    own = [_mean(one.values()) for one in scores]
    overall = _mean(own)
    by_item = {item: _mean(one[item] for one in scores) for item in items}
    found = []
    for one, mean in zip(scores, own, strict=True):
        prior = {item: min(1.0, max(0.0, by_item[item] + mean - overall)) for item in items}
        found.append(
            {
                item: (samples * one[item] + PRIOR_SAMPLES * prior[item]) / (samples + PRIOR_SAMPLES)
                for item in items
            }
        )
    return found


def leaders(scores: Sequence[Mapping[Any, float]]) -> dict[Any, set[int]]:
    """For each key, which candidates have its highest score."""
    rounded = [{key: round(value, DIGITS) for key, value in one.items()} for one in scores]
    best = {key: max(one[key] for one in rounded) for key in rounded[0]}
    return {key: {n for n, one in enumerate(rounded) if one[key] == top} for key, top in best.items()}


@dataclass(frozen=True)
class Comparison:
    """A child against its parent on the same items and random numbers."""

    mean: float
    """Mean over items of the child's score less the parent's."""
    p: float
    """One-sided: how often random signs of the items' differences give as high a mean."""
    better: int
    worse: int


def compare(child: Sequence[float], parent: Sequence[float]) -> Comparison:
    """Compare scores of the same items, item by item.

    The test flips signs of the differences, exactly where the flips are few enough, else 9,999 of them.
    """
    import numpy as np
    from scipy.stats import permutation_test

    d = np.round(np.asarray(child, dtype=np.float64) - np.asarray(parent, dtype=np.float64), DIGITS)
    mean = float(d.mean())
    better, worse = int((d > 0).sum()), int((d < 0).sum())
    moved = d[d != 0]
    if moved.size < 2:
        return Comparison(mean, 0.5 if better else 1.0, better, worse)
    test = permutation_test(
        (moved,),
        lambda x, axis: x.sum(axis=axis).round(DIGITS - 3),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=EXACT_FLIPS,
        axis=-1,
        rng=np.random.default_rng(0),
    )
    return Comparison(mean, float(test.pvalue), better, worse)


def shortfall(
    settings: OptimizeConfig, child: Sequence[float], parent: Sequence[float], more_tokens: int
) -> str | None:
    """Why a child is no better than its parent, in words, or None where it is accepted.

    Args:
        settings: `accept` says by which rule, `brevity` what a longer prompt must earn.
        child: Its score on each item of the minibatch.
        parent: The parent's, on the same items.
        more_tokens: Tokens that the child's prompt has more; negative where it is shorter.
    """
    found = compare(child, parent)
    shown = f"{found.mean:+z.3f} on its minibatch ({found.better} better, {found.worse} worse of {len(child)} items)"
    if settings.accept == "gepa":
        return None if math.fsum(child) > math.fsum(parent) else f"not above its parent: {shown}"
    price = settings.brevity * max(0, more_tokens) / 1000
    least = price + (settings.accept_margin if settings.accept == "margin" else 0.0)
    if found.mean <= least:
        return f"not better than its parent: {shown}" + (
            f", and {least:+z.3f} is asked" if found.mean > 0 else ""
        )
    if settings.accept == "test" and found.p > settings.accept_level:
        return f"could be luck: {shown}, p = {found.p:.2f} > {settings.accept_level:g}"
    return None


def _mean(values: Any) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
