"""GEPA over the tiny model: one reader of prompts, the record and its replay, caps, what is refused."""

import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest

from gepa_loop.config.data import SplitSizes
from gepa_loop.config.load import load_config
from gepa_loop.config.search import OptimizeConfig
from gepa_loop.config.whole import check_budget, set_aside
from gepa_loop.errors import BudgetReached, CallFailed, ConfigError, ProviderError, RunDirectoryError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.run.files import read_jsonl, write_jsonl
from gepa_loop.search.adapter import FieldAdapter, example, program, save_program
from gepa_loop.search.budget import Progress, Spent, reason_to_stop
from gepa_loop.search.gepa import Found, optimize
from gepa_loop.search.journal import Journal
from gepa_loop.search.programs import Aids
from gepa_loop.search.propose.base import Proposal
from gepa_loop.search.propose.choose import make_proposer
from gepa_loop.search.propose.refusal import Rules, rules_of
from gepa_loop.search.propose.rules import OfflineProposer
from gepa_loop.search.reflect import Reflector
from gepa_loop.search.scorer import Scorer
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import each

SEED = Candidate("Answer the question.")
COIN = ("optimize.accept=gepa", "optimize.max_rollouts=120", "optimize.minibatch=3")
"""Under these the scorer below accepts about every third proposal."""


@pytest.fixture(scope="module")
def plain() -> Lab:
    return open_lab(load_config("smoke", env={}))


@pytest.fixture(scope="module")
def lab(plain: Lab) -> Lab:
    """A task that the tiny model solves now and then: whether it does depends on the very completion."""
    task = replace(plain.task, scorer=each(lambda one: (float(zlib.crc32(one.reply.encode()) % 2), "")))
    return replace(plain, task=task, rollouts=replace(plain.rollouts, task=task))


def sections(*sets: str, preset: str = "smoke") -> tuple[OptimizeConfig, SplitSizes]:
    """What a search's numbers are made of."""
    config = load_config(preset, sets, env={})
    return config.optimize, config.task.splits


def proposer(lab: Lab) -> Any:
    shown = lab.task.splits["train"][: set_aside(lab.config.optimize, lab.config.task.splits)]
    return make_proposer(lab.config.optimize.reflection, "offline", shown, 1024, 0)


class Scripted:
    """A proposer that returns given texts; the last one for ever."""

    name = about = "scripted"
    parallel = 1

    def __init__(self, *texts: str, dies_at: int | None = None) -> None:
        self.texts, self.dies_at, self.asked = texts, dies_at, 0
        self.read: list[Any] = []

    def check(self) -> None:
        pass

    def propose(self, parent: str, examples: Any, number: int, known: Any) -> Proposal:
        self.asked += 1
        self.read.append(examples)
        if number == self.dies_at:
            raise KeyboardInterrupt
        return Proposal(self.texts[min(number, len(self.texts) - 1)], 0.25, "scripted")


class Flaky(Scripted):
    """A proposer some of whose calls fail, at twice the price."""

    def __init__(self, *fails: int, dies_at: int | None = None) -> None:
        super().__init__(*(f"Text {n}." for n in range(99)), dies_at=dies_at)
        self.fails = fails
        self.numbers: list[int] = []

    def propose(self, parent: str, examples: Any, number: int, known: Any) -> Proposal:
        self.numbers.append(number)
        if number in self.fails:
            raise CallFailed(f"HTTP 529 at {number}", usd=0.5)
        return super().propose(parent, examples, number, known)


def search(lab: Lab, folder: Path, how: Any, *sets: str, progress: Any = None) -> Found:
    config = load_config("smoke", sets, env={})
    return optimize(config, lab.rollouts, Aids(how, progress or (lambda spent: None)), SEED, folder, 0)


def record(folder: Path) -> list[dict[str, Any]]:
    """candidates.jsonl but for its times."""
    rows = read_jsonl(folder / "candidates.jsonl")
    for row in rows:
        del row["cost"]["seconds"], row["spent"]["seconds"]
    return rows


