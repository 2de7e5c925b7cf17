"""What a student keeps of its prompt: the end of `distill`, on `test`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gepa_loop.config.recipe import reads_prompt
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.directory import Run
from gepa_loop.run.files import write_json
from gepa_loop.scores.card import Replies, Way, decides
from gepa_loop.scores.ledger import begin_look
from gepa_loop.scores.statistics import ItemScores, difference, internalisation
from gepa_loop.stages.items import Compared, write_items
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.records import ChangesRecord, ExampleRecord, RetainedRecord, RetentionRecord
from gepa_loop.stages.score import note_look, replying
from gepa_loop.task.prompts import NO_PROMPT, Candidate

SUBJECTS = ("base", "prompted", "student", "student_prompted")
SHOWN = 3
"""Items whose replies are shown side by side."""


def measure(
    lab: Lab, candidate: Candidate, student: Adapter, run: Run, observer: Observer
) -> RetentionRecord:
    """Score the bare model, the prompted one, the student, and the student with the prompt, greedily and sampled.

    Rows go to test/<subject>.jsonl, the items to items.jsonl, and what comes of them to result.json.

    Args:
        lab: Of the run.
        candidate: The prompt that was distilled.
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
    asked = {}
    for name in SUBJECTS:
        text = candidate.text if name.endswith("prompted") else NO_PROMPT
        path = run.path / "test" / f"{name}.jsonl"
        note_look(ledger, name, path, observer)
        asked[name] = replying(lab, "test", text, student if name.startswith("student") else None, path)
    found: dict[str, dict[Way, Replies]] = {}
    for name, read in asked.items():
        observer.stage(f"test: {name.replace('_', ' ')}")
        found[name] = read(observer)

    def one(way: Way) -> RetainedRecord:
        base, prompted, mine = (found[name][way] for name in SUBJECTS[:3])
        ratio = None
        if reads_prompt(lab.config.distill, lab.config.objective):
            ratio = internalisation(mine.scores, base.scores, prompted.scores, seed)
        return {
            "base": found["base"][way].card(seed),
            "prompted": found["prompted"][way].card(seed),
            "student": found["student"][way].card(seed),
            "student_prompted": found["student_prompted"][way].card(seed),
            "prompted_minus_base": difference(prompted.scores, base.scores, seed).as_dict(),
            "student_minus_base": difference(mine.scores, base.scores, seed).as_dict(),
            "student_minus_prompted": difference(mine.scores, prompted.scores, seed).as_dict(),
            "internalisation": None if ratio is None else ratio.as_dict(),
            **changes(base.scores, prompted.scores, mine.scores),
        }

    first = lab.task.splits["test"][0]
    result: RetentionRecord = {
        "decides": decides(lab.config.evaluate),
        "answers": lab.task.answers,
        "train": {"items": len(lab.task.splits["train"]), "written": lab.task.written},
        "greedy": one("greedy"),
        "sampled": one("sampled"),
        "tokens": {"prompt": count(candidate.text, first), "bare": count(NO_PROMPT, first)},
        "examples": _examples(lab, {name: found[name]["greedy"] for name in SUBJECTS[:3]}),
    }
    prompted, own = found["prompted"]["greedy"], found["student"]["greedy"]
    write_items(lab, Compared(candidate.text, None, student, prompted, own), run.path, observer)
    write_json(run.path / "result.json", result)
    return result


def changes(base: ItemScores, prompted: ItemScores, student: ItemScores) -> ChangesRecord:
    """What became of single items, each as far as its score went."""
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


def _examples(lab: Lab, found: Mapping[str, Replies]) -> list[ExampleRecord]:
    """The first items whose prompted reply differs from the bare one, with all replies; any where there are none."""
    base, prompted, student = (found[name].rows for name in SUBJECTS[:3])
    questions = {item.id: item.messages[-1][1] for item in lab.task.splits["test"]}
    places = range(len(base))
    differ = [n for n in places if base[n]["completion"] != prompted[n]["completion"]]
    return [
        {
            "item": base[n]["item"],
            "question": questions[base[n]["item"]],
            "base": base[n]["completion"],
            "prompted": prompted[n]["completion"],
            "student": student[n]["completion"],
        }
        for n in (differ or places)[:SHOWN]
    ]
