"""The configuration's table `optimize`: the search for prompts, and who writes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gepa_loop.config.kinds import Name, Positive, Section, refuse_equal_samples
from gepa_loop.config.tables import CallConfig

Aim = Literal["prompt", "student"]
"""What a search is for: the best prompt (`optimize`), or prompts whose students are worth a race (`loop`). What a student is
made of is read in training alone, so its length costs nothing later, and a prompt that could be luck is tested by its student."""

STUDENTS_PROMPT = 4096
"""Longest prompt of a search for students, where none is asked for; what the context leaves is a limit in any case."""


class PromptSection(Section):
    """A piece of text that the offline proposer may put into a prompt."""

    mends: Literal["content", "format", "cut"]
    """The failure it is meant to mend: a wrong answer, no readable answer, or a cut completion."""
    text: Name
    """What it puts there."""


class ReflectionConfig(CallConfig):
    """Who writes new prompts."""

    model: Name = "auto"
    """`offline`, any litellm model string, or `auto`: `auto_model` when ANTHROPIC_API_KEY is set, else offline."""
    auto_model: Name = "anthropic/claude-opus-5-5"
    """Any litellm model string, for `auto`."""
    max_tokens: Positive = 16384
    """Longest reply of the reflection model, in tokens. A model that thinks before it writes pays for its thoughts out
    of these, so it leaves room for far more than a prompt; what is not used costs nothing."""
    sections: tuple[PromptSection, ...] = ()
    """Section texts for the offline proposer. They belong to the task that they are written for: a source that names
    another task drops those of the sources before it."""
    parallel: Positive = 8
    """Calls at a time, where an iteration makes several proposals (`optimize.proposals`)."""
    examples: Annotated[int, Field(ge=0)] = 3
    """Most worked examples that the offline proposer adds to one prompt. They are items of `train` that the search does
    not score."""


class OptimizeConfig(Section):
    """The search for prompts: GEPA's, with decisions of our own."""

    seed_prompt: Name | None = None
    """The first prompt of a search, as a text. What ends in `.txt` or `.md`, or is one word with a slash or a file extension, is the path of a
    text file."""
    seed_prompt_file: Name | None = None
    """A text file with the first prompt, whatever its name looks like; instead of `seed_prompt`."""
    max_rollouts: Positive = 400
    """Budget: completions sampled for scoring candidates in the search; scoring the finalists of `optimize` on `select` comes on
    top. Where it is not set, `loop` takes what `loop.front` accepted proposals and thrice as many rejected ones cost: 1,088."""
    max_usd: Annotated[float, Field(ge=0)] = 5.0
    """Budget: US dollars for the reflection model in one search (a loop has one each round); 0 allows only a model without
    a price. The search ends where the next proposal could pass it."""
    max_minutes: Annotated[float, Field(gt=0)] = 60.0
    """Budget: minutes of one search, without scoring its finalists; looked at between two iterations."""
    patience: Positive = 50
    """The search ends after so many iterations in a row without a better mean on `pareto`."""
    minibatch: Positive = 8
    """Items of `train` on which a new candidate must beat its parent."""
    proposals: Positive = 1
    """Proposals of one iteration, each with a parent and a minibatch drawn for it. Their completions are sampled together and
    the reflection model is asked for all of them at the same time, so a search of as many proposals takes less time; none of
    them learns from another. An iteration makes no more of them than the budgets can pay."""
    accept: Literal["test", "margin", "gepa"] = "test"
    """When a candidate beats its parent on the minibatch. `test`: its paired differences have a one-sided p of at most
    `accept_level`; `margin`: their mean is above `accept_margin`; `gepa`: its sum is higher, as in GEPA itself, which is
    `margin` with `accept_margin` and `brevity` 0. Where it is not set, `loop` takes `margin`: what could be luck is
    tested by its student."""
    accept_level: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """For `test`: by sign flips, two items won and none lost have p = 0.25."""
    accept_margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """For `margin`: by how much a proposal's mean must be above its parent's."""
    brevity: Annotated[float, Field(ge=0)] = 0.1
    """Score that 1,000 more prompt tokens than the parent's must earn, under `test` and `margin`. Where it is not set, `loop`
    takes 0: a student does without the prompt."""
    frontier_type: Literal["instance", "objective", "hybrid", "cartesian"] = "instance"
    """What a candidate must be best at to be on the front, as in gepa: an item, an objective (score, prompt tokens,
    completion tokens), either, or an objective on an item."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Temperature of the completions that score candidates in the search. 0 is greedy: one completion says most there, and
    the finalists are decided as `evaluate` says."""
    samples: Positive = 1
    """Completions for each item, on the same random numbers for every candidate."""
    max_front: Annotated[int, Field(ge=2)] = 3
    """Most candidates that `optimize` scores on `select`. The seed prompt and the best one always are, so it is at least 2. What
    `loop` hands on to distillation is `loop.front`."""
    max_prompt_tokens: Positive = 1024
    """Longest prompt a proposal may have. Where it is not set, `loop` takes 4,096, as far as the context allows."""
    max_copied: Positive = 8
    """Words in a row by which a proposal is found to copy an item; see `optimize.propose.refusal.CopyGuard`."""
    excerpt_tokens: Positive = 256
    """Tokens of a completion that the reflection reads, from its head and its tail."""
    reflection: ReflectionConfig = ReflectionConfig()

    @model_validator(mode="after")
    def _samples_differ(self) -> OptimizeConfig:
        refuse_equal_samples(self.samples, self.temperature)
        if self.seed_prompt is not None and self.seed_prompt_file is not None:
            raise ValueError("seed_prompt or seed_prompt_file: both are given")
        if self.accept == "test" and 0.5**self.minibatch > self.accept_level:
            raise ValueError(
                f"accept_level = {self.accept_level:g} cannot be reached: the smallest p of minibatch = {self.minibatch} "
                f"items is {0.5**self.minibatch:g}"
            )
        return self
