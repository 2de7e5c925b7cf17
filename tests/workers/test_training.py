"""Students that workers train: what lies in their folders is what it would be without workers, also where some of them are lost."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import current_thread
from typing import Any

import pytest
from chores import where
from hands import Fate, Hands, Late, losses

from gepa_loop.cluster.crew import Crew
from gepa_loop.cluster.piece import Piece
from gepa_loop.config.load import load_config
from gepa_loop.errors import Diverged, EnvironmentFault
from gepa_loop.lab import Lab, open_lab
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.sampling.base import Request, Sampling, SelfMeasured
from gepa_loop.sampling.plain import TorchSampler
from gepa_loop.sampling.together import begin_together
from gepa_loop.task.prompts import NO_PROMPT, Candidate
from gepa_loop.training.distilled import finish
from gepa_loop.training.trainer import Pupil, train
from gepa_loop.workers.answers import CrewSampler
from gepa_loop.workers.mirror import contents
from gepa_loop.workers.opening import Held
from gepa_loop.workers.training import Course, Sheet, apart, shared_out, train_apart

PROMPTS = "Answer with one number.", "Say a word, then a number.", "Count.\nThen add."
TIMES = (
    "seconds",
    "generate_seconds",
    "teacher_seconds",
    "student_seconds",
    "backward_seconds",
    "check_seconds",
)


def opened(*sets: str) -> Lab:
    own = (
        "seed=4",
        "distill.steps=5",
        "distill.check_every=2",
        "distill.warm_start=0.05",
        "distill.average=0.2",
        "distill.together=1",
        *sets,
    )
    return open_lab(load_config("smoke", own, env={})).for_training()


@contextmanager
def crewed(lab: Lab, places: int, fate: Fate = lambda piece, message: None) -> Iterator[tuple[Lab, Hands]]:
    """The lab with workers, each of which has one of its own."""
    sets = lab.config
    hands = Hands(fate, lambda: Held(open_lab(sets, lab.day).for_training()))
    crew = Crew(hands, places, Piece("opening", where, {}), lambda _: None)
    try:
        # One that loads its model draws random numbers, which all threads of a process share: none does beside what is tested.
        while len(crew._open) < places:
            crew.ask(Piece("open", where, {}))()
        yield (
            replace(
                lab,
                crew=crew,
                rollouts=replace(lab.rollouts, sampler=CrewSampler(crew, lab.rollouts.sampler, cuts=False)),
            ),
            hands,
        )
    finally:
        crew.close()


def pupils(folder: Path, rows: list[tuple[str, int]]) -> list[Pupil]:
    def noting(one: Candidate) -> Any:
        return lambda row: rows.append((one.id, row["step"]))

    return [Pupil(one, folder / one.id, noting(one)) for one in map(Candidate, PROMPTS)]


def before(lab: Lab) -> dict[str, float]:
    return {item.id: 0.0 for item in lab.task.splits["pareto"]}


def timeless(folder: Path) -> dict[str, Any]:
    """What lies there, other than how long it took and sums of what says so."""
    found: dict[str, Any] = dict(contents(folder))
    for path in [*folder.rglob("state.json"), *folder.rglob("result.json")]:
        found[path.relative_to(folder).as_posix()] = {**read_json(path, dict[str, Any]), "files": None}
    for path in sorted(folder.rglob("*.jsonl")):
        rows = read_jsonl(path, dict[str, Any])
        found[path.relative_to(folder).as_posix()] = [
            {
                key: value
                for key, value in row.items()
                if "seconds" not in key and "tokens_per" not in key and "gib" not in key
            }
            for row in rows
        ]
    return found


@pytest.fixture(scope="module")
def lab() -> Lab:
    return opened()


@pytest.fixture(scope="module")
def alone(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of students that are trained to a rung and then to their end, in this process."""
    folder = tmp_path_factory.mktemp("alone")
    for until in (2, None):
        reached = train(lab, pupils(folder, []), stack=None, before=before(lab), until=until)
    for pupil, checkpoint in zip(pupils(folder, []), reached, strict=True):
        finish(lab, checkpoint, pupil.folder, None)
    return folder


