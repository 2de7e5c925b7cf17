"""Crews of a real Ray on this machine: a process has one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import chores
import pytest
from places import HELPERS, ROOT

from gepa_loop.cluster.by_ray import RayEngine
from gepa_loop.cluster.crew import Crew
from gepa_loop.cluster.piece import Piece
from gepa_loop.config.cluster import ClusterConfig

OPENING = Piece("opening", chores.where, {})


@contextmanager
def crew_of(places: int, on_gpu: bool = False, **more: float | str) -> Iterator[Crew]:
    """Workers that find the tests' own pieces; `more` of `ClusterConfig`."""
    settings = ClusterConfig.model_validate({"workers": places, **more})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(HELPERS), str(ROOT))))
        crew = Crew(RayEngine(settings, on_gpu), places, OPENING, lambda _: None)
        try:
            yield crew
        finally:
            crew.close()
