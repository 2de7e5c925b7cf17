"""Workers of a Ray that was there before, over two nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import chores
import pytest
from hands import losses
from places import HELPERS, ROOT
from rays import crew_of

from gepa_loop.cluster.piece import Piece
from gepa_loop.errors import EnvironmentFault

Nodes = tuple[subprocess.Popen[str], str]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Two nodes, and their address."""
    path = os.pathsep.join((str(HELPERS), str(ROOT)))
    with subprocess.Popen(
        [sys.executable, HELPERS / "nodes.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.communicate()


def test_each_node_has_a_worker_and_the_work_of_one_that_ends_goes_to_the_other(
    nodes: Nodes, tmp_path: Path
) -> None:
    process, address = nodes
    assert process.stdin is not None and process.stdout is not None
    said, where, told = list[str](), set[object](), [0, 0]
    with crew_of(2, on_gpu=True, address=address, patience_minutes=0.5) as crew:
        free = tmp_path / "free"

        def say(line: str) -> None:
            said.append(line)
            if losses([line]):  # before, a worker of the node may still come to its end
                free.touch()

        crew.say = say
        while len(where) < 2:
            where.add(crew.ask(Piece("where", chores.node, {}))())
        pieces = [lambda: Piece("long", chores.hold, {"until": str(free)})] * 2
        for number, _ in crew.begin(pieces):
            told[number] += 1
            if told == [1, 1]:  # both are at work
                process.stdin.write("end\n")
                process.stdin.flush()
                assert process.stdout.readline() == "ended\n"
    assert sorted(told) == [2, 3], "one was begun twice"
    assert losses(said) == ["long: its worker died, or the machine of it; it is given out again"]


def test_more_workers_than_its_gpus_are_refused_and_it_stays(nodes: Nodes) -> None:
    _, address = nodes
    for count in (3, 2):
        with crew_of(count, on_gpu=True, address=address) as crew:
            if count == 3:
                with pytest.raises(EnvironmentFault, match="Ray has GPUs for 2 of 1 each"):
                    crew.ask(Piece("where", chores.node, {}))()
            else:
                assert crew.ask(Piece("where", chores.node, {}))()