def test_folders_are_what_they_are_without_workers(lab: Lab, alone: Path, tmp_path: Path) -> None:
    rows: list[tuple[str, int]] = []
    with crewed(lab, 2) as (own, hands):
        reached = train_apart(own, pupils(tmp_path, rows), Course(None, before(lab), 2))
        assert [one.step for one in reached] == [2, 2, 2]
        train_apart(own, pupils(tmp_path, rows), Course(None, before(lab), None, finish=True))
    assert timeless(tmp_path) == timeless(alone)
    names = [name for name in hands.done if name.startswith("training")]
    assert sorted(name.count(",") for name in names) == [0, 0, 1, 1], (
        "one worker has one student, the other two"
    )
    assert sorted(rows) == sorted((Candidate(text).id, step) for text in PROMPTS for step in range(1, 6))


@pytest.mark.parametrize("message", [0, 3, 6])
def test_they_are_the_same_where_a_worker_is_lost_on_the_way(
    lab: Lab, alone: Path, tmp_path: Path, message: int
) -> None:
    lost = []

    def fate(piece: Piece, number: int) -> str | None:
        if piece.name.startswith("training") and number == message and not lost:
            lost.append(piece.name)
            return "struck"
        return None

    said = list[str]()
    with crewed(lab, 2, fate) as (own, _):
        assert own.crew is not None
        own.crew.say = said.append
        rows: list[tuple[str, int]] = []
        train_apart(own, pupils(tmp_path, rows), Course(None, before(lab), None, finish=True))
    assert lost and losses(said) == [f"{lost[0]}: struck; it is given out again"]
    first = [row for row in rows if row[1] == 1]
    again = len(first) > len(PROMPTS)
    assert again is (message == 3), (
        "by message 6 the check after step 2 had come back, and nobody begins anew"
    )
    assert timeless(tmp_path) == timeless(alone)


@pytest.mark.parametrize("times", [1, 9])
def test_who_was_ended_before_its_worker_was_lost_is_not_trained_again(
    lab: Lab, alone: Path, tmp_path: Path, times: int
) -> None:
    lost = list[int]()

    def fate(piece: Piece, number: int) -> str | None:
        # Told before the loss: all but the files with which the second of two students ends.
        if piece.name.count(",") and len(lost) < times and number == hands.messages[piece.name] - 1:
            lost.append(number)
            return "struck"
        return None

    with crewed(lab, 2, fate) as (own, hands):
        rows: list[tuple[str, int]] = []
        call = Course(None, before(lab), None, finish=True)
        if times == 1:
            train_apart(own, pupils(tmp_path, rows), call)
            assert lost and timeless(tmp_path) == timeless(alone)
        else:
            with pytest.raises(EnvironmentFault, match="3 workers were lost with it: struck"):
                train_apart(own, pupils(tmp_path, rows), call)
    assert lost and len(rows) == len(set(rows))


def test_what_training_raises_names_the_runs_folder(tmp_path: Path) -> None:
    wild = opened("distill.lr=1e30", "distill.max_norm=1e30", "distill.warm_start=0")
    with crewed(wild, 1) as (own, _), pytest.raises(Diverged, match=f"is kept in {tmp_path}") as told:
        train_apart(own, pupils(tmp_path, []), Course(None, before(wild), None))
    assert "gepa-loop-worker-" not in f"{told.value} {told.value.hint}" and "distill.lr" in told.value.hint


def test_a_disk_that_a_worker_cannot_write_to_is_named_as_its_own(lab: Lab, tmp_path: Path) -> None:
    """A file is in the way of the checkpoints, here and so in the copy."""
    [one, *_] = pupils(tmp_path, [])
    one.folder.mkdir()
    one.checkpoints.write_bytes(b"")
    said = rf"^a worker on {platform.node()}: cannot write \S*gepa-loop-worker-\S*: "
    with crewed(lab, 1) as (own, _), pytest.raises(EnvironmentFault, match=said) as told:
        train_apart(own, [one], Course(None, before(lab), None))
    assert "TMPDIR" in told.value.hint


