"""Who of a pool has a student, by scores on the items of the race."""

import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from observers import Watch

from gepa_loop.config.load import load_config
from gepa_loop.lab import Lab, open_lab
from gepa_loop.run.files import read_jsonl
from gepa_loop.scores.statistics import item_scores
from gepa_loop.stages.pool import Pool, open_pool
from gepa_loop.task.prompts import Candidate
from gepa_loop.task.readings import each

CANDIDATES = [Candidate(f"Answer with {n} words.") for n in range(1, 6)]


def lab(*sets: str) -> Lab:
    """Every other reply is right, so that each prompt has a score of its own."""
    opened = open_lab(load_config("smoke", ["task.splits.race=24", "loop.min_gap=0", *sets], env={}))
    task = replace(opened.task, scorer=each(lambda one: (float(zlib.crc32(one.reply.encode()) % 2), "")))
    return replace(opened, task=task, rollouts=replace(opened.rollouts, task=task))


@pytest.mark.parametrize("split", ["race", "pareto"])
def test_prompts_that_help_on_the_items_of_the_race_have_students(tmp_path: Path, split: str) -> None:
    here = lab()
    if split == "pareto":
        task = replace(here.task, splits={**here.task.splits, "race": ()})
        here = replace(here, task=task, rollouts=replace(here.rollouts, task=task))
    watch = Watch()
    pool = open_pool(here, CANDIDATES, tmp_path, watch, None)
    assert pool.split == split and list(pool.prompted) == [one.id for one in CANDIDATES]
    base = item_scores(read_jsonl(tmp_path / "baseline" / f"{split}.jsonl"))
    assert set(base) == {item.id for item in here.task.splits[split]}
    gaps = {}
    for one in CANDIDATES:
        own = item_scores(read_jsonl(tmp_path / "race" / "prompts" / f"{one.id}.jsonl"))
        assert own == pool.prompted[one.id]
        gaps[one.id] = sum(own[item] - base[item] for item in base) / len(base)
    assert len({round(gap, 9) for gap in gaps.values()}) > 2 and min(gaps.values()) <= 0 < max(gaps.values())
    assert [one.id for one in pool.candidates] == [id_ for id_, gap in gaps.items() if gap > 0]
    assert pool.why == {
        id_: f"no teacher gap: the prompt changes the score by {gap:+z.3f} on {len(base)} items of {split}"
        for id_, gap in gaps.items()
        if gap <= 0
    }
    assert watch.notes == [f"{id_} is skipped: {why}" for id_, why in pool.why.items()]
    assert pool.best == max(gaps, key=lambda id_: gaps[id_])
    # Another process reads the rows, and a higher limit leaves out whoever is at it.
    again = Watch()
    assert open_pool(here, CANDIDATES, tmp_path, again, None) == pool
    # A note belongs behind its stage, which is to be known as done where its rows were there, too.
    before = [one for one, after in zip(again.said, again.said[1:], strict=False) if after[0] == "note"]
    assert len(before) == len(pool.why) and all(kind == "progress" and a == b for kind, a, b, *_ in before)
    most = max(gaps.values())
    strict = here.config.model_copy(update={"loop": here.config.loop.model_copy(update={"min_gap": most})})
    assert open_pool(replace(here, config=strict), CANDIDATES, tmp_path, again, None).candidates == ()


def test_where_no_prompt_is_read_none_is_scored(tmp_path: Path) -> None:
    pool = open_pool(lab("objective.type=grpo"), CANDIDATES[:3], tmp_path, Watch(), None)
    reason = f"objective grpo reads no prompt: its student would be that of {CANDIDATES[0].id}"
    assert pool == Pool("race", (CANDIDATES[0],), {}, {one.id: reason for one in CANDIDATES[1:3]})
    assert pool.best == CANDIDATES[0].id and not list(tmp_path.iterdir())
