"""A student's files, loaded again by the libraries of others."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gepa_loop.cli import run
from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.model.origin import hash_weights
from gepa_loop.sampling.base import Sampling
from gepa_loop.serving.card import outcome
from gepa_loop.serving.export import export
from gepa_loop.serving.finished import questions_of, read_finished
from gepa_loop.serving.talk import Talker, open_talker
from gepa_loop.serving.verify import judged, reply_logprobs, samples_of
from gepa_loop.serving.wanted import Wanted

CHATS = ((("user", "What is 2 + 2?"),), (("user", "And 3 + 9?"),))


@pytest.fixture(scope="module")
def talker(place: Path) -> Talker:
    return open_talker(read_finished(str(place / "runs" / "d")))


@pytest.fixture(scope="module")
def exported(talker: Talker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "x"
    before = hash_weights(talker.base.model.named_parameters())
    done = export(talker, CHATS, Wanted(folder, merged=True), lambda _: None)
    assert hash_weights(talker.base.model.named_parameters()) == before
    assert any(line.startswith("PEFT: loaded again") for line in done.said)
    assert any(line.startswith("merged: loaded again") for line in done.said)
    assert any("--max-lora-rank 8" in line for line in done.commands)
    return folder


def test_users_of_peft_get_the_student(exported: Path, talker: Talker) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    model = AutoPeftModelForCausalLM.from_pretrained(exported, dtype=talker.base.model.dtype)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    turns = [{"role": "user", "content": CHATS[0][0][1]}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == talker.tokens("student", CHATS[0])
    (reply,) = talker.sampler.generate([ids], Sampling(0.0, 5), [0], talker.student)
    theirs = reply_logprobs(model, ids, reply.token_ids).gather(-1, torch.tensor(reply.token_ids)[:, None])[
        :, 0
    ]
    torch.testing.assert_close(theirs, torch.tensor(reply.logprobs), atol=2e-2, rtol=2e-2)


def test_the_rank_is_one_that_vllm_serves(exported: Path, talker: Talker) -> None:
    assert talker.student.rank == 3
    adapter = read_adapter(exported)
    assert adapter.rank == 8 and adapter.origin is not None
    assert adapter.origin.weights == talker.base.origin.weights
    named = json.loads((exported / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str((exported / "base").resolve())


def test_the_card_says_what_the_run_found(exported: Path, talker: Talker) -> None:
    card = (exported / "README.md").read_text("utf-8")
    front = card.split("---\n")[1]
    assert "library_name: peft" in front and "base_model" not in front
    way, test, _ = outcome(talker.finished)
    assert f"{test['base']['n']} items of `test`, {way} replies" in card
    assert talker.finished.prompt.text in card and "seed 0, rank 3, 4 steps" in card
    assert (
        "The adapter of this folder has rank 8 (of 3, filled up with zeros, as vLLM serves certain ranks only)."
        in card
    )
    assert "not scored:" not in card and "nats a token from the student on stored replies" in card
    assert (exported / "prompt.txt").read_text() == f"{talker.finished.prompt.text}\n"
    assert json.loads((exported / "run.json").read_text())["config"]["lora"]["rank"] == 3


def test_the_check_finds_the_student_and_nobody_else(exported: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(exported, moved)

    def checked(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(moved / "check.py"), *args]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    done = checked()
    assert done.returncode == 0 and "2 of 2 replies are the same" in done.stdout, done.stdout + done.stderr
    stored = json.loads((moved / "check.json").read_text())
    stored["items"] = [{**item, "reply": "another"} for item in stored["items"]]
    (moved / "check.json").write_text(json.dumps(stored))
    done = checked("merged")
    assert done.returncode == 1 and "0 of 2 replies are the same" in done.stdout and "DIFFERS" in done.stdout


def test_what_is_no_student_is_found_out(talker: Talker) -> None:
    samples = samples_of(talker, CHATS)
    base = talker.base
    student = [sample.top_TV for sample in samples]
    verdict = judged("x", student, base, samples, merged=False)
    assert verdict.nats == 0 and verdict.kl == pytest.approx(0, abs=1e-6) and verdict.effect > 0.3
    bare = [reply_logprobs(base.model, sample.prompt_ids, sample.reply_ids) for sample in samples]
    for merged in (False, True):
        with pytest.raises(ModelError, match="x: its log-probabilities are"):
            judged("x", bare, base, samples, merged)
    # Rounded weights may be further away, as long as they are the student's.
    between = [0.7 * one + 0.3 * other for one, other in zip(student, bare, strict=True)]
    assert judged("x", between, base, samples, merged=True).nats > 0
    nothing = [one * float("nan") for one in student]
    with pytest.raises(ModelError):
        judged("x", nothing, base, samples, merged=True)


def test_another_rank_and_another_base(talker: Talker, tmp_path: Path) -> None:
    done = export(talker, CHATS[:1], Wanted(tmp_path / "full", rank=5, base=None), lambda _: None)
    assert "rank 5 (of 3, filled up with zeros)" in done.said[0]
    other = read_adapter(tmp_path / "full")
    for module in other.modules:
        a, b = other.pair(module)
        one, two = talker.student.pair(module)
        assert torch.equal(other.scale * b @ a, talker.student.scale * two @ one)


def test_half_an_export_leaves_nothing(talker: Talker, tmp_path: Path) -> None:
    def interrupted(text: str) -> None:
        if "again" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(talker, CHATS[:1], Wanted(tmp_path / "half"), interrupted)
    assert not (tmp_path / "half").exists()


def test_folders_that_are_not_empty(talker: Talker, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="it is not empty"):
        export(talker, CHATS, Wanted(tmp_path), lambda _: None)
    with pytest.raises(ConfigError, match="it is not empty"):
        export(talker, CHATS, Wanted(tmp_path / "mine.txt"), lambda _: None)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert run(["export", "last", "--to", "out"]) == 0
    shown = capsys.readouterr().out
    assert "PEFT: loaded again" in shown and "vllm serve" in shown and "check.py" in shown
    assert len(json.loads((place / "out" / "check.json").read_text())["items"]) == 5
    assert run(["export", "last", "--to", "out"]) == 2
    shutil.rmtree(place / "out")


def test_a_moved_folder_is_loaded_as_its_card_says(exported: Path, talker: Talker, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "x")
    card = (tmp_path / "x" / "README.md").read_text("utf-8")
    assert "mend `base_model_name_or_path`" in card
    config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/gone/base"
    (tmp_path / "x" / "adapter_config.json").write_text(json.dumps(config))
    code = (
        card.split("```python\n")[1].split("```")[0]
        + "print(int(tokenizer.vocab_size), float(sum(p.abs().sum() for n, p in model.named_parameters() if 'lora_B' in n)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    total = sum(float(pair[1].abs().sum()) for pair in map(talker.student.pair, talker.student.modules))
    size, found = done.stdout.split()
    assert int(size) == 259 and float(found) == pytest.approx(total, rel=1e-4)


def test_a_folder_with_a_blank(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert run(["export", "d", "--to", str(tmp_path / "my ex")]) == 0
    shown = capfd.readouterr()
    assert f"\n  python '{tmp_path}/my ex/check.py'\n" in shown.out
    assert shown.err.splitlines() == [
        "asking the student for replies that are stored",
        "writing the adapter",
        "loading it again with PEFT",
    ]


def test_who_interrupts_an_export_is_told_what_is_left(place: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gepa_loop", "export", "d", "--to", str(tmp_path / "x")]
    process = subprocess.Popen(
        command,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell, as these tests may be, hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    while "asking" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    again = f"  gepa-loop export d --to {tmp_path / 'x'}\n"
    assert said.endswith(f"\ninterrupted; nothing was written. Begin anew with:\n{again}")
    assert not (tmp_path / "x").exists()


def test_questions_where_the_data_are_gone(place: Path) -> None:
    finished = read_finished(str(place / "runs" / "d"))
    chats, doubt = questions_of(finished)
    assert len(chats) == 8 and doubt == ""
    task = finished.config.task.model_copy(update={"kind": "jsonl", "name": "/gone.jsonl", "options": {}})
    gone = type(finished)(
        **{**finished.__dict__, "config": finished.config.model_copy(update={"task": task})}
    )
    chats, doubt = questions_of(gone)
    assert [chat[0][1] for chat in chats] == [one["question"] for one in finished.result["examples"]]
    assert "cannot be had" in doubt
