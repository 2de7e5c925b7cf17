"""The configuration's table `teacher`, which is one of several."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gepa_loop.config.kinds import Above0, Name, Positive, Section
from gepa_loop.outside.redact import has_password


def _shows_the_value(text: str) -> str:
    if "{value}" not in text:
        raise ValueError("it must hold {value}, which stands for the field")
    return text


def _http(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    if has_password(url):
        raise ValueError(
            "a user and password in an address would be written down; put the key into VLLM_API_KEY"
        )
    return url


class AnyTeacher(Section):
    """What the teachers share."""

    privileged: str = ""
    """A field of the item (`answer`, or any field of its record) that only the teacher reads, after its prompt."""
    privileged_text: Annotated[str, AfterValidator(_shows_the_value)] = (
        "For your eyes only, the reference: {value}"
    )
    """How it is shown; {value} stands for the field."""

    @property
    def moves(self) -> bool:
        """It follows the student, whose distance from it says nothing of how much is learnt."""
        return False


class BaseTeacher(AnyTeacher):
    """The model as the round found it, without the new adapter."""

    kind: Literal["base"] = "base"


class LiveTeacher(AnyTeacher):
    """The student's present weights."""

    kind: Literal["live"] = "live"

    @property
    def moves(self) -> bool:
        return True


class EmaTeacher(AnyTeacher):
    """A moving average of the student's weights."""

    kind: Literal["ema"] = "ema"
    rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    """After each step, however many updates it has: rate * student + (1 - rate) * average."""

    @property
    def moves(self) -> bool:
        return True


class AdapterTeacher(AnyTeacher):
    """The base model with another LoRA adapter."""

    kind: Literal["adapter"] = "adapter"
    path: Name
    """The adapter's folder."""


class ModelTeacher(AnyTeacher):
    """A second model with the same vocabulary."""

    kind: Literal["model"] = "model"
    name: Name
    """As `model.name`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """As `model.dtype`."""
    device: Name = "auto"
    """As `model.device`."""


class ServerTeacher(AnyTeacher):
    """A model with the same vocabulary on a vLLM server; a key is read from VLLM_API_KEY."""

    kind: Literal["server"] = "server"
    url: Annotated[str, AfterValidator(_http)]
    """Where it is, without a path."""
    name: Name
    """The model's name there."""
    top_k: Positive = 20
    """How many of its likeliest tokens it gives at each position; all others count as one outcome."""
    seconds: Above0 = 300.0
    """Longest wait for a whole answer, however steadily it drips."""


TeacherConfig = Annotated[
    BaseTeacher | LiveTeacher | EmaTeacher | AdapterTeacher | ModelTeacher | ServerTeacher,
    Field(discriminator="kind"),
]