def test_gepa_reads_the_bytes_of_the_prompt_file_as_its_system_message(lab: Lab) -> None:
    item = lab.task.splits["pareto"][0]
    for text in ("Answer.", 'Say {this} "twice".\n\nThen:\n  - and {{that}}'):
        candidate = Candidate(text)
        gepa_reads = FieldAdapter().format(program(candidate).signature, [], dict(example(item).inputs()))
        assert gepa_reads == lab.rollouts.renderer.messages(candidate.text, item)
        assert gepa_reads[0]["content"].encode() == candidate.text.encode()
        teacher = lab.base.tokenizer.decode(lab.rollouts.renderer.tokens(candidate.text, item))
        assert text == teacher.partition("<|im_start|>system\n")[2].partition("<|im_end|>")[0]


def test_saved_programs_load_with_dspy(tmp_path: Path) -> None:
    prompt = Candidate('Say {this} "twice".\n\nThen:\n  - and {{that}}')
    save_program(tmp_path / "p.json", prompt)
    loaded = dspy.Predict("question -> answer")
    loaded.load(str(tmp_path / "p.json"))
    assert loaded.signature.instructions == prompt.text


def test_the_adapter_knows_its_task_by_field_names() -> None:
    renamed = program(SEED).signature.with_instructions("Other.")
    turns = FieldAdapter().format(renamed, [], {"question": [{"role": "user", "content": "a"}]})
    assert [t["content"] for t in turns] == ["Other.", "a"]
    with pytest.raises(ValueError, match="question -> answer"):
        FieldAdapter().format(dspy.Signature("text -> label"), [], {"text": "x"})
    with pytest.raises(dspy.utils.exceptions.AdapterParseError):
        FieldAdapter().parse(renamed, "  ")


def test_a_killed_search_ends_like_an_uninterrupted_one(lab: Lab, tmp_path: Path) -> None:
    found = search(lab, tmp_path / "whole", proposer(lab), *COIN)
    whole = record(tmp_path / "whole")
    assert [row["number"] for row in whole] == list(range(len(whole)))
    assert {row["status"] for row in whole} == {"accepted", "rejected", "refused"}
    calls = len(read_jsonl(tmp_path / "whole" / "gepa" / "evaluations.jsonl"))

    class Kill(Exception):
        pass

    for after in range(1, calls, 3):
        seen = []

        def kill(spent: Any, seen: list[Any] = seen, after: int = after) -> None:
            seen.append(spent)
            if len(seen) == after:
                raise Kill

        folder = tmp_path / f"killed_{after}"
        with pytest.raises(Kill):
            search(lab, folder, proposer(lab), *COIN, progress=kill)
        (folder / "gepa" / "evaluations.jsonl").open("a").write('{"candidate": "torn')
        again = search(lab, folder, proposer(lab), *COIN)
        assert record(folder) == whole
        assert [row["id"] for row in again.rows] == [row["id"] for row in found.rows]
        assert (again.stop.reason, again.spent.rollouts) == (found.stop.reason, found.spent.rollouts)


@pytest.mark.parametrize("keep", [0, 1, 5, 99])
def test_candidates_jsonl_alone_is_enough_to_go_on(lab: Lab, tmp_path: Path, keep: int) -> None:
    found = search(lab, tmp_path / "whole", proposer(lab), *COIN)
    whole = record(tmp_path / "whole")
    folder = tmp_path / "cut"
    write_jsonl(folder / "candidates.jsonl", read_jsonl(tmp_path / "whole" / "candidates.jsonl")[:keep])
    again = search(lab, folder, proposer(lab), *COIN)
    assert record(folder) == whole
    assert [row["id"] for row in again.rows] == [row["id"] for row in found.rows]
    assert again.stop.reason == found.stop.reason
    if keep > len(whole):
        before = read_jsonl(tmp_path / "whole" / "candidates.jsonl")
        assert read_jsonl(folder / "candidates.jsonl") == before
        assert again.spent == found.spent


