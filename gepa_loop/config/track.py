"""Where a run is tracked, beside its own directory."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from gepa_loop.config.kinds import Name, Section

TRACKERS = ("trackio", "wandb", "mlflow", "tensorboard")
"""Those that come with gepa-loop; each needs its own extra, `track-<name>`."""


def _known(kind: str) -> str:
    if kind not in TRACKERS and not kind.partition(":")[2]:
        raise ValueError(f"{kind!r} is neither package.module:function nor one of {', '.join(TRACKERS)}")
    return kind


class TrackConfig(Section):
    """Where `optimize`, `distill`, `loop` and `sweep` are tracked. No result depends on it: a run goes on with another tracker, or
    without one."""

    kind: Annotated[Name, AfterValidator(_known)] | None = None
    """`trackio`, `wandb`, `mlflow`, `tensorboard`, or `package.module:function` of yours, which is given an `Opening` and returns a
    `Tracker` (`gepa_loop.tracking.base`). Without it nothing is tracked. Keys and addresses are those that its library reads of
    the environment. The same as `--track`."""
    project: Name = "gepa-loop"
    """The project, or MLflow's experiment. TensorBoard has none."""
    name: Name | None = None
    """What the tracked run is called; without it as the run's folder."""
