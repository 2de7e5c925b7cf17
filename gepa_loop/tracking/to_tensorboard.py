"""TensorBoard: event files in the run's own folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gepa_loop.tracking.base import NOTHING, Ending, Opening, Point, Value

FOLDER = "tensorboard"


class TensorBoard:
    """Scalars `<series>/<name>`, texts and the outcome (`result/...`, at step 0); it keeps no files."""

    def __init__(self, opening: Opening) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

        folder = opening.folder / FOLDER
        self.id, self.where = FOLDER, f"tensorboard --logdir {opening.folder.parent}"
        there = EventAccumulator(str(folder), size_guidance={"scalars": 0}) if folder.is_dir() else None
        self._steps: dict[str, int] = {}
        if there is not None:
            there.Reload()
            for tag in there.Tags()["scalars"]:
                self._steps[tag] = max(event.step for event in there.Scalars(tag))
        self._writer = SummaryWriter(str(folder))
        if opening.id is None or not self._steps:
            rows = "\n".join(f"| {key} | {value} |" for key, value in opening.config.items())
            self._add("config", f"| key | value |\n|---|---|\n{rows}", 0)
            self._flush()

    def held(self, series: str) -> int | None:
        return self._steps.get(f"{series}/step", NOTHING)

    def log(self, points: Sequence[Point], first: int) -> None:  # noqa: ARG002 (of the protocol)
        for point in points:
            for key, value in point.values.items():
                self._add(f"{point.series}/{key}", value, point.step)
        self._flush()

    def summary(self, values: Mapping[str, Value]) -> None:
        for key, value in values.items():
            self._add(f"result/{key}", value, 0)
        self._flush()

    def artifact(self, name: str, text: str) -> None:
        pass

    def close(self, ending: Ending) -> None:  # noqa: ARG002 (of the protocol)
        self._writer.close()

    def _add(self, tag: str, value: Value, step: int) -> None:
        if isinstance(value, str):
            self._writer.add_text(tag, value, step)
        else:
            self._writer.add_scalar(tag, value, step)

    def _flush(self) -> None:
        self._writer.flush()