def test_a_record_of_another_search_is_refused(lab: Lab, tmp_path: Path) -> None:
    search(lab, tmp_path, proposer(lab), *COIN)
    rows = read_jsonl(tmp_path / "candidates.jsonl")
    other = "rejected" if rows[1]["status"] == "accepted" else "accepted"
    write_jsonl(tmp_path / "candidates.jsonl", [rows[0], {**rows[1], "status": other}, *rows[2:]])
    with pytest.raises(RunDirectoryError, match=r"candidates.jsonl: number 1 is .* and the search makes"):
        search(lab, tmp_path, proposer(lab), *COIN)


def test_what_is_decided_stays_when_completions_come_out_otherwise(lab: Lab, tmp_path: Path) -> None:
    search(lab, tmp_path, proposer(lab), *COIN)
    rows = read_jsonl(tmp_path / "candidates.jsonl")[:5]
    shutil.rmtree(tmp_path / "gepa")
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    other = replace(lab.task, scorer=each(lambda one: (float(zlib.crc32(one.reply.encode()) % 3 == 0), "")))
    search(replace(lab, rollouts=replace(lab.rollouts, task=other)), tmp_path, proposer(lab), *COIN)
    assert read_jsonl(tmp_path / "candidates.jsonl")[:5] == rows


def test_what_is_in_the_record_is_neither_sampled_nor_asked_again(lab: Lab, tmp_path: Path) -> None:
    dying = Scripted("One.", "Two.", "Three.", dies_at=2)
    with pytest.raises(KeyboardInterrupt):
        search(lab, tmp_path, dying, *COIN)
    rows = len(read_jsonl(tmp_path / "gepa" / "evaluations.jsonl"))
    again = Scripted("One.", "Two.", "Three.")
    found = search(lab, tmp_path, again, *COIN)
    proposals = read_jsonl(tmp_path / "gepa" / "proposals.jsonl")
    assert [p["text"] for p in proposals[:3]] == ["One.", "Two.", "Three."]
    assert again.asked == len(proposals) - 2
    assert found.spent.usd == pytest.approx(0.25 * len(proposals))
    scored = [
        (entry["candidate"], row["item"])
        for entry in read_jsonl(tmp_path / "gepa" / "evaluations.jsonl")
        for row in entry["rows"]
    ]
    assert len(scored) == len(set(scored)) > rows


def test_half_a_surrogate_in_a_proposal_is_on_record_as_a_question_mark(lab: Lab, tmp_path: Path) -> None:
    search(lab, tmp_path, Scripted("Answer \ud83d now.", "Two."), *COIN)
    proposals = read_jsonl(tmp_path / "gepa" / "proposals.jsonl")
    assert [p["text"] for p in proposals[:2]] == ["Answer ? now.", "Two."]


def test_long_evaluations_are_saved_part_by_part(lab: Lab, tmp_path: Path) -> None:
    class Dies:
        def __init__(self, calls: int) -> None:
            self.calls = calls

        def __getattr__(self, name: str) -> Any:
            return getattr(lab.rollouts.sampler, name)

        def generate(self, *args: Any) -> Any:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
            return lab.rollouts.sampler.generate(*args)

    config = load_config("smoke", ["sampling.batch=3", *COIN], env={})
    dying = replace(lab.rollouts, sampler=Dies(2))
    with pytest.raises(KeyboardInterrupt):
        optimize(config, dying, Aids(proposer(lab)), SEED, tmp_path, 0)
    saved = read_jsonl(tmp_path / "gepa" / "evaluations.jsonl")
    assert [len(entry["rows"]) for entry in saved] == [3, 3]  # of the seed's eight
    optimize(config, lab.rollouts, Aids(proposer(lab)), SEED, tmp_path, 0)
    optimize(config, lab.rollouts, Aids(proposer(lab)), SEED, tmp_path / "whole", 0)
    assert record(tmp_path) == record(tmp_path / "whole")


def test_caps_are_kept_and_named(lab: Lab, tmp_path: Path) -> None:
    found = search(lab, tmp_path / "a", proposer(lab))
    assert found.spent.rollouts <= 48 and found.stop.reason.startswith("rollouts: ")
    texts = [f"Text {n}." for n in range(9)]
    dear = search(lab, tmp_path / "b", Scripted(*texts), "optimize.max_usd=0.6", "optimize.max_rollouts=999")
    assert dear.stop.reason == "usd: 0.50 of 0.60, and a proposal may cost 0.25"
    assert dear.spent.usd == 0.5


