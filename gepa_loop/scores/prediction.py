"""What a candidate's student is expected to score before it is distilled, and how well that came true. Pure functions.

The final gain of a distillation is close to linear in the initial gap between teacher and student (arXiv 2605.30070):
student - base = rate * (prompted - base), with one rate for a run. It is claimed for gaps from 0 to those that it was seen on,
and for scores in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gepa_loop.scores.records import ObjectivesRecord
from gepa_loop.scores.results import FitRecord, PredictionRecord


@dataclass(frozen=True)
class Prediction:
    """One candidate on `select`; scores are means over its items."""

    id: str
    base: float
    prompted: float
    predicted: float | None
    """Of the student, before it was distilled; None where the gap lies beyond those of earlier students."""
    actual: float | None
    """Of the student; None where there is none."""
    divergence: float | None
    """Nats per token between the bare and the prompted model, where it was measured."""
    gain: float | None
    """What the prompted model's preferences make of the bare model's own completions."""

    def as_dict(self) -> PredictionRecord:
        return {
            "id": self.id,
            "base": self.base,
            "prompted": self.prompted,
            "predicted": self.predicted,
            "actual": self.actual,
            "divergence": self.divergence,
            "gain": self.gain,
        }


@dataclass(frozen=True)
class Fit:
    """Predicted against actual scores of students."""

    n: int
    rate: float
    """Share of the gap that the students have closed, by least squares."""
    gaps: tuple[float, float]
    """The least and the largest gap of their prompts, or 0, where a student is its base."""
    error: float | None
    """Mean absolute difference of predicted and actual score; None where none was predicted."""
    r: float | None
    """Correlation of predicted and actual gain over the base; None for fewer than three or equal values."""

    def as_dict(self) -> FitRecord:
        return {"n": self.n, "rate": self.rate, "gaps": list(self.gaps), "error": self.error, "r": self.r}

    def __str__(self) -> str:
        r = "" if self.r is None else f", correlation {self.r:+.2f}"
        off = "" if self.error is None else f"predicted scores were off by {self.error:.3f} in the mean{r}; "
        plural, (low, high) = "s" * (self.n > 1), self.gaps
        return (
            f"{self.n} student{plural} of earlier rounds: {off}they closed {self.rate:.2f} of the gap to their prompted "
            f"teacher, for gaps of {low:+z.3f} to {high:+z.3f}"
        )


def predict(
    id_: str,
    base: Mapping[str, float],
    prompted: Mapping[str, float],
    student: Mapping[str, float] | None,
    objectives: ObjectivesRecord | None,
    earlier: Fit | None,
) -> Prediction:
    """What one candidate's student was expected to score, and what it scored.

    Args:
        id_: The candidate.
        base: Scores of the items without a prompt.
        prompted: With it.
        student: Of its student; None where it was not distilled.
        objectives: `divergence` and `gain`, where the search measured them.
        earlier: The fit of earlier rounds; without one the whole gap is expected to close.
    """
    before, after = _mean(base), _mean(prompted)
    gap = after - before
    rate, (low, high) = (1.0, (-1.0, 1.0)) if earlier is None else (earlier.rate, earlier.gaps)
    found = objectives or ObjectivesRecord()
    return Prediction(
        id=id_,
        base=before,
        prompted=after,
        predicted=min(1.0, max(0.0, before + rate * gap)) if low <= gap <= high else None,
        actual=None if student is None else _mean(student),
        divergence=found.get("divergence"),
        gain=found.get("gain"),
    )


def fit(predictions: Sequence[Prediction]) -> Fit | None:
    """How well predictions came true; None where no student had a prompt that differs from the base."""
    known = [(p, p.actual) for p in predictions if p.actual is not None]
    gaps = [p.prompted - p.base for p, _ in known]
    gains = [actual - p.base for p, actual in known]
    size = math.fsum(gap * gap for gap in gaps)
    if not size:
        return None
    told = [(p, p.predicted, actual) for p, actual in known if p.predicted is not None]
    return Fit(
        n=len(known),
        rate=math.fsum(gap * gain for gap, gain in zip(gaps, gains, strict=True)) / size,
        gaps=(min(0.0, *gaps), max(0.0, *gaps)),
        error=math.fsum(abs(predicted - actual) for _, predicted, actual in told) / len(told)
        if told
        else None,
        r=_correlation(
            [predicted - p.base for p, predicted, _ in told], [actual - p.base for p, _, actual in told]
        ),
    )


def _correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    if len(x) < 3 or len({round(v, 12) for v in x}) < 2 or len({round(v, 12) for v in y}) < 2:
        return None
    from scipy.stats import pearsonr

    return float(pearsonr(x, y).statistic)


def _mean(scores: Mapping[str, float]) -> float:
    return math.fsum(scores.values()) / len(scores)
