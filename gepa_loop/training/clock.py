"""The seconds of a step, by phase."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch


class Clock:
    """Seconds by phase of one step; on a GPU of the device's own time, which the host does not wait for.

    Args:
        device: Of the work.
        students: How many share the step; each is booked its part.
    """

    def __init__(self, device: torch.device, students: int = 1) -> None:
        self._device, self._students = device, students
        self._laps = [("", self._now())]

    def lap(self, phase: str) -> None:
        """Book the time since the last lap under `phase`."""
        self._laps.append((phase, self._now()))

    @property
    def seconds(self) -> dict[str, float]:
        """By phase, in the order of their first laps; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found: dict[str, float] = {}
        for (_, start), (phase, end) in itertools.pairwise(self._laps):
            took = end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
            found[phase] = found.get(phase, 0.0) + took / self._students
        return found

    def _now(self) -> Any:
        """A moment of the device's stream, or of the host without one."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
