"""What a student keeps of its prompt: the end of `distill`, on `test`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gepa_loop.config.recipe import reads_prompt
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.directory import Run
from gepa_loop.run.files import write_json
from gepa_loop.scores.card import WAYS, Replies, Way, decides
from gepa_loop.scores.ledger import begin_look
from gepa_loop.scores.statistics import ItemScores, difference, internalisation
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.score import note_look, replies
from gepa_loop.task.prompts import NO_PROMPT, Candidate

SUBJECTS = ("base", "prompted", "student", "student_prompted")
SHOWN = 3
"""Items whose replies are shown side by side."""


def measure(lab: Lab, teacher: Candidate, student: Adapter, run: Run, observer: Observer) -> dict[str, Any]:
    """Score the bare model, the prompted one, the student, and the student with the prompt, greedily and sampled.

    Rows go to test/<subject>.jsonl, and what comes of them to result.json.

    Args:
        lab: Of the run.
        teacher: The prompt that was distilled.
        student: Its student.
        run: Its directory.
        observer: Sees each subject's progress.

    Returns:
        The content of result.json.
    """
    seed, count = lab.config.seed, lab.rollouts.renderer.system_tokens
    # The prompted model's replies are no part of what was looked at.
    given = lab.task.answers == "given"
    looked = [item if given else replace(item, answer="") for item in lab.task.splits["test"]]
    ledger = begin_look(run, looked, "distill")
    found: dict[str, dict[Way, Replies]] = {}
    for name in SUBJECTS:
        observer.stage(f"test: {name.replace('_', ' ')}")
        text = teacher.text if name.endswith("prompted") else NO_PROMPT
        path = run.path / "test" / f"{name}.jsonl"
        note_look(ledger, name, path, observer)
        found[name] = replies(
            lab, "test", text, student if name.startswith("student") else None, path, observer
        )

    def one(way: Way) -> dict[str, Any]:
        base, prompted, mine = (found[name][way] for name in SUBJECTS[:3])
        ratio = None
        if reads_prompt(lab.config.distill, lab.config.objective):
            ratio = internalisation(mine.scores, base.scores, prompted.scores, seed)
        return {
            **{name: found[name][way].card(seed) for name in SUBJECTS},
            "prompted_minus_base": difference(prompted.scores, base.scores, seed).as_dict(),
            "student_minus_base": difference(mine.scores, base.scores, seed).as_dict(),
            "student_minus_prompted": difference(mine.scores, prompted.scores, seed).as_dict(),
            "internalisation": None if ratio is None else ratio.as_dict(),
            **changes(base.scores, prompted.scores, mine.scores),
        }

    first = lab.task.splits["test"][0]
    result = {
        "decides": decides(lab.config.evaluate),
        "answers": lab.task.answers,
        "train": {"items": len(lab.task.splits["train"]), "written": lab.task.written},
        **{str(way): one(way) for way in WAYS},
        "tokens": {"prompt": count(teacher.text, first), "bare": count(NO_PROMPT, first)},
        "examples": _examples(lab, {name: found[name]["greedy"] for name in SUBJECTS[:3]}),
    }
    write_json(run.path / "result.json", result)
    return result


def changes(base: ItemScores, prompted: ItemScores, student: ItemScores) -> dict[str, float | None]:
    """What became of single items, each as far as its score went.

    Returns:
        kept: Of what the prompt gains on items, the share that the student gains on the same ones; None where it gains none.
        beyond: What the student has above both the prompted and the bare model, the mean over items.
        broke: What the bare model has and the student lacks, the mean over items.
    """
    gained = {item: max(0.0, prompted[item] - base[item]) for item in base}
    kept = sum(min(gain, max(0.0, student[item] - base[item])) for item, gain in gained.items())
    beyond = sum(max(0.0, student[item] - max(prompted[item], base[item])) for item in base)
    broke = sum(max(0.0, base[item] - student[item]) for item in base)
    total = sum(gained.values())
    return {
        "kept": kept / total if total else None,
        "beyond": beyond / len(base),
        "broke": broke / len(base),
    }


def _examples(lab: Lab, found: Mapping[str, Replies]) -> list[dict[str, Any]]:
    """The first items whose prompted reply differs from the bare one, with all replies; any where there are none."""
    rows: dict[str, Sequence[Mapping[str, Any]]] = {name: own.rows for name, own in found.items()}
    questions = {item.id: item.messages[-1][1] for item in lab.task.splits["test"]}
    places = range(len(rows["base"]))
    differ = [n for n in places if rows["base"][n]["completion"] != rows["prompted"][n]["completion"]]
    return [
        {
            "item": rows["base"][n]["item"],
            "question": questions[rows["base"][n]["item"]],
            **{name: own[n]["completion"] for name, own in rows.items()},
        }
        for n in (differ or places)[:SHOWN]
    ]
