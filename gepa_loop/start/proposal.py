"""The configuration that fits a user's data, prompt and machine, with a reason for each value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gepa_loop.errors import ConfigError
from gepa_loop.start.groups import choose_group
from gepa_loop.start.guess import Ask, Meaning, Scoring, guess_fields, guess_scoring, propose
from gepa_loop.start.lengths import horizon, token_counts, told_lengths
from gepa_loop.start.machine import Machine
from gepa_loop.start.sizes import FEWEST, WHOLE, default_sizes, marked_sizes, told_sizes
from gepa_loop.start.survey import Survey, field_of
from gepa_loop.task.fields import mapped
from gepa_loop.task.records import Item, alike, item_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Proposal:
    """A configuration to be written, and what was found on the way."""

    values: Mapping[str, Any]
    notes: Mapping[str, str]
    said: tuple[tuple[str, str], ...]
    """(what about, sentence) for a person, in order."""
    doubts: tuple[str, ...]
    """Those that loading the task does not say."""


def propose_config(
    found: Survey,
    prompt: tuple[str, str] | None,
    model: tuple[str, str],
    tokenizer: PreTrainedTokenizerBase | None,
    machine: Machine,
    ask: Ask = propose,
) -> Proposal:
    """What fits.

    Args:
        found: The data.
        prompt: Path and normal text of the user's prompt; None where there is none yet.
        model: Its name, and why this one.
        tokenizer: Of the model; None where it is not in reach, and lengths are estimated.
        machine: What it is to run on.
        ask: Who decides what fields mean.

    Raises:
        ConfigError: There are too few distinct questions, or none at all; or a field cannot be what was said.
        TaskError: The records cannot be read with these fields.
    """
    text = None if prompt is None else prompt[1]
    meaning = guess_fields(found, text, ask)
    items = _items(found, meaning)
    answers = field_of("answer", [item.answer for item in items]) if meaning.answered else None
    scoring = guess_scoring(items, answers, text)
    if scoring.after:
        meaning = replace(meaning, fields=meaning.fields.model_copy(update={"after": scoring.after}))
        items = _items(found, meaning)
    # Those that differ in case and white space alone stay in one split, of which the last may be cut.
    distinct = len({alike(item.messages) for item in items})
    if distinct < FEWEST:
        raise ConfigError(
            f"--data {found.name}: {distinct} distinct questions in {len(items)} records",
            f"At least {FEWEST} are needed, and about 100 to see anything: each split has questions of its own. "
            "`distill --questions N` writes more for training.",
        )
    group, ungrouped = choose_group(found, meaning, items, ask)
    if meaning.by_hand:
        sizes = marked_sizes(items, meaning.fields.split)
    else:
        sizes = default_sizes(distinct) if group is None else dict(WHOLE)
    tokens, why_tokens = horizon(items, scoring, text, tokenizer)
    pooled = _pooled(found)
    notes = {
        **meaning.notes,
        **_split_note(pooled, group, meaning.by_hand),
        "model.name": _sentence(model[1]),
        "task.scorer": scoring.why,
        "sampling.max_tokens": why_tokens,
    }
    values: dict[str, Any] = {
        "model": {"name": model[0]},
        "task": _task_values(found, meaning, scoring, group, sizes),
        "sampling": {"max_tokens": tokens},
    }
    if prompt is not None:
        values["optimize"] = {"seed_prompt_file": prompt[0]}
    if machine.gpu_gib is None:
        values["sampling"] |= CPU["sampling"]
        values |= {table: {**CPU[table]} for table in ("distill", "evaluate", "loop")}
        notes |= CPU_NOTES
    told = [
        ("question", _told_question(items, meaning, tokenizer)),
        ("answer", _told_answer(items, scoring, meaning)),
        (
            "score",
            f"task.scorer = {scoring.scorer or 'none'}, task.extract = {scoring.extract}. {scoring.why}",
        ),
        ("splits", " ".join(filter(None, [told_sizes(sizes, distinct, group, meaning.answered), pooled]))),
    ]
    if ungrouped is not None:
        told.append(("group", ungrouped))
    if prompt is not None:
        told.append(("prompt", _told_prompt(prompt, tokenizer)))
    told.append(("model", f"{model[0]}: {model[1]}"))
    doubts = [*_label_doubts(scoring, text)]
    if prompt is None:
        doubts.append("there is no --prompt: write one and name it in optimize.seed_prompt_file")
    return Proposal(values, notes, tuple(told), tuple(doubts))


def _items(found: Survey, meaning: Meaning) -> list[Item]:
    return [item_of(id, record, where) for id, where, record in mapped(found.records, meaning.fields)[0]]


def _task_values(
    found: Survey, meaning: Meaning, scoring: Scoring, group: str | None, sizes: Mapping[str, float]
) -> dict[str, Any]:
    task: dict[str, Any] = {"kind": found.kind, "name": found.name, "extract": scoring.extract}
    if scoring.scorer is not None:
        task["scorer"] = scoring.scorer
    if group is not None:
        task["group"] = group
    if fields := meaning.fields.model_dump(exclude_defaults=True):
        task["fields"] = fields
    return {**task, "splits": dict(sizes)}


def _pooled(found: Survey) -> str | None:
    """What becomes of a dataset's own splits, where it has several."""
    own = list(dict.fromkeys(id.split(":")[1] for id, _, _ in found.records)) if found.kind == "hf" else []
    if len(own) < 2:
        return None
    return (
        f"The dataset's own splits ({', '.join(own)}) are put together and dealt out anew; "
        f"--set task.options.split={own[0]} takes one of them alone."
    )


