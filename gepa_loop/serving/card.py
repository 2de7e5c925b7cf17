"""The model card of an exported student."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.files import write_json, write_text
from gepa_loop.scores.ledger import read_looks
from gepa_loop.scores.numbers import decimal, interval_text, p_sentence
from gepa_loop.serving.finished import Finished
from gepa_loop.serving.talk import Talker
from gepa_loop.serving.verify import Verdict

PLACES = ("name", "path", "seed_prompt_file")
"""Keys of a configuration that may be paths."""


def write_card(
    folder: Path,
    talker: Talker,
    student: Adapter,
    base: str,
    found: Mapping[str, Verdict],
    commands: Sequence[str],
) -> None:
    """Write README.md, run.json (the run's configuration) and prompt.txt.

    Args:
        folder: The export.
        talker: Its run.
        student: As it was exported.
        base: How the adapter names its base.
        found: What loading it again showed.
        commands: How it is served.

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
    page = environment.from_string(source).render(**_values(folder, talker, student, base, found, commands))
    write_text(folder / "README.md", page)
    write_text(folder / "prompt.txt", f"{finished.prompt.text}\n")
    write_json(folder / "run.json", {"config": _without_places(finished.config.model_dump(mode="json"))})


def _without_places(value: Any, key: str = "") -> Any:
    """A configuration without the folders of this machine: of a path its last part."""
    if isinstance(value, Mapping):
        return {name: _without_places(inner, name) for name, inner in value.items()}
    is_place = key in PLACES and isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if is_place else value


def _values(
    folder: Path,
    talker: Talker,
    student: Adapter,
    base: str,
    found: Mapping[str, Verdict],
    commands: Sequence[str],
) -> dict[str, Any]:
    finished, config = talker.finished, talker.finished.config
    way, test, kept = outcome(finished)
    looks = read_looks(finished.path)
    splits = config.task.splits
    ticks = max((len(run) for run in re.findall(r"`{3,}", finished.prompt.text)), default=2) + 1
    return {
        "name": finished.name,
        "version": version("gepa-loop"),
        "base": base,
        "base_on_hub": not Path(base).is_absolute(),
        "base_shown": config.model.name,
        "licence": licence_of(talker),
        "test": test["base"],
        "decided": f"{way} replies",
        "cards": [
            (who, test[key])
            for who, key in (
                ("bare model", "base"),
                ("with the prompt", "prompted"),
                ("student, without it", "student"),
            )
        ],
        "gain": test["student_minus_base"],
        "lack": test["student_minus_prompted"],
        "kept": kept,
        "saved": finished.result["tokens"]["prompt"] - finished.result["tokens"]["bare"],
        "task": f"`{Path(config.task.name).name}` ({config.task.kind})",
        "agreement": finished.result.get("answers") == "references",
        "counts": f"{splits.train:,} items to train on, {splits.pareto:,} to choose the step by, {splits.test:,} of test",
        "looks": "" if looks is None else f"{str(looks)[:1].upper()}{str(looks)[1:]}.",
        "empty_system": talker.renderer.habits.bare,
        "max_tokens": config.sampling.max_tokens,
        "folder": folder.name,
        "dtype": str(talker.base.model.dtype).removeprefix("torch."),
        "commands": commands,
        "verdicts": list(found.items()),
        "command": finished.command,
        "seed": config.seed,
        "rank": student.rank,
        "steps": config.distill.steps,
        "rollouts": config.distill.rollouts,
        "objective": config.objective.type,
        "lr": f"{config.distill.lr:g}",
        "weights": talker.base.origin.weights,
        "fence": "`" * ticks,
        "prompt": finished.prompt.text,
    }


def outcome(finished: Finished) -> tuple[str, Mapping[str, Any], Mapping[str, Any] | None]:
    """(which replies decide, their scores and differences on `test`, the share of the prompt's effect or None)."""
    result = finished.result
    way = str(result["decides"])
    if finished.command == "loop":
        return way, result["test"], result["internalisation"]
    return way, result[way], result[way]["internalisation"]


def licence_of(talker: Talker) -> str | None:
    """What the base's own model card says; None where there is none, or it says nothing."""
    card = Path(talker.base.name).expanduser() / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text("utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license: *['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else None
