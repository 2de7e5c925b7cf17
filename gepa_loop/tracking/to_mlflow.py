"""MLflow. MLFLOW_TRACKING_URI and the credentials are read by the library."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from gepa_loop.tracking.base import NOTHING, Ending, Opening, Point, Value

STATUS: Mapping[Ending, str] = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
BATCH = 100
"""Most parameters and tags that a call may have; of metrics it may have ten times as many."""
NAME, TEXT = 250, 5000
"""Characters of a name and of a text."""


class MLflow:
    """A run with metrics `<series>/<name>` by step; texts are tags, of which the last one stays."""

    def __init__(self, opening: Opening) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        # The client alone: what is global in MLflow belongs to the user's own code.
        self._client = MlflowClient()
        if opening.id is None:
            experiment = self._client.get_experiment_by_name(opening.project)
            place = (
                experiment.experiment_id if experiment else self._client.create_experiment(opening.project)
            )
            self.id = str(self._client.create_run(place, run_name=opening.name).info.run_id)
            params = [Param(_name(key), str(value)[:TEXT]) for key, value in opening.config.items()]
            for part in _parts(params):
                self._client.log_batch(self.id, params=part)
        else:
            self.id = opening.id
            place = self._client.get_run(self.id).info.experiment_id
            self._client.update_run(self.id, status="RUNNING")
        self.where = f"MLflow, experiment {place}, run {self.id}"

    def held(self, series: str) -> int | None:
        steps = [metric.step for metric in self._client.get_metric_history(self.id, _name(f"{series}/step"))]
        return max(steps, default=NOTHING)

    def log(self, points: Sequence[Point], first: int) -> None:  # noqa: ARG002 (of the protocol)
        for point in points:
            self._send(point.series, point.values, point.step)

    def summary(self, values: Mapping[str, Value]) -> None:
        self._send("result", values, 0)

    def artifact(self, name: str, text: str) -> None:
        self._client.log_text(self.id, text, name)

    def close(self, ending: Ending) -> None:
        self._client.set_terminated(self.id, STATUS[ending])

    def _send(self, series: str, values: Mapping[str, Value], step: int) -> None:
        from mlflow.entities import Metric, RunTag

        now = int(time.time() * 1000)
        named = {_name(f"{series}/{key}"): value for key, value in values.items()}
        tags = [RunTag(key, value[:TEXT]) for key, value in named.items() if isinstance(value, str)]
        numbers = [
            Metric(key, value, now, step) for key, value in named.items() if not isinstance(value, str)
        ]
        for part in _parts(tags):
            self._client.log_batch(self.id, tags=part)
        # `step` comes last: `held` goes by it.
        numbers.sort(key=lambda metric: metric.key == _name(f"{series}/step"))
        for part in _parts(numbers):
            self._client.log_batch(self.id, metrics=part)


def _name(text: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", text)[:NAME]


def _parts(whole: Sequence[Any]) -> Iterator[list[Any]]:
    rest = iter(whole)
    while part := list(islice(rest, BATCH)):
        yield part
