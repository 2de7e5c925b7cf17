"""A race of students on the tiny model: who is trained how far, and that racing changes nobody."""

import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from observers import Killed, Watch
from recorded import recorded

from gepa_loop.config.load import load_config
from gepa_loop.config.recipe import DistillConfig
from gepa_loop.config.tables import RaceConfig
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.adapter import stack_adapters
from gepa_loop.model.lora.training import remove_lora, student_adapter, with_lora
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.stages.distillation import Below, distill_candidate
from gepa_loop.stages.pool import Pool
from gepa_loop.stages.race import Raced, course, race, rung_steps
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import each
from gepa_loop.training.checkpoint import adapter_at
from gepa_loop.training.distilled import Distilled

SETS = (
    "distill.steps=6",
    "distill.check_every=1",
    "distill.lr=0.05",
    "race.rungs=[0.2,0.5]",
    "race.behind=100",
    "task.splits.race=8",
)
"""Rungs after steps 2 and 3, at which half are dropped."""
CANDIDATES = [Candidate(f"Answer with {n} words.") for n in range(1, 6)]


@pytest.fixture(scope="module")
def lab() -> Lab:
    opened = open_lab(load_config("smoke", SETS, env={})).for_training()
    task = replace(
        opened.task, scorer=each(lambda one: (zlib.crc32(one.reply.encode()) / 2**32, "")), full_marks=False
    )
    return replace(opened, task=task, rollouts=replace(opened.rollouts, task=task))


def below(lab: Lab) -> Below:
    return Below(None, dict.fromkeys((item.id for item in lab.task.splits["pareto"]), 0.0))


def pool(lab: Lab, count: int = len(CANDIDATES), split: str = "race") -> Pool:
    """The first candidates; of each item one prompt is right, so that their scores are no student's."""
    ids, places = [item.id for item in lab.task.splits[split]], range(count)
    prompted = {
        CANDIDATES[n].id: {id_: float(place % count == n) for place, id_ in enumerate(ids)} for n in places
    }
    return Pool(split, tuple(CANDIDATES[:count]), prompted, {})


class KilledBefore(Watch):
    """Kills where a stage of a candidate begins."""

    def __init__(self, stage: str, candidate: str | None) -> None:
        super().__init__()
        self.end = stage, candidate

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        if (name, candidate) == self.end:
            raise Killed
        super().stage(name, round=round, candidate=candidate)


def begun(watch: Watch) -> list[tuple[str, str | None]]:
    """The stages, each with its candidate."""
    return [(said[1], said[3]) for said in watch.said if said[0] == "stage"]


def run(lab: Lab, folder: Path, watch: Watch) -> Raced:
    return race(lab, pool(lab), folder, watch, below(lab))


def finish(lab: Lab, folder: Path, id_: str) -> Distilled:
    (candidate,) = (one for one in CANDIDATES if one.id == id_)
    return distill_candidate(lab, candidate, folder / "distill" / id_, Watch(), below(lab))


@pytest.fixture(scope="module")
def raced(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Raced, Path, Watch]:
    folder, watch = tmp_path_factory.mktemp("race") / "round_00", Watch()
    return run(lab, folder, watch), folder, watch


def test_who_is_behind_trains_no_further(raced: tuple[Raced, Path, Watch]) -> None:
    found, folder, watch = raced
    first, second = found.rungs
    assert [one["step"] for one in found.rungs] == [2, 3] and first["split"] == "race"
    assert list(first["scores"]) == [one.id for one in CANDIDATES]
    assert (
        len(first["living"]) == 3 and len(second["living"]) == 2 and found.living == tuple(second["living"])
    )
    # 8 items: the first three prompts are right on two each, the others on one.
    assert list(first["prompts"].values()) == [0.25, 0.25, 0.25, 0.125, 0.125]
    assert second["prompts"] == {id_: first["prompts"][id_] for id_ in first["living"]}
    mixed = {id_: 0.7 * first["scores"][id_] + 0.3 * first["prompts"][id_] for id_ in first["scores"]}
    assert first["living"] == sorted(mixed, key=lambda id_: -mixed[id_])[:3]
    assert all("(.700 student + .300 prompt)" in one["reason"] for one in first["dropped"])
    assert set(found.dropped) == {one.id for one in CANDIDATES} - set(found.living)
    steps = {one.id: len(read_jsonl(folder / "distill" / one.id / "metrics.jsonl")) for one in CANDIDATES}
    gone = {one["id"] for one in first["dropped"]}
    assert steps == {id_: 2 if id_ in gone else 3 for id_ in steps}
    # Who is dropped leaves journals alone.
    kept = {one.id for one in CANDIDATES if (folder / "distill" / one.id / "checkpoints").exists()}
    assert kept == set(found.living)
    assert begun(watch) == [
        ("race to step 2", "5 students"),
        *(("student of step 2", one.id) for one in CANDIDATES),
        ("race to step 3", "3 students"),
        *(("student of step 3", id_) for id_ in first["living"]),
    ]
    assert sum("is dropped: " in note and " train on" in note for note in watch.notes) == 3


def test_the_scores_of_a_rung_are_the_students_without_a_prompt(
    lab: Lab, raced: tuple[Raced, Path, Watch]
) -> None:
    found, folder, _ = raced
    for one in found.rungs:
        for id_, mean in one["scores"].items():
            rows = read_jsonl(folder / "race" / f"{one['step']:06d}" / f"{id_}.jsonl")
            assert {row["item"] for row in rows} == {item.id for item in lab.task.splits["race"]}
            assert mean == pytest.approx(sum(row["score"] for row in rows) / len(rows))
            assert all(row["student"] for row in rows)
    students = [
        {read_jsonl(folder / "race" / step / f"{id_}.jsonl")[0]["student"] for step in ("000002", "000003")}
        for id_ in found.living
    ]
    assert all(len(own) == 2 for own in students) and not students[0] & students[1]


