"""What a card says of an export that is another function than the student, and what it keeps to itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gepa_loop.model.lora.files import read_adapter
from gepa_loop.model.lora.rank import padded
from gepa_loop.serving.card import doubt_of
from gepa_loop.serving.export import export
from gepa_loop.serving.finished import read_finished
from gepa_loop.serving.talk import Talker, open_talker
from gepa_loop.serving.verify import distance, samples_of
from gepa_loop.serving.wanted import Wanted

CHATS = ((("user", "What is 2 + 2?"),), (("user", "And 3 + 9?"),))


@pytest.fixture(scope="module")
def talker(place: Path) -> Talker:
    return open_talker(read_finished(str(place / "runs" / "d")))


def test_a_lower_rank_is_checked_against_itself_and_its_loss_is_told(talker: Talker, tmp_path: Path) -> None:
    done = export(talker, CHATS[:1], Wanted(tmp_path / "low", rank=1), lambda _: None)
    told = re.match(
        r"adapter: rank 1 \(of 3, by its largest singular values\); (KL\(student \|\| it\) is (\S+) nats a token)",
        done.said[0],
    )
    assert told is not None and float(told[2]) > 0.01
    verdict = next(line for line in done.said if line.startswith("PEFT: loaded again"))
    assert (
        "from the student in rank 1 on stored replies" in verdict and "KL(student in rank 1 || it)" in verdict
    )
    assert read_adapter(tmp_path / "low").rank == 1
    # The card is of both: what was scored, and what lies beside it.
    card = (tmp_path / "low" / "README.md").read_text("utf-8")
    assert (
        "The scores are those of the student in rank 3. The adapter of this folder is that in rank 1" in card
    )
    assert f"which was not scored:\n{told[1]} on stored replies.\n" in card and verdict in card
    assert "seed 0, rank 3, 4 steps" in card and "seed 0, rank 1" not in card
    assert "--max-lora-rank 1 " in card


def test_a_student_without_a_sure_gain_is_not_praised(talker: Talker, tmp_path: Path) -> None:
    """A random model's gains nothing; with scores of one that does, its card says what it saves."""
    way = talker.finished.result["decides"]
    assert doubt_of(talker.finished) == (
        f"by {way} replies on test this student may be no better than the model without a prompt: +.000 on every item on 8 items"
    )
    export(talker, CHATS[:1], Wanted(tmp_path / "no"), lambda _: None)
    card = (tmp_path / "no" / "README.md").read_text("utf-8")
    assert "that was to do without a prompt" in card and "**No effect was shown**" in card
    assert "which the student saves" not in card
    gain = {"mean": 0.4, "ci": [0.2, 0.6], "p": 0.001}
    scores = {**talker.finished.result[way], "student_minus_base": gain}
    better = replace(talker.finished, result={**talker.finished.result, way: scores})
    assert doubt_of(better) is None
    export(replace(talker, finished=better), CHATS[:1], Wanted(tmp_path / "yes"), lambda _: None)
    card = (tmp_path / "yes" / "README.md").read_text("utf-8")
    assert "that does without a prompt" in card and "No effect" not in card
    assert "tokens at every call, which the student saves." in card


def test_more_than_vllm_serves_is_compressed_and_said(talker: Talker, tmp_path: Path) -> None:
    large = replace(talker, student=padded(talker.student, 600))
    done = export(large, CHATS[:1], Wanted(tmp_path / "x"), lambda _: None)
    assert (
        "rank 512 (of 600, by its largest singular values, as vLLM serves no higher one); KL(" in done.said[0]
    )
    assert "--max-lora-rank 512 " in done.commands[0] and read_adapter(tmp_path / "x").rank == 512


def test_a_distance_is_a_mean_over_all_tokens(talker: Talker) -> None:
    other = replace(talker.student, alpha=0.0)
    one = samples_of(replace(talker, student=other), CHATS[:1])
    two = samples_of(replace(talker, student=other), CHATS[1:])
    cut = [replace(two[0], reply_ids=two[0].reply_ids[:2], top_TV=two[0].top_TV[:2])]
    kls = [distance(talker, talker.student, samples) for samples in (one, cut)]
    sizes = [len(one[0].reply_ids), 2]
    pooled = sum(kl * size for kl, size in zip(kls, sizes, strict=True)) / sum(sizes)
    assert sizes[0] > 2 and kls[0] != pytest.approx(kls[1])
    assert distance(talker, talker.student, one + cut) == pytest.approx(pooled, rel=1e-5)


def test_an_export_names_no_place_of_this_machine(talker: Talker, tmp_path: Path) -> None:
    """But in the two files that say where the base was copied to."""
    home = tmp_path / "home-of-al"
    (home / "m").mkdir(parents=True)
    talker.base.model.save_pretrained(home / "m")
    talker.base.tokenizer.save_pretrained(home / "m")
    (home / "m" / "README.md").write_text("---\nlicense: mit\n---\n")
    (home / "m" / "LICENSE").write_text("all of it")
    config = talker.finished.config
    task = config.task.model_copy(
        update={
            "name": f"{home}/t.py:T",
            "scorer": f"{home}/s.py:f",
            "options": {"dir": str(home), "l": [f"{home}/x"]},
        }
    )
    track = config.track.model_copy(update={"kind": f"{home}/track.py:T"})
    own = config.model.model_copy(update={"name": str(home / "m")})
    named = config.model_copy(update={"task": task, "track": track, "model": own})
    away = replace(
        talker,
        finished=replace(talker.finished, config=named),
        base=replace(talker.base, name=str(home / "m")),
    )
    folder = tmp_path / "x"
    export(away, CHATS[:1], Wanted(folder, merged=True), lambda _: None)
    for file in folder.rglob("*"):
        if file.is_file() and str(file.relative_to(folder)) not in ("adapter_config.json", "base.json"):
            assert str(tmp_path).encode() not in file.read_bytes(), file
    assert (folder / "LICENSE").read_text() == "all of it"
    card = (folder / "README.md").read_text("utf-8")
    assert "A LoRA adapter for `m` that" in card and 'license: "mit"' in card and "Task: `t.py:T`" in card
    assert json.loads((folder / "run.json").read_text())["config"]["track"]["kind"] == "track.py:T"
