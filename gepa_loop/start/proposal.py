"""The configuration that fits a user's data, prompt and machine, with a reason for each value."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gepa_loop.config.data import FieldsConfig, SplitSizes
from gepa_loop.errors import ConfigError
from gepa_loop.scores.decision import POWER
from gepa_loop.scores.statistics import least_detectable
from gepa_loop.start.guess import Ask, Meaning, Scoring, guess_fields, guess_scoring, propose
from gepa_loop.start.machine import Machine
from gepa_loop.start.survey import Survey, field_of
from gepa_loop.task.fields import mapped
from gepa_loop.task.marked import strays
from gepa_loop.task.records import Item, alike, item_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEWEST = 12
"""Distinct questions from which on there can be splits at all."""

SHARES = {"test": 0.3, "select": 0.2, "pareto": 0.15, "train": 0.35}
"""Of data too few for the sizes that splits have by default."""

RACE = 1_500
"""Distinct questions from which on `race` can have items of its own."""

CHANGED = 0.25
"""Share of items whose score is taken to change, for the smallest gain that items can show."""

THINKS = re.compile(r"step by step|think|reason|explain|work (it )?out|show your", re.IGNORECASE)
"""How prompts ask for more than an answer."""

LONGEST_REASONING = 256


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
        ConfigError: There are too few distinct questions, or none at all.
        TaskError: The records cannot be read with these fields.
    """
    text = None if prompt is None else prompt[1]
    meaning = guess_fields(found, text, ask)
    kept, _ = mapped(found.records, meaning.fields)
    items = [item_of(id, record, where) for id, where, record in kept]
    answers = field_of("answer", [item.answer for item in items]) if meaning.answered else None
    scoring = guess_scoring(items, answers, text)
    fields = meaning.fields.model_copy(update={"after": scoring.after}) if scoring.after else meaning.fields
    if scoring.after:
        items = [item_of(id, record, where) for id, where, record in mapped(found.records, fields)[0]]
    # Those that differ in case and white space alone stay in one split, of which the last may be cut.
    distinct = len({alike(item.messages) for item in items})
    if distinct < FEWEST:
        raise ConfigError(
            f"--data {found.name}: {distinct} distinct questions in {len(items)} records",
            f"At least {FEWEST} are needed, and about 100 to see anything: each split has questions of its own. "
            "`distill --questions N` writes more for training.",
        )
    sizes = _sizes(distinct, meaning, found, items)
    horizon, why_horizon = _horizon(items, scoring, text, tokenizer)
    values, notes = _values(found, meaning, fields, scoring, sizes, horizon, model, prompt, machine)
    notes["sampling.max_tokens"] = why_horizon
    told = [
        ("question", _told_question(items, fields, tokenizer)),
        ("answer", _told_answer(items, fields, scoring, meaning)),
        (
            "score",
            f"task.scorer = {scoring.scorer or 'none'}, task.extract = {scoring.extract}. {scoring.why}",
        ),
        ("splits", _told_splits(sizes, distinct, meaning.group)),
    ]
    if prompt is not None:
        told.append(("prompt", _told_prompt(prompt, tokenizer)))
    told.append(("model", f"{model[0]}: {model[1]}"))
    doubts = _label_doubts(scoring, text)
    if prompt is None:
        doubts.append("there is no --prompt: write one and name it in optimize.seed_prompt_file")
    return Proposal(values, notes, tuple(told), tuple(doubts))


def _values(
    found: Survey,
    meaning: Meaning,
    fields: FieldsConfig,
    scoring: Scoring,
    sizes: Mapping[str, float],
    horizon: int,
    model: tuple[str, str],
    prompt: tuple[str, str] | None,
    machine: Machine,
) -> tuple[dict[str, Any], dict[str, str]]:
    task: dict[str, Any] = {"kind": found.kind, "name": found.name, "extract": scoring.extract}
    notes = {**meaning.notes, "model.name": _sentence(model[1]), "task.scorer": scoring.why}
    if scoring.scorer is not None:
        task["scorer"] = scoring.scorer
    if meaning.group is not None:
        task["group"] = meaning.group
        notes["task.splits"] = "Shares of the questions, since groups stay whole."
    task["fields"] = fields.model_dump(exclude_defaults=True)
    task["splits"] = dict(sizes)
    values: dict[str, Any] = {
        "model": {"name": model[0]},
        "task": task,
        "sampling": {"max_tokens": horizon},
    }
    if prompt is not None:
        values["optimize"] = {"seed_prompt_file": prompt[0]}
    if machine.gpu_gib is None:
        values["sampling"] |= CPU["sampling"]
        values["distill"] = {**CPU["distill"]}
        values["evaluate"] = {**CPU["evaluate"]}
        values["loop"] = {**CPU["loop"]}
        notes["distill"] = (
            "For two CPU cores and a small model, as the preset `desk` has it. On a GPU leave this table out: the defaults were measured there."
        )
        notes["evaluate"] = "Greedy replies decide: a quarter of the time, and a small model is served so."
    if not task["fields"]:
        del task["fields"]
    return values, notes


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