def _split_note(pooled: str | None, group: str | None, by_hand: bool) -> dict[str, str]:
    shares = (
        "Shares of the questions, since groups stay whole." if group is not None and not by_hand else None
    )
    text = " ".join(filter(None, [shares, pooled]))
    return {"task.splits": text} if text else {}


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


CPU: Mapping[str, Mapping[str, Any]] = {
    "sampling": {"temperature": 0.3, "batch": 128},
    "distill": {
        "steps": 120,
        "rollouts": 16,
        "group": 2,
        "teacher_samples": 2,
        "lr": 1e-3,
        "check_every": 40,
        "patience": 0,
    },
    "evaluate": {"temperature": 0.0},
    "loop": {"front": 4},
}
"""What the preset `desk` has for a small model on a CPU (benchmarks/NOTES.md, "Small students")."""

CPU_NOTES = {
    "distill": "For two CPU cores and a small model, as the preset `desk` has it. On a GPU leave this table out: the defaults were measured there.",
    "evaluate": "Greedy replies decide: a quarter of the time, and a small model is served so.",
}


def _told_question(items: Sequence[Item], meaning: Meaning, tokenizer: PreTrainedTokenizerBase | None) -> str:
    distinct = len({item.messages for item in items})
    repeated = (
        f", {len(items) - distinct:,} of {len(items):,} records repeat one" if distinct < len(items) else ""
    )
    chats = ", chats with earlier turns" if any(len(item.messages) > 1 for item in items) else ""
    return f"{meaning.fields.question!r}: {distinct:,} distinct{repeated}; {told_lengths(items, tokenizer)}{chats}"


def _told_answer(items: Sequence[Item], scoring: Scoring, meaning: Meaning) -> str:
    if not meaning.answered:
        return "none: `optimize` and `loop` need answers, or a judge; `distill` does without"
    counts = Counter(item.answer for item in items if item.answer)
    answer, count = counts.most_common(1)[0]
    shown = answer if len(answer) <= 40 else f"{answer[:40]}..."
    what = f"{len(scoring.labels)} labels" if scoring.labels else f"{len(counts):,} different"
    where = repr(meaning.fields.answer) if meaning.named else "the assistant's last turn"
    return f"{where}: {what}; the commonest is {shown!r}, {count / counts.total():.0%} of them"


def _told_prompt(prompt: tuple[str, str], tokenizer: PreTrainedTokenizerBase | None) -> str:
    about = "" if tokenizer is not None else "about "
    first = prompt[1].partition("\n")[0]
    return f"{prompt[0]}: {about}{token_counts([prompt[1]], tokenizer)[0]:,} tokens, {first[:60]!r}"


def _label_doubts(scoring: Scoring, prompt: str | None) -> list[str]:
    """Labels that the prompt does not name, which no model can guess."""
    if not scoring.labels or prompt is None:
        return []
    text = prompt.casefold()
    missing = [label for label in scoring.labels if label.casefold() not in text]
    if not missing:
        return []
    shown = ", ".join(repr(label) for label in missing[:5]) + (" and others" if len(missing) > 5 else "")
    return [f"{len(missing)} of {len(scoring.labels)} labels do not stand in the prompt: {shown}"]
