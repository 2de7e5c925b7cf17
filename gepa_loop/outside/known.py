"""Values of a user's as JSON, by which a run knows them again."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from numbers import Integral, Real
from pathlib import PurePath
from typing import Any
from uuid import UUID

WRITTEN = (datetime.date, datetime.time, datetime.timedelta, Decimal, Fraction, PurePath, UUID)
"""Types whose values are known by their text."""


class Unknown(TypeError):
    """A value is, or holds, something that no later process would know again: a client, a model, a function."""


def known(value: object) -> object:
    """A value as JSON: equal ones give the same, in whatever order a dict or a set has them, and others something else.

    Raises:
        Unknown: There is no such form of it.
    """
    try:
        return _known(value)
    except RecursionError:
        raise Unknown("it holds itself, or is nested too deeply") from None


def known_fields(fields: Mapping[Any, object]) -> tuple[dict[str, object], list[str]]:
    """What each field is known by, and the names of those that cannot be known."""
    found: dict[str, object] = {}
    unknown = []
    for name, value in fields.items():
        try:
            found[str(name)] = known(value)
        except Unknown:
            unknown.append(str(name))
    return found, unknown


def _known(value: object) -> object:
    if isinstance(value, Enum):
        return {"enum": [type(value).__qualname__, value.name]}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list):
        return [_known(one) for one in value]
    if isinstance(value, tuple):
        return {"tuple": [_known(one) for one in value]}
    if isinstance(value, set | frozenset):
        return {"set": sorted(map(_known, value), key=_text)}
    if isinstance(value, Mapping):
        pairs = [[_known(key), _known(inner)] for key, inner in value.items()]
        return {"dict": sorted(pairs, key=lambda pair: _text(pair[0]))}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, WRITTEN):
        return {type(value).__name__: str(value)}
    # numpy's numbers
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise Unknown(f"{type(value).__qualname__} is no value")


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
