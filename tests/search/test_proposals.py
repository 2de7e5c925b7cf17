"""Several proposals an iteration: sampled together, asked for together, and as exact as one after the other."""

import json
import random
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, Lock
from types import SimpleNamespace
from typing import Any

import pytest
from dice import Dice
from gepa.core.data_loader import ListDataLoader
from gepa.strategies.batch_sampler import EpochShuffledBatchSampler
from openai_api import READ, WRITTEN, openai_api

from gepa_loop.config.load import load_config
from gepa_loop.config.search import ReflectionConfig
from gepa_loop.config.whole import set_aside
from gepa_loop.errors import CallFailed, ProviderError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.run.files import append_jsonl, read_jsonl, write_jsonl
from gepa_loop.search.budget import Spent, affordable
from gepa_loop.search.gepa import Found, Minibatches, optimize
from gepa_loop.search.plan import plan_search
from gepa_loop.search.programs import Aids
from gepa_loop.search.propose.base import Proposal
from gepa_loop.search.propose.choose import make_proposer
from gepa_loop.search.propose.model import LMProposer
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import each

SEED = Candidate("Answer the question.")
SETS = ("optimize.accept=gepa", "optimize.max_rollouts=200", "optimize.minibatch=3")
FOUR = (*SETS, "optimize.proposals=4")


@pytest.fixture(scope="module")
def lab() -> Lab:
    """A task that letters a to h solve."""
    plain = open_lab(load_config("smoke", env={}))
    task = replace(plain.task, scorer=each(lambda one: (float(one.reply in "abcdefgh"), "")))
    return replace(plain, task=task, rollouts=replace(plain.rollouts, task=task))


def dice(lab: Lab) -> Dice:
    encoded = lab.base.tokenizer(list("abcdefghijklmnopqrstuvwxyz"), add_special_tokens=False)["input_ids"]
    return Dice([ids[0] for ids in encoded])


def offline(lab: Lab) -> Any:
    shown = lab.task.splits["train"][: set_aside(lab.config.optimize, lab.config.task.splits)]
    return make_proposer(lab.config.optimize.reflection, "offline", shown, 1024, 0)


class Writer:
    """A proposer whose text tells parent and number. What `before` does is done in the call, by number."""

    name = about = "writer"

    def __init__(self, parallel: int = 4, before: Callable[[int], object] = lambda number: None) -> None:
        self.parallel, self.before = parallel, before
        self.lock = Lock()
        self.asked: list[int] = []
        self.busy = self.busiest = 0

    def check(self) -> None:
        pass

    def quote(self, parent: str, examples: Any) -> None:
        pass

    def propose(self, parent: str, examples: Any, number: int, known: Any) -> Proposal:
        with self.lock:
            self.asked.append(number)
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            self.before(number)
        finally:
            with self.lock:
                self.busy -= 1
        read = zlib.crc32(repr((parent, examples)).encode())
        return Proposal(f"Text {number} from {read}.", 0.25, "written")


def search(
    lab: Lab,
    folder: Path,
    how: Any,
    *sets: str,
    sampler: Any = None,
    progress: Callable[[Spent], None] = lambda spent: None,
    quote: float = 0.0,
) -> Found:
    config = load_config("smoke", sets, env={})
    rollouts = replace(lab.rollouts, sampler=sampler or dice(lab))
    return optimize(config, rollouts, Aids(how, progress, quote), SEED, folder, 0)


def record(folder: Path) -> list[dict[str, Any]]:
    """candidates.jsonl but for its times."""
    rows = read_jsonl(folder / "candidates.jsonl")
    for row in rows:
        del row["cost"]["seconds"], row["spent"]["seconds"]
    return rows


def replies(folder: Path) -> list[dict[str, Any]]:
    """proposals.jsonl by number, but for its times."""
    rows = read_jsonl(folder / "gepa" / "proposals.jsonl")
    for row in rows:
        del row["seconds"]
    return sorted(rows, key=lambda row: row["number"])


