"""Which tracker a configuration names, and whether it can be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gepa_loop.config.track import TrackConfig
from gepa_loop.errors import ConfigError
from gepa_loop.outside.modules import own_function
from gepa_loop.start.reach import find_tracker
from gepa_loop.tracking.base import Opening, Tracker

Open = Callable[[Opening], Tracker]

METHODS = ("held", "log", "summary", "artifact", "close")


def check_tracker(settings: TrackConfig) -> Path | None:
    """Find out whether a tracker is there; the user's file that it runs, where it is the user's own.

    Raises:
        EnvironmentFault: Its library is not installed.
        TaskError: There is no such function, or none that may be run.
    """
    kind = settings.kind
    if kind is None:
        return None
    file = find_tracker(kind)
    if file is not None:
        tracker_of(kind)
    return file


def tracker_of(kind: str) -> Open:
    """What opens a tracker of this kind."""
    match kind:
        case "trackio":
            from gepa_loop.tracking.to_trackio import Trackio

            return Trackio
        case "wandb":
            from gepa_loop.tracking.to_wandb import Wandb

            return Wandb
        case "mlflow":
            from gepa_loop.tracking.to_mlflow import MLflow

            return MLflow
        case "tensorboard":
            from gepa_loop.tracking.to_tensorboard import TensorBoard

            return TensorBoard
    name, _, attribute = kind.partition(":")
    where = f"track.kind = {kind!r}"
    own = own_function(name, attribute, where)

    def opened(opening: Opening) -> Tracker:
        tracker: Tracker = own(opening)
        missing = [method for method in METHODS if not callable(getattr(tracker, method, None))]
        missing += [field for field in ("id", "where") if not isinstance(getattr(tracker, field, None), str)]
        if missing:
            raise ConfigError(
                f"{where}: what it returns has no {', '.join(missing)}",
                "gepa_loop.tracking.base.Tracker says what a tracker has.",
            )
        return tracker

    return opened
