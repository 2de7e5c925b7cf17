"""Values as JSON by which they are known again."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gepa_loop.outside.known import Unknown, known, known_fields


class Colour(Enum):
    RED = 1
    BLUE = 2


class Client:
    pass


def text(value: object) -> str:
    return json.dumps(known(value))


def test_equal_values_are_known_by_the_same() -> None:
    for one, same in (
        ({"a": 1, "b": {"c": [1, (2, 3)]}}, {"b": {"c": [1, (2, 3)]}, "a": 1}),
        ({0, 8}, {8, 0}),  # which lie in a set as they came
        ({("a", 1): "t", 2: "u"}, {2: "u", ("a", 1): "t"}),
        (np.str_("é"), "é"),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
    ):
        assert text(one) == text(same)


def test_other_values_are_known_by_something_else() -> None:
    values: list[Any] = [
        *(
            None,
            True,
            1,
            1.5,
            "1",
            "true",
            b"1",
            "",
            [],
            (),
            {},
            set(),
            [1],
            (1,),
            {1},
            {1: 1},
            {"1": 1},
            {1: "1"},
        ),
        *(
            [[1], 2],
            [1, [2]],
            {"dict": []},
            {"tuple": [1]},
            Colour.RED,
            Colour.BLUE,
            Path("a"),
            "a",
            Decimal("1.5"),
        ),
        *(datetime.date(2026, 1, 2), datetime.date(2026, 1, 3), datetime.datetime(2026, 1, 2), "2026-01-02"),
    ]
    assert len({text(value) for value in values}) == len(values)


def test_what_no_process_would_know_again() -> None:
    ring: list[object] = []
    ring.append(ring)
    for value in (Client(), len, [1, {"a": Client()}], {Client(): 1}, ring, {1, Client}, iter([])):
        with pytest.raises(Unknown):
            known(value)
    found, unknown = known_fields({"labels": ["a"], "client": Client(), 3: 4, "ring": ring})
    assert (found, unknown) == ({"labels": ["a"], "3": 4}, ["client", "ring"])
