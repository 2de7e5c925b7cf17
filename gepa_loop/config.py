"""The configuration: frozen models, one order of precedence, and errors that name key and source.

Values come from, each over the one before: a preset, a TOML file (which may name its preset with a
top-level `preset = "..."`), the environment (`GEPA_LOOP_DISTILL__LR=1e-4`) and `--set distill.lr=1e-4`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gepa_loop.errors import ConfigError

ENV_PREFIX = "GEPA_LOOP_"
ENV_OTHER = {"GEPA_LOOP_CACHE"}
"""Variables with our prefix that are not configuration keys."""

LOCAL_FILE = "gepa-loop.toml"
DEFAULT_PRESET = "demo"

Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A table of the configuration: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelConfig(Section):
    name: Name = "bundled:smollm2-135m-instruct"
    """A hub id, a local folder, `bundled:smollm2-135m-instruct` or `random:tiny`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 on a GPU and on processors with bfloat16 arithmetic, float32 on others."""
    device: Name = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""


class LoraConfig(Section):
    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The adapter's output is scaled by alpha / rank."""
    targets: tuple[Name, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Names of the linear layers that get an adapter."""


class SplitSizes(Section):
    """Items in each split; no question is in two of them."""

    train: Positive = 256
    """Feeds the reflection and the distillation's rollouts."""
    pareto: Positive = 64
    """GEPA's validation set, and the held-out check that picks the best checkpoint."""
    select: Positive = 128
    """Ranks the prompts of the front and their students."""
    test: Positive = 300
    """Scored once, at the end of a run."""


class TaskConfig(Section):
    kind: Literal["reasoning_gym", "jsonl", "python"] = "reasoning_gym"
    name: Name
    """A reasoning-gym task, the path of a JSONL file, or `package.module:factory`."""
    options: dict[str, Any] = {}
    """Options of the reasoning-gym task or of the factory."""
    extract: Literal["tags", "boxed", "last_number", "last_line", "whole"] = "last_number"
    """How the answer is read from a completion; `tags` is `<answer>...</answer>`."""
    splits: SplitSizes = SplitSizes()


class SamplingConfig(Section):
    engine: Literal["auto", "torch"] = "auto"
    """What generates; `torch` is the in-process sampler."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Temperature of the distillation's rollouts. 0 is greedy."""
    max_tokens: Positive = 32
    """Longest completion, in tokens."""
    batch: Positive = 64
    """Rows generated together."""


class PromptSection(Section):
    """A piece of text that the offline proposer may put into a prompt."""

    mends: Literal["content", "format", "cut"]
    """The failure it is meant to mend: a wrong answer, no readable answer, or a cut completion."""
    text: Name


class ReflectionConfig(Section):
    model: Name = "auto"
    """`offline`, any litellm model string, or `auto`: `auto_model` when ANTHROPIC_API_KEY is set, else offline."""
    auto_model: Name = "anthropic/claude-opus-5-5"
    max_tokens: Positive = 4096
    """Longest reply of the reflection model, in tokens."""
    sections: tuple[PromptSection, ...] = ()
    """Section texts for the offline proposer."""
    examples: Annotated[int, Field(ge=0)] = 3
    """Most worked examples that the offline proposer adds to one prompt."""


class OptimizeConfig(Section):
    seed_prompt: Name
    """The first prompt: a text, or the path of a text file."""
    max_rollouts: Positive = 400
    """Budget: completions sampled for scoring candidates."""
    max_usd: Annotated[float, Field(ge=0)] = 5.0
    """Budget: dollars for the reflection model."""
    max_minutes: Annotated[float, Field(gt=0)] = 60.0
    """Budget: minutes of one `optimize` stage."""
    minibatch: Positive = 8
    """Items of `train` on which a new candidate must beat its parent."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Temperature of the completions that score candidates. 0 is greedy, as `evaluate` is by default."""
    samples: Positive = 1
    """Completions for each item, on the same random numbers for every candidate."""
    max_front: Positive = 3
    """Most candidates handed on to distillation."""
    max_prompt_tokens: Positive = 1024
    """Longest prompt a proposal may have."""
    reflection: ReflectionConfig = ReflectionConfig()

    @model_validator(mode="after")
    def _samples_differ(self) -> OptimizeConfig:
        _refuse_equal_samples(self.samples, self.temperature)
        return self


class DistillConfig(Section):
    steps: Positive = 20
    rollouts: Positive = 32
    """Completions in one step."""
    group: Positive = 4
    """Completions of one item; must divide `rollouts`."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate; constant."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradient norm above which gradients are scaled down."""
    check_every: Positive = 5
    """Steps between held-out checks on `pareto`; each is also a checkpoint."""
    micro_tokens: Positive = 2048
    """Tokens in one forward and backward pass; changes memory, not the result."""

    @model_validator(mode="after")
    def _group_divides_rollouts(self) -> DistillConfig:
        if self.rollouts % self.group:
            raise ValueError(f"rollouts ({self.rollouts}) must be a multiple of group ({self.group})")
        return self


class ObjectiveConfig(Section):
    type: Literal["full_kl"] = "full_kl"
    """`full_kl`: KL(student || teacher) over the whole vocabulary at every completion token."""


class TeacherConfig(Section):
    kind: Literal["base"] = "base"
    """`base`: the model without the new adapter, with the prompt."""


class EvaluateConfig(Section):
    samples: Positive = 1
    """Completions for each item."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy."""

    @model_validator(mode="after")
    def _samples_differ(self) -> EvaluateConfig:
        _refuse_equal_samples(self.samples, self.temperature)
        return self


def _refuse_equal_samples(samples: int, temperature: float) -> None:
    if samples > 1 and temperature == 0:
        raise ValueError(
            f"samples = {samples} at temperature 0 are {samples} equal completions; raise temperature"
        )


class LoopConfig(Section):
    rounds: Positive = 1
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Level of the tests, after Holm's correction."""
    min_gap: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """A candidate whose prompt gains no more than this over no prompt on `select` is not distilled."""


class Config(Section):
    """The whole configuration of a run."""

    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    task: TaskConfig
    sampling: SamplingConfig = SamplingConfig()
    optimize: OptimizeConfig
    distill: DistillConfig = DistillConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    teacher: TeacherConfig = TeacherConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    loop: LoopConfig = LoopConfig()


def presets() -> dict[str, str]:
    """The shipped presets: name -> first comment line of its file."""
    folder = resources.files("gepa_loop") / "presets"
    names = sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    return {
        name: (folder / f"{name}.toml").read_text("utf-8").split("\n", 1)[0].lstrip("# ") for name in names
    }


def load_config(
    source: str | None = None,
    sets: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Config:
    """Resolve a configuration.

    Args:
        source: A preset's name or the path of a TOML file. None takes `gepa-loop.toml` of the working
            directory, else the preset `demo`.
        sets: `key.path=value` pairs; a value is read as TOML, and as a plain string where it is not TOML.
        env: The environment; None takes the process's own.
        cwd: Where relative paths start; None takes the process's working directory.

    Raises:
        ConfigError: An unknown preset, file or key, a value of the wrong type, or values that contradict
            each other. The message names the key, the value and where it came from.
    """
    cwd = cwd or Path.cwd()
    if source is None:
        source = str(cwd / LOCAL_FILE) if (cwd / LOCAL_FILE).is_file() else DEFAULT_PRESET
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for label, layer in [
        *_file_layers(source, cwd),
        *_env_layers(os.environ if env is None else env),
        *(_pair(text, f"--set {text}") for text in sets),
    ]:
        _merge(merged, layer, label, origin)
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin, source)) from None
    return _resolve_paths(config, cwd, origin)


