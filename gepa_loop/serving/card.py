"""The model card of an exported student."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gepa_loop.run.files import write_json, write_text
from gepa_loop.scores.ledger import read_looks
from gepa_loop.scores.numbers import decimal, gain_text, interval_text, p_sentence
from gepa_loop.serving.finished import Finished
from gepa_loop.serving.licence import licence_of
from gepa_loop.serving.places import is_place, last_part, without_places
from gepa_loop.serving.talk import Talker


@dataclass(frozen=True)
class Card:
    """What a card says of the files beside it."""

    rank: int
    """Of the adapter."""
    how: str
    """By what that is another one than the student was trained in; "" where it is none."""
    lost: str | None
    """What a lower rank changed, measured; None where the adapter computes what the student does."""
    base: str
    """How the adapter names its base."""
    copied: bool
    """Whether that is the folder `base` beside it."""
    verdicts: Sequence[str]
    """What loading it again showed."""
    commands: Sequence[str]
    """How it is served."""


def write_card(folder: Path, talker: Talker, card: Card) -> None:
    """Write README.md, run.json (the run's configuration) and prompt.txt.

    Raises:
        EnvironmentFault: The folder cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    finished = talker.finished
    source = (resources.files("gepa_loop.serving") / "card.md.j2").read_text("utf-8")
    # No HTML: Markdown that users write themselves, of their own prompt.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters |= {
        "decimal": decimal,
        "signed": lambda x: decimal(x, "+"),
        "interval": interval_text,
        "signed_interval": lambda ci: interval_text(ci, "+"),
        "p": p_sentence,
    }
    page = environment.from_string(source).render(**_values(folder, talker, card))
    write_text(folder / "README.md", page)
    write_text(folder / "prompt.txt", f"{finished.prompt.text}\n")
    write_json(folder / "run.json", {"config": without_places(finished.config.model_dump(mode="json"))})


def _values(folder: Path, talker: Talker, card: Card) -> dict[str, Any]:
    finished, config = talker.finished, talker.finished.config
    way, test, kept = outcome(finished)
    looks = read_looks(finished.path)
    splits = config.task.splits
    on_hub = not is_place(card.base)
    ticks = max((len(run) for run in re.findall(r"`{3,}", finished.prompt.text)), default=2) + 1
    return {
        "name": finished.name,
        "version": version("gepa-loop"),
        "card": card,
        "base_on_hub": on_hub,
        "base_shown": card.base if on_hub else last_part(config.model.name),
        "licence": (licence_of(card.base) if on_hub else None) or licence_of(config.model.name),
        "test": test["base"],
        "decided": f"{way} replies",
        "scores": [
            (who, test[key])
            for who, key in (
                ("bare model", "base"),
                ("with the prompt", "prompted"),
                ("student, without it", "student"),
            )
        ],
        "gain": test["student_minus_base"],
        "doubt": doubt_of(finished),
        "lack": test["student_minus_prompted"],
        "kept": kept,
        "saved": finished.result["tokens"]["prompt"] - finished.result["tokens"]["bare"],
        "task": f"`{last_part(config.task.name)}` ({config.task.kind})",
        "agreement": finished.result.get("answers") == "references",
        "counts": f"{splits.train:,} items to train on, {splits.pareto:,} to choose the step by, {splits.test:,} of test",
        "looks": "" if looks is None else f"{str(looks)[:1].upper()}{str(looks)[1:]}.",
        "empty_system": talker.renderer.habits.bare,
        "max_tokens": config.sampling.max_tokens,
        "folder": folder.name,
        "dtype": str(talker.base.model.dtype).removeprefix("torch."),
        "command": finished.command,
        "seed": config.seed,
        "trained": talker.student.rank,
        "rank": config.lora.rank,
        "steps": config.distill.steps,
        "rollouts": config.distill.rollouts,
        "objective": config.objective.type,
        "lr": f"{config.distill.lr:g}",
        "weights": talker.base.origin.weights,
        "fence": "`" * ticks,
        "prompt": finished.prompt.text,
    }


def doubt_of(finished: Finished) -> str | None:
    """A sentence where the student may be no better than the bare model on `test`; None where it is."""
    way, test, _ = outcome(finished)
    gain = test["student_minus_base"]
    if gain["ci"][0] > 0 or finished.result.get("answers") == "references":
        return None
    return (
        f"by {way} replies on test this student may be no better than the model without a prompt: "
        f"{gain_text(gain)} on {test['base']['n']} items"
    )


def outcome(finished: Finished) -> tuple[str, Mapping[str, Any], Mapping[str, Any] | None]:
    """(which replies decide, their scores and differences on `test`, the share of the prompt's effect or None)."""
    result = finished.result
    way = str(result["decides"])
    if finished.command == "loop":
        return way, result["test"], result["internalisation"]
    return way, result[way], result[way]["internalisation"]
