"""What is read of a completion: not what a chat template's own thought holds."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from tokenizers import AddedToken

from gepa_loop.config.tables import TaskConfig
from gepa_loop.model.base import Base
from gepa_loop.run.seeds import derive_seed
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.plain import TorchSampler
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import load_task
from gepa_loop.task.prompts import Renderer


@pytest.mark.parametrize(
    ("opens", "opening", "scored"),
    [
        ("", "", 1.0),
        ("<think>\\n", "<think>", 0.0),
        ("<think>\\n\\n</think>\\n\\n", "", 1.0),
        ("<seed:think>", "<seed:think>", 0.0),
    ],
)
def test_no_answer_is_read_from_a_thought_that_the_template_opens(
    tiny: Base, opens: str, opening: str, scored: float
) -> None:
    task = load_task(
        TaskConfig(name="lcm", splits=dict.fromkeys(("train", "pareto", "select", "test"), 2)), 0
    )
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: " + opens + "{% endif %}"
    )
    rollouts = Rollouts(TorchSampler(tiny, 4), Renderer(tokenizer, tiny.context), task, 0)
    item = task.splits["test"][0]
    ids = tokenizer(f"It is {item.answer}", add_special_tokens=False)["input_ids"]
    [row] = rollouts.scored([item], [Completion(tuple(ids), (0.0,) * len(ids), "length")])
    assert (rollouts.opening, row.score, row.extracted is None) == (opening, scored, scored == 0)
    assert row.completion == f"It is {item.answer}"


@pytest.mark.parametrize("special", [True, False])
def test_marks_of_a_thought_are_read_where_they_are_special_tokens_too(tiny: Base, special: bool) -> None:
    """A decoder drops those of Gemma 4 and Magistral, and what is left of a thought would look like an answer."""
    sizes = dict.fromkeys(("train", "pareto", "select", "test"), 2)
    task = load_task(TaskConfig(name="lcm", splits=sizes), 0)
    tokenizer = copy.deepcopy(tiny.tokenizer)
    marks = [AddedToken(mark, special=special) for mark in ("<|channel>", "<channel|>")]
    tokenizer.add_tokens(marks, special_tokens=special)
    rollouts = Rollouts(TorchSampler(tiny, 4), Renderer(tokenizer, tiny.context), task, 0)
    item = task.splits["test"][0]
    for text, score in (
        (f"<|channel>thought\nIt is {item.answer}", 0.0),
        (f"<|channel>thought\nIt is 0.5<channel|>{item.answer}", 1.0),
    ):
        ids = tuple(tokenizer(f"{text}<|im_end|>", add_special_tokens=False)["input_ids"])
        [row] = rollouts.scored([item], [Completion(ids, (0.0,) * len(ids), "stop")])
        assert (row.completion, row.score) == (text, score)


def test_each_round_has_random_numbers_of_its_own(tiny: Base) -> None:
    sizes = dict.fromkeys(("train", "pareto", "select", "test"), 2)
    task = load_task(TaskConfig(name="lcm", splits=sizes), 0)
    first = Rollouts(TorchSampler(tiny, 4), Renderer(tiny.tokenizer, tiny.context), task, 5)
    second, third = replace(first, round=1), replace(first, round=2)
    # Commands without rounds train what a first round trains.
    assert first.derived("lora") == derive_seed(5, "lora")
    assert len({one.derived("lora") for one in (first, second, third)}) == 3
    drawn = [
        one.completions("", task.splits["train"], 2, Sampling(1.0, 8), "train/0")
        for one in (first, second, third)
    ]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    assert drawn[1] == replace(first, round=1).completions(
        "", task.splits["train"], 2, Sampling(1.0, 8), "train/0"
    )
