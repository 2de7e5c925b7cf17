"""The configuration's tables about a task's data: which of a record's fields mean what, and how many items a split has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from gepa_loop.config.kinds import Name, Section


class FieldsConfig(Section):
    """Which of a record's fields mean what, for tasks whose records come from a file or from `datasets`."""

    question: Name = "question"
    """The field that is the question: a text, a number, or chat turns, `{"role": ..., "content": ...}` or `{"from": ..., "value":
    ...}`. Or a text with fields in braces, as `"{subject}\\n\\n{body}"`, which are put in as they are."""
    answer: Name = "answer"
    """The field that is the expected answer: a text, a number, true or false, or for `task.scorer = "json"` an object. Where no record has it,
    and the question's turns end with the assistant's, that one is the answer."""
    after: Name | None = None
    """Of an answer only what follows the last of these marks, where it has one: `####` in GSM8K."""
    system: Literal["keep", "drop"] = "keep"
    """What becomes of a system turn that a record's own turns begin with. `drop`: it is left out, as where it is the prompt
    that is to be distilled, and students are to do without."""
    split: Name = "split"
    """The field that puts a record into a split by hand: `train`, `pareto`, `race`, `select` or `test`. All records have it or none."""


def _is_share(size: object) -> bool:
    return isinstance(size, float) and 0 < size < 1


def _counted(size: object) -> object:
    if isinstance(size, float):
        raise ValueError("neither a whole number nor a share, which lies between 0 and 1")
    return size


Size = Annotated[int, Field(ge=1), BeforeValidator(_counted), "or share between 0 and 1"]


class SplitSizes(Section):
    """Items in each split; no question is in two of them, and of data that have an end none that differs in case and white space
    alone. Of these a size may be a share, as 0.3: of the distinct questions, or with `task.group` about that, since groups stay whole."""

    train: Size = 256
    """Feeds the reflection and the distillation's rollouts."""
    pareto: Size = 64
    """GEPA's validation set, and the held-out checks that say which step's student is kept."""
    race: Size | None = None
    """Says which prompts of a loop help, and at each rung of its race which students are dropped. Each round takes as many items of its own, as of `select`.
    None: 64 where the task makes its items, if it has so many; of data that have an end none is spent on it, and `pareto` says who is dropped."""
    select: Size = 128
    """Ranks the finalists of `optimize`, and in a loop the students that are left, which chose nothing here before. Each round takes
    as many items of its own, so that none decides twice; data that have an end must hold them for all rounds."""
    test: Size = 300
    """Scored once, at the end of a run."""
    shares: dict[
        Literal["train", "pareto", "race", "select", "test"], Annotated[float, Field(gt=0, lt=1)]
    ] = Field(default_factory=dict, exclude=True)
    """Those of the sizes above that were given as shares, which are shown in their places; the numbers there say nothing until the
    data are read. This is empty then."""

    @model_validator(mode="before")
    @classmethod
    def _shares_apart(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "shares" in given:
            return given
        shares = {key: size for key, size in given.items() if key in cls.model_fields and _is_share(size)}
        numbers = {key: cls.model_fields[key].default for key in shares}
        return {**given, **numbers, "shares": shares}

    @model_serializer(mode="wrap")
    def _shares_in_place(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**written(self), **self.shares}

    def counted(self, questions: int) -> SplitSizes:
        """These sizes with shares as numbers, rounded down, at least 1; `shares` stays as it is."""
        sizes: dict[str, int] = {
            key: max(1, math.floor(share * questions + 1e-9)) for key, share in self.shares.items()
        }
        return self.model_copy(update=sizes)
