"""The tasks that come with gepa-loop, and their prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import islice
from random import Random

import pytest
from places import ROOT

from gepa_loop.config.tables import TaskConfig
from gepa_loop.task import examples
from gepa_loop.task.examples import desk, policy, returns, router, style
from gepa_loop.task.items import load_task
from gepa_loop.task.scorers import RULES

SIZES = {"train": 256, "pareto": 100, "race": 64, "select": 100, "test": 200}
PROMPTS = ROOT / "prompts"
GOOD = {name: PROMPTS / name / "good.txt" for name in examples.NAMES}
SCORERS = {
    "router": "json",
    "extract": "json",
    "policy": "json",
    "style": None,
    "desk": "includes",
    "returns": "includes",
}


def example(name: str, seed: int = 0) -> list[tuple[str, str]]:
    config = TaskConfig(kind="example", name=name, extract="whole", scorer=SCORERS[name], splits=SIZES)
    return [(item.messages[0][1], item.answer) for item in load_task(config, seed).items]


@pytest.mark.parametrize("name", examples.NAMES)
def test_items_are_many_and_depend_on_the_seed_alone(name: str) -> None:
    items = example(name)
    assert len({question for question, _ in items}) == sum(SIZES.values()) > 600
    assert items == example(name)
    assert not {question for question, _ in items} <= {question for question, _ in example(name, 1)}


def test_the_default_tasks_last_program_is_the_good_prompt_of_the_desk() -> None:
    assert GOOD["desk"].read_bytes() == (PROMPTS / "prog2.txt").read_bytes()


@pytest.mark.parametrize("name", examples.NAMES)
def test_the_good_prompt_says_what_no_model_can_guess(name: str) -> None:
    good = GOOD[name].read_text()
    bare, bad = ((PROMPTS / name / f"{kind}.txt").read_text() for kind in ("bare", "bad"))
    answers = [answer for _, answer in example(name)]
    told: dict[str, Callable[[], set[str]]] = {
        "router": lambda: set(answers),
        "extract": lambda: {json.loads(answer)["sku"] for answer in answers},
        "policy": lambda: {answer.partition(', "euros"')[0] for answer in answers},
        "style": lambda: {"NOTICE //", "crew", "R-210", "-- Town Hall", "MO"},
        "desk": lambda: set(answers),
        "returns": lambda: set(answers),
    }
    wanted = told[name]()
    assert len(wanted) > 4
    assert all(word in good for word in wanted)
    assert not any(word in bare + bad for word in wanted)


def test_no_worked_example_of_a_prompt_is_an_item() -> None:
    for name in examples.NAMES:
        good = GOOD[name].read_text()
        assert not [q for q, _ in example(name) if q.removeprefix("Rewrite this notice: ") in good]


def test_the_worked_examples_of_the_prompts_are_right() -> None:
    for line in GOOD["style"].read_text().splitlines():
        if " -> " in line:
            notice, _, rewritten = line.partition(" -> ")
            day, time, room = (style.DAYS, {"3:15": "15h15", "9:00": "21h00"}, {"210", "305"})
            facts = {
                "day": next(d for d in day if d in notice)[:2].upper(),
                "time": next(t for short, t in time.items() if short in notice),
                "room": f"R-{next(r for r in room if r in notice)}",
            }
            assert style.score(facts, rewritten) == (1.0, "")

    for line in GOOD["router"].read_text().splitlines():
        if line.startswith("Reply: "):
            reply = json.loads(line.removeprefix("Reply: "))
            assert router.DESKS[reply["topic"]] == reply["desk"]
    asked = ""
    for line in GOOD["policy"].read_text().splitlines():
        if line.startswith("Request: "):
            asked = line
        elif line.startswith("Reply: "):
            reply = json.loads(line.removeprefix("Reply: "))
            clause = policy.CLAUSES[reply["clause"] - 1]
            price = re.search(r"I paid (\d+) euros", asked)
            assert clause.case == reply["case"] and price is not None
            assert reply["euros"] == (int(price[1]) if clause.euros is None else clause.euros)
    for name, facts in (("desk", desk.FACTS), ("returns", returns.FACTS)):
        assert all(GOOD[name].read_text().count(fact.answer) == 2 for fact in facts)


def test_style_is_worth_the_share_of_its_rules() -> None:
    facts = {"day": "SU", "time": "19h30", "room": "R-121"}
    kept = "NOTICE // The bike shed will be closed on SU from 19h30. All crew must wait. Ask in R-121. -- Town Hall"
    assert style.score(facts, kept) == (1.0, "")
    assert style.score(facts, kept.replace("crew", "staff"))[0] == pytest.approx(5 / 6)
    assert style.score(facts, kept.replace("SU", "Sunday"))[0] == pytest.approx(5 / 6)
    assert style.score(facts, kept.replace("19h30", "7:30 pm"))[0] == pytest.approx(5 / 6)
    worth, said = style.score(facts, "The bike shed will be closed on Sunday from 7:30 pm.")
    assert worth == 0.0
    assert said.startswith("It must begin with 'NOTICE //'. The time must be written 19h30.")


def test_the_router_s_overruling_lines_stand_where_they_make_sense() -> None:
    codes: dict[str, set[str]] = {}
    for record in islice(router.rows(Random(0)), 3_000):
        for line in (*router.HURT, *router.THREAT):
            if re.search(line.replace("{tool}", "[a-z ]+"), record["question"]):
                codes.setdefault(line, set()).add(json.loads(record["answer"])["desk"])
    assert {line: {"S4-SAF" if line in router.HURT else "Z9-ESC"} for line in codes} == codes
    assert len(codes) == len(router.HURT) + len(router.THREAT)


def test_records_are_right_by_their_own_rule() -> None:
    for record in islice(examples.load("extract").rows(Random(3)), 200):
        assert RULES["json"](record["answer"], record["answer"]) == (1.0, "")
