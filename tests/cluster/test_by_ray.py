"""Workers as actors of a real Ray on this machine."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import chores
import pytest
from hands import losses
from rays import crew_of

from gepa_loop.cluster.crew import Crew
from gepa_loop.cluster.piece import Piece
from gepa_loop.errors import BudgetReached, EnvironmentFault


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with crew_of(2) as own:
        yield own


def test_pieces_go_to_processes_of_their_own(crew: Crew) -> None:
    asked = [crew.ask(Piece(str(n), chores.where, {})) for n in range(8)]
    processes = {answer() for answer in asked}
    assert os.getpid() not in processes and len(processes) <= 2
    counted = crew.begin([lambda: Piece("a", chores.count, {"to": 3})] * 2)
    assert sorted(counted) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_errors_come_as_they_were_raised(crew: Crew) -> None:
    with pytest.raises(BudgetReached, match="all is spent") as told:
        crew.ask(Piece("a", chores.refuse, {}))()
    assert told.value.hint == "Spend less."
    with pytest.raises(RuntimeError, match=r"(?s)in a worker, a piece:.*chores.py.*no such thing"):
        crew.ask(Piece("a piece", chores.fail, {}))()


def test_a_shared_value_is_read_once_by_a_worker(crew: Crew) -> None:
    shared = crew.share("k", lambda: list(range(1000)))
    ids = [crew.ask(Piece("a", chores.same, {"value": shared})) for _ in range(6)]
    assert len({answer() for answer in ids}) <= 2


def test_the_piece_of_a_worker_that_dies_is_done_by_another(
    crew: Crew, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mark, said, told = tmp_path / "dead", list[str](), list[str]()
    crew.say = said.append
    for _, message in crew.begin([lambda: Piece("a", chores.die_once, {"mark": str(mark)})]):
        told.append(message)
        Path(f"{mark}.read").touch()
    assert told == ["begun", "begun", "done"]
    assert losses(said) == ["a: its worker died, or the machine of it; it is given out again"]
    crew.ask(Piece("b", chores.shout, {}))()
    assert capfd.readouterr() == ("", ""), "neither Ray nor a worker writes into the terminal"


@pytest.mark.parametrize(
    ("chore", "why", "hint"),
    [
        (chores.run_out, "out of memory: no more can be had", "sampling.batch"),
        (
            chores.break_gpu,
            "its GPU failed: CUDA error: an illegal memory access was encountered",
            "workers to 0",
        ),
    ],
)
def test_a_worker_that_can_do_no_more_is_lost_with_its_piece(
    crew: Crew, chore: Callable[..., None], why: str, hint: str
) -> None:
    crew.say = lambda _: None
    with pytest.raises(EnvironmentFault, match=f"3 workers were lost with it: {why}$") as told:
        crew.ask(Piece("a", chore, {}))()
    assert hint in told.value.hint


class Elsewhere:
    """What a worker has no module for."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return importlib.import_module, ("not_installed_there",)


def test_what_a_worker_cannot_read_is_said(crew: Crew) -> None:
    with pytest.raises(
        EnvironmentFault, match=r"a worker cannot do what it is given: .*not_installed_there"
    ) as told:
        crew.ask(Piece("a", chores.same, {"value": Elsewhere()}))()
    assert "same packages" in told.value.hint