def test_no_gain_in_n_iterations_ends_the_search_with_what_it_has(lab: Lab, tmp_path: Path) -> None:
    texts = [f"Text {n}." for n in range(40)]
    budget = ("optimize.max_rollouts=9999", "optimize.max_usd=99", "optimize.patience=4")
    found = search(lab, tmp_path, Scripted(*texts), *budget)
    assert found.stop.reason == "patience: no better mean on pareto in 4 iterations"
    means = [row["pareto_mean"] or 0.0 for row in read_jsonl(tmp_path / "candidates.jsonl")]
    # An iteration whose minibatch is perfect proposes nothing.
    assert 0 < len(means) - 1 - means.index(max(means)) <= 4 and found.rows[0]["id"] == SEED.id


def test_reasons_to_stop() -> None:
    settings, splits = sections("optimize.patience=3", "optimize.max_rollouts=100")

    def reason(progress: Progress, dearest: float = 0.0, **spent: Any) -> str | None:
        stop = reason_to_stop(settings, splits, Spent(**{"proposals": 1, **spent}), progress, dearest)
        # What could go on with a larger budget is told from what could not.
        assert stop is None or stop.exhausted == stop.reason.startswith(("patience", "nothing new"))
        return None if stop is None else stop.reason

    going = Progress().after(True, 0.5)
    assert reason(going) is None
    assert reason(going, rollouts=88) is None
    assert reason(going, rollouts=89) == "rollouts: 89 of 100, and an iteration may take 12"
    assert str(reason(going, seconds=3600.0)).startswith("minutes: 60.0 of 60")
    assert reason(going, 2.0, usd=3.0) is None
    assert str(reason(going, 2.1, usd=3.0)).startswith("usd: 3.00 of 5.00")
    still = going.after(True, 0.5).after(True, 0.4)
    assert still.without_gain == 2 and reason(still) is None
    assert str(reason(still.after(True, 0.5))).startswith("patience")
    assert still.after(True, 0.6).without_gain == 0
    idle = Progress(0.5, 0, 19)
    assert reason(idle) is None
    assert reason(Progress(0.5, 0, 20)) == "nothing new in 20 iterations"


def test_a_budget_without_a_proposal_names_the_least(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"max_rollouts = 19 allows no proposal: .* take up to 20"):
        check_budget(*sections("optimize.max_rollouts=19"))
    check_budget(*sections("optimize.max_rollouts=20"))


def test_a_minibatch_must_fit_and_be_able_to_show_something(lab: Lab) -> None:
    check_budget(*sections("optimize.minibatch=12"))
    with pytest.raises(ConfigError, match=r"minibatch = 13: task.splits.train = 16 leaves 12 items"):
        check_budget(*sections("optimize.minibatch=13"))
    with pytest.raises(
        ConfigError, match=r"accept_level = 0.25 cannot be reached: .* minibatch = 1 items is 0.5"
    ):
        load_config("smoke", ["optimize.minibatch=1"], env={})
    load_config("smoke", ["optimize.minibatch=1", "optimize.accept=gepa"], env={})


def test_a_refusing_reflection_model_stops_the_search(lab: Lab, tmp_path: Path) -> None:
    class Refused(Scripted):
        def propose(self, parent: str, examples: Any, number: int, known: Any) -> Proposal:
            raise ProviderError("the key was refused")

    with pytest.raises(ProviderError, match="the key was refused"):
        search(lab, tmp_path, Refused("x"))


