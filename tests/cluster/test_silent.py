"""Workers of a real Ray that say nothing, and a Ray that is not there."""

import os
import subprocess
import sys
from threading import Thread

import chores
import pytest
from hands import losses
from places import HELPERS, ROOT
from rays import OPENING, crew_of

from gepa_loop.cluster.by_ray import RayEngine
from gepa_loop.cluster.piece import Piece
from gepa_loop.config.cluster import ClusterConfig
from gepa_loop.errors import EnvironmentFault


def test_a_worker_that_says_nothing_is_ended() -> None:
    said = list[str]()
    with crew_of(1, patience_minutes=0.4) as crew:
        crew.say = said.append
        messages = crew.begin([lambda: Piece("a", chores.be_silent, {})])
        assert next(messages) == (0, "begun")
        assert next(messages) == (0, "begun") and losses(said) == [
            "a: its worker said nothing for 0.4 minutes; it is given out again"
        ]


def test_ray_outlives_the_thread_that_asked_for_it_first() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(HELPERS), str(ROOT))))
        engine = RayEngine(ClusterConfig(workers=1), on_gpu=False)
        first = Thread(target=lambda: list(engine.worker().run(OPENING)))
        first.start()
        first.join()
        try:
            [process] = engine.worker().run(OPENING)
            assert process != os.getpid()
        finally:
            engine.close()


def test_sigterm_is_the_commands_to_handle() -> None:
    """Ray's own handler would print addresses and abort the process three seconds later."""
    done = subprocess.run(
        [sys.executable, HELPERS / "signalled.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(HELPERS), str(ROOT)))},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "handled\n", "")


def test_an_address_where_no_ray_is_is_an_error() -> None:
    with (
        crew_of(1, address="127.0.0.1:1") as crew,
        pytest.raises(EnvironmentFault, match=r"cluster.address = '127\.0\.0\.1:1': no Ray there"),
    ):
        crew.ask(Piece("a", chores.where, {}))()
