"""Batches of rows of like length: what is in one, how large it is, and that every row is in one."""

from __future__ import annotations

import random

import pytest

from gepa_loop.sampling.batches import ROW, SLACK, by_length, in_turn, shared_length


def test_rows_of_like_length_are_together() -> None:
    assert by_length([5, 1, 3, 1, 4], 2, 8, False) == [[1, 3], [2, 4], [0]]
    assert by_length([5, 1, 3, 1, 4], 9, 8, True) == [[1, 3, 2, 4, 0]]
    assert by_length([], 4, 8, True) == []
    assert by_length([10**6], 4, 8, True) == [[0]]


def test_a_batch_on_a_cpu_has_an_end_in_positions() -> None:
    # 4 * 512 positions are two rows of 1,000 with completions of 24, and one of 1,100.
    assert by_length([1000] * 4, 4, 24, True) == [[0, 1], [2, 3]]
    assert by_length([1000] * 4, 4, 25, True) == [[0], [1], [2], [3]]
    assert by_length([1000] * 4, 4, 24, False) == [[0, 1, 2, 3]]
    assert by_length([ROW - 24] * 4, 4, 24, True) == [[0, 1, 2, 3]]


def test_a_batch_on_a_cpu_is_no_more_than_half_padding() -> None:
    # One long row would pad 50 short ones: 50 * 150 positions, and 50 * 50 + 200 tokens.
    rows = [50] * 50 + [200]
    assert [len(batch) for batch in by_length(rows, 64, 16, True)] == [50, 1]
    assert [len(batch) for batch in by_length(rows, 64, 16, False)] == [51]
    # So little padding that another batch would take longer.
    few = [50] * (SLACK // 150) + [200]
    assert len(by_length(few, 64, 16, True)) == 1
    assert len(by_length([50] * (SLACK // 150 + 2) + [200], 64, 16, True)) == 2


@pytest.mark.parametrize("on_cpu", [True, False])
def test_every_row_is_in_one_batch(on_cpu: bool) -> None:
    draw = random.Random(0)
    for _ in range(200):
        lengths = [int(10 ** draw.uniform(0, 3.5)) for _ in range(draw.randrange(1, 60))]
        most, horizon = draw.randrange(1, 20), draw.randrange(1, 300)
        batches = by_length(lengths, most, horizon, on_cpu)
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
        for batch in batches:
            own = [lengths[row] for row in batch]
            assert own == sorted(own) and len(batch) <= most
            if on_cpu and len(batch) > 1:
                assert len(batch) * (own[-1] + horizon) <= most * ROW
                assert len(batch) * own[-1] - sum(own) <= max(sum(own), SLACK)


def test_parts_in_turn_hold_fewer_long_rows() -> None:
    assert in_turn([10] * 5, 2, 16) == [2, 2, 1]
    assert in_turn([ROW - 16] * 4, 4, 16) == [4]
    assert in_turn([10, ROW, 10, 10, 3 * ROW, 10], 4, 16) == [3, 1, 1, 1]
    assert in_turn([ROW] * 3, 2, 16) == [1, 1, 1]
    assert in_turn([10**6, 1], 2, 16) == [1, 1]
    assert in_turn([], 2, 16) == []


def test_shared_length_leaves_a_token_to_read() -> None:
    assert shared_length([[1, 2, 3], [1, 2, 4, 5]]) == 2
    assert shared_length([[1, 2], [1, 2, 3]]) == 1
    assert shared_length([[1, 2]]) == 1
    assert shared_length([[1], [2]]) == 0