def test_one_failed_call_in_twenty_is_recorded_and_a_second_one_stops(lab: Lab, tmp_path: Path) -> None:
    budget = ("optimize.max_rollouts=9999", "optimize.max_usd=6")
    found = search(lab, tmp_path / "a", Flaky(1), *budget)
    (row,) = [row for row in read_jsonl(tmp_path / "a" / "candidates.jsonl") if row["status"] == "failed"]
    assert row["number"] == 2 and row["reason"] == "HTTP 529 at 1" and row["pareto_mean"] is None
    assert row["train_scores"] == {} and found.spent.proposals > 20

    with pytest.raises(
        ProviderError, match=r"2 of the last 9 calls of scripted failed; the first: HTTP 529 at 1"
    ):
        search(lab, tmp_path / "b", Flaky(1, 8), *budget)
    # Later, when the endpoint is well again, the same command goes on.
    assert search(lab, tmp_path / "b", Flaky(), *budget).spent.proposals > 20
    search(lab, tmp_path / "c", Flaky(1, 21), *budget)


def test_failed_calls_count_over_restarts_and_none_is_made_twice(lab: Lab, tmp_path: Path) -> None:
    budget = ("optimize.max_rollouts=9999", "optimize.max_usd=6")
    with pytest.raises(KeyboardInterrupt):
        search(lab, tmp_path, Flaky(1, dies_at=5), *budget)
    second = Flaky(8)
    with pytest.raises(ProviderError, match=r"2 of the last 9 calls of scripted failed; .* HTTP 529 at 1"):
        search(lab, tmp_path, second, *budget)
    assert second.numbers == [5, 6, 7, 8]
    # The call that ended the search is on record: a third failure ends it again, and what it cost is counted.
    third = Flaky(11)
    with pytest.raises(ProviderError, match="3 of the last 12 calls"):
        search(lab, tmp_path, third, *budget)
    assert third.numbers == [9, 10, 11]
    found = search(lab, tmp_path, Flaky(), *budget)
    rows = read_jsonl(tmp_path / "candidates.jsonl")
    assert [row["number"] for row in rows if row["status"] == "failed"] == [2, 9, 12]
    # Failed calls cost .5, the others .25.
    assert found.spent.usd == 0.25 * (len(rows) - 1 - 3) + 0.5 * 3 <= 6


def test_a_proposal_may_quote_worked_examples_and_no_other_item(lab: Lab) -> None:
    train, aside = lab.task.splits["train"], set_aside(*sections())
    guard = rules_of(lab.config.optimize, lab.rollouts, 8, train[:aside], "").guard
    assert [guard.copied(item.question) for item in train] == [
        *[None] * aside,
        *(item.id for item in train[aside:]),
    ]


def test_a_reply_is_kept_though_judging_it_fails(lab: Lab, tmp_path: Path) -> None:
    how, rules = Scripted("Fine."), rules_of(lab.config.optimize, lab.rollouts, 8, (), "")

    def full(text: str) -> str | None:
        raise OSError("no space left")

    def opened(rules: Rules) -> tuple[Scorer, Reflector]:
        scorer = Scorer(lab.config, lab.rollouts, Journal(tmp_path))
        return scorer, Reflector(how, scorer, rules, SEED.text)

    job = {"self": SEED.text}, {"self": [{"item": lab.task.splits["train"][0]}]}, ["self"]
    with pytest.raises(OSError, match="no space"):
        opened(replace(rules, fits=full))[1].reflect_many([job])
    scorer, again = opened(rules)
    [(proposal, _)] = again.reflect_many([job])
    assert proposal.new_texts == {"self": "Fine."} and how.asked == 1
    assert scorer.meter.spent.usd == 0.25


def test_refused_proposals_are_recorded_with_the_reason(lab: Lab, tmp_path: Path) -> None:
    item = lab.task.splits["pareto"][3].question
    texts = ("", "Answer the question.", "word " * 2000, f"Like this: {item}", "Say <|im_end|>.", "Fine.")
    search(lab, tmp_path, Scripted(*texts), "optimize.max_rollouts=60")
    reasons = [row["reason"] for row in read_jsonl(tmp_path / "candidates.jsonl")[1:6]]
    assert reasons[0] == "unreadable: no instruction was found in the reply"
    assert reasons[1].startswith("unchanged")
    assert reasons[2].startswith("over-long") and "max_prompt_tokens is 1024" in reasons[2]
    assert reasons[3] == f"copies item {lab.task.splits['pareto'][3].id}"
    assert "special token" in reasons[4]


