"""The whole configuration of a run, and what follows from its numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gepa_loop.config.cluster import ClusterConfig
from gepa_loop.config.cost import CostConfig
from gepa_loop.config.data import SplitSizes
from gepa_loop.config.kinds import Section
from gepa_loop.config.objectives import FullKL, ObjectiveConfig
from gepa_loop.config.recipe import DistillConfig, check_recipe
from gepa_loop.config.search import STUDENTS_PROMPT, Aim, OptimizeConfig
from gepa_loop.config.tables import (
    EvaluateConfig,
    LoopConfig,
    LoraConfig,
    ModelConfig,
    RaceConfig,
    SamplingConfig,
    TaskConfig,
)
from gepa_loop.config.teachers import BaseTeacher, TeacherConfig
from gepa_loop.config.track import TrackConfig
from gepa_loop.errors import ConfigError

TAGS = {"objective": ("type", "full_kl"), "teacher": ("kind", "base")}
"""Tables that are one of several: the key that says which, and its default."""

EXAMPLE_POOL = 16
"""Most items of `train` that are set aside for worked examples."""


class Config(Section):
    """The whole configuration of a run."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of everything that is drawn: items, shuffles, completions, first weights of adapters."""
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    task: TaskConfig
    sampling: SamplingConfig = SamplingConfig()
    optimize: OptimizeConfig = OptimizeConfig()
    distill: DistillConfig = DistillConfig()
    objective: ObjectiveConfig = FullKL()
    teacher: TeacherConfig = BaseTeacher()
    evaluate: EvaluateConfig = EvaluateConfig()
    race: RaceConfig = RaceConfig()
    loop: LoopConfig = LoopConfig()
    cluster: ClusterConfig = ClusterConfig()
    cost: CostConfig = CostConfig()
    track: TrackConfig = TrackConfig()

    @model_validator(mode="after")
    def _recipe_fits(self) -> Config:
        check_recipe(self.distill, self.objective, self.teacher, self.sampling.temperature)
        for key, count in (("distill.group", self.distill.group), ("distill.pass_at", self.distill.pass_at)):
            if count > 1 and self.sampling.temperature == 0:
                raise ValueError(f"{key} = {count} at sampling.temperature 0 are {count} equal completions")
        if self.objective.skip_tokens >= self.distill.longest(self.sampling.max_tokens):
            raise ValueError(f"objective.skip_tokens = {self.objective.skip_tokens} leaves no token to train")
        if self.loop.max_control_loss is not None and self.distill.control is None:
            raise ValueError(
                f"loop.max_control_loss = {self.loop.max_control_loss:g}: there is no distill.control"
            )
        return self

    def for_aim(self, aim: Aim) -> Config:
        """This configuration with the aim's own values for the keys of `optimize` that nobody has set."""
        if aim == "prompt":
            return self
        splits, settings, front = self.task.splits, self.optimize, self.loop.front
        # Of a proposal: its parent and it on a minibatch; and one that is accepted on `pareto`.
        judged = 4 * front * 2 * settings.minibatch
        scored = (1 + front) * splits.pareto
        own = {
            "accept": "margin",
            "brevity": 0.0,
            "max_prompt_tokens": STUDENTS_PROMPT,
            "max_rollouts": (judged + scored) * settings.samples,
        }
        unset = {key: value for key, value in own.items() if key not in settings.model_fields_set}
        return self.model_copy(update={"optimize": settings.model_copy(update=unset)})


def set_aside(settings: OptimizeConfig, splits: SplitSizes) -> int:
    """How many of the first items of `train` worked examples are made of; the search never scores those."""
    return min(EXAMPLE_POOL, splits.train // 4) if settings.reflection.examples else 0


def proposal_rollouts(settings: OptimizeConfig, splits: SplitSizes) -> int:
    """Most completions that are sampled for one proposal: parent and child on a minibatch, the child on `pareto`."""
    return (2 * settings.minibatch + splits.pareto) * settings.samples


def check_budget(settings: OptimizeConfig, splits: SplitSizes) -> None:
    """Refuse a rollout budget that is spent before the first proposal is judged, and a minibatch that `train` cannot fill.

    Raises:
        ConfigError: Names the smallest budget, or the largest minibatch, that works.
    """
    aside = set_aside(settings, splits)
    left = splits.train - aside
    if settings.minibatch > left:
        raise ConfigError(
            f"optimize.minibatch = {settings.minibatch}: task.splits.train = {splits.train} leaves "
            f"{left} items to draw from, as {aside} are set aside for worked examples",
            "Raise task.splits.train, or lower optimize.minibatch.",
        )
    least = splits.pareto * settings.samples + proposal_rollouts(settings, splits)
    if settings.max_rollouts < least:
        raise ConfigError(
            f"optimize.max_rollouts = {settings.max_rollouts} allows no proposal: the seed prompt and one "
            f"candidate take up to {least}",
            f"Raise it to {least} or more, or lower optimize.samples, optimize.minibatch or task.splits.pareto.",
        )
