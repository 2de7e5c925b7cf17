"""Everything a command works with, loaded once from a config: model, sampler, task, and the run's identity."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gepa_loop.cluster.crew import Crew
from gepa_loop.config.search import OptimizeConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, ModelError, TaskError
from gepa_loop.model.base import Base, load_base
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.run.identity import flatten
from gepa_loop.sampling.choose import open_sampler, resolve_engine
from gepa_loop.sampling.selfcheck import check_reading
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.dealing import Making, silent
from gepa_loop.task.held import held_questions
from gepa_loop.task.items import SPLITS, Task, load_task
from gepa_loop.task.judge import RECORD, Record
from gepa_loop.task.own import Task as OwnTask
from gepa_loop.task.prompts import NO_PROMPT, Candidate, Renderer, candidate, read_prompt
from gepa_loop.task.records import short
from gepa_loop.task.template import Chat

PACKAGES = ("gepa-loop", "torch", "transformers", "peft", "tokenizers", "dspy", "gepa", "reasoning-gym")
"""Packages whose versions can change a result; that of `verifiers` only where it is used."""


LIMITS = ("max_usd", "parallel", "retries", "timeout_seconds")
"""Of `task.judge`: no verdict depends on them."""


@dataclass(frozen=True)
class Lab:
    """A model, a task, and the rollouts that join them."""

    config: Config
    base: Base
    task: Task
    rollouts: Rollouts
    engine: str
    """What generates, in words."""
    teacher: Base | None = None
    """A second model that teaches; see `for_training`."""
    control: Task | None = None
    """What `distill.control` names; see `for_training`."""
    crew: Crew | None = None
    """Workers that hold the same and share its work."""

    @property
    def day(self) -> str:
        """What chat templates take for today."""
        return self.rollouts.renderer.chat.day

    def identity(self, **more: str) -> dict[str, object]:
        """What results depend on, as flat values; a run continues only where all of them are equal.

        `without_limits` says what is not among them.
        """
        values = flatten(without_limits(self.config.model_dump(mode="json")))
        return {
            **values,
            "model.date": self.day,
            "model.fingerprint": self.base.fingerprint,
            "sampling.resolved": self.engine.partition(",")[0],
            "model.resolved": f"{self.base.model.dtype} on {self.base.device.type}",
            "task.fingerprint": self.task.fingerprint,
            **{f"version.{name}": _version(name) for name in PACKAGES},
            **self._others(),
            **more,
        }

    def _others(self) -> dict[str, str]:
        found = {}
        if "verifiers" in (self.config.task.kind, getattr(self.config.distill.control, "kind", None)):
            found["version.verifiers"] = _version("verifiers")
        if self.config.teacher.kind == "adapter":
            found["teacher.fingerprint"] = read_adapter(Path(self.config.teacher.path)).fingerprint
        if self.teacher is not None:
            found["teacher.fingerprint"] = self.teacher.fingerprint
        if self.control is not None:
            found["control.fingerprint"] = self.control.fingerprint
        return found

    def for_training(self) -> Lab:
        """This lab with what a distillation needs besides: a second model as teacher, a control task.

        Raises:
            ModelError: The teacher cannot be loaded.
            TaskError: The control task cannot be loaded.
            PromptError: One of its questions and the horizon do not fit the context.
        """
        teacher, control = self.config.teacher, self.config.distill.control
        model = other = None
        if teacher.kind == "model":
            # Arguments of the student's template may be none of the teacher's; what both render is compared.
            own = {"name": teacher.name, "dtype": teacher.dtype, "device": teacher.device, "template": {}}
            settings = self.config.model.model_copy(update=own)
            try:
                model = load_base(settings)
                check_reading(model)
            except (ModelError, ConfigError) as error:
                raise type(error)(str(error).replace("model.", "teacher.", 1), error.hint) from error
        if control is not None:
            try:
                other = load_task(control, self.config.seed)
            except TaskError as error:
                raise TaskError(str(error).replace("task.", "distill.control.", 1), error.hint) from error
            self._check_items(NO_PROMPT, other, "distill.control")
        return replace(self, teacher=model, control=other)

    def under(self, config: Config, making: Making = silent) -> Lab:
        """This lab under another config, for training; what does not differ is not loaded again. `making` is as of `open_lab`."""
        mine = self.config

        def loaded(c: Config) -> tuple[Any, ...]:
            own = c.sampling
            # What `auto` means depends on the horizon.
            engine = resolve_engine(self.base, own)[0] if c.model == mine.model else own.engine
            return c.model, c.task, c.loop.rounds, c.seed, engine, own.batch, own.canary, own.vllm

        if loaded(mine) != loaded(config):
            return open_lab(config, self.day, making=making).for_training()
        moved = replace(self, config=config)
        others = mine.teacher, mine.distill.control
        return moved if others == (config.teacher, config.distill.control) else moved.for_training()

    def in_round(self, number: int) -> Lab:
        """This lab as round `number` of a loop works with it: random numbers and items of `select` of its own."""
        own = self.with_task(self.task.in_round(number))
        return replace(own, rollouts=replace(own.rollouts, round=number))

    def in_run(self, folder: Path) -> Lab:
        """This lab with what its judge says on record in a run's folder."""
        judge = self.task.judge
        if judge is None:
            return self
        return self.with_task(replace(self.task, scorer=replace(judge, record=Record(folder / RECORD))))

    def with_task(self, task: Task) -> Lab:
        """This lab on another task."""
        return replace(self, task=task, rollouts=replace(self.rollouts, task=task))

    def facts(self) -> list[str]:
        """What was resolved, in lines for a person, before anything is spent."""
        splits = ", ".join(f"{name} {len(self.task.splits[name])}" for name in SPLITS)
        answer, share = self.task.commonest
        common = f"commonest answer {answer!r} {share:.1%}" if answer else "no answers"
        return [
            f"model {self.base.name}: {self.base.model.dtype} on {self.base.where}".replace("torch.", ""),
            f"sampler {self.engine}",
            f"task {self.task.name}: {splits}; at least {self.task.distinct} distinct questions, {common}",
            *self._judge_facts(),
            *self._template_facts(),
        ]

    def _judge_facts(self) -> list[str]:
        judge, kind = self.task.judge, self.task.extract
        if judge is None:
            return []
        read = "all of a reply" if kind == "whole" else f"what {kind} reads of a reply"
        start, more, _ = judge.settings.rubric.partition("\n")
        return [
            f"judge {judge.settings.model}: {read}, by the rubric {short(start, 60)!r}{' and more lines' if more else ''}"
        ]

    def _template_facts(self) -> list[str]:
        renderer, found = self.rollouts.renderer, []
        habits = renderer.habits
        if habits.folds:
            found.append(
                "template: it refuses system turns; prompts stand at the head of the first user turn"
            )
        if habits.adds:
            reads = "an empty system turn in its place" if habits.bare else "it"
            found.append(
                f"template: without a system turn it says {habits.adds!r}; without a prompt the model reads {reads} "
                f"(model.system = {renderer.chat.system!r})"
            )
        if habits.dated:
            found.append(f"template: it writes the date, {self.day} for all of this run (model.date)")
        return found

    def prompt_facts(self, prompt: Candidate, source: str) -> str:
        """Which prompt a command was given, in a line: its beginning shows whether a text was read or a file."""
        first, _, more = prompt.text.partition("\n")
        shown = first if len(first) <= 60 else f"{first[:60]}..."
        tokens = self.rollouts.renderer.prompt_tokens(prompt.text)
        return (
            f"prompt {prompt.id} from {source}: {shown!r}{' and more lines' if more else ''}, {tokens} tokens"
        )

    def data_facts(self) -> dict[str, object]:
        """What is known of the data before a run starts, for its journal."""
        answer, share = self.task.commonest
        return {
            "items": {name: len(self.task.splits[name]) for name in SPLITS},
            "distinct_questions": self.task.distinct,
            "rounds_of_items": self.task.rounds,
            "commonest_answer": answer,
            "commonest_share": share,
            "warnings": list(self.task.warnings()),
        }

    def check_prompt(self, prompt: Candidate, source: str) -> None:
        """Check a prompt against every item it may meet."""
        self._check_items(prompt.text, self.task, source)

    def check_bare(self) -> None:
        """The same without a prompt, for a command that is given none."""
        self._check_items(NO_PROMPT, self.task, f"task {self.task.name}")

    def _check_items(self, prompt: str, task: Task, source: str) -> None:
        self.rollouts.renderer.check_all(prompt, task.items, self.config.sampling.max_tokens, source)

    def overlap(self, prompt: Candidate, source: str) -> str | None:
        """A warning when a prompt holds questions of the splits that judge it, as worked examples may."""
        return held_questions(prompt.text, source, self.task.splits)