def test_a_control_character_in_a_reply_is_a_reason_and_no_end(lab: Lab, tmp_path: Path) -> None:
    found = search(lab, tmp_path, Scripted("Answer in \boxed{N}.", "Fine."), "optimize.max_rollouts=40")
    row = read_jsonl(tmp_path / "candidates.jsonl")[1]
    assert row["status"] == "refused" and "control character" in row["reason"]
    assert found.spent.proposals > 1


def test_a_seed_prompt_with_worked_examples_can_be_improved(lab: Lab, tmp_path: Path) -> None:
    shown = "\n".join(item.question for item in lab.task.splits["pareto"][:3])
    seed = Candidate(f"Answer the question.\n\n{shown}")
    config = load_config("smoke", COIN, env={})
    optimize(config, lab.rollouts, Aids(Scripted(f"{seed.text}\n\nNow.", "x")), seed, tmp_path, 0)
    assert read_jsonl(tmp_path / "candidates.jsonl")[1]["status"] in ("accepted", "rejected")


def test_copies_in_a_minibatch_count_once(lab: Lab, tmp_path: Path) -> None:
    # GEPA fills the second minibatch of 12 items, 4 of them left, with copies of those 4.
    how = Scripted(*(f"Text {n}." for n in range(9)))
    search(lab, tmp_path, how, "optimize.minibatch=8", "optimize.max_rollouts=70", "optimize.accept=gepa")
    sizes = [len(row["train_scores"]) for row in read_jsonl(tmp_path / "candidates.jsonl")[1:3]]
    assert sizes == [8, 4] and [len(read) for read in how.read[:2]] == [8, 4]


def test_a_prompt_that_leaves_no_room_for_the_reply_is_refused(lab: Lab, tmp_path: Path) -> None:
    long = "word " * 420  # a token a letter
    sets = ("optimize.max_prompt_tokens=9999", "optimize.max_rollouts=30")
    search(lab, tmp_path, Scripted(long, "Fine."), *sets)
    reason = read_jsonl(tmp_path / "candidates.jsonl")[1]["reason"]
    assert "over the model's context of 2048" in reason


def test_a_cut_reply_is_refused(lab: Lab, tmp_path: Path) -> None:
    class Cut(Scripted):
        def propose(self, parent: str, examples: Any, number: int, known: Any) -> Proposal:
            return replace(super().propose(parent, examples, number, known), cut=number == 0)

    search(lab, tmp_path, Cut("The first half of", "Whole."), "optimize.max_rollouts=40")
    rows = read_jsonl(tmp_path / "candidates.jsonl")
    assert rows[1]["status"] == "refused" and rows[1]["reason"].startswith("cut: ")
    assert rows[2]["status"] != "refused"


def test_candidates_hold_lineage_costs_and_scores_by_item_and_sample(lab: Lab, tmp_path: Path) -> None:
    noisy = ("optimize.samples=2", "optimize.temperature=1.0", "optimize.max_rollouts=400", COIN[0], COIN[2])
    found = search(lab, tmp_path, proposer(lab), *noisy)
    rows = read_jsonl(tmp_path / "candidates.jsonl")
    own = {row["id"]: row for row in rows if row["status"] in ("accepted", "rejected")}
    pareto, train = ({item.id for item in lab.task.splits[name]} for name in ("pareto", "train"))
    shown = {
        item.id for item in lab.task.splits["train"][: set_aside(lab.config.optimize, lab.config.task.splits)]
    }
    assert rows[0]["proposer"] == "seed" and rows[0]["id"] == SEED.id
    assert {row["status"] for row in rows} >= {"accepted", "rejected"}
    for row in rows[1:]:
        assert own[row["parents"][0]]["status"] == "accepted"
        if row["status"] == "accepted":
            assert set(row["pareto_scores"]) == pareto and row["reason"] is None
            flat = [s for scores in row["pareto_scores"].values() for s in scores]
            assert row["pareto_mean"] == pytest.approx(sum(flat) / len(flat)) and len(flat) == 2 * len(pareto)
            assert row["objectives"]["prompt_tokens"] == row["tokens"]
        if row["status"] in ("accepted", "rejected"):
            assert len(row["train_scores"]) == 3 and set(row["train_scores"]) == set(row["parent_scores"])
            assert set(row["train_scores"]) <= train - shown
            assert {len(s) for s in row["train_scores"].values()} == {2}
    assert sum(row["cost"]["rollouts"] for row in rows) == rows[-1]["spent"]["rollouts"]
    assert found.rows[0]["id"] == SEED.id
    assert {row["status"] for row in found.rows} == {"accepted"}
    assert [row["number"] for row in found.rows] == [r["number"] for r in rows if r["status"] == "accepted"]


