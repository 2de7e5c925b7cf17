"""What is said of a prompt before it is distilled."""

from __future__ import annotations

from pathlib import Path

import pytest
from observers import Watch

from gepa_loop.config.load import load_config
from gepa_loop.lab import open_lab
from gepa_loop.run.directory import open_run
from gepa_loop.run.files import read_jsonl, write_jsonl
from gepa_loop.stages.counts import has_headroom
from gepa_loop.stages.distillation import bare_scores
from gepa_loop.stages.headroom import note_headroom
from gepa_loop.task.prompts import Candidate

PROMPT = Candidate("Answer with one number.")


def test_a_prompt_that_may_do_nothing_is_warned_of_before_it_is_trained(tmp_path: Path) -> None:
    lab, heard = open_lab(load_config("smoke", (), env={})), Watch()
    with open_run(tmp_path / "r", lab.identity()) as opened:
        bare = bare_scores(lab, opened, heard)
        note_headroom(lab, PROMPT, bare, opened, heard)
    rows = read_jsonl(tmp_path / "r" / "baseline" / "pareto_prompted.jsonl")
    splits, samples = lab.config.task.splits, lab.config.evaluate.samples
    assert len(rows) == splits.pareto * samples
    assert heard.stages == ["baseline with the prompt"]
    # A random model scores nothing either way.
    [note] = heard.notes
    assert note.startswith(
        "warning: .000 without a prompt on the 8 items of pareto, .000 with it: +.000 on every item, p = 1.0000."
    )
    assert "a larger model follows prompts better" in note


def test_a_prompt_that_does_something_is_said_without_a_warning(tmp_path: Path) -> None:
    lab, heard = open_lab(load_config("smoke", (), env={})), Watch()
    with open_run(tmp_path / "r", lab.identity()) as opened:
        bare = bare_scores(lab, opened, heard)
        note_headroom(lab, PROMPT, bare, opened, heard)
        path = opened.path / "baseline" / "pareto_prompted.jsonl"
        # As if half of the items had been answered rightly, each time.
        known = sorted(bare)[:4]
        rows = [{**row, "score": float(row["item"] in known)} for row in read_jsonl(path)]
        path.unlink()
        write_jsonl(path, rows)
        heard.said.clear()
        note_headroom(lab, PROMPT, bare, opened, heard)
    [note] = heard.notes
    assert note.startswith(".000 without a prompt on the 8 items of pareto, .500 with it: +.500 [+.")


@pytest.mark.parametrize(
    ("sets", "known"),
    [
        ((), True),
        (("teacher.kind=live",), True),
        (("objective.type=grpo",), False),
        (("teacher.kind=adapter", "teacher.path=a"), False),
    ],
)
def test_it_is_known_where_the_model_itself_reads_the_prompt(sets: tuple[str, ...], known: bool) -> None:
    assert has_headroom(load_config("smoke", sets, env={})) is known