def test_files_of_a_race_are_as_their_records_say(raced: tuple[Raced, Path, Watch]) -> None:
    _, folder, _ = raced
    assert {"race/NNNNNN.json", "Score rows", "metrics.jsonl"} <= recorded(folder.parent)


def test_a_student_that_raced_is_the_one_that_it_would_have_been(lab: Lab, tmp_path: Path) -> None:
    """To the byte, where students train one after the other."""
    in_turn = lab.under(load_config("smoke", [*SETS, "distill.together=1"], env={}))
    found = run(in_turn, tmp_path / "raced", Watch())
    for id_ in found.living:
        assert (
            finish(in_turn, tmp_path / "raced", id_).adapter.fingerprint
            == finish(in_turn, tmp_path / "alone", id_).adapter.fingerprint
        )


@pytest.mark.parametrize("at", [0, 4, 6, 9])
def test_a_killed_race_ends_as_it_would_have(
    lab: Lab, raced: tuple[Raced, Path, Watch], tmp_path: Path, at: int
) -> None:
    found, _, watch = raced
    with pytest.raises(Killed):
        run(lab, tmp_path, KilledBefore(*begun(watch)[at]))
    assert run(lab, tmp_path, Watch()) == found
    again = Watch()
    assert run(lab, tmp_path, again) == found and again.stages == []
    assert again.notes == [note for note in watch.notes if "is dropped" in note]


def test_students_of_a_later_round_race_on_the_stack(lab: Lab, tmp_path: Path) -> None:
    model = with_lora(lab.base, lab.config.lora, 5, None)
    blank = student_adapter(model)
    remove_lora(model)
    stack = replace(blank, tensors={name: tensor + 0.05 for name, tensor in blank.tensors.items()})
    found = race(lab, pool(lab, 3), tmp_path, Watch(), Below(stack, below(lab).held_out))
    assert len(found.living) == 2
    for id_ in found.living:
        student = adapter_at(tmp_path / "distill" / id_ / "checkpoints", 2)
        (written,) = {row["student"] for row in read_jsonl(tmp_path / "race" / "000002" / f"{id_}.jsonl")}
        assert written == stack_adapters([stack, student]).fingerprint


def test_how_a_student_begins_is_said_once(lab: Lab, tmp_path: Path) -> None:
    # All steps before the last rung are on the teacher's samples.
    warm = lab.under(load_config("smoke", [*SETS, "distill.warm_start=1e-6"], env={}))
    watch = Watch()
    race(warm, pool(lab), tmp_path, watch, below(lab))
    begun = [note for note in watch.notes if "beginning with the teacher's samples" in note]
    assert [note[:8] for note in begun] == [one.id for one in CANDIDATES]
    assert watch.notes.count("continuing after step 2") == 1  # of all three


def test_without_a_race_or_with_two_all_go_on(lab: Lab, tmp_path: Path) -> None:
    ids = tuple(one.id for one in CANDIDATES)
    off = lab.under(lab.config.model_copy(update={"race": RaceConfig(on=False)}))
    assert race(off, pool(lab), tmp_path, Watch(), below(lab)) == Raced(ids, {}, ())
    assert race(lab, pool(lab, 2), tmp_path, Watch(), below(lab)) == Raced(ids[:2], {}, ())
    assert not list(tmp_path.iterdir())


def test_without_items_of_its_own_a_race_is_on_pareto(lab: Lab, tmp_path: Path) -> None:
    task = replace(lab.task, splits={**lab.task.splits, "race": ()})
    bare = replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))
    watch = Watch()
    found = race(bare, pool(lab, 3, "pareto"), tmp_path, watch, below(lab))
    assert found.rungs[0]["split"] == "pareto" and "students race on pareto" in watch.notes[0]
    rows = read_jsonl(tmp_path / "race" / "000002" / f"{CANDIDATES[0].id}.jsonl")
    assert {row["item"] for row in rows} == {item.id for item in lab.task.splits["pareto"]}
    assert read_json(tmp_path / "race" / "000002.json")["split"] == "pareto"


def test_rungs_are_checks_before_the_last_step() -> None:
    settings = DistillConfig(steps=60, check_every=20)
    assert rung_steps(settings, (0.1, 0.2, 0.4)) == [20, 40]
    assert rung_steps(DistillConfig(steps=200, check_every=10), (0.1, 0.2, 0.4)) == [20, 40, 80]
    assert rung_steps(DistillConfig(steps=200, check_every=15), (0.1, 0.4)) == [30, 90]
    assert rung_steps(DistillConfig(steps=30, check_every=30), (0.1, 0.4)) == []


def test_the_course_of_a_race_is_known_before_it() -> None:
    settings = DistillConfig(steps=60, check_every=20)
    assert course(8, RaceConfig(), settings) == [(20, 8), (40, 4), (60, 2)]
    assert course(3, RaceConfig(), settings) == [(20, 3), (60, 2)]
    assert course(2, RaceConfig(), settings) == [(60, 2)]
    assert course(8, RaceConfig(on=False), settings) == [(60, 8)]
    assert course(8, RaceConfig(keep=1), settings) == [(20, 8), (40, 8), (60, 8)]
