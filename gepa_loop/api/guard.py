"""What keeps a Python program's calls within errors of ours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real

from gepa_loop.api.words import python_words
from gepa_loop.errors import ConfigError, memory_fault
from gepa_loop.signals import interrupted


@contextmanager
def errors_of(ended: str) -> Iterator[None]:
    """Ctrl-C, which says `ended`, and memory that ran out, as errors of ours; all in a program's words."""
    with python_words():
        try:
            with interrupted(ended):
                yield
        except (MemoryError, RuntimeError) as error:
            if (fault := memory_fault(error)) is None:
                raise
            raise fault from error


def check_drawing(temperature: float | None, max_tokens: int | None, seed: int | None) -> None:
    """Check what replies are drawn with; None is always right.

    Raises:
        ConfigError: The temperature is not a finite number from 0 on, or one of the others is no whole number from 1 or 0 on.
    """
    # Those of numpy are numbers as well.
    given: object = temperature
    if given is not None and not (isinstance(given, Real) and 0 <= float(given) < math.inf):
        raise ConfigError(
            f"temperature = {given!r}: no number from 0 on", "0 is greedy, 1 draws as the model has it."
        )
    for name, value, least in (("max_tokens", max_tokens, 1), ("seed", seed, 0)):
        one: object = value
        if one is not None and not (isinstance(one, Integral) and int(one) >= least):
            raise ConfigError(
                f"{name} = {one!r}: no whole number from {least} on", "Leave it out for the default."
            )