def test_the_reflection_reads_what_happened(lab: Lab, tmp_path: Path) -> None:
    how = Scripted("One.")
    search(lab, tmp_path, how, "optimize.max_rollouts=20", "optimize.excerpt_tokens=4")
    (examples,) = how.read
    entries = [e for e in read_jsonl(tmp_path / "gepa" / "evaluations.jsonl") if e["candidate"] == SEED.id]
    feedback = {row["item"]: row["feedback"] for entry in entries for row in entry["rows"]}
    questions = {item.question: item for item in lab.task.splits["train"]}
    assert len(examples) == 2
    for example_ in examples:
        item = questions[example_["Inputs"]["question"]]
        assert example_["Feedback"] == feedback[item.id]
        assert example_["Generated Outputs"]["answer"].count("tokens left out") == 1
        assert example_["Failure"] in (None, "cut")


@pytest.mark.parametrize("kind", ["objective", "hybrid", "cartesian"])
def test_every_frontier_type_runs_and_replays(lab: Lab, tmp_path: Path, kind: str) -> None:
    sets = (*COIN, f"optimize.frontier_type={kind}")
    search(lab, tmp_path, proposer(lab), *sets)
    before = record(tmp_path)
    shutil.rmtree(tmp_path / "gepa")
    search(lab, tmp_path, proposer(lab), *sets)
    assert record(tmp_path) == before


def test_offline_proposals_depend_on_seed_and_number_alone(lab: Lab) -> None:
    one, two = proposer(lab), proposer(lab)
    examples = [{"Inputs": {"question": "q"}, "Failure": "format"}]
    texts = [one.propose("A.\n\nB.", examples, n, ()).text for n in range(30)]
    assert texts == [two.propose("A.\n\nB.", examples, n, ()).text for n in range(30)]
    assert len(set(texts)) > 5
    fresh = [one.propose("A.\n\nB.", examples, n, {texts[n]}).text for n in range(30)]
    assert all(new != old for new, old in zip(fresh, texts, strict=True))


def test_worked_examples_come_from_items_that_are_set_aside() -> None:
    items = tuple(Item(f"t:{n}", (("user", f"q{n}"),), f"a{n}", {}) for n in range(2))
    made = [OfflineProposer((), 2, items, 0).propose("P.", [], n, ()).text for n in range(20)]
    shown = {
        line.removeprefix("Example: ") for text in made for line in text.splitlines() if "Example" in line
    }
    assert shown == {"q0", "q1"}
    assert set_aside(*sections()) == 4
    assert set_aside(*sections(preset="sums")) == 16
    assert set_aside(*sections("optimize.reflection.examples=0")) == 0


def test_minutes_that_end_before_a_proposal_are_an_error(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(BudgetReached, match=r"max_minutes = 1e-09 was reached before the first proposal"):
        search(lab, tmp_path, proposer(lab), "optimize.max_minutes=1e-9")


def test_a_perfect_seed_prompt_ends_the_search(lab: Lab, tmp_path: Path) -> None:
    perfect = replace(lab.task, scorer=each(lambda _: (1.0, "")))
    rollouts = replace(lab.rollouts, task=perfect)
    config = load_config("smoke", ["optimize.max_rollouts=9999"], env={})
    found = optimize(config, rollouts, Aids(proposer(lab)), SEED, tmp_path, 0)
    assert [row["pareto_mean"] for row in found.rows] == [1.0]
    assert found.stop.reason == "nothing new in 20 iterations"
