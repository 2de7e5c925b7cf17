"""Why a configuration cannot be used: the key, its source, and what it might have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError

from gepa_loop.config.kinds import Section
from gepa_loop.config.whole import TAGS, Config
from gepa_loop.outside.redact import redacted

ENV_PREFIX = "GEPA_LOOP_"

SYNONYMS = {
    "learning_rate": "distill.lr",
    "max_steps": "distill.steps",
    "num_steps": "distill.steps",
    "epochs": "distill.steps",
    "num_train_epochs": "distill.steps",
    "batch_size": "distill.rollouts",
    "per_device_train_batch_size": "distill.rollouts",
    "num_generations": "distill.group",
    "max_grad_norm": "distill.max_norm",
    "eval_steps": "distill.check_every",
    "max_new_tokens": "sampling.max_tokens",
    "max_completion_length": "sampling.max_tokens",
    "r": "lora.rank",
    "lora_r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "target_modules": "lora.targets",
    "torch_dtype": "model.dtype",
    "model_name_or_path": "model.name",
}
"""What TRL, PEFT and transformers call it -> its key here."""


def explain(error: ValidationError, origin: Mapping[str, str], source: str) -> str:
    lines = []
    for item in error.errors():
        loc = [str(part) for part in item["loc"]]
        if loc and loc[0] in TAGS:
            loc[1:] = [TAGS[loc[0]][0]] if item["type"] == "union_tag_invalid" else loc[2:]
        path = ".".join(loc)
        label = next(
            (origin[p] for n in range(len(loc), 0, -1) if (p := ".".join(loc[:n])) in origin), source
        )
        if item["type"] == "union_tag_invalid":
            given, known = item["ctx"]["tag"], item["ctx"]["expected_tags"].replace("'", "")
            lines.append(f"{label}: {path} = {given!r}: there are {known}")
        elif item["type"] == "extra_forbidden" and path in all_keys():
            kind = item["loc"][1]
            lines.append(f"{label}: {path} does not belong to {loc[0]}.{TAGS[loc[0]][0]} = {str(kind)!r}")
        elif item["type"] == "extra_forbidden":
            lines.append(f"{label}: unknown key {path}; the nearest is {_nearest(path)}")
        elif item["type"] == "missing":
            lines.append(f"{label}: {path} is required")
        else:
            message = item["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
            shown = "" if isinstance(item["input"], dict) else f" = {redacted(repr(item['input']))}"
            label = _blamed(message, path, origin) or label
            shown = f"{path}{shown}: " if path else ""
            lines.append(f"{label}: {shown}{message[:1].lower() + message[1:]}")
    return "\n".join(lines)


def _nearest(path: str) -> str:
    """A key of the same table whose name is like it, else one that other trainers call so, else any that looks like it."""
    table, _, name = path.rpartition(".")
    siblings = {key.rpartition(".")[2]: key for key in all_keys() if key.rpartition(".")[0] == table}
    if near := difflib.get_close_matches(name, siblings, n=1, cutoff=0.6):
        return siblings[near[0]]
    return SYNONYMS.get(name) or difflib.get_close_matches(path, all_keys(), n=1, cutoff=0.0)[0]


def _blamed(message: str, table: str, origin: Mapping[str, str]) -> str:
    """Which sources set the keys that a message about several of them names: the last in precedence."""
    words = set(re.findall(r"[a-z_]+(?:\.[a-z_]+)*", message))
    whole = words | {f"{table}.{word}" for word in words}
    named = [label for key, label in origin.items() if key in whole]
    for rank in ("--set ", ENV_PREFIX):
        if found := [label for label in named if label.startswith(rank)]:
            return ", ".join(dict.fromkeys(found))
    return named[-1] if named else ""


def all_keys(model: type[BaseModel] = Config, at: str = "") -> list[str]:
    """Dotted names of every key of the configuration, tables included."""
    keys = []
    for name, field in model.model_fields.items():
        if field.exclude:  # it is written in other keys
            continue
        keys.append(f"{at}{name}")
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                keys += all_keys(kind, f"{at}{name}.")
    return list(dict.fromkeys(keys))
