"""Who a run's teacher is, in words."""

from __future__ import annotations

from gepa_loop.outside.redact import redacted
from gepa_loop.show.report.read import Told

NAMES = {
    "base": "the same model before training",
    "live": "the student itself, as it is at each step",
    "ema": "a moving average of the student's own weights",
    "adapter": "the same model with another adapter",
    "model": "the model {name}",
    "server": "the model {name} on a server",
}
"""By `teacher.kind`."""


def teacher_name(told: Told) -> str:
    """What a page calls the teacher; empty where the objective reads no prompt, and so has none."""
    if not told.reads_prompt:
        return ""
    teacher = told.config.get("teacher", {})
    known = NAMES.get(teacher.get("kind", "base"), "another model")
    return known.format(name=redacted(str(teacher.get("name", ""))))
