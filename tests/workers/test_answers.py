"""How a call is cut among workers."""

import pytest

from gepa_loop.workers.answers import LEAST, shares


@pytest.mark.parametrize(
    ("rows", "most", "parts"),
    [
        (0, 4, []),
        (1, 4, [1]),
        (63, 4, [63]),
        (64, 4, [32, 32]),
        (100, 2, [50, 50]),
        (130, 4, [32, 32, 33, 33]),
        (200, 1, [200]),
    ],
)
def test_a_call_is_cut_into_parts_that_are_worth_it(rows: int, most: int, parts: list[int]) -> None:
    assert sorted(shares(rows, most)) == parts and LEAST == 32
