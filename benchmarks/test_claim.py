"""The rules of claim.py on a cell made by hand."""

from __future__ import annotations

from typing import Any

from benchmarks.claim import by_all, by_prompt, by_race, outcome, race_price
from benchmarks.claim_pools import pool_of
from gepa_loop.config.load import load_config

ITEMS = 40


def scores(right: int) -> dict[str, float]:
    return {f"i{n}": float(n < right) for n in range(ITEMS)}


def cell() -> dict[str, Any]:
    """Four prompts: x is best as a prompt, y's student is best, z's student leads early and is overtaken, w does not help."""
    prompts, early, late = {"x": 24, "y": 22, "z": 20, "w": 4}, (14, 16, 18, 2), (20, 30, 22, 2)
    found: dict[str, Any] = {"task": "t", "seed": 1, "race": {}, "prompts": {}, "students": {}}
    for n, (id_, own) in enumerate(prompts.items()):
        at = {split: scores(own) for split in ("pareto", "race", "select")}
        found["prompts"][id_] = {**at, "test": {"sampled": scores(own), "greedy": scores(own)}}
        found["students"][id_] = {
            "race": {"20": scores(early[n]), "40": scores(late[n])},
            "last": 200,
            "select": scores(late[n]),
            "test": {"sampled": scores(late[n] - 1), "greedy": scores(late[n])},
        }
    found["base"] = {split: scores(4) for split in ("race", "select", "pareto")}
    found["base_test"] = {"sampled": scores(4), "greedy": scores(4)}
    return found


def test_each_rule_chooses_by_what_it_looks_at() -> None:
    own = cell()
    assert (by_prompt(own, "pareto").id, by_prompt(own, "pareto").distillations) == ("x", 1.0)
    assert (by_all(own).id, by_all(own).distillations) == ("y", 4.0)
    raced = by_race(own)
    # Three help; one is dropped at step 20, and two train on for the other 180 steps.
    assert (raced.id, raced.shipped) == ("y", True)
    assert raced.distillations == 3 * 20 / 200 + 2 * 180 / 200
    shown = outcome(own)
    assert shown["a: prompt on pareto"]["sampled"] == 19 / ITEMS
    assert shown["c: race"]["sampled"] == 29 / ITEMS and shown["c: race"]["false"] == 0


def test_where_no_prompt_helps_nothing_is_distilled() -> None:
    own = cell()
    own["base"]["race"] = scores(30)
    assert by_race(own).id is None
    assert outcome(own)["c: race"]["sampled"] == 4 / ITEMS


def test_a_student_that_is_shipped_and_no_better_counts_as_false() -> None:
    own = cell()
    own["students"]["x"]["test"]["sampled"] = scores(4)
    assert outcome(own)["a: prompt on pareto"]["false"] == 1
    own["students"]["x"]["select"] = scores(4)
    assert (
        outcome(own)["a: prompt on pareto"] | {"false": 0, "shipped": 0}
        == outcome(own)["a: prompt on pareto"]
    )


def test_pools_are_drawn_by_the_seed() -> None:
    one, again, other = pool_of("router", 401), pool_of("router", 401), pool_of("router", 402)
    assert one == again and one != other and len(set(one)) == 8
    assert len({text.split("\n")[0] for text in one}) == 1 and len(pool_of("lcm", 401)) == 8


def test_the_price_of_a_race() -> None:
    sets = (
        "task.splits={train=320,pareto=100,race=64,select=128,test=300}",
        "distill.steps=200",
        "distill.check_every=10",
    )
    config = load_config("router", (*sets, "distill.rollouts=64", "evaluate.samples=4"), env={})
    # Rungs at 20, 40 and 80: eight, four and two students; then two to the end.
    steps = 8 * 20 + 4 * 20 + 2 * 160
    assert race_price(config, 8) == steps * 64 + (8 + 4) * 64 * 4 + 2 * 128 * 4
