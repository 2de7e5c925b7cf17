"""The commands as a user meets them: real processes, exit codes, messages, kills."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import write_model
from filelock import FileLock
from peft import PeftModel

from gepa_loop.cli import run
from gepa_loop.config.load import load_config
from gepa_loop.config.tables import LoraConfig, ModelConfig
from gepa_loop.errors import memory_fault
from gepa_loop.model.base import load_base
from gepa_loop.model.bundled import CHATML, random_tiny
from gepa_loop.model.lora.files import write_adapter
from gepa_loop.model.lora.training import student_adapter, with_lora
from gepa_loop.run.find import written as written_at
from gepa_loop.task.items import load_task

GEPA_LOOP = [sys.executable, "-c", "from gepa_loop.cli import main; main()"]
LOOP = ["loop", "--config", "smoke", "--run-name", "r"]


def gepa_loop(cwd: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GEPA_LOOP, *args], cwd=cwd, capture_output=True, text=True, env={**os.environ, **env}, timeout=240
    )


Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The same as `gepa_loop` within this process, without the seconds of its imports."""

    def command(cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(cwd)
        code = run(list(args))
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(args, code, shown.out, shown.err)

    return command


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a finished two-round smoke run `r`."""
    cwd = tmp_path_factory.mktemp("finished")
    done = gepa_loop(cwd, *LOOP, "--rounds", "2")
    assert done.returncode == 0, done.stderr
    return cwd


def result(cwd: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((cwd / "runs" / "r" / "result.json").read_text())
    return value


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, time; t = time.perf_counter()\n"
        "from gepa_loop.cli import run; code = run(['--help'])\n"
        "print(code, time.perf_counter() - t, [m for m in ('torch', 'transformers', 'dspy', 'litellm', 'scipy') if m in sys.modules])"
    )
    best = 9.0
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        last = done.stdout.strip().splitlines()[-1]
        assert last.startswith("0 ") and last.endswith("[]"), last
        best = min(best, float(last.split()[1]))
    assert "optimize" in done.stdout and "distill" in done.stdout
    assert best < 0.5


def test_the_list_of_presets_loads_no_torch() -> None:
    code = (
        "import sys\nfrom gepa_loop.cli import run; code = run(['config', 'presets'])\n"
        "print(code, [m for m in ('torch', 'transformers', 'dspy', 'litellm', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sokoban-qwen3-4b" in done.stdout and "objectives" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "0 []"


def test_a_run_directory_holds_what_its_readme_says(finished: Path) -> None:
    root = finished / "runs" / "r"
    for name in ("config.json", "manifest.json", "events.jsonl", "result.json", "report.html"):
        assert (root / name).is_file(), name
    for number in (0, 1):
        folder = root / f"round_{number:02d}"
        decision = json.loads((folder / "decision.json").read_text())
        assert decision["winner"] is None and "No student is significantly better" in decision["reason"]
        ids = [c["id"] for c in decision["candidates"]]
        assert ids
        for id_ in ids:
            assert (folder / "evaluate" / f"{id_}.jsonl").is_file()
            assert (folder / "distill" / id_ / "adapter" / "adapter_config.json").is_file()
            assert (folder / "optimize" / "prompts" / f"{id_}.txt").is_file()
    searched = json.loads((root / "config.json").read_text())["optimize"]
    assert (searched["accept"], searched["brevity"], searched["max_prompt_tokens"]) == ("margin", 0, 4096)
    outcome = result(finished)
    assert outcome["status"] == "null" and outcome["test"]["student"] is None
    assert outcome["test"]["base"]["n"] == 16
    start = json.loads((root / "events.jsonl").read_text().splitlines()[0])
    assert (
        start["items"]["test"] == 16
        and start["distinct_questions"] >= 56
        and 0 < start["commonest_share"] < 1
    )


def test_a_round_after_one_without_a_winner_trains_another_student(finished: Path) -> None:
    root = finished / "runs" / "r"
    ids = [{p.name for p in (root / f"round_{n:02d}" / "distill").iterdir()} for n in (0, 1)]
    (same, *_) = sorted(ids[0] & ids[1])  # the seed prompt is in both
    first, second = (root / f"round_{n:02d}" / "distill" / same for n in (0, 1))
    weights = [(one / "adapter" / "adapter_model.safetensors").read_bytes() for one in (first, second)]
    assert weights[0] != weights[1]
    drawn = [
        {json.loads(line)["item"] for line in (one / "samples.jsonl").read_text().splitlines()}
        for one in (first, second)
    ]
    assert drawn[0] and not drawn[0] & drawn[1]  # 3 steps of 2 items each, of 16


def test_the_adapter_loads_with_plain_peft(finished: Path) -> None:
    (adapter, *_) = (finished / "runs" / "r").glob("round_00/distill/*/adapter")
    model, _ = random_tiny(torch.float32)
    PeftModel.from_pretrained(model, str(adapter))


def test_a_finished_run_is_read_and_not_run_again(here: Here, finished: Path) -> None:
    path = finished / "runs" / "r" / "result.json"
    before, last = path.stat().st_mtime_ns, written_at(path.parent)
    done = here(finished, *LOOP, "--rounds", "2")
    assert done.returncode == 0 and "base + prompt" in done.stdout
    assert path.stat().st_mtime_ns == before
    assert written_at(path.parent) == last, "to be shown again is nothing that a run writes"
    # Without a winner there is a way on all the same.
    prompt = json.loads(path.read_text())["prompt"]
    assert (
        f"prompt {Path(prompt).stem}" in done.stdout
        and f"next: gepa-loop distill --prompt runs/r/{prompt}" in done.stdout
    )
    (student,) = (line.split()[1] for line in done.stdout.splitlines() if line.startswith("student: runs/"))
    assert (finished / student / "adapter_config.json").is_file()


def test_a_changed_config_is_refused_with_its_name(here: Here, finished: Path) -> None:
    done = here(finished, *LOOP, "--rounds", "2", "--set", "distill.lr=0.5")
    assert done.returncode == 6
    assert "distill.lr: 0.001 in the run, now 0.5" in done.stderr and "--fresh" in done.stderr


def test_require_gain_exits_with_5(here: Here, finished: Path) -> None:
    done = here(finished, *LOOP, "--rounds", "2", "--require-gain")
    assert done.returncode == 5 and "no significant gain" in done.stderr


@pytest.mark.parametrize(
    "after", ["round_00/baseline/select.jsonl", "round_00/optimize/front.jsonl", "metrics.jsonl"]
)
def test_kill_9_then_the_same_command_gives_the_same_result(
    finished: Path, tmp_path: Path, after: str
) -> None:
    process = subprocess.Popen([*GEPA_LOOP, *LOOP, "--rounds", "2"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    root = tmp_path / "runs" / "r"
    while process.poll() is None and not any(root.glob(f"**/{after}")):
        time.sleep(0.01)  # the process is watched, not waited for
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (root / "result.json").exists()
    done = gepa_loop(tmp_path, *LOOP, "--rounds", "2")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path) == result(finished)


def test_ctrl_c_saves_and_prints_the_command(finished: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*GEPA_LOOP, *LOOP, "--rounds", "2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell, as these tests may be, hands on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not any(
        (tmp_path / "runs").glob("r/round_00/optimize/gepa/evaluations.jsonl")
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "gepa-loop loop --config smoke --run-name r --rounds 2" in stderr and "Traceback" not in stderr
    done = gepa_loop(tmp_path, *LOOP, "--rounds", "2")
    assert done.returncode == 0 and result(tmp_path) == result(finished)


def test_distill_and_evaluate(here: Here, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Answer with {one} number.\n")
    smoke = ["--config", "smoke", "--run-name"]
    done = here(tmp_path, "distill", "--prompt", "p.txt", *smoke, "d")
    assert done.returncode == 0, done.stderr
    (adapter,) = (tmp_path / "runs" / "d").glob("distill/*/adapter")
    assert str(adapter.relative_to(tmp_path)) in done.stdout
    assert "report:  runs/d/report.html" in done.stdout
    assert (tmp_path / "runs" / "d" / "report.html").exists()
    assert "sampler and trainer differ by" in done.stdout
    done = here(tmp_path, "evaluate", "--adapter", str(adapter), "--against", "p.txt:", *smoke, "e")
    assert done.returncode == 0, done.stderr
    assert "sampler and trainer differ by" in done.stdout
    assert "sampled scores decide" in done.stdout and "pass@4" in done.stdout
    for way in ("greedy", "sampled"):
        assert f"difference, {way}: +.000 on every item, p = 1.0000, paired by item" in done.stdout
    written = json.loads((tmp_path / "runs" / "e" / "result.json").read_text())
    assert [s["n"] for s in written["subjects"]] == [16, 16] and written["difference"]["p"] == 1.0
    assert written["decides"] == "sampled" and written["subjects"] == written["sampled"]["subjects"]
    files = [path.name for path in (tmp_path / "runs" / "e" / "evaluate").iterdir()]
    assert len(files) == 4 and sum(name.endswith("_greedy.jsonl") for name in files) == 2
    here(tmp_path, "evaluate", "--adapter", "d", "--against", ":runs/d", *smoke, "named")
    named = json.loads((tmp_path / "runs" / "named" / "result.json").read_text())
    assert [one["id"] for one in named["subjects"]] == [written["subjects"][0]["id"]] * 2
    id_ = adapter.parent.name
    assert [one["name"] for one in written["subjects"]] == [f"student {id_} of d", f"prompt {id_}"]
    again = tmp_path / "runs" / "d"
    before = written_at(again)
    assert here(tmp_path, "distill", "--prompt", "p.txt", *smoke, "d").returncode == 0
    assert written_at(again) == before, "to be shown again is nothing that a run writes"


def test_a_full_disk_is_an_error_and_the_same_command_continues(finished: Path, tmp_path: Path) -> None:
    def limit() -> None:  # the process may write files of 30 kB: enough for all but an adapter
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    full = subprocess.run(
        [*GEPA_LOOP, *LOOP, "--rounds", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=240,
    )
    assert full.returncode == 3 and "Traceback" not in full.stderr
    assert "cannot write" in full.stderr and "Free some space" in full.stderr
    assert not (tmp_path / "runs" / "r" / "result.json").exists()
    done = gepa_loop(tmp_path, *LOOP, "--rounds", "2")
    assert done.returncode == 0 and result(tmp_path) == result(finished)


def test_memory_that_runs_out_is_an_error(here: Here, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Say a number.")
    done = here(
        tmp_path, "distill", "--config", "smoke", "--prompt", "p.txt", "--set", "lora.rank=1000000000000"
    )
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "out of memory" in done.stderr and "lora.rank" in done.stderr
    assert str(memory_fault(MemoryError())) == "out of memory: no more can be had"
    full = memory_fault(torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nProcess 7"))
    assert str(full) == "out of memory: CUDA out of memory. Tried 2 GiB"
    assert memory_fault(torch.AcceleratorError("CUDA error: out of memory\nSearch for it")) is not None
    assert memory_fault(RuntimeError("CUDA error: device-side assert")) is None


def test_a_run_in_use_is_refused(here: Here, finished: Path) -> None:
    with FileLock(finished / "runs" / "r" / ".lock"):
        done = here(finished, *LOOP, "--rounds", "2")
    assert done.returncode == 6 and "in use by another process" in done.stderr


def test_a_budget_that_ends_before_a_proposal_exits_with_4(here: Here, tmp_path: Path) -> None:
    done = here(tmp_path, "optimize", "--config", "smoke", "--set", "optimize.max_minutes=1e-9")
    assert done.returncode == 4 and "before the first proposal" in done.stderr


def test_an_answer_that_dominates_is_warned_of(here: Here, tmp_path: Path) -> None:
    task = ["--set", "task.name=letter_counting", "--set", "task.options={min_words=1,max_words=3}"]
    done = here(tmp_path, "loop", "--config", "smoke", *task, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "warning: task letter_counting:" in done.stdout and "of the answers are '1'" in done.stdout


def test_a_prompt_that_holds_questions_of_its_judges_is_warned_of(here: Here, tmp_path: Path) -> None:
    config = load_config("smoke", env={})
    splits = load_task(config.task, config.seed).splits
    held = [splits[name][0] for name in ("train", "race", "test")]
    lines = [f"Example: {item.question} The answer is {item.answer}." for item in held]
    (tmp_path / "p.txt").write_text("\n".join(lines))
    done = here(tmp_path, "distill", "--prompt", "p.txt", "--config", "smoke", "--dry-run")
    assert done.returncode == 0, done.stderr
    first = held[1]
    said = f"1 of race and 1 of test (the first is {first.id} {first.question[:20]!r}"[:-1]
    assert f"p.txt holds questions it will be judged by: {said}" in done.stdout


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("optimize.seed_prompt=First line.", "from optimize.seed_prompt: 'First line.', 11 tokens"),
        ("optimize.seed_prompt=p.txt", "p.txt: 'In a file.' and more lines, 16 tokens"),
    ],
)
def test_the_seed_prompt_is_shown_before_anything_is_spent(
    here: Here, tmp_path: Path, sets: str, said: str
) -> None:
    (tmp_path / "p.txt").write_text("In a file.\nTwice")
    done = here(tmp_path, "optimize", "--config", "smoke", "--set", sets, "--dry-run")
    assert done.returncode == 0 and said in done.stdout, done.stdout


def test_an_item_over_the_context_is_found_before_anything_is_scored(here: Here, tmp_path: Path) -> None:
    """Few characters, many tokens, and a command that is given no prompt."""
    rows = [{"question": f"What is {n}?", "answer": f"{n}"} for n in range(40)]
    rows[7] = {"question": "\u7af9" * 900, "answer": "7"}
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = ["task.kind=jsonl", "task.name=t.jsonl", "task.splits={train=10, pareto=10, select=10, test=10}"]
    sets = [word for one in task for word in ("--set", one)]
    done = here(tmp_path, "evaluate", "--config", "smoke", *sets)
    assert done.returncode == 2 and "t.jsonl, item jsonl:8: prompt and question take 27" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_dry_run_writes_nothing(here: Here, tmp_path: Path) -> None:
    done = here(tmp_path, "loop", "--config", "smoke", "--dry-run")
    assert done.returncode == 0 and "would write runs/loop-smoke-" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["distill", "--prompt", "none.txt"], 2, "none.txt: No such file"),
        (["distill", "--prompt", "empty.txt"], 2, "empty.txt: the prompt is empty"),
        (["distill", "--prompt", "long.txt", "--config", "smoke"], 2, "over the model's context of 2,048"),
        (["loop", "--config", "smoke", "--set", "distill.lrr=1"], 2, "the nearest is distill.lr"),
        (["loop", "--config", "smoke", "--set", "task.name=lmc"], 2, "lcm"),
        (
            ["loop", "--config", "smoke", "--set", "optimize.seed_prompt=prompts/roter.txt"],
            2,
            "there is no such file",
        ),
        (
            [
                "loop",
                "--config",
                "smoke",
                "--set",
                "task.splits.train=2000",
                "--set",
                "task.options.max_value=9",
            ],
            2,
            "train",
        ),
        (["loop", "--config", "smoke", "--set", "optimize.max_rollouts=5"], 2, "allows no proposal"),
        (["loop", "--config", "smoke", "--set", "model.name=folder"], 3, "has no weights"),
        (["loop", "--config", "smoke", "--set", "model.name=bundled:x"], 3, "no such built-in model"),
        (["loop", "--config", "smoke", "--run-name", "a/b"], 2, "not a plain folder name"),
        (["evaluate", "--config", "smoke", "--split", "tset"], 2, "no such split"),
        (["evaluate", "--config", "smoke", "--adapter", "folder"], 3, "no adapter can be read there"),
        (["fly"], 2, "No such command"),
    ],
)
def test_bad_input_is_a_clear_error_and_writes_nothing(
    here: Here, tmp_path: Path, args: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n  \n")
    (tmp_path / "long.txt").write_text("word " * 100_000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    done = here(tmp_path, *args)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "runs").exists()


def test_a_run_keeps_its_day_and_its_template_arguments(tmp_path: Path, here: Here) -> None:
    dated = "{{ strftime_now('%d %b %Y') }}{% if loud %}!{% endif %}" + CHATML
    write_model("llama", tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text(dated)
    settings = ["--config", "smoke", "--set", "model.name=m", "--set", "model.template.loud=true"]
    command = ["evaluate", "--run-name", "r", *settings]
    first = here(tmp_path, *command, "--set", "model.date=2024-02-29")
    assert first.returncode == 0, first.stderr
    assert "template: it writes the date, 2024-02-29 for all of this run (model.date)" in first.stdout
    identity = json.loads((tmp_path / "runs" / "r" / "manifest.json").read_text())["identity"]
    assert (identity["model.date"], identity["model.template.loud"]) == ("2024-02-29", True)
    # Nobody names the day again: today is another.
    assert here(tmp_path, *command).returncode == 0
    other = here(tmp_path, *command, "--set", "model.date=2024-03-01")
    assert other.returncode == 6 and "model.date: '2024-02-29' in the run, now '2024-03-01'" in other.stderr
    assert here(tmp_path, *command, "--fresh", "--set", "model.date=2024-03-01").returncode == 0
    typo = here(tmp_path, *command, "--set", "model.template.lowd=true")
    assert typo.returncode == 2 and "model.template.lowd: the chat template" in typo.stderr
    wrong = here(tmp_path, *command, "--set", "model.date=2024-02-30")
    assert wrong.returncode == 2 and "model.date" in wrong.stderr


def test_a_model_that_cannot_be_used_is_one_sentence_and_no_run(tmp_path: Path, here: Here) -> None:
    write_model("lfm2", tmp_path / "conv", layer_types=["conv", "full_attention"])
    write_model(
        "llama", tmp_path / "window", sliding_window=16
    )  # only reading with it shows that there is none
    for name, said in (
        ("conv", "models of type lfm2 have layers of kind conv;"),
        ("window", "models of type llama cannot"),
    ):
        done = here(tmp_path, "evaluate", "--config", "smoke", "--set", f"model.name={name}")
        assert done.returncode == 3 and not (tmp_path / "runs").exists()
        assert done.stderr.startswith(f"error: model.name = '{name}': {said}")


def test_an_adapter_of_another_base_is_refused_and_a_strangers_is_noted(tmp_path: Path, here: Here) -> None:
    mine, other = (
        load_base(ModelConfig(name=str(write_model("llama", tmp_path / name, initializer_range=size))))
        for name, size in (("mine", 0.2), ("other", 0.3))
    )
    model = with_lora(mine, LoraConfig(rank=2), 0, None)
    write_adapter(tmp_path / "a", student_adapter(model), mine.origin)
    evaluate = ["evaluate", "--config", "smoke", "--adapter", "a", "--set"]
    refused = here(tmp_path, *evaluate, "model.name=other")
    assert refused.returncode == 3 and not (tmp_path / "runs").exists()
    assert mine.origin.weights in refused.stderr and other.origin.weights in refused.stderr
    done = here(tmp_path, *evaluate, "model.name=mine")
    assert done.returncode == 0 and "does not say on which weights" not in done.stdout
    (tmp_path / "a" / "base.json").unlink()
    done = here(tmp_path, *evaluate, "model.name=other")
    assert done.returncode == 0 and "warning: a: it does not say on which weights" in done.stdout
    teach = ["--set", "teacher.kind=adapter", "--set", "teacher.path=a", "--set", "model.name=other"]
    write_adapter(tmp_path / "a", student_adapter(model), mine.origin)
    (tmp_path / "p.txt").write_text("Be short.")
    refused = here(tmp_path, "distill", "--prompt", "p.txt", "--config", "smoke", "--run-name", "t", *teach)
    assert refused.returncode == 3 and "teacher.path = " in refused.stderr
    assert not (tmp_path / "runs" / "t").exists()
