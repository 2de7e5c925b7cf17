"""Pieces that are given out among workers, some of which are lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from threading import Event, Thread

import chores
import pytest
from hands import Fate, Hand, Hands, Late, losses

from gepa_loop.cluster.crew import TRIES, Crew
from gepa_loop.cluster.piece import KEPT, Desk, Piece, Shared
from gepa_loop.cluster.worker import WorkerLost, WorkerRefused
from gepa_loop.errors import BudgetReached, EnvironmentFault, ModelError

OPENING = Piece("opening", chores.where, {})


class Crews:
    """Makes crews, and closes them in the end."""

    def __init__(self) -> None:
        self.made: list[Crew] = []

    def __call__(self, hands: Hands, places: int = 2) -> Crew:
        self.made.append(Crew(hands, places, OPENING, lambda _: None))
        return self.made[-1]


@pytest.fixture
def crew() -> Iterator[Crews]:
    crews = Crews()
    yield crews
    for one in crews.made:
        one.close()


def counting(name: str, to: int) -> Piece:
    return Piece(name, chores.count, {"to": to})


def lost_at(name: str, message: int, times: int) -> Fate:
    """Workers with that piece are lost before they hand on that message."""
    left = Counter({name: times})

    def fate(piece: Piece, number: int) -> str | None:
        if piece.name != name or number != message or not left[name]:
            return None
        left[name] -= 1
        return f"struck {times - left[name]}"

    return fate


def test_each_pieces_messages_come_in_order_and_all_pieces_are_done(crew: Crews) -> None:
    messages = list(crew(Hands()).begin([lambda: counting("a", 3), lambda: counting("b", 2)]))
    assert sorted(messages) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert [m for n, m in messages if n == 0] == [0, 1, 2]


def test_pieces_are_begun_before_anybody_reads(crew: Crews) -> None:
    own = crew(Hands())
    asked = [own.ask(Piece(str(n), chores.add, {"a": n, "b": 1})) for n in range(5)]
    silent = own.begin([lambda: Piece("x", chores.nothing, {})] * 2)
    assert list(silent) == [], "those before it are done by then"
    assert [answer() for answer in asked[::-1]] == [5, 4, 3, 2, 1]


def test_a_piece_whose_worker_is_lost_is_made_again_when_what_it_told_was_read(crew: Crews) -> None:
    hands = Hands(lost_at("a", 2, times=1))
    own, said, read = crew(hands), list[str](), list[int]()
    own.say = said.append

    def made() -> Piece:
        return counting("a", 4 - len(read))

    for _, message in own.begin([made]):
        read.append(message)
    assert read == [0, 1, 0, 1], "two of four were read, so two were left"
    assert losses(said) == ["a: struck 1; it is given out again"] and hands.done.count("a") == 2
    assert hands.ended == 1


def test_an_answer_that_came_twice_is_one_answer(crew: Crews) -> None:
    own = crew(Hands(lost_at("a", 1, times=1)))
    assert own.ask(Piece("a", chores.add, {"a": 1, "b": 2}))() == 3, (
        "its worker was lost before it said that it was done"
    )


class Stuck(Hands):
    """Its workers cannot be ended."""

    def worker(self) -> Hand:
        hand = super().worker()
        hand.end = self.fail  # type: ignore[method-assign]
        return hand

    def fail(self) -> None:
        raise OSError("nobody is there")


def test_a_worker_that_cannot_be_ended_takes_nothing_with_it(crew: Crews) -> None:
    own = crew(Stuck(lost_at("a", 0, times=1)), 1)
    assert own.ask(counting("a", 1))() == 0


def test_other_pieces_do_not_wait_for_one_that_is_lost(crew: Crews) -> None:
    own = crew(Hands(lost_at("a", 0, times=2)))
    own_messages = own.begin([lambda: counting("a", 1), lambda: counting("b", 1)])
    assert sorted(own_messages) == [(0, 0), (1, 0)]


def test_a_piece_that_is_lost_too_often_is_an_error_with_every_cause(crew: Crews) -> None:
    own = crew(Hands(lost_at("a", 1, times=TRIES)))
    with pytest.raises(
        EnvironmentFault, match="a: 3 workers were lost with it: struck 1; struck 2; struck 3"
    ) as told:
        list(own.begin([lambda: counting("a", 2)]))
    assert told.value.exit_code == 3 and "cluster.workers" in told.value.hint


class Scarce(Hands):
    """A third worker is long in coming."""

    def __init__(self, fate: Fate) -> None:
        super().__init__(fate)
        self.asked, self.there = Event(), Event()
        self.came_first = False

    def worker(self) -> Hand:
        if self.made == 2:
            self.asked.set()
            self.came_first = not self.there.wait(20)
        return super().worker()


def test_a_piece_that_is_lost_goes_to_a_worker_that_is_there(crew: Crews) -> None:
    """The other one is busy as it is lost, until a new one is asked for."""
    lose = lost_at("a", 0, times=1)

    def fate(piece: Piece, number: int) -> str | None:
        if piece.name == "b":
            hands.asked.wait(20)
        return lose(piece, number)

    hands = Scarce(fate)
    own = crew(hands)
    while len(own._open) < 2:
        own.ask(counting("c", 1))()
    found = list(own.begin([lambda: counting("a", 1), lambda: counting("b", 1)]))
    hands.there.set()
    assert sorted(found) == [(0, 0), (1, 0)] and not hands.came_first


def test_a_piece_that_got_on_before_it_was_lost_counts_anew(crew: Crews) -> None:
    """Four workers are lost with it, each after another message."""
    read = list[object]()
    own = crew(Hands(lost_at("a", 1, times=TRIES + 1)), 1)
    for _, message in own.begin([lambda: counting("a", TRIES + 2 - len(read))]):
        read.append(message)
    assert read == [0] * (TRIES + 2)
    # Where it does not get on it is lost for good, whatever it tells.
    stuck = crew(Hands(lost_at("b", 1, times=9)), 1)
    with pytest.raises(EnvironmentFault, match="3 workers were lost with it"):
        list(stuck.begin([lambda: counting("b", 2)]))


def test_that_all_workers_are_there_is_said_once(crew: Crews) -> None:
    own, said = crew(Hands(lost_at("a", 0, times=1))), list[str]()
    own.say = said.append
    while len(own._open) < 2:
        own.ask(counting("b", 1))()
    for name in "ab":
        own.ask(counting(name, 1))()
    assert said == ["all 2 workers are there", "a: struck 1; it is given out again"]


class Numbered(Hands):
    """Its workers say how many of them came before."""

    def __init__(self, fate: Fate = lambda piece, message: None) -> None:
        super().__init__(fate, count().__next__)


def crew_beside(hands: Hands, beside: set[int], places: int) -> Crew:
    """Workers of these numbers compute where the command does."""
    own = Crew(hands, places, Piece("opening", chores.held, {}), lambda number: number in beside)
    while own.open < places:
        own.ask(counting("c", 1))()
    return own


def test_what_is_asked_beside_a_computation_goes_to_a_worker_elsewhere() -> None:
    own = crew_beside(Numbered(), {0, 2}, 3)
    asked = [own.ask(Piece("a", chores.held, {}), elsewhere=True) for _ in range(6)]
    assert own.elsewhere == 1 and [answer() for answer in asked] == [1] * 6
    # One after the other, with all others waiting.
    assert [own.ask(Piece("a", chores.held, {}), elsewhere=True)() for _ in range(6)] == [1] * 6
    own.close()


def test_where_no_worker_is_elsewhere_any_does_it() -> None:
    own = crew_beside(Numbered(), {0, 1}, 2)
    assert own.elsewhere == 2 and own.ask(Piece("a", chores.held, {}), elsewhere=True)() in (0, 1)
    own.close()


class Pending(Numbered):
    """From the third worker on they are long in coming."""

    def __init__(self, fate: Fate) -> None:
        super().__init__(fate)
        self.free = Event()

    def worker(self) -> Hand:
        if self.made >= 2:
            self.free.wait(60)
        return super().worker()


def struck_once(name: str) -> Fate:
    left = [name]
    return lambda piece, number: "struck" if piece.name in left and left.pop() else None


def test_as_long_as_the_only_worker_elsewhere_is_gone_one_beside_does_it() -> None:
    hands = Pending(struck_once("a"))
    own = crew_beside(hands, {0}, 2)
    asked = [own.ask(Piece("a", chores.held, {}), elsewhere=True) for _ in range(3)]
    assert [answer() for answer in asked] == [0] * 3 and own.elsewhere == 2
    hands.free.set()
    while own.elsewhere == 2:
        own.ask(counting("c", 1))()
    assert own.ask(Piece("a", chores.held, {}), elsewhere=True)() == 2, "it is there again"
    own.close()


def test_a_worker_that_comes_in_the_place_of_another_may_be_elsewhere_or_beside() -> None:
    own = crew_beside(Numbered(struck_once("b")), {0, 1}, 2)
    own.ask(counting("b", 1))()
    while own.elsewhere == 2:
        own.ask(counting("c", 1))()
    assert [own.ask(Piece("a", chores.held, {}), elsewhere=True)() for _ in range(4)] == [2] * 4
    own.close()
    other = crew_beside(Numbered(struck_once("a")), {0, 2}, 2)
    assert other.ask(Piece("a", chores.held, {}), elsewhere=True)() in (0, 2) and other.elsewhere == 2
    other.close()


def test_what_a_piece_raises_is_raised_where_it_is_read(crew: Crews) -> None:
    hands = Hands()
    own = crew(hands, 1)
    answer = own.ask(Piece("a", chores.refuse, {}))
    with pytest.raises(BudgetReached, match="all is spent") as told:
        answer()
    assert told.value.hint == "Spend less."
    assert own.ask(Piece("b", chores.add, {"a": 1, "b": 2}))() == 3 and hands.made == 1, "its worker goes on"


def test_until_a_worker_has_opened_whoever_waits_does_what_is_asked(crew: Crews) -> None:
    hands = Late()
    own = crew(hands)
    shared = own.share("k", lambda: [1])
    asked = [own.ask(Piece(str(n), chores.add, {"a": n, "b": 1})) for n in range(3)]
    own.own = Desk(hands.fetch)
    assert not own.open and asked[1]() == 2 and own.ask(Piece("x", chores.same, {"value": shared}))()
    with pytest.raises(BudgetReached, match="all is spent"):
        own.ask(Piece("a", chores.refuse, {}))()
    assert hands.done == []
    hands.now.set()
    messages = list(own.begin([lambda: counting("a", 2)]))
    assert messages == [(0, 0), (0, 1)], "what is begun waits for a worker"
    assert own.open and [asked[0](), asked[2]()] == [1, 3]
    names = [name for name in hands.done if name != "opening"]
    assert sorted(names) == ["0", "2", "a"], "nothing is done twice"


class Short(Hands):
    """Has so many workers, and no more."""

    def __init__(self, count: int, error: Exception) -> None:
        super().__init__()
        self.count, self.error = count, error

    def worker(self):  # type: ignore[no-untyped-def]
        with self.lock:
            if self.made == self.count:
                raise self.error
        return super().worker()


def test_workers_that_are_there_do_what_others_would(crew: Crews) -> None:
    own, said = crew(Short(1, WorkerLost("no room"))), list[str]()
    own.say = said.append
    for thread in own._threads:
        thread.join(timeout=0.2)
    assert sorted(own.begin([lambda: counting("a", 1)] * 4)) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    [note] = said
    assert "cannot be had: no room" in note and note.endswith("1 of 2 go on")


@pytest.mark.parametrize("error", [WorkerLost("no room"), ModelError("no model", "Get one.")])
def test_without_any_worker_whoever_waits_is_told_why(crew: Crews, error: Exception) -> None:
    own = crew(Short(0, error))
    why = "no room" if isinstance(error, WorkerLost) else "no model"
    with pytest.raises(EnvironmentFault, match=why):
        own.ask(counting("a", 1))()
    with pytest.raises(EnvironmentFault, match=why):
        own.ask(counting("later", 1))()


def test_an_opening_that_is_refused_ends_all_places(crew: Crews) -> None:
    refused = list[object]()

    def refuse(process: object) -> None:
        # One of them alone: the others may be as wrong.
        refused.append(process)
        if len(refused) == 1:
            raise WorkerRefused("another model there", "Copy it.")

    own = Crew(hands := Hands(), 2, OPENING, refuse)
    crew.made.append(own)
    own._threads[0].join(timeout=1)
    with pytest.raises(EnvironmentFault, match="another model there"):
        own.ask(counting("a", 1))()
    with pytest.raises(EnvironmentFault) as told:
        own.ask(counting("b", 1))()
    assert told.value.hint == "Copy it." and "a" not in hands.done


def test_what_a_worker_lacks_is_a_fault_of_its_machine(crew: Crews) -> None:
    crew.made.append(own := Crew(Hands(), 1, Piece("opening", chores.refuse, {}), lambda _: None))
    with pytest.raises(EnvironmentFault, match=r"^a worker cannot open: all is spent$") as told:
        own.ask(counting("a", 1))()
    assert told.value.hint == "Spend less."


def test_a_value_is_shared_once_and_is_one_object_for_each_worker(crew: Crews) -> None:
    hands, made = Hands(), list[int]()
    own = crew(hands, 1)

    def make() -> list[int]:
        made.append(1)
        return [1, 2]

    asked = [own.ask(Piece("a", chores.same, {"value": own.share("k", make)})) for _ in range(3)]
    assert len({answer() for answer in asked}) == 1 and made == [1] and hands.shared == 1


def test_a_worker_keeps_the_values_that_it_used_last() -> None:
    fetched = list[int]()

    def fetch(reference: int) -> int:
        fetched.append(reference)
        return reference

    desk = Desk(fetch)
    for n in range(KEPT):
        desk.value_of(Shared(str(n), n))
    desk.value_of(Shared("0", 0))
    desk.value_of(Shared("new", -1))  # number 1 goes
    desk.value_of(Shared("0", 0))
    desk.value_of(Shared("1", 1))
    assert fetched == [*range(KEPT), -1, 1]


def test_a_worker_that_comes_after_the_end_does_not_open() -> None:
    hands = Late()
    own = Crew(hands, 1, OPENING, lambda _: None)
    closing = Thread(target=own.close)
    closing.start()
    while not own._closed:
        pass
    hands.now.set()
    closing.join()
    assert hands.done == [] and hands.ended >= hands.made


def test_closing_ends_threads_and_workers() -> None:
    own = Crew(hands := Hands(), 3, OPENING, lambda _: None)
    assert own.ask(counting("a", 1))() == 0
    own.close()
    assert not any(thread.is_alive() for thread in own._threads) and hands.ended >= hands.made == 3