def test_one_proposal_an_iteration_is_the_search_of_before(lab: Lab, tmp_path: Path) -> None:
    """What the program wrote when it knew no other: id, status, parent, mean on `pareto`, rollouts up to here."""
    sampler = dice(lab)
    found = search(lab, tmp_path, offline(lab), *SETS, "optimize.max_rollouts=120", sampler=sampler)
    rows = [
        (row["id"], row["status"], *(row["parents"] or [None]), row["pareto_mean"], row["spent"]["rollouts"])
        for row in record(tmp_path)
    ]
    assert rows == [
        ("afa6fac8", "accepted", None, 0.25, 8),
        ("bcfc59ec", "rejected", "afa6fac8", None, 14),
        ("782f27d1", "accepted", "afa6fac8", 0.125, 28),
        ("0b1c29ce", "rejected", "afa6fac8", None, 34),
        ("77aec4c2", "rejected", "afa6fac8", None, 40),
        ("eb311512", "accepted", "afa6fac8", 0.25, 51),
        ("08095128", "accepted", "eb311512", 0.375, 65),
        ("6739bddc", "rejected", "08095128", None, 71),
        ("a110d04f", "rejected", "08095128", None, 77),
        ("d3c4425f", "accepted", "eb311512", 0.25, 91),
        ("25f275ed", "rejected", "d3c4425f", None, 97),
        ("fb0b3569", "rejected", "08095128", None, 101),
        ("50d540c4", "rejected", "afa6fac8", None, 104),
        ("d9c2afbe", "rejected", "08095128", None, 108),
    ]
    assert found.stop.reason == "rollouts: 108 of 120, and an iteration may take 14"
    asked = [8, 3, 3, 3, 3, 8, 3, 3, 3, 3, 3, 8, 3, 3, 8, 3, 3, 3, 3, 3, 3, 8, 3, 3, 1, 3, 3, 1, 3]
    assert sampler.calls == asked
    assert [row["number"] for row in read_jsonl(tmp_path / "gepa" / "proposals.jsonl")] == list(range(13))


def test_parents_children_and_accepted_ones_are_sampled_together(lab: Lab, tmp_path: Path) -> None:
    sampler, seen = dice(lab), []
    search(lab, tmp_path, Writer(), *FOUR, sampler=sampler, progress=lambda spent: seen.append(spent))
    rows = record(tmp_path)[1:5]
    accepted = sum(row["status"] == "accepted" for row in rows)
    assert accepted >= 2
    # The seed's eight; in the first iteration four minibatches of three that share no item.
    assert sampler.calls[:4] == [8, 12, 12, 8 * accepted]
    assert len({item for row in rows for item in row["train_scores"]}) == 12


def test_each_row_says_what_was_sampled_for_it(lab: Lab, tmp_path: Path) -> None:
    found = search(lab, tmp_path, Writer(), *FOUR)
    rows = record(tmp_path)
    sampled = read_jsonl(tmp_path / "gepa" / "evaluations.jsonl")
    assert sum(row["cost"]["rollouts"] for row in rows) == rows[-1]["spent"]["rollouts"]
    assert rows[-1]["spent"]["rollouts"] == found.spent.rollouts == sum(len(s["rows"]) for s in sampled)
    # Four minibatches of the seed, each its proposal's cost, and eight more for who is accepted.
    assert [row["cost"]["rollouts"] for row in rows[1:5]] == [
        6 + 8 * (row["status"] == "accepted") for row in rows[1:5]
    ]
    assert [row["spent"]["proposals"] for row in rows] == list(range(len(rows)))
    assert [row["spent"]["usd"] for row in rows] == [0.25 * n for n in range(len(rows))]