def test_workers_train_on_the_items_of_the_round_and_of_the_run(lab: Lab, tmp_path: Path) -> None:
    few = {name: items[:4] for name, items in lab.task.splits.items()}
    task = replace(lab.task.with_references({item.id: "7" for item in few["pareto"]}), splits=few, written=1)
    changed = lab.with_task(task)
    changed = replace(changed, rollouts=replace(changed.rollouts, round=3))
    sheet = Sheet.of(changed).on(lab)
    assert sheet.task.splits == few and sheet.rollouts.round == 3 and sheet.rollouts.task is sheet.task
    assert (sheet.task.extract, sheet.task.answers, sheet.task.written) == ("whole", "references", 1)
    assert sheet.task.scorer is task.scorer and sheet.task.unscored == task.unscored


def test_students_are_shared_out_in_order_and_evenly(tmp_path: Path) -> None:
    many = [Pupil(Candidate(str(n)), tmp_path, lambda row: None) for n in range(7)]
    parts = shared_out(many, 3)
    assert [pupil for part in parts for pupil in part] == many and sorted(map(len, parts)) == [2, 2, 3]
    assert [len(part) for part in shared_out(many[:1], 2)] == [0, 1]


@pytest.mark.parametrize(
    ("places", "students", "stale", "own"),
    [(1, 1, 0, True), (1, 1, 1, False), (2, 1, 0, False), (2, 2, 1, True), (8, 2, 0, True), (1, 3, 0, True)],
)
def test_one_student_on_several_workers_is_trained_here(
    places: int, students: int, stale: int, own: bool
) -> None:
    assert apart(places, students, stale) is own


def test_a_student_that_is_trained_here_is_answered_for_by_workers(lab: Lab, tmp_path: Path) -> None:
    [one, *_] = pupils(tmp_path / "shared", rows := [])
    with crewed(lab, 2) as (own, hands):
        train(own, [one], stack=None, before=before(lab))
    assert hands.done.count("sampling") > 5 and len(rows) == 5
    [same, *_] = pupils(tmp_path / "alone", [])
    train(lab, [same], stack=None, before=before(lab))
    assert timeless(tmp_path / "shared") == timeless(tmp_path / "alone")


def test_the_sampler_gives_what_the_workers_own_gives(lab: Lab) -> None:
    items = lab.task.splits["train"]
    with crewed(lab, 2) as (own, hands):
        found, expected = (
            one.rollouts.completions(PROMPTS[0], items, 3, Sampling(1.0, 8), "x") for one in (own, lab)
        )
        assert found == expected and hands.done.count("sampling") == 1
        cutting = CrewSampler(own.crew, lab.rollouts.sampler, cuts=True) if own.crew else None
        assert cutting is not None
        tokens = lab.rollouts.renderer.all_tokens(NO_PROMPT, items) * 4
        wanted = lab.rollouts.wanted(tokens, [*items] * 4, 1, "x")
        parts = cutting.generate(wanted.prompts, Sampling(1.0, 4), wanted.seeds, None)
        whole = lab.rollouts.sampler.generate(wanted.prompts, Sampling(1.0, 4), wanted.seeds, None)
        assert [one.token_ids for one in parts] == [one.token_ids for one in whole]
        # Beside fewer rows a processor without AVX-512 adds up in another order.
        for part, one in zip(parts, whole, strict=True):
            assert part.logprobs == pytest.approx(one.logprobs, abs=1e-5)
        assert hands.done.count("sampling") == 3 and cutting.generate([], Sampling(1.0, 4), [], None) == []