def _sizes(distinct: int, meaning: Meaning, found: Survey, items: Sequence[Item]) -> dict[str, float]:
    """Sizes of the splits: the default's where there are enough, else shares of what there is."""
    by_hand = found.field(meaning.fields.split)
    if by_hand is not None:
        named = {item.id: str(item.entry[meaning.fields.split]) for item in items}
        away = {item.id for item, _ in strays(items, named)}
        first = {item.messages: item for item in items if item.id not in away}
        marks = Counter(named[item.id] for item in first.values())
        return {
            split: marks[split] for split in ("train", "pareto", "race", "select", "test") if marks[split]
        }
    if meaning.group is not None:
        # A split's last group is cut, so a little stays over.
        return {split: round(0.95 * share, 2) for split, share in SHARES.items()}
    default = SplitSizes()
    wanted = {
        "train": default.train,
        "pareto": default.pareto,
        "select": default.select,
        "test": default.test,
    }
    if distinct < sum(wanted.values()):
        return {split: max(1, math.floor(share * distinct)) for split, share in SHARES.items()}
    sizes: dict[str, float] = {**wanted}
    if distinct >= RACE:
        sizes["race"] = 64
    # More to learn from costs nothing: a step draws from it what it needs.
    sizes["train"] = min(2_000, distinct - int(sum(sizes.values())) + wanted["train"])
    return sizes


def _horizon(
    items: Sequence[Item], scoring: Scoring, prompt: str | None, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[int, str]:
    """Tokens of the longest reply, and why so many."""
    longest = max((_tokens(item.answer, tokenizer) for item in items), default=0)
    room = 8 * math.ceil((1.25 * longest + 12) / 8)
    if (prompt is not None and THINKS.search(prompt)) or scoring.extract in ("tags", "boxed") or not longest:
        return max(
            room, LONGEST_REASONING
        ), "Room to reason before the answer; `gepa-loop check` says which replies are cut."
    return room, f"The longest answer has {longest} tokens; `gepa-loop check` says which replies are cut."


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase | None) -> int:
    if tokenizer is None:
        return math.ceil(len(text.encode()) / 3)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _told_question(
    items: Sequence[Item], fields: FieldsConfig, tokenizer: PreTrainedTokenizerBase | None
) -> str:
    lengths = sorted(sum(_tokens(text, tokenizer) for _, text in item.messages) for item in items)
    distinct = len({item.messages for item in items})
    about = "" if tokenizer is not None else "about "
    spread = f"{about}{lengths[0]:,} to {lengths[-1]:,} tokens, {lengths[len(lengths) // 2]:,} in the middle"
    repeated = (
        f", {len(items) - distinct:,} of {len(items):,} records repeat one" if distinct < len(items) else ""
    )
    chats = ", chats with earlier turns" if any(len(item.messages) > 1 for item in items) else ""
    return f"{fields.question!r}: {distinct:,} distinct{repeated}; {spread}{chats}"


def _told_answer(items: Sequence[Item], fields: FieldsConfig, scoring: Scoring, meaning: Meaning) -> str:
    if not meaning.answered:
        return "none: `optimize` and `loop` need answers, or a judge; `distill` does without"
    counts = Counter(item.answer for item in items if item.answer)
    answer, count = counts.most_common(1)[0]
    shown = answer if len(answer) <= 40 else f"{answer[:40]}..."
    what = f"{len(scoring.labels)} labels" if scoring.labels else f"{len(counts):,} different"
    where = repr(fields.answer) if meaning.named else "the assistant's last turn"
    return f"{where}: {what}; the commonest is {shown!r}, {count / counts.total():.0%} of them"


def _told_splits(sizes: Mapping[str, float], distinct: int, group: str | None) -> str:
    counts = {k: v if v >= 1 else max(1, math.floor(v * distinct)) for k, v in sizes.items()}
    shown = ", ".join(
        f"{split} {counts[split]:,.0f}"
        for split in ("train", "pareto", "race", "select", "test")
        if split in counts
    )
    about = "about " if group is not None else ""
    whole = f", {group} kept whole" if group is not None else ""
    return f"{about}{shown}{whole}. {gain_sentence(int(counts['test']))}"


def gain_sentence(n: int) -> str:
    """The smallest difference that `n` items of `test` can show."""
    least = least_detectable(n, math.sqrt(CHANGED), POWER, 0.05)
    if least > 1:
        return f"{n} items of test are too few to show any difference."
    return (
        f"The {n:,} items of test can show a difference of {least:.2f} (with {POWER:.0%} power, where the scores of a quarter of them "
        "change)."
    )


def _told_prompt(prompt: tuple[str, str], tokenizer: PreTrainedTokenizerBase | None) -> str:
    about = "" if tokenizer is not None else "about "
    first = prompt[1].partition("\n")[0]
    return f"{prompt[0]}: {about}{_tokens(prompt[1], tokenizer):,} tokens, {first[:60]!r}"


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
