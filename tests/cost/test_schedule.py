"""A schedule with workers, by hand; and beside what was measured."""

import pytest

from gepa_loop.cost.schedule import ALONE, Asked, Machines, Sharing, Turn, batches, makespan


def test_rows_go_into_calls_of_a_batch() -> None:
    assert batches(130, 64) == (64, 64, 2) and batches(128, 64) == (64, 64) and batches(0, 64) == ()
    assert Asked((64, 2), 2.5).rows == 165


def test_a_piece_is_given_to_the_worker_that_is_free_first() -> None:
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 3], 2) == 4, "in their order, not the longest first"
    assert makespan([1, 1, 3], 1) == 5 and makespan([], 3) == 0


def test_on_a_cpu_calls_are_shared_out_whole_and_last_as_long_as_their_rows() -> None:
    assert Machines(1, on_gpu=False).asked((10, 10, 20), 0.5) == 20
    assert Machines(2, on_gpu=False).asked((10, 10, 20), 0.5) == 15
    assert Machines(8, on_gpu=False).asked((256,), 0.5) == 128


def test_on_a_gpu_calls_are_cut_and_keep_their_latency() -> None:
    """One call of 256 rows: as long as 376 rows; on two workers as long as 248, on eight as 152, and never less."""
    each = (256 + ALONE) / 256
    assert Machines(1, on_gpu=True).asked((256,), each) == pytest.approx(376)
    assert Machines(2, on_gpu=True).asked((256,), each) == pytest.approx(248)
    for places in (8, 64):
        assert Machines(places, on_gpu=True).asked((256,), each) == pytest.approx(152)
    # Of three calls of 128 rows two go whole to two workers, then the third in two parts.
    assert Machines(2, on_gpu=True).asked((128,) * 3, (128 + ALONE) / 128) == pytest.approx(248 + 184)
    # Eight workers cut two calls in four parts each, of which each gets one of 32 rows.
    assert Machines(8, on_gpu=True).asked((128,) * 2, (128 + ALONE) / 128) == pytest.approx(152)
    # Too few to be cut.
    assert Machines(8, on_gpu=True).asked((63,), 1.0) == pytest.approx(63)


def test_two_cards_take_what_was_measured() -> None:
    """4B, 1,024 tokens, two H100s: from the seconds of one card those of two, within 2 %."""
    two = Machines(2, on_gpu=True)
    assert two.asked((64,), 7.06 / 64) == pytest.approx(5.73, rel=0.02)
    assert two.asked((128,), 9.52 / 128) == pytest.approx(7.08, rel=0.02)


def test_the_slowest_group_of_students_decides() -> None:
    """Three groups of 2, 3 and 3 students, of 5 seconds a student."""
    turn, sharing = Turn(10, 2.0, 3.0), Sharing(measured=4, at_once=4, stale=0)
    assert sharing.seconds(8, turn, Machines(1, on_gpu=False)) == 40
    assert sharing.seconds(8, turn, Machines(3, on_gpu=False)) == 15
    assert sharing.seconds(8, turn, Machines(8, on_gpu=False)) == 5


def test_fewer_students_share_a_calls_latency() -> None:
    """Four were measured, whose calls of 40 rows last as long as 160; of one student they last as long as 130, of three as 150."""
    turn, sharing = Turn(10, 2.0, 3.0), Sharing(measured=4, at_once=4, stale=0)
    assert sharing.seconds(4, turn, Machines(1, on_gpu=True)) == pytest.approx(20)
    assert sharing.seconds(5, turn, Machines(1, on_gpu=True)) == pytest.approx(20 + 6.5 + 3)
    assert sharing.seconds(5, turn, Machines(2, on_gpu=True)) == pytest.approx(7.5 + 9)


def test_one_student_is_moved_by_the_command_while_all_workers_sample() -> None:
    """A call of 128 rows lasts as long as 248, a quarter of it as 152, and a third, of 43 rows, as 163."""
    turn, four = Turn(128, 24.8, 3.0), Machines(4, on_gpu=True)
    assert Sharing(1, 8, stale=0).seconds(1, turn, four) == pytest.approx(15.2 + 3)
    assert Sharing(1, 8, stale=1).seconds(1, turn, four) == pytest.approx(16.3), (
        "by the other three, beside the update"
    )
    assert Sharing(1, 8, stale=1).seconds(1, Turn(128, 24.8, 30.0), four) == 30
    one, two = (Sharing(1, 8, stale=1).seconds(1, turn, Machines(n, on_gpu=True)) for n in (1, 2))
    assert one == pytest.approx(24.8 + 3) and two == pytest.approx(24.8), "one alone is the command's, too"
    # Two students have a worker each, whatever the number of others.
    shared = Sharing(2, 8, stale=0).seconds(2, Turn(32, 9.2, 1.0), Machines(8, on_gpu=True))
    assert shared == pytest.approx(18.4 * 152 / 184 + 1)
    assert Sharing(1, 1, stale=0).seconds(1, Turn(0, 0.0, 1.0), Machines(8, on_gpu=False)) == 1
