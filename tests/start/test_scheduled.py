"""What the schedule of a command asks for, against what is counted, and its seconds by hand."""

from typing import Any

import pytest

from gepa_loop.command import DISTILL, LOOP, OPTIMIZE, Command
from gepa_loop.config.load import load_config
from gepa_loop.cost.pace import Pace
from gepa_loop.stages.counts import distill_stages, distillation, loop_stages, students_a_round
from gepa_loop.start.scheduled import COUNTS, STARTING, Schedule, on_a_worker

PACE = Pace(seconds=5.0, first=7.0, peak_gib=1.0, source="r", sampling=2.0)
RACING = (
    "loop.front=7",
    "distill.steps=12",
    "distill.check_every=2",
    "distill.rollouts=32",
    "race.rungs=[0.5]",
)
"""Eight students, half of whom go on after six steps."""


def schedule(command: Command, *sets: str, on_gpu: bool = False, pace: Pace | None = PACE) -> Schedule:
    config = load_config("smoke", sets, env={})
    if command.rounds:
        counts = loop_stages(config, 48)
    elif command.trains:
        counts = distill_stages(config, False)
    else:
        counts = {
            "search": 48,
            "front": config.optimize.max_front * config.task.splits.select * config.evaluate.samples,
        }
    return Schedule(config, command, counts, 0.5, pace, on_gpu)


@pytest.mark.parametrize(
    "sets",
    [
        (),
        ("loop.rounds=3", "evaluate.temperature=0"),
        ("objective.type=grpo",),
        ("sampling.batch=6", *RACING),
    ],
)
@pytest.mark.parametrize("command", [LOOP, DISTILL, OPTIMIZE])
def test_calls_have_the_rows_that_are_counted(command: Command, sets: tuple[str, ...]) -> None:
    made = schedule(command, *sets)
    for name, rollouts in made.counts.items():
        if name not in ("training", "checks"):
            assert sum(one.rows for one in made.asked(name)) == pytest.approx(rollouts), name
            assert made.seconds(name, 0) == pytest.approx(0.5 * rollouts), name


def test_references_are_asked_split_by_split() -> None:
    config = load_config("smoke", env={})
    made = Schedule(config, DISTILL, distill_stages(config, True), 0.5, PACE, on_gpu=False)
    assert [one.calls for one in made.asked("references")] == [(8,), (16,)]
    assert [one.times for one in made.asked("baseline")] == [1]


def test_subjects_that_are_asked_for_at_once_wait_in_one_queue() -> None:
    """64 rows of select and 32 of pareto, side by side; and one iteration of a search after the other."""
    made = schedule(LOOP, "loop.rounds=2", "sampling.batch=64")
    assert [(one.calls, one.times) for one in made.asked("baseline")] == [((64, 32), 2)]
    assert made.seconds("baseline", 2) == 2 * 32.0
    assert made.seconds("search", 2) == made.seconds("search", 1)
    tested = made.seconds("test", 2)
    assert tested is not None and tested < 0.6 * 0.5 * made.counts["test"]


def test_one_device_takes_what_its_steps_and_checks_take() -> None:
    made = schedule(LOOP, "loop.rounds=2", *RACING)
    # Eight students to step 6, and four from there to step 12; a training begins once a round.
    assert made.seconds("training", 0) == pytest.approx(2 * (5.0 * (6 * 8 + 6 * 4) + 7.0))
    assert made.seconds("checks", 0) == pytest.approx(0.5 * made.counts["checks"])
    warm = schedule(DISTILL, "distill.warm_start=1e-6", "distill.teacher_samples=3")
    recorded = distillation(warm.config).recorded
    assert recorded == 16 * 3
    assert warm.seconds("training", 0) == pytest.approx(0.5 * recorded + 5.0 * 3 + 7.0)
    assert schedule(LOOP, pace=None).seconds("training", 0) is None


def test_workers_train_as_many_students_each() -> None:
    """Of a round's eight students two each, then one each; more workers than students gain nothing."""
    made = schedule(LOOP, *RACING)
    assert made.seconds("training", 4) == pytest.approx(5.0 * (6 * 2 + 6 * 1) + 7.0)
    assert made.seconds("checks", 4) == pytest.approx(0.5 * 8 * 4 * (3 * 2 + 3 * 1))
    assert made.seconds("training", 10) == pytest.approx(5.0 * (6 + 6) + 7.0)


def test_on_a_gpu_students_that_share_fewer_steps_wait_longer_for_each() -> None:
    """Eight shared a call of 256 rows, as long as 376; two have one of 64, as long as 184, and one of 32, as long as 152."""
    made = schedule(LOOP, *RACING, on_gpu=True)
    two, one = (16 * rows / 376 + 3 * n for rows, n in ((184, 2), (152, 1)))
    assert made.seconds("training", 4) == pytest.approx(6 * two + 6 * one + 7.0)


@pytest.mark.parametrize(
    ("workers", "limit"),
    [
        (1, STARTING),
        (4, STARTING),
        (64, "training: 1 of 8 students on a worker"),
    ],
)
def test_what_limits_the_loop(workers: int, limit: str) -> None:
    # Rollouts take no time, as good as.
    config = load_config("smoke", RACING, env={})
    made = Schedule(config, LOOP, loop_stages(config, 48), 1e-6, PACE, on_gpu=False)
    found = made.on_paper(workers, 10.0)
    assert found is not None and (found.workers, found.gpus, found.limit) == (workers, workers, limit)
    stages = sum(made.seconds(name, workers) or 0.0 for name in made.counts)
    assert found.seconds == pytest.approx(18.7 + 10.0 + stages)


def test_a_search_of_small_calls_limits_on_many_gpus() -> None:
    config = load_config("smoke", ["optimize.max_rollouts=100000"], env={})
    made = Schedule(config, OPTIMIZE, {"search": 100_000}, 0.5, None, on_gpu=True)
    found = made.on_paper(8, 0.0)
    assert found is not None and found.limit == "search: calls of up to 8 rows"
    assert found.seconds == pytest.approx(29.0 + 50_000), "none is cut"
    assert schedule(LOOP, pace=None).on_paper(8, 0.0) is None


def test_more_workers_never_take_longer() -> None:
    made: Any = schedule(LOOP, *RACING, on_gpu=True)
    seconds = [made.on_paper(count, 0.0).seconds for count in COUNTS]
    assert students_a_round(made.config) == 8 and seconds == sorted(seconds, reverse=True)


@pytest.mark.parametrize(("workers", "students"), [(0, 8), (1, 8), (3, 3), (8, 1), (64, 1)])
def test_students_in_one_process(workers: int, students: int) -> None:
    config = load_config("smoke", [f"cluster.workers={workers}", *RACING], env={})
    assert on_a_worker(config, LOOP) == students
    assert on_a_worker(config, DISTILL) == 1


def test_one_student_on_several_workers_is_moved_by_the_command() -> None:
    config = load_config("smoke", [], env={})
    made = Schedule(config, DISTILL, distill_stages(config, True), 1e-6, PACE, on_gpu=False)
    found = made.on_paper(64, 0.0)
    assert found is not None and found.limit == "training: the command itself makes the steps"