def test_calls_are_cut_where_fewer_are_asked_for_than_there_are_workers(lab: Lab) -> None:
    """Of 130 rows each, on three workers: three and six of them whole, one or a last one in three."""
    tokens, short = [[5, 6, 7]] * 130, Sampling(1.0, 1)
    with crewed(lab, 3) as (own, hands):
        assert own.crew is not None
        cutting = CrewSampler(own.crew, lab.rollouts.sampler, cuts=True)
        cutting.generate([[5]], short, [0], None)  # workers have opened

        def pieces(calls: int, together: bool = False) -> int:
            before = hands.done.count("sampling")
            wanted = [Request(tokens, range(n, n + 130), None) for n in range(calls)]
            if together:
                found = begin_together(cutting, wanted, short)()
            else:
                found = [read() for read in [cutting.begin(one, short) for one in wanted]]
            assert [len(one) for one in found if not isinstance(one, Diverged)] == [130] * calls
            return hands.done.count("sampling") - before

        assert [pieces(calls) for calls in (1, 2, 3, 6, 7)] == [3, 2, 3, 6, 9]
        assert pieces(1, together=True) == 3


def test_a_call_beside_a_computation_is_cut_for_the_workers_elsewhere(lab: Lab) -> None:
    hands, beside = Hands(held=lambda: Held(lab)), list[str]()

    def opened(_: object) -> bool:
        beside.append(current_thread().name)
        return len(beside) == 3

    # Of three workers the first two that open compute elsewhere.
    crew = Crew(hands, 3, Piece("opening", where, {}), opened)
    cutting = CrewSampler(crew, lab.rollouts.sampler, cuts=True)
    while crew.open < 3:
        crew.ask(Piece("open", where, {}))()
    for elsewhere, parts in ((True, 2), (False, 3)):
        before = hands.done.count("sampling")
        wanted = Request([[5, 6, 7]] * 130, range(130), None, elsewhere)
        assert len(cutting.begin(wanted, Sampling(1.0, 1))()) == 130
        assert hands.done.count("sampling") - before == parts
        asked = [place for name, place in zip(hands.done, hands.places, strict=True) if name == "sampling"]
        assert not elsewhere or beside[2] not in asked
    crew.close()


def test_what_is_sent_is_begun_before_it_is_read(lab: Lab) -> None:
    with crewed(lab, 2) as (own, hands):
        assert own.crew is not None
        cutting = CrewSampler(own.crew, lab.rollouts.sampler, cuts=True)
        cutting.generate([[5]], Sampling(1.0, 1), [0], None)
        wanted = Request([[5, 6]], [1], None)
        held = cutting.begin(wanted, Sampling(1.0, 2))
        own.crew.ask(Piece("other", where, {}))()
        assert hands.done[-1] == "other", "it is held back, as another may follow"
        found = held()
        read = begin_together(cutting, [wanted], Sampling(1.0, 2))
        for _ in range(2):
            own.crew.ask(Piece("later", where, {}))()
        assert hands.done.count("sampling") == 3, "it is begun"
        assert read() == [found]


class Counted(TorchSampler):
    closed = slept = 0

    def close(self) -> None:
        self.closed += 1

    def sleep(self) -> SelfMeasured:
        self.slept += 1
        return {"canary": 1.0}


def test_the_commands_own_sampler_gives_its_memory_to_workers_that_train(lab: Lab, tmp_path: Path) -> None:
    with crewed(lab, 1) as (own, _):
        assert own.crew is not None
        mine = Counted(lab.base, 4)
        theirs = replace(own.rollouts, sampler=CrewSampler(own.crew, mine, cuts=False))
        [one, *_] = pupils(tmp_path, [])
        train_apart(replace(own, rollouts=theirs), [one], Course(None, before(lab), 2))
    assert (mine.closed, mine.slept) == (1, 0)


def test_the_commands_own_sampler_is_closed_once_workers_answer(lab: Lab) -> None:
    mine = Counted(lab.base, 4)
    late = Late(held=lambda: Held(lab))
    crew = Crew(late, 1, Piece("opening", where, {}), lambda _: None)
    sampler = CrewSampler(crew, mine, cuts=True)
    assert sampler.sleep() == {"canary": 1.0} and (mine.closed, mine.slept) == (0, 1)
    sampler.close()
    assert mine.closed == 1
    mine.closed = 0
    late.now.set()
    sampler.generate([[5]], Sampling(1.0, 1), [0], None)
    for _ in range(2):  # once for all: what the device has free by then is training's
        assert sampler.sleep() == {} and (mine.closed, mine.slept) == (1, 1)
    crew.close()
