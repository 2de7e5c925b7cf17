"""The benchmark of the search: the null setting is null, and both sides get the same (`make check-peers`)."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.teleprompt.gepa.gepa_utils import DspyAdapter

from benchmarks.candidate import SCORINGS, Setting, open_setting
from benchmarks.search import compact, gain_table
from benchmarks.search_dspy import Recording, quiet, search_stock, shown
from benchmarks.search_gain import gain, gains
from benchmarks.search_null import Coin, coin_of, expected, false_winners, null_config, null_lab
from benchmarks.search_ours import NUMBER, SIDES, STOCK, VARIANTS, Outcome, configure, search_ours
from gepa_loop.config.tables import ModelConfig
from gepa_loop.lab import Lab, open_lab, seed_prompt
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.bundled import TINY
from gepa_loop.sampling.base import Sampling
from gepa_loop.search.adapter import COMPONENT, FieldAdapter, example, program
from gepa_loop.search.feedback import Excerpt, reflective_record
from gepa_loop.search.propose.base import Example
from gepa_loop.stages.search import open_proposer

BUDGET = 980
GREEDY = Sampling(0.0, 16)
Run = Callable[[Lab, Path], Outcome]


def stock(lab: Lab, folder: Path) -> Outcome:
    return search_stock(lab, BUDGET, threads=1)


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base(ModelConfig(name=TINY, dtype="float32", device="cpu"))


def replies(lab: Lab, prompt: str, split: str = "train") -> list[bool]:
    rows = lab.rollouts.rows(prompt, lab.task.splits[split], 1, GREEDY, "any")
    return [row.score == 1 for row in rows]


def test_the_coin_reads_no_prompt_and_shares_no_random_numbers(base: Base) -> None:
    config = null_config(BUDGET, 0, "task.splits.train=4000")
    lab = null_lab(base, config)
    first, other, again = replies(lab, "Text 1."), replies(lab, "Text 2."), replies(lab, "Text 1.")
    chances = [coin_of(lab).chances[item.question] for item in lab.task.splits["train"]]
    # Uniform chances: two independent replies to an item are equal in p^2 + (1 - p)^2 of cases, 2/3 in the mean; the
    # standard deviations are .0079 of a mean and .0075 of an agreement.
    for one in (first, other, again):
        assert sum(one) / 4000 == pytest.approx(expected(lab, "train"), abs=0.03)
        high = [right for right, chance in zip(one, chances, strict=True) if chance > 0.9]
        assert sum(high) / len(high) == pytest.approx(0.95, abs=0.04)
    for a, b in ((first, other), (first, again), (other, again)):
        assert sum(x == y for x, y in zip(a, b, strict=True)) / 4000 == pytest.approx(2 / 3, abs=0.03)
    repeated = null_lab(base, config)
    assert [replies(repeated, text) for text in ("Text 1.", "Text 2.", "Text 1.")] == [first, other, again]
    assert replies(null_lab(base, null_config(BUDGET, 1, "task.splits.train=4000")), "Text 1.") != first


@pytest.mark.parametrize("run", [stock, search_ours])
def test_a_null_search_keeps_its_budget_and_repeats(base: Base, run: Run, tmp_path: Path) -> None:
    config = null_config(BUDGET, 3)
    lab = null_lab(base, config)
    found = run(lab, tmp_path / "first")
    assert found.rollouts == coin_of(lab).asked.total()
    # GEPA looks at its budget between two iterations.
    slack = 2 * config.optimize.minibatch + config.task.splits.pareto if run is stock else 0
    assert BUDGET - 250 < found.rollouts <= BUDGET + slack
    assert len(set(found.proposals)) == len(found.proposals) > 5
    assert found.accepted < len(found.proposals)
    again = run(null_lab(base, config), tmp_path / "second")
    assert dataclasses.replace(again, seconds=0, cpu_seconds=0) == dataclasses.replace(
        found, seconds=0, cpu_seconds=0
    )


def test_both_sides_ask_the_same_proposer(base: Base, tmp_path: Path) -> None:
    lab = null_lab(base, null_config(BUDGET, 5))
    seed = seed_prompt(lab.config.optimize).text
    proposer = open_proposer(lab, NUMBER)
    # Its first proposal depends on how many of 8 items failed, and on nothing else here.
    one: Example = {
        "Inputs": {"question": ""},
        "Generated Outputs": {"answer": ""},
        "Feedback": "",
        "Failure": "content",
    }
    failed = [[one] * count for count in range(9)]
    could = {proposer.propose(seed, examples, 0, {seed}).text for examples in failed}
    assert len(could) < 9
    for run in (stock, search_ours):
        assert run(null_lab(base, lab.config), tmp_path).proposals[0] in could
    other = null_lab(base, null_config(BUDGET, 6))
    assert stock(other, tmp_path).proposals[0] not in could


def test_stock_reports_its_candidates_mean_on_pareto(base: Base) -> None:
    lab = null_lab(base, null_config(BUDGET, 4))
    found = stock(lab, Path())
    assert found.winner
    sampler, items = coin_of(lab), lab.task.splits["pareto"]
    texts = {
        prompt: [lab.rollouts.renderer.text(prompt, item) for item in items]
        for prompt in (seed_prompt(lab.config.optimize).text, *found.proposals)
    }
    scored = {prompt: own for prompt, own in texts.items() if all(sampler.asked[text] for text in own)}
    assert len(scored) == found.accepted + 1
    means = {prompt: sum(sampler.right(text, 0) for text in own) / len(own) for prompt, own in scored.items()}
    assert found.reported == pytest.approx(means[found.chosen.text]) == pytest.approx(max(means.values()))


class Kind(Coin):
    """Answers every item right where the prompt holds one of the texts, and else rarely."""

    def chance(self, text: str) -> float:
        return 0.95 if "Text " in text else 0.3


@pytest.mark.parametrize("name", VARIANTS)
def test_a_winner_is_found_where_there_is_one(base: Base, name: str, tmp_path: Path) -> None:
    lab = null_lab(base, null_config(BUDGET, 0, *VARIANTS[name]), Kind)
    found = search_ours(lab, tmp_path)
    assert found.winner and "Text " in found.chosen.text and found.reported > 0.85
    theirs = stock(null_lab(base, lab.config, Kind), tmp_path)
    assert theirs.winner and "Text " in theirs.chosen.text and theirs.reported > 0.85


@pytest.fixture(scope="module", params=[TINY, "random"])
def setting(request: pytest.FixtureRequest) -> Setting:
    return open_setting(dataclasses.replace(SCORINGS["E-tiny"], weights=request.param))


@pytest.mark.parametrize("threads", [1, 8])
def test_both_sides_score_and_tell_failures_alike(setting: Setting, threads: int) -> None:
    prompt, items = setting.candidate(SCORINGS["E-tiny"], 0), list(setting.items)
    greedy = Sampling(0.0, setting.config.sampling.max_tokens)
    rows = setting.rollouts.rows(prompt.text, items, 1, greedy, "gepa")
    excerpt = Excerpt(setting.rollouts.renderer.tokenizer, setting.config.optimize.excerpt_tokens)
    ours = [reflective_record(item, [row], excerpt) for item, row in zip(items, rows, strict=True)]
    lm = Recording(setting, threads)

    def feedback(module_inputs: Any, module_outputs: Any, **_: Any) -> Any:
        return lm.metric(module_inputs, module_outputs, pred_name=COMPONENT)

    adapter = DspyAdapter(program(prompt), lm.metric, {COMPONENT: feedback}, num_threads=threads)
    candidate = {COMPONENT: prompt.text}
    with quiet(), dspy.context(lm=lm, adapter=FieldAdapter()):
        found = adapter.evaluate([example(item) for item in items], candidate, capture_traces=True)
        records = adapter.make_reflective_dataset(candidate, found, [COMPONENT])[COMPONENT]
    assert found.scores == [row.score for row in rows]
    told = [(record["Failure"], record["Feedback"]) for record in ours]
    assert [(record["Failure"], record["Feedback"]) for record in map(shown, records)] == told
    assert len(set(told)) > 1


def test_the_choice_is_kept_back_from_the_budget() -> None:
    config = configure(BUDGET, 7, "optimize.accept=gepa")
    assert (config.seed, config.optimize.max_rollouts, config.optimize.accept) == (7, 660, "gepa")
    assert config.optimize.max_rollouts + 2 * 160 == BUDGET  # the seed and one more are scored on `select`


def test_false_winners_are_counted() -> None:
    numbers = {"rollouts": 1, "proposals": 1, "accepted": 1, "cpu_seconds": 1.0}
    rows = [
        {"side": "a", "winner": n < 1, "reported": 0.6 if n < 1 else 0.5, "true": 0.5, **numbers}
        for n in range(10)
    ]
    found = false_winners(rows)["a"]
    assert found["winners"] == 1 and found["optimism"]["mean"] == pytest.approx(0.01)
    assert found["optimism_of_winners"] == {"mean": pytest.approx(0.1), "ci": None}
    assert found["ci"] == pytest.approx([0.0179, 0.4042], abs=1e-4)  # Wilson's for 1 of 10


def test_gain_tells_every_side_and_is_written_as_json(tmp_path: Path) -> None:
    opened = open_lab(configure(BUDGET, 0, f"model.name={TINY}"))
    rows = list(gain(opened, SIDES, [0, 1], 640, 8, tmp_path))
    assert [(row["seed"], row["side"]) for row in rows] == [
        (seed, side) for seed in (0, 1) for side in (*VARIANTS, STOCK)
    ]
    summary = gains(rows)
    for name, one in summary.items():
        own = [row for row in rows if row["side"] == name]
        assert one["test"] == pytest.approx((own[0]["test"] + own[1]["test"]) / 2)
        assert 64 < one["rollouts"] <= 640 + (80 if name == STOCK else 0)
    assert summary[STOCK]["against_stock"]["mean"] == 0
    assert gain_table(summary, rows).row_count == len(VARIANTS) + 1
    assert json.loads(compact({"rows": rows, "summary": summary}))["rows"][3]["side"] == STOCK
