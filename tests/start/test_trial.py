"""A few items tried: what is suggested, by models that reply as they are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.sampling.base import Completion, Sampling, SelfMeasured
from gepa_loop.start.trial import try_items
from gepa_loop.task.prompts import Renderer

PROMPT = "Say the code."


class Scripted:
    """Answers with one text where the prompt stands, else with another, and cuts what is too long."""

    def __init__(self, renderer: Renderer, prompted: str, bare: str) -> None:
        self.renderer, self.texts = renderer, (prompted, bare)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        adapter: Adapter | None,
    ) -> list[Completion]:
        assert sampling.temperature == 0 and adapter is None and len(seeds) == len(prompts)
        found = []
        for prompt in prompts:
            text = self.texts[0 if PROMPT in self.renderer.tokenizer.decode(prompt) else 1]
            ids = (*self.renderer.tokenizer(text, add_special_tokens=False)["input_ids"], 2)
            cut = ids[: sampling.max_tokens]
            found.append(Completion(cut, (0.0,) * len(cut), "stop" if cut == ids else "length"))
        return found

    def sleep(self) -> SelfMeasured:
        return {}


def _lab(tmp_path: Path, prompted: str, bare: str, *sets: str, answers: bool = True) -> Lab:
    rows = [{"question": f"Q{n}", **({"answer": "GX4"} if answers else {})} for n in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [
        "task.kind=jsonl",
        "task.name=a.jsonl",
        "task.extract=whole",
        "task.splits={train=12,pareto=4,select=4,test=4}",
        "sampling.max_tokens=8",
        *sets,
    ]
    lab = open_lab(load_config("smoke", own, env={}, cwd=tmp_path))
    return replace(
        lab, rollouts=replace(lab.rollouts, sampler=Scripted(lab.rollouts.renderer, prompted, bare))
    )


def test_a_prompt_that_works_needs_no_advice(tmp_path: Path) -> None:
    trial = try_items(_lab(tmp_path, "GX4", "Hi"), PROMPT, 10)
    assert [one.item.id for one in trial.tried] and len(trial.tried) == 10
    assert (trial.bare, trial.prompted) == (0, 1)
    assert [(one.bare.completion, one.prompted.completion) for one in trial.tried] == [("Hi", "GX4")] * 10
    # All answers are the same here, too.
    assert trial.suggestions == ("all 10 replies with the prompt are the same",)


def test_replies_that_are_cut_are_given_room(tmp_path: Path) -> None:
    long = "abcdefghijklmnop"
    lab = _lab(tmp_path, f"{long} GX4", "Hi", "task.scorer=includes")
    count = len(lab.rollouts.renderer.tokenizer(f"{long} GX4", add_special_tokens=False)["input_ids"]) + 1
    assert 8 < count < 64
    told = try_items(lab, PROMPT, 4).suggestions[0]
    assert told.startswith(
        "4 of 4 replies with the prompt are cut at sampling.max_tokens = 8; they end within"
    )
    wanted = int(told.rpartition("=")[2])
    assert try_items(lab, PROMPT, 4).sets == (f"sampling.max_tokens={wanted}",)
    assert f"within {count} tokens" in told and count <= wanted < 2 * count and wanted % 8 == 0


def test_room_that_would_not_help_is_not_proposed(tmp_path: Path) -> None:
    told = try_items(_lab(tmp_path, "abcdefghijklmnop", "Hi", "task.scorer=includes"), PROMPT, 4).suggestions
    assert "would be worth no more if they ended" in told[0] and "--set sampling" not in "".join(told)


@pytest.mark.parametrize(
    ("reply", "sets", "wanted"),
    [
        ("So:\nGX4", [], "--set task.extract=last_line"),
        ("It: GX4.", [], "--set task.scorer=choice"),
        ("<answer>GX4</answer>", ["sampling.max_tokens=32"], "--set task.extract=tags"),
        ("GX4", ["task.extract=tags"], "--set task.extract=whole"),
    ],
)
def test_the_same_replies_read_otherwise(tmp_path: Path, reply: str, sets: list[str], wanted: str) -> None:
    lab = _lab(tmp_path, reply, "Hi", *sets, *([] if sets else ["sampling.max_tokens=16"]))
    told = try_items(lab, PROMPT, 5).suggestions
    assert any("mean of 1.00 instead of 0.00" in one and one.endswith(wanted) for one in told), told


@pytest.mark.parametrize("kind", ["verifiers", "python"])
def test_who_brings_a_scorer_is_not_told_of_others(tmp_path: Path, kind: str) -> None:
    lab = _lab(tmp_path, "It: GX4.", "Hi", "sampling.max_tokens=16")
    assert "--set task.scorer=choice" in "".join(try_items(lab, PROMPT, 5).suggestions)
    task = lab.config.task.model_copy(update={"kind": kind})
    other = replace(lab, config=lab.config.model_copy(update={"task": task}))
    assert "--set task" not in "".join(try_items(other, PROMPT, 5).suggestions)


def test_what_is_suggested_can_be_set_as_it_is(tmp_path: Path) -> None:
    trial = try_items(
        _lab(tmp_path, "It: GX4.", "Hi", "sampling.max_tokens=32", "task.extract=boxed"), PROMPT, 5
    )
    assert trial.sets == ("task.extract=whole", "task.scorer=choice")
    assert any(one.endswith("--set task.extract=whole --set task.scorer=choice") for one in trial.suggestions)
    assert try_items(_lab(tmp_path, "GX4", "Hi"), PROMPT, 5).sets == ()
    # A person names the model.
    assert try_items(_lab(tmp_path, "No", "GX4"), PROMPT, 5).sets == ("model.name=NAME",)


def test_numbers_are_not_looked_for_in_a_reply_that_repeats_the_question(tmp_path: Path) -> None:
    """9 + 4 = ? 17 holds the right 4, and nobody meant it."""
    lab = _lab(tmp_path, "9 + 4 = ? 17", "Hi", "sampling.max_tokens=32")
    for answer, wanted in (("4", ("model.name=NAME",)), ("4th", ("task.scorer=includes",))):
        splits = {
            name: tuple(replace(item, answer=answer if n % 2 else "9") for n, item in enumerate(items))
            for name, items in lab.task.splits.items()
        }
        reply = f"9 + {answer} = ? 17"
        own = replace(
            lab, rollouts=replace(lab.rollouts, sampler=Scripted(lab.rollouts.renderer, reply, "Hi"))
        )
        assert try_items(own.with_task(replace(lab.task, splits=splits)), PROMPT, 10).sets == wanted


def test_a_prompt_that_changes_nothing(tmp_path: Path) -> None:
    told = try_items(_lab(tmp_path, "No", "GX4"), PROMPT, 5).suggestions
    assert any(
        "the prompt scores 0.00, and no prompt 1.00: there is nothing to distil" in one for one in told
    )
    told = try_items(_lab(tmp_path, "No", "Hi", "task.extract=tags"), PROMPT, 5).suggestions
    assert any("nothing can be read from 5 of the replies with task.extract = tags" in one for one in told)


def test_a_prompt_that_is_hardly_followed(tmp_path: Path) -> None:
    """Three of four answers are another one, which a model that always says it would have right more often."""
    lab = _lab(tmp_path, "GX4", "No.")
    splits = {
        name: tuple(replace(item, answer="GX4" if n % 4 == 0 else "B7") for n, item in enumerate(items))
        for name, items in lab.task.splits.items()
    }
    lab = lab.with_task(replace(lab.task, splits=splits, commonest=("B7", 0.75)))
    sentence = try_items(lab, PROMPT, 12).suggestions[0]
    assert sentence.startswith(
        "with the prompt these 12 items score 0.25, and always answering 'B7' would score 0.75 of all"
    )
    assert "--set model.name=NAME" in sentence


def test_without_answers_replies_are_shown_alone(tmp_path: Path) -> None:
    trial = try_items(_lab(tmp_path, "GX4", "Hi", answers=False), PROMPT, 2)
    assert not trial.scored and trial.suggestions == ()
    assert [one.prompted.completion for one in trial.tried] == ["GX4", "GX4"]
