"""Completions of several prompts in one call: those of each alone."""

from dataclasses import replace

from gepa_loop.config.tables import TaskConfig
from gepa_loop.model.base import Base
from gepa_loop.sampling.base import Sampling
from gepa_loop.sampling.batches import SLACK, worth_joining
from gepa_loop.sampling.plain import TorchSampler
from gepa_loop.scores.joint import Pair, joint_begin, joint_parts
from gepa_loop.scores.rollouts import Rollouts, Row
from gepa_loop.task.items import load_task
from gepa_loop.task.prompts import Renderer

PROMPTS = ("", "Answer.", "Say the answer in one word.")


def made(tiny: Base) -> Rollouts:
    task = load_task(
        TaskConfig(name="lcm", splits=dict.fromkeys(("train", "pareto", "select", "test"), 6)), 0
    )
    return Rollouts(TorchSampler(tiny, 64), Renderer(tiny.tokenizer, tiny.context), task, 3, on_cpu=True)


def answered(rollouts: Rollouts, pairs: list[Pair], samples: int, sampling: Sampling) -> list[Row]:
    asked = joint_begin(rollouts, pairs, samples, sampling, "x")
    return rollouts.scored([item for _, item in pairs], asked())


def test_each_prompt_gets_the_completions_that_it_gets_alone(tiny: Base) -> None:
    rollouts, sampling = made(tiny), Sampling(1.0, 8)
    items = rollouts.task.splits["train"]
    pairs = [(prompt, item) for prompt in PROMPTS for item in items]
    rows = answered(rollouts, pairs, 2, sampling)
    alone = [row for prompt in PROMPTS for row in rollouts.rows(prompt, items, 2, sampling, "x")]
    assert rows == alone
    assert len({row.completion for row in rows}) > len(rows) // 2
    # In any order: what is drawn belongs to the item, and all prompts share it.
    assert answered(rollouts, pairs[::-1], 2, sampling)[:2] == alone[-2:]


def test_an_item_that_comes_twice_with_one_prompt_gets_other_samples(tiny: Base) -> None:
    rollouts, sampling = made(tiny), Sampling(1.0, 8)
    item = rollouts.task.splits["train"][0]
    twice = answered(rollouts, [("A", item), ("B", item), ("A", item)], 1, sampling)
    first = rollouts.rows("A", [item], 2, sampling, "x")
    assert [twice[0].completion, twice[2].completion] == [row.completion for row in first]
    assert twice[0].completion != twice[2].completion
    assert twice[1].completion == rollouts.rows("B", [item], 1, sampling, "x")[0].completion


def test_calls_hold_so_many_pairs_in_order(tiny: Base) -> None:
    rollouts = made(tiny)
    train, pareto = rollouts.task.splits["train"], rollouts.task.splits["pareto"]
    wanted = {"A": train, "B": pareto[:3]}
    pairs = [*(("A", item) for item in train), *(("B", item) for item in pareto[:3])]
    for on_cpu in (True, False):
        parts = joint_parts(replace(rollouts, on_cpu=on_cpu), wanted, 4, 8)
        assert [len(part) for part in parts] == [4, 4, 1] and [p for part in parts for p in part] == pairs
    assert joint_parts(rollouts, {}, 4, 8) == []
    alone = joint_parts(rollouts, {"A": train}, 4, 8)
    assert [[item for _, item in part] for part in alone] == [
        list(part) for part in rollouts.parts("A", train, 4, 8)
    ]


def test_long_prompts_are_kept_apart_on_a_cpu_alone(tiny: Base) -> None:
    rollouts = replace(made(tiny), renderer=Renderer(tiny.tokenizer, 9999))
    items = rollouts.task.splits["train"]
    wanted = {"word " * 200: items, "other " * 200: items}
    assert [len(part) for part in joint_parts(rollouts, wanted, 64, 8)] == [6, 6]
    assert [len(part) for part in joint_parts(replace(rollouts, on_cpu=False), wanted, 64, 8)] == [12]


def test_rows_are_joined_while_reading_more_costs_less_than_another_call() -> None:
    # Two prompts of n tokens and two rows each: apart n + 2 a prompt, together 4 n + 4.
    def groups(n: int) -> list[list[list[int]]]:
        return [[[prompt] * n + [row] for row in (8, 9)] for prompt in (1, 2)]

    assert worth_joining(groups(SLACK // 2)) and not worth_joining(groups(SLACK // 2 + 1))
    # What both begin with is read once then, and twice apart.
    assert worth_joining([[[5] * 9 + row for row in group] for group in groups(SLACK // 2 + 4)])
    assert not worth_joining([[[5] * 9 + row for row in group] for group in groups(SLACK // 2 + 5)])