def open_lab(
    config: Config, day: str | None = None, own: OwnTask | None = None, making: Making = silent
) -> Lab:
    """Load the task and the model.

    Args:
        config: What to load; its splits have numbers of items, as `task.sources.settle` makes them.
        day: When the run began, YYYY-MM-DD; None is today. `model.date` goes before.
        own: The object whose items they are, where there is one; see `task.items.load_task`.
        making: Called with (items made, items wanted) where items are made, which may take minutes.

    Raises:
        TaskError: The task cannot be loaded or cannot fill its splits.
        ModelError: The model cannot be loaded, or its chat template cannot be used.
        ConfigError: The chat template does not read an argument, or `model.system` cannot be had.
    """
    task = load_task(config.task, config.seed, config.loop.rounds, own, making)
    base = load_base(config.model)
    check_reading(base)
    model = config.model
    chat = Chat(model.template, str(model.date or day or datetime.date.today()), model.system)
    renderer = Renderer(base.tokenizer, base.context, chat)
    try:
        renderer.habits  # noqa: B018 (it is tried here)
    except ModelError as error:
        raise ModelError(f"model.name = {model.name!r}: {error}", error.hint) from error
    sampler, engine = open_sampler(base, config.sampling)
    rollouts = Rollouts(sampler, renderer, task, config.seed, on_cpu=base.device.type == "cpu")
    return Lab(config, base, task, rollouts, engine)


