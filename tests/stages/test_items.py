"""Every item of `test`, and how far student and prompted model are apart at each token of the student's reply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from observers import Silent, Watch

from gepa_loop.config.load import load_config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.low_rank import Twin
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.run.files import read_jsonl
from gepa_loop.run.marks import PART
from gepa_loop.scores.card import Replies
from gepa_loop.scores.records import ScoreRow
from gepa_loop.stages import items as stage
from gepa_loop.stages.items import FILE, Compared, pieces, worst_first, write_items
from gepa_loop.stages.score import replying
from gepa_loop.task.prompts import NO_PROMPT

PROMPT = "Answer with one number."


class Impatient(Watch):
    """Ends at the n-th `progress` of the stage."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience

    def progress(self, done: int, total: int, **facts: Any) -> None:
        super().progress(done, total, **facts)
        self.patience -= self.stages[-1] == "test: items"
        if not self.patience:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(load_config("smoke", ("task.splits.test=70",), env={}))


def _adapter(lab: Lab, seed: int, size: float = 0.4) -> Adapter:
    """One whose B is not zero."""
    model = with_lora(lab.base, lab.config.lora, seed, None)
    found = student_adapter(model)
    remove_lora(model)
    made = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(t.shape, generator=made) * size for name, t in found.tensors.items()}
    return replace(found, tensors={name: t + noise[name] for name, t in found.tensors.items()})


@pytest.fixture(scope="module")
def compared(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """A student of a second round."""
    folder = tmp_path_factory.mktemp("rows")
    below = _adapter(lab, 1)
    student = stack_adapters([below, _adapter(lab, 2)])
    prompted = replying(lab, "test", PROMPT, below, folder / "prompted.jsonl")(Silent())["greedy"]
    own = replying(lab, "test", NO_PROMPT, student, folder / "student.jsonl")(Silent())["greedy"]
    return Compared(PROMPT, below, student, prompted, own)


def test_each_token_has_the_divergence_of_the_whole_vocabulary(
    lab: Lab, compared: Compared, tmp_path: Path
) -> None:
    rows = write_items(lab, compared, tmp_path, Silent())
    assert read_jsonl(tmp_path / FILE) == rows and not (tmp_path / f"{FILE}{PART}").exists()
    by_id = {item.id: item for item in lab.task.splits["test"]}
    said = {row["item"]: row for row in compared.own.rows}
    assert {row["item"] for row in rows} == set(by_id)
    twin, checked = Twin(lab.base.model), 0
    for row in rows[:3] + rows[-3:]:
        item = by_id[row["item"]]
        assert row["student"] == compared.student.fingerprint and row["answer"] == item.answer
        assert [(turn["role"], turn["content"]) for turn in row["turns"]] == list(item.messages)
        assert "".join(row["pieces"]) == said[row["item"]]["completion"]
        assert len(row["pieces"]) == len(row["nats"]) == said[row["item"]]["tokens"]
        (completion,) = lab.rollouts.by(compared.student).completions(
            NO_PROMPT, [item], 1, stage.Sampling(0.0, lab.config.sampling.max_tokens), "evaluate"
        )
        sides = []
        for prompt, adapter in ((NO_PROMPT, compared.student), (PROMPT, compared.below)):
            question = lab.rollouts.renderer.tokens(prompt, item)
            twin.set_adapter(adapter)
            ids = torch.tensor([[*question, *completion.token_ids]])
            logits = twin.model(input_ids=ids, use_cache=False).logits[0, len(question) - 1 : -1]
            sides.append(logits.double().log_softmax(-1))
        by_hand = (sides[0].exp() * (sides[0] - sides[1])).sum(-1)
        assert row["nats"] == pytest.approx(by_hand.tolist(), abs=2e-3)
        checked += int(max(row["nats"]) > 0.5)
    assert checked, "the two are far enough apart for the numbers to mean something"
    assert not hasattr(lab.base.model, "peft_config")


def test_a_killed_process_goes_on_behind_its_last_row(lab: Lab, compared: Compared, tmp_path: Path) -> None:
    whole = write_items(lab, compared, tmp_path / "whole", Silent())
    with pytest.raises(KeyboardInterrupt):
        write_items(lab, compared, tmp_path / "cut", Impatient(2))
    part = read_jsonl(tmp_path / "cut" / f"{FILE}{PART}")
    assert part == whole[: stage.BATCH]
    # At the start, and after each of the two batches that were left.
    with pytest.raises(KeyboardInterrupt):
        write_items(lab, compared, tmp_path / "cut", Impatient(3))
    assert read_jsonl(tmp_path / "cut" / f"{FILE}{PART}") == whole
    assert write_items(lab, compared, tmp_path / "cut", Silent()) == whole
    again = Watch()
    assert write_items(lab, compared, tmp_path / "cut", again) == whole and not again.stages


def test_another_student_is_read_anew_and_none_needs_no_model(
    lab: Lab, compared: Compared, tmp_path: Path
) -> None:
    rows = write_items(lab, None, tmp_path, Silent())
    assert [row["item"] for row in rows] == [item.id for item in lab.task.splits["test"]]
    assert all(row["student"] is None and not row["pieces"] and not row["nats"] for row in rows)
    assert all(row["nats"] for row in write_items(lab, compared, tmp_path, Silent()))


def test_replies_that_were_sampled_otherwise_have_no_tokens(
    lab: Lab, compared: Compared, tmp_path: Path
) -> None:
    last = compared.own.rows[-1]
    changed: ScoreRow = {**last, "completion": f"{last['completion']}, and more"}
    other = replace(compared, own=Replies([*compared.own.rows[:-1], changed]))
    rows = write_items(lab, other, tmp_path, Silent())
    assert [row["item"] for row in rows if not row["nats"]] == [last["item"]]


def _row(item: str, score: float) -> ScoreRow:
    rest: dict[str, Any] = {"sample": 0, "raw": score, "extracted": None, "completion": "", "tokens": 1}
    return {"item": item, "score": score, **rest, "finish_reason": "stop", "feedback": "", "student": None}  # type: ignore[typeddict-item]


def test_who_lost_most_comes_first(lab: Lab) -> None:
    items = lab.task.splits["test"][:5]
    a, b, c, d, e = (item.id for item in items)
    prompted = {a: 0.0, b: 1.0, c: 1.0, d: 0.5, e: 0.0}
    student = {a: 1.0, b: 1.0, c: 0.0, d: 0.25, e: 0.0}
    theirs, mine = (Replies([_row(*pair) for pair in one.items()]) for one in (prompted, student))
    assert [item.id for item in worst_first(items, theirs, mine)] == [c, d, e, b, a]


def test_pieces_are_whole_characters(lab: Lab) -> None:
    renderer = lab.rollouts.renderer
    tokens = renderer.tokenizer("Größe 12 €!", add_special_tokens=False)["input_ids"]
    texts = pieces(renderer, [*tokens, renderer.tokenizer.eos_token_id])
    assert "".join(texts) == "Größe 12 €!" and len(texts) == len(tokens) + 1
    assert texts[-1] == "" and not any("\ufffd" in text for text in texts)
