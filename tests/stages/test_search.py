"""A search as the commands run it."""

import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from observers import Watch

from gepa_loop.config.load import load_config
from gepa_loop.config.whole import set_aside
from gepa_loop.errors import RunDirectoryError
from gepa_loop.lab import open_lab, seed_prompt
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.stages.search import Purpose, search
from gepa_loop.task.readings import each

SETS = ("optimize.reflection.model=offline", "optimize.accept=gepa", "optimize.max_rollouts=80")


def test_another_process_reads_the_front_that_the_first_returned(tmp_path: Path) -> None:
    lab = open_lab(load_config("smoke", SETS, env={}))
    task = replace(lab.task, scorer=each(lambda one: (float(zlib.crc32(one.reply.encode()) % 2), "")))
    lab = replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))
    prompt, folder = seed_prompt(lab.config.optimize), tmp_path / "round_00" / "optimize"
    first, later = Watch(), Watch()
    front = search(lab, prompt, folder, first, Purpose("prompt"))
    assert len(front.rows) > 1 and first.stages[:2] == ["optimize", "front"]
    assert {one[2] for one in first.said if one[0] == "stage"} == {None}, "`optimize` has no rounds"
    assert search(lab, prompt, folder, later, Purpose("prompt")) == front
    assert later.stages == []
    (folder / "front.jsonl").write_text((folder / "front.jsonl").read_text().replace("0.5", "0.6", 1))
    with pytest.raises(RunDirectoryError, match=r"front\.jsonl"):
        search(lab, prompt, folder, later, Purpose("prompt"))


def test_a_search_for_students_hands_on_a_pool_and_scores_nothing_on_select(tmp_path: Path) -> None:
    sets = ("optimize.reflection.model=offline", "optimize.max_rollouts=120", "loop.front=3")
    lab = open_lab(load_config("smoke", sets, env={}).for_aim("student"))
    task = replace(lab.task, scorer=each(lambda one: (float(zlib.crc32(one.reply.encode()) % 2), "")))
    lab = replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))
    prompt, folder = seed_prompt(lab.config.optimize), tmp_path / "round_00" / "optimize"
    watch = Watch()
    front = search(lab, prompt, folder, watch, Purpose("student"))
    assert watch.stages == ["optimize"] and not (tmp_path / "round_00" / "evaluate").exists()
    assert len(front.rows) == 4 and sum(row["kept"] == "seed" for row in front.rows) == 1
    assert all(row["select"] is row["against_seed"] is row["adjusted_p"] is None for row in front.rows)
    assert front.winner is None and front.reason.endswith("and the seed prompt. Students decide.")
    result = read_json(folder / "result.json")
    assert result["finalists"] == [] and result["winner"] is None
    # Whoever has a higher mean than its parent is in, though two items rarely say that it is no luck.
    rows = read_jsonl(folder / "candidates.jsonl")
    judged = [row for row in rows if row["train_scores"]]
    for row in judged:
        mine, parents = (
            sum(sum(own) for own in row[key].values()) for key in ("train_scores", "parent_scores")
        )
        assert (row["status"] == "accepted") == (mine > parents)
    assert len(judged) > 4 and search(lab, prompt, folder, Watch(), Purpose("student")) == front


def test_the_search_of_a_later_round_draws_other_minibatches_and_proposals(tmp_path: Path) -> None:
    """On the same model and for the same seed prompt."""
    sets = ("optimize.reflection.model=offline", "optimize.max_rollouts=120", "loop.rounds=2")
    lab = open_lab(load_config("smoke", sets, env={}).for_aim("student"))
    task = replace(lab.task, scorer=each(lambda one: (float(zlib.crc32(one.reply.encode()) % 2), "")))
    lab = replace(lab, task=task, rollouts=replace(lab.rollouts, task=task))
    train, aside = lab.task.splits["train"], set_aside(lab.config.optimize, lab.config.task.splits)
    first, drawn, texts = [], [], []
    for number in (0, 1):
        folder = tmp_path / f"round_{number:02d}" / "optimize"
        own = lab.in_round(number)
        watch = Watch()
        search(own, seed_prompt(lab.config.optimize), folder, watch, Purpose("student", number))
        asked = [
            row["item"] for one in read_jsonl(folder / "gepa" / "evaluations.jsonl") for row in one["rows"]
        ]
        assert watch.said[0] == ("stage", "optimize", number, None)
        first.append([id_ for id_ in asked if ":train:" in id_][: lab.config.optimize.minibatch])
        _, *rows = read_jsonl(folder / "candidates.jsonl")
        drawn.append([set(row["parent_scores"]) for row in rows if row["parent_scores"]])
        texts.append([row["text"] for row in rows])
    assert all(len(one) > 4 for one in drawn)
    assert first[0] != first[1] and texts[0] != texts[1]
    # All of train, but for what worked examples are made of, which is not scored.
    assert aside == 4
    assert set().union(*drawn[0], *drawn[1]) == {item.id for item in train[aside:]}