def without_limits(resolved: Mapping[str, Any]) -> dict[str, object]:
    """A configuration without what no result of a run depends on: how many rounds there are, how long and how dear a judge may
    be, how often the reflection model is asked at a time, who shares the work, prices, and where the run is tracked. Those can be changed in a run."""
    task, judge = resolved["task"], resolved["task"]["judge"]
    if judge is not None:
        judge = {key: value for key, value in judge.items() if key not in LIMITS}
    loop = {key: value for key, value in resolved["loop"].items() if key != "rounds"}
    reflection = {k: v for k, v in resolved["optimize"]["reflection"].items() if k != "parallel"}
    optimize = {**resolved["optimize"], "reflection": reflection}
    found = {**resolved, "optimize": optimize, "loop": loop, "task": {**task, "judge": judge}}
    return {key: value for key, value in found.items() if key not in ("cluster", "cost", "track")}


def seed_source(settings: OptimizeConfig) -> str:
    """Where the seed prompt comes from."""
    return settings.seed_prompt_file or "optimize.seed_prompt"


def seed_prompt(settings: OptimizeConfig) -> Candidate:
    """The prompt of `optimize.seed_prompt` or of `optimize.seed_prompt_file`.

    Raises:
        ConfigError: The config gives neither.
    """
    if settings.seed_prompt_file is not None:
        return read_prompt(Path(settings.seed_prompt_file))
    if settings.seed_prompt is None:
        raise ConfigError(
            "optimize.seed_prompt is required: a search starts from a prompt",
            'Write the prompt that you have into a file and name it: --set optimize.seed_prompt_file="FILE".',
        )
    return candidate(settings.seed_prompt, "optimize.seed_prompt")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