def test_nothing_depends_on_who_answers_first(lab: Lab, tmp_path: Path) -> None:
    search(lab, tmp_path / "in_turn", Writer(parallel=1), *FOUR)
    ended = [Event() for _ in range(99)]
    met = [Barrier(4, timeout=30) for _ in range(2)]

    def backwards(number: int) -> None:
        """In the first two iterations, all are under way, and each call ends after the one behind it."""
        if number < 8:
            met[number // 4].wait()
            assert number % 4 == 3 or ended[number + 1].wait(30)
        ended[number].set()

    how = Writer(before=backwards)
    search(lab, tmp_path / "backwards", how, *FOUR)
    came = [row["number"] for row in read_jsonl(tmp_path / "backwards" / "gepa" / "proposals.jsonl")]
    assert came[:8] != sorted(came[:8]) and set(came[:4]) == {0, 1, 2, 3} and how.busiest == 4
    assert record(tmp_path / "backwards") == record(tmp_path / "in_turn")
    assert replies(tmp_path / "backwards") == replies(tmp_path / "in_turn")


def test_calls_at_a_time_are_limited(lab: Lab, tmp_path: Path) -> None:
    both = [Event(), Event()]

    def met(number: int) -> None:
        """The first two are under way together."""
        if number < 2:
            both[number].set()
            assert both[1 - number].wait(30)

    how = Writer(parallel=2, before=met)
    search(lab, tmp_path, how, *FOUR)
    assert how.busiest == 2 and len(how.asked) > 4


@pytest.mark.parametrize("parallel", [2, 4])
def test_a_language_model_is_asked_for_several_at_a_time(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: int
) -> None:
    met = Barrier(parallel, timeout=30)

    def answer(turns: list[dict[str, str]], number: int) -> str:
        if number < parallel:
            met.wait()
        return json.dumps({"new_instruction": f"Variant {zlib.crc32(json.dumps(turns).encode())}."})

    with openai_api(monkeypatch, answer) as api:
        how = LMProposer("openai/gpt-4o-mini", ReflectionConfig(parallel=parallel), 300)
        found = search(lab, tmp_path, how, *FOUR)
    rows = replies(tmp_path)
    assert api.busiest == parallel and len(api.asked) == len(rows) == found.spent.proposals > 9
    # Each reply is the one to its own question, and each is paid for.
    usd = (READ * 0.15 + WRITTEN * 0.6) / 1e6
    assert [row["usd"] for row in rows] == [pytest.approx(usd)] * len(rows)
    texts = {
        f"Variant {zlib.crc32(json.dumps(body['messages']).encode())}.": body["messages"]
        for body in api.asked
    }
    parents = {row["id"]: row["text"] for row in record(tmp_path)}
    assert all(parents[row["parent"]] in json.dumps(texts[row["text"]]) for row in rows)


@pytest.mark.parametrize("how", [Writer, offline])
def test_killed_between_any_two_evaluations_it_ends_the_same(lab: Lab, tmp_path: Path, how: Any) -> None:
    make = (lambda: Writer()) if how is Writer else (lambda: offline(lab))
    found = search(lab, tmp_path / "whole", make(), *FOUR)
    whole = record(tmp_path / "whole")
    assert {row["status"] for row in whole} >= {"accepted", "rejected"} and len(whole) > 9

    class Kill(Exception):
        pass

    for after in range(1, 99):
        seen = []

        def kill(spent: Spent, seen: list[Spent] = seen, after: int = after) -> None:
            seen.append(spent)
            if len(seen) == after:
                raise Kill

        folder = tmp_path / f"killed_{after}"
        try:
            search(lab, folder, make(), *FOUR, progress=kill)
        except Kill:
            pass
        else:
            assert after > 6
            break
        again = search(lab, folder, make(), *FOUR)
        assert record(folder) == whole and replies(folder) == replies(tmp_path / "whole")
        assert (again.stop.reason, again.spent.rollouts) == (found.stop.reason, found.spent.rollouts)


@pytest.mark.parametrize("dies_at", range(4, 8))
def test_killed_between_two_replies_it_pays_for_none_twice(lab: Lab, tmp_path: Path, dies_at: int) -> None:
    search(lab, tmp_path / "whole", Writer(), *FOUR)
    ended, others = Lock(), set(range(4, 8)) - {dies_at}
    there = Event()

    def die(number: int) -> None:
        """In the second iteration, once the other three have been answered."""
        with ended:
            others.discard(number)
            if not others:
                there.set()
        if number == dies_at:
            assert there.wait(30)
            raise KeyboardInterrupt

    first, second = Writer(before=die), Writer()
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        search(lab, folder, first, *FOUR)
    assert sorted(first.asked) == list(range(8))
    assert [row["number"] for row in replies(folder)] == sorted({*range(8)} - {dies_at})
    search(lab, folder, second, *FOUR)
    assert second.asked[0] == dies_at and min(second.asked[1:]) == 8
    assert record(folder) == record(tmp_path / "whole")
    assert replies(folder) == replies(tmp_path / "whole")


@pytest.mark.parametrize("how", [Writer, offline])
@pytest.mark.parametrize("keep", range(1, 10))
def test_a_record_that_ends_within_an_iteration_is_continued(
    lab: Lab, tmp_path: Path, keep: int, how: Any
) -> None:
    make = (lambda: Writer()) if how is Writer else (lambda: offline(lab))
    search(lab, tmp_path / "whole", make(), *FOUR)
    write_jsonl(
        tmp_path / "cut" / "candidates.jsonl", read_jsonl(tmp_path / "whole" / "candidates.jsonl")[:keep]
    )
    search(lab, tmp_path / "cut", make(), *FOUR)
    assert record(tmp_path / "cut") == record(tmp_path / "whole")


def test_offline_an_iteration_draws_no_text_twice(lab: Lab, tmp_path: Path) -> None:
    search(lab, tmp_path, offline(lab), *SETS, "optimize.proposals=8")
    rows = record(tmp_path)[1:9]
    assert {row["parents"][0] for row in rows} == {SEED.id}
    assert len({row["text"] for row in rows}) == 8 and not any(row["status"] == "refused" for row in rows)


def test_of_two_equal_replies_the_first_by_number_counts(lab: Lab, tmp_path: Path) -> None:
    ended = Event()

    class Same(Writer):
        def propose(self, parent: str, examples: Any, number: int, known: Any) -> Proposal:
            made = super().propose(parent, examples, number, known)
            return replace(made, text="Same.") if number in (1, 2) else made

    def second_first(number: int) -> None:
        if number == 1:
            assert ended.wait(30)
        if number == 2:
            ended.set()

    search(lab, tmp_path, Same(before=second_first), *FOUR)
    rows = record(tmp_path)
    assert rows[2]["text"] == rows[3]["text"] == "Same." and rows[2]["status"] != "refused"
    assert rows[3]["reason"] == "unchanged: the same text was proposed before"


def test_how_many_proposals_the_budgets_can_pay() -> None:
    config = load_config(
        "smoke", ["optimize.proposals=4", "optimize.max_rollouts=100", "optimize.max_usd=2"], env={}
    )

    def count(dearest: float = 0.0, **spent: Any) -> int:
        return affordable(config.optimize, config.task.splits, Spent(**spent), dearest)

    # A proposal takes two of its parent, two of its own and eight on pareto: 12.
    assert [count(rollouts=n) for n in (52, 53, 64, 65, 76, 77, 88, 89)] == [4, 3, 3, 2, 2, 1, 1, 0]
    assert [count(0.5, usd=usd) for usd in (0.0, 0.01, 0.5, 1.0, 1.5, 1.51)] == [4, 3, 3, 2, 1, 0]
    assert count(0.5, usd=1.0, rollouts=88) == 1
    assert count(0.0, usd=99.0) == 4


@pytest.mark.parametrize("most", [0.3, 0.75, 1.0, 1.6])
def test_calls_under_way_are_counted_at_their_dearest(lab: Lab, tmp_path: Path, most: float) -> None:
    how = Writer()
    found = search(lab, tmp_path, how, *FOUR, f"optimize.max_usd={most}", quote=0.25)
    assert len(how.asked) == int(most / 0.25) and found.spent.usd == 0.25 * len(how.asked)
    assert found.stop.reason.startswith("usd: ")


@pytest.mark.parametrize("sets", [SETS, FOUR])
def test_a_call_that_was_dearer_than_thought_ends_a_replay_no_sooner(
    lab: Lab, tmp_path: Path, sets: tuple[str, ...]
) -> None:
    class Dear(Writer):
        def propose(self, parent: str, examples: Any, number: int, known: Any) -> Proposal:
            made = super().propose(parent, examples, number, known)
            return replace(made, usd=1.0) if number == 5 else made

    first = search(lab, tmp_path, Dear(), *sets, "optimize.max_usd=2")
    assert first.spent.usd > 2
    again = search(lab, tmp_path, Dear(), *sets, "optimize.max_usd=2")
    assert (again.spent, again.stop.reason) == (first.spent, first.stop.reason)


def test_no_more_is_taken_than_a_plan_says(lab: Lab, tmp_path: Path) -> None:
    for number, sets in enumerate((SETS, FOUR, (*SETS, "optimize.proposals=9"))):
        config = load_config("smoke", sets, env={})
        plan = plan_search(config, replace(lab.rollouts, sampler=dice(lab)), offline(lab), SEED, "prompt")
        sampler, how = dice(lab), Writer()
        found = search(lab, tmp_path / str(number), how, *sets, sampler=sampler)
        assert found.spent.rollouts == sum(sampler.calls) <= plan.search_rollouts
        assert plan.calls[0] <= len(how.asked) <= plan.calls[1]
        told = f"proposals: {plan.calls[0]} to {plan.calls[1]}, "
        assert (f"{told}and" in plan.lines(config.optimize)[1]) == (number == 0)
        if number:
            assert f"{told}up to {config.optimize.proposals} in" in plan.lines(config.optimize)[1]


@pytest.mark.parametrize(("parallel", "kept"), [(1, [0]), (4, [0, 2, 3])])
def test_a_refusal_ends_the_search_and_keeps_what_was_under_way(
    lab: Lab, tmp_path: Path, parallel: int, kept: list[int]
) -> None:
    met = Barrier(parallel, timeout=30)

    def second_refuses(number: int) -> None:
        met.wait()
        if number == 1:
            raise ProviderError("the key was refused")

    how = Writer(parallel, second_refuses)
    with pytest.raises(ProviderError, match="the key was refused"):
        search(lab, tmp_path, how, *FOUR)
    # What had not begun is not asked for.
    assert sorted(how.asked) == sorted({*kept, 1}) and [row["number"] for row in replies(tmp_path)] == kept


def test_failed_calls_end_a_search_in_the_order_of_their_numbers(lab: Lab, tmp_path: Path) -> None:
    def fails(number: int) -> None:
        if number in (2, 5, 6):
            raise CallFailed(f"HTTP 529 at {number}")

    with pytest.raises(ProviderError, match=r"2 of the last 6 calls of writer failed; .* HTTP 529 at 2"):
        search(lab, tmp_path, Writer(before=fails), *FOUR)
    assert [row["number"] for row in replies(tmp_path)] == list(range(8))
    # All are on record, so the same command goes on.
    how = Writer()
    search(lab, tmp_path, how, *FOUR)
    assert min(how.asked) == 8
    failed = [row["number"] for row in record(tmp_path) if row["status"] == "failed"]
    assert failed == [3, 6, 7]


def test_waiting_for_calls_that_overlap_counts_once(lab: Lab, tmp_path: Path) -> None:
    done = Event()

    def first_ends_last(number: int) -> None:
        if number == 1:
            until = time.perf_counter() + 0.05
            while time.perf_counter() < until:
                pass
            done.set()
        if number == 0:
            assert done.wait(30)

    search(lab, tmp_path, Writer(before=first_ends_last), *SETS, "optimize.proposals=2")
    seconds = {row["number"]: row["seconds"] for row in read_jsonl(tmp_path / "gepa" / "proposals.jsonl")[:2]}
    # Call 0 took longer than call 1, and all but a moment of it was waited for already.
    assert seconds[1] >= 0.05 > 0.03 > seconds[0]


def test_minibatches_are_gepas_own_for_one_an_iteration_and_share_nothing_for_more() -> None:
    loader = ListDataLoader(list(range(10)))
    ours, theirs = Minibatches(3, 7), EpochShuffledBatchSampler(3, random.Random(7))
    for i in range(20):
        state = SimpleNamespace(i=i)
        assert ours.next_minibatch_ids(loader, state) == theirs.next_minibatch_ids(loader, state)
    loader = ListDataLoader(list(range(12)))
    ours, drawn = Minibatches(3, 7), []
    for i in range(6):
        drawn += [ours.next_minibatch_ids(loader, SimpleNamespace(i=i)) for _ in range(2)]
    for epoch in range(3):
        assert sorted(item for batch in drawn[4 * epoch : 4 * epoch + 4] for item in batch) == list(range(12))


def test_a_row_of_another_iteration_is_no_gap_to_fill(lab: Lab, tmp_path: Path) -> None:
    """A reply that is on record for a later number waits until the search comes to it."""
    search(lab, tmp_path / "whole", Writer(), *FOUR)
    later = read_jsonl(tmp_path / "whole" / "gepa" / "proposals.jsonl")
    row = next(row for row in later if row["number"] == 9)
    append_jsonl(tmp_path / "odd" / "gepa" / "proposals.jsonl", [row])
    how = Writer()
    search(lab, tmp_path / "odd", how, *FOUR)
    assert 9 not in how.asked and record(tmp_path / "odd") == record(tmp_path / "whole")
