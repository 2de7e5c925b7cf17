"""Workers that share a run's work."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gepa_loop.config.kinds import Above0, Name, Positive, Section


class ClusterConfig(Section):
    """Workers, each with a GPU of its own, that share the work of `optimize`, `distill`, `loop` and `evaluate`. No result depends on them, but
    for bfloat16's order of sums: a run goes on with another number of them, or without."""

    workers: Annotated[int, Field(ge=0)] = 0
    """How many. 0: the command does everything itself, and Ray is not needed. The same as `--workers`."""
    engine: Literal["ray"] = "ray"
    """What starts them: `ray`, of the extra `gepa-loop[cluster]`."""
    address: Name | None = None
    """Of a Ray cluster that is joined: `auto`, or `host:6379`. None: Ray is started on this machine, and ends with the command."""
    gpus_per_worker: Positive = 1
    """GPUs that a worker has; more than one where `teacher.device` or `model.device` asks for it. On a machine without GPUs it has none."""
    patience_minutes: Above0 = 30.0
    """A worker that has said nothing for so long is taken for hung: it is ended, and what it did is done again."""

    @property
    def gpus(self) -> int:
        """That a run has at a time."""
        return max(1, self.workers * self.gpus_per_worker)

    def told(self, on_gpu: bool) -> str:
        """The workers that are asked for, in a line."""
        each = f", {'a GPU' if self.gpus_per_worker == 1 else f'{self.gpus_per_worker} GPUs'} each"
        where = "on this machine" if self.address is None else f"of the cluster {self.address}"
        return f"workers {self.workers} {where}, by Ray{each if on_gpu else ''}"