def _file_layers(source: str, cwd: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if source in presets():
        text = (resources.files("gepa_loop") / "presets" / f"{source}.toml").read_text("utf-8")
        yield f"preset {source}", _toml(text, f"preset {source}")
        return
    path = cwd / source
    if not path.is_file():
        near = difflib.get_close_matches(source, presets(), n=3, cutoff=0.4)
        raise ConfigError(
            f"--config {source}: neither a file nor a preset",
            f"Presets: {', '.join(presets())}." + (f" Did you mean {near[0]}?" if near else ""),
        )
    layer = _toml(path.read_text("utf-8"), str(path))
    base = layer.pop("preset", None)
    if base is not None:
        if base not in presets():
            raise ConfigError(f"{path}: preset = {base!r} is no preset", f"Presets: {', '.join(presets())}.")
        yield from _file_layers(base, cwd)
    yield str(path), layer


def _toml(text: str, label: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{label}: not valid TOML: {error}") from None


def _env_layers(env: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in sorted(env):
        if name.startswith(ENV_PREFIX) and name not in ENV_OTHER:
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            yield _pair(f"{key}={env[name]}", name)


def _pair(text: str, label: str) -> tuple[str, dict[str, Any]]:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"{label}: not of the form key.path=value", "Example: --set distill.lr=1e-4")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    layer: dict[str, Any] = {parts[-1]: parsed}
    for part in reversed(parts[:-1]):
        layer = {part: layer}
    return label, layer


def _merge(
    target: dict[str, Any], layer: Mapping[str, Any], label: str, origin: dict[str, str], at: str = ""
) -> None:
    """Lay `layer` over `target`, in place, and note in `origin` where each key came from, in place."""
    for key, value in layer.items():
        path = f"{at}{key}"
        origin[path] = label
        if path in ("task.name", "task.kind") and target.get(key) not in (None, value):
            target.pop("options", None)  # options belong to the task that they were written for
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value, label, origin, f"{path}.")
        elif isinstance(value, Mapping):
            target[key] = {}
            _merge(target[key], value, label, origin, f"{path}.")
        else:
            target[key] = value


def _explain(error: ValidationError, origin: Mapping[str, str], source: str) -> str:
    lines = []
    for item in error.errors():
        loc = [str(part) for part in item["loc"]]
        path = ".".join(loc)
        label = next(
            (origin[p] for n in range(len(loc), 0, -1) if (p := ".".join(loc[:n])) in origin), source
        )
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path, all_keys(), n=1, cutoff=0.0)
            siblings = [k for k in all_keys() if k.rpartition(".")[0] == ".".join(loc[:-1])]
            near = difflib.get_close_matches(path, siblings, n=1, cutoff=0.6) or near
            lines.append(f"{label}: unknown key {path}; the nearest is {near[0]}")
        elif item["type"] == "missing":
            lines.append(f"{label}: {path} is required")
        else:
            message = item["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(item["input"], dict) else f" = {item['input']!r}"
            lines.append(f"{label}: {path}{shown}: {message[:1].lower() + message[1:]}")
    return "\n".join(lines)


def all_keys(model: type[BaseModel] = Config, at: str = "") -> list[str]:
    """Dotted names of every key of the configuration, tables included."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(f"{at}{name}")
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                keys += all_keys(kind, f"{at}{name}.")
    return keys


def _resolve_paths(config: Config, cwd: Path, origin: Mapping[str, str]) -> Config:
    """Make file names absolute: those of a TOML file start at its folder, others at the working directory."""

    def absolute(value: str, key: str) -> str:
        label = origin.get(key, "")
        base = Path(label).parent if label.endswith(".toml") else cwd
        path = base / value
        return str(path.resolve()) if "\n" not in value and len(value) < 1024 and path.is_file() else value

    optimize = config.optimize.model_copy(
        update={"seed_prompt": absolute(config.optimize.seed_prompt, "optimize.seed_prompt")}
    )
    task = config.task
    if task.kind == "jsonl":
        task = task.model_copy(update={"name": absolute(task.name, "task.name")})
    return config.model_copy(update={"optimize": optimize, "task": task})


def iteration_rollouts(config: Config) -> int:
    """Most completions that one GEPA iteration samples: parent and child on a minibatch, the child on `pareto`."""
    return (2 * config.optimize.minibatch + config.task.splits.pareto) * config.optimize.samples


def check_budget(config: Config) -> None:
    """Refuse a rollout budget that is spent before the first proposal is judged.

    Raises:
        ConfigError: Names the smallest budget that works.
    """
    least = config.task.splits.pareto * config.optimize.samples + iteration_rollouts(config)
    if config.optimize.max_rollouts < least:
        raise ConfigError(
            f"optimize.max_rollouts = {config.optimize.max_rollouts} allows no proposal: the seed prompt and one "
            f"candidate take up to {least}",
            f"Raise it to {least} or more, or lower optimize.samples, optimize.minibatch or task.splits.pareto.",
        )
