"""All that is wrong with a config, at once."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from gepa_loop.config.load import load_config, load_what_can_be
from gepa_loop.config.recipe import DistillConfig
from gepa_loop.config.tables import ModelConfig, TaskConfig
from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.model.base import Base
from gepa_loop.model.bundled import random_tiny
from gepa_loop.model.outline import outline
from gepa_loop.start.doctor import Finding, examine
from gepa_loop.start.engine import engine
from gepa_loop.start.machine import Machine, cards_of
from gepa_loop.start.reach import find_task
from gepa_loop.start.room import elsewhere, least_memory, memory_of_teacher, most_disk, weights


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def _found(cwd: Path, *sets: str, source: str | None = "smoke") -> list[Finding]:
    return list(examine(source, sets, cwd))


def _faults(found: Sequence[Finding]) -> dict[str, str]:
    return {one.about: one.sentence for one in found if one.state == "fault"}


def test_a_config_without_a_fault(tmp_path: Path) -> None:
    found = _found(tmp_path)
    assert not _faults(found)
    states = {one.about: one.state for one in found}
    wanted = {"config", "task", "prompt", "model", "device", "engine", "memory", "disk", "reflection"}
    assert wanted <= set(states) and states["reflection"] == "note"
    assert not (tmp_path / "runs").exists()


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    found = _found(
        tmp_path,
        "distill.lrr=3",
        "distill.group=7",
        "lora.rank=none",
        "optimize.seed_prompt_file=nope.txt",
        "task.kind=csv",
        "task.name=none.csv",
        "task.extract=whole",
        "model.name=no/such/folder",
        "sampling.engine=vllm",
        "optimize.reflection.model=openai/gpt-5",
    )
    said = [f"{one.about}: {one.sentence}" for one in found if one.state == "fault"]
    for text in (
        "config: --set distill.lrr=3: unknown key",
        "must be a multiple of group (7)",
        "lora.rank",
        "optimize.seed_prompt_file = 'nope.txt': there is no such file",
        "task: task.name = 'none.csv': No such file",
        "model: model.name = 'no/such/folder'",
        "engine: sampling.engine = 'vllm'",
        "reflection: optimize.reflection.model = 'openai/gpt-5': OPENAI_API_KEY is not set",
    ):
        assert sum(text in one for one in said) == 1, (text, said)
    # The model's fault is said once, whoever else needs the model.
    assert sum("no/such/folder" in one for one in said) == 1
    assert {one.code for one in found if one.state == "fault"} == {2, 3}


def test_what_is_left_of_a_config_with_faults(tmp_path: Path) -> None:
    sets = ["distill.lr=high", "sampling.max_tokens=9", "objective.type=nonsense", "seed=-1", "tasks.name=x"]
    config, faults = load_what_can_be("smoke", sets, env={}, cwd=tmp_path)
    assert config is not None and config.sampling.max_tokens == 9 and config.seed == 0
    assert config.distill.lr == DistillConfig().lr
    told = "\n".join(map(str, faults))
    for text in ("distill.lr = 'high'", "there are full_kl", "seed = -1", "unknown key tasks"):
        assert text in told
    assert load_what_can_be("nonsense", [], env={}, cwd=tmp_path)[0] is None
    config, faults = load_what_can_be("smoke", ["task.kind=csv", "task.options.foo=1"], env={}, cwd=tmp_path)
    assert len(faults) == 1 and "options.foo is there" in str(faults[0])


def test_a_prompt_too_long_for_the_context(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("word " * 5_000)
    faults = _faults(_found(tmp_path, "optimize.seed_prompt_file=long.txt"))
    assert "over the model's context of 2,048" in faults["prompt"]


def test_memory_and_disk_that_do_not_suffice(tmp_path: Path) -> None:
    model = outline(ModelConfig(name="random:tiny", dtype="float32", device="cpu"))
    config = load_config("smoke", ["model.dtype=float32", "model.device=cpu"], env={}, cwd=tmp_path)
    machine = Machine("m", None, 1.0, 1.0)
    parts = least_memory(config, model, machine, 3)
    import torch

    tiny, _ = random_tiny(torch.float32)
    assert parts["weights"] * 2**30 == sum(p.numel() for p in tiny.parameters()) * 4
    linear = [m for m in tiny.modules() if isinstance(m, torch.nn.Linear) and m is not tiny.lm_head]
    assert model.trained == sum(m.in_features + m.out_features for m in linear)
    doubled = config.model_copy(
        update={"lora": config.lora.model_copy(update={"rank": 2 * config.lora.rank})}
    )
    students = next(name for name in parts if "students" in name)
    assert least_memory(doubled, model, machine, 3)[students] == 2 * parts[students]
    assert least_memory(config, model, machine, 1)["1 student"] == pytest.approx(parts[students] / 3)
    assert most_disk(doubled, model) == 2 * most_disk(config, model) > 0
    huge = _faults(_found(tmp_path, "lora.rank=100000000"))
    assert "GiB free" in huge["memory"] and "GiB free" in huge["disk"]


def test_a_second_model_takes_memory_beside_the_first(tmp_path: Path) -> None:
    [alone] = [one for one in _found(tmp_path) if one.about == "memory"]
    found = _found(tmp_path, "teacher.kind=model", "teacher.name=random:tiny")
    first, beside = (one for one in found if one.about == "memory")
    assert first.sentence.partition("),")[0] == alone.sentence.partition("),")[0]
    assert "the teacher's weights" in beside.sentence and "the teacher's weights" not in alone.sentence
    model = outline(ModelConfig(name="random:tiny", dtype="float32", device="cpu"))
    huge = replace(model, parameters=10**13)
    sets = ["model.device=cpu", "model.dtype=float32", "teacher.kind=model", "teacher.name=x/y"]
    config = load_config("smoke", [*sets, "teacher.dtype=bfloat16"], env={}, cwd=tmp_path)
    assert weights(huge, "bfloat16", "cpu") == 2e13 / 2**30
    [wrong] = memory_of_teacher(config, model, huge, tmp_path)
    assert wrong.state == "fault" and "the teacher's weights 18626.5)" in wrong.sentence
    assert "smaller teacher" in wrong.hint and wrong.code == 3
    assert [one.state for one in memory_of_teacher(config, model, model, tmp_path)] == ["ok"]
    away = _faults(
        _found(tmp_path, "teacher.kind=model", "teacher.name=random:tiny", "teacher.device=cuda:7")
    )
    assert "teacher.device = 'cuda:7'" in away["memory"]


def test_a_second_model_that_lies_elsewhere_is_said_apart(tiny: Base) -> None:
    away = replace(tiny, model=copy.deepcopy(tiny.model).to("meta"))
    gib = sum(p.nbytes for p in tiny.model.parameters()) / 2**30
    assert [*elsewhere(tiny, None, 0), *elsewhere(tiny, tiny, 2)] == []
    assert list(elsewhere(tiny, away, 0)) == [f"the teacher's weights take {gib:.1f} GiB more, on meta"]
    assert "on meta, and as much for the command's own beside that of one of 2" in next(
        elsewhere(tiny, away, 2)
    )


def test_what_a_split_model_needs_is_known_before_it_is_loaded() -> None:
    config = load_config("smoke", ["model.device=split"], env={})
    assert [one.state for one in engine(config)] == ["ok"]
    for named in ("cuda", "vllm"):
        own = config.model_copy(update={"sampling": config.sampling.model_copy(update={"engine": named})})
        with pytest.raises(ConfigError, match=f"'{named}': it needs a second copy of the weights"):
            list(engine(own))
    assert cards_of("split", 4) == [0, 1, 2, 3]
    assert cards_of("cuda:2", 4) == [2] and cards_of("cuda:9", 4) == cards_of("auto", 4) == [0]


def test_a_task_that_runs_code_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')\n")
    sets = ("task.kind=python", "task.name=mine:items", "task.extract=whole")
    assert any("mine.py would be run" in one.sentence for one in _found(tmp_path, *sets))
    faults = _faults(
        _found(tmp_path, "task.kind=python", "task.name=other_module_of_mine:items", "task.extract=whole")
    )
    assert "no file of other_module_of_mine" in faults["task"]


@pytest.fixture
def server() -> Iterator[str]:
    class Models(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": "big"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_a_teacher_on_a_server(tmp_path: Path, server: str) -> None:
    own = ("teacher.kind=server", "distill.warm_start=0", "distill.on_policy=1")
    assert not _faults(_found(tmp_path, *own, f"teacher.url={server}", "teacher.name=big"))
    faults = _faults(_found(tmp_path, *own, f"teacher.url={server}", "teacher.name=small"))
    assert "does not serve it" in faults["teacher"]
    faults = _faults(_found(tmp_path, *own, "teacher.url=http://127.0.0.1:9", "teacher.name=big"))
    assert "teacher.url" in faults["teacher"]


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections, as the kernel does for it, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as held:
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_server_that_never_answers(tmp_path: Path, silent: str) -> None:
    own = ("teacher.kind=server", "distill.warm_start=0", "distill.on_policy=1", f"teacher.url={silent}")
    found = list(examine("smoke", [*own, "teacher.name=big", "sampling.engine=vllm"], tmp_path, 0.3))
    faults = _faults(found)
    assert faults.keys() == {"teacher", "engine"} and f"teacher.url = {silent!r}" in faults["teacher"]
    assert {"task", "prompt", "model", "memory", "disk"} <= {one.about for one in found if one.state == "ok"}


def test_a_hub_that_never_answers(tmp_path: Path, silent: str) -> None:
    sets = [
        "task.kind=hf",
        "task.name=owner/tickets",
        "model.name=owner/small",
        "teacher.kind=model",
        "teacher.name=owner/big",
    ]
    sets += ["track.kind=nosuch:mod"]
    code = (
        "import json\nfrom pathlib import Path\nfrom gepa_loop.start.doctor import examine\n"
        f"found = examine('smoke', {sets!r}, Path({str(tmp_path)!r}), 0.3)\n"
        "print(json.dumps({one.about: one.sentence for one in found if one.state == 'fault'}))"
    )
    own = {
        "HF_ENDPOINT": silent,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "*",
        "PYTHONPATH": os.getcwd(),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **own}
    )
    faults = json.loads(done.stdout)
    assert faults.keys() == {"task", "model", "teacher", "track"}, done.stderr
    for about, name in (("task", "owner/tickets"), ("model", "owner/small"), ("teacher", "owner/big")):
        assert faults[about].startswith(f"{about}.name = {name!r}: ")


def test_a_tracker_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "follower.py").write_text("raise SystemExit('it was run')\n")
    assert "there is no file of nosuch" in _faults(_found(tmp_path, "track.kind=nosuch:mod"))["track"]
    said = {one.about: one.sentence for one in _found(tmp_path, "track.kind=follower:open")}
    assert said["track"] == f"{tmp_path / 'follower.py'} would be run"
    for kind in ("tensorboard", "wandb", "mlflow", "trackio"):
        faults = _faults(_found(tmp_path, f"track.kind={kind}"))
        assert ("track" in faults) == (find_spec(kind) is None)


def test_questions_that_nobody_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("distill.questions=50", "distill.writer=reflection")
    assert "there is no reflection model" in _faults(_found(tmp_path, *sets))["questions"]
    assert not _faults(_found(tmp_path, *sets[:1], "distill.writer=model"))
    # A key that is missing is said once.
    named = _faults(_found(tmp_path, *sets, "optimize.reflection.model=openai/gpt-5"))
    assert named.keys() == {"reflection"} and "OPENAI_API_KEY is not set" in named["reflection"]
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    said = {
        one.about: one.sentence for one in _found(tmp_path, *sets, "optimize.reflection.model=openai/gpt-5")
    }
    assert said["questions"] == "50 for train, to be written by openai/gpt-5"


def test_tasks_of_reasoning_gym_are_known_by_its_files(tmp_path: Path) -> None:
    from reasoning_gym.factory import DATASETS

    for name in DATASETS:
        assert find_task(TaskConfig(kind="reasoning_gym", name=name)) == [f"{name} of reasoning-gym"]
    for name in ("nonsense", "lcm2", "DATASET_NAME", ""):
        with pytest.raises(TaskError, match="reasoning-gym has no such task"):
            find_task(TaskConfig.model_construct(kind="reasoning_gym", name=name, scorer=None))
    code = (
        "import sys\nfrom gepa_loop.config.tables import TaskConfig\nfrom gepa_loop.start.reach import find_task\n"
        "print(find_task(TaskConfig(name='lcm')), 'reasoning_gym' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "['lcm of reasoning-gym'] False\n", done.stderr


def test_teachers_here(tmp_path: Path) -> None:
    assert not _faults(_found(tmp_path, "teacher.kind=model", "teacher.name=random:tiny"))
    faults = _faults(_found(tmp_path, "teacher.kind=model", "teacher.name=bundled:smollm2-135m-instruct"))
    assert "its vocabulary is not that of random:tiny" in faults["teacher"]
    faults = _faults(_found(tmp_path, "teacher.kind=adapter", "teacher.path=none"))
    assert "none" in faults["teacher"]


def test_a_judge_without_a_key(tmp_path: Path) -> None:
    sets = (
        "task.kind=jsonl",
        "task.name=a.jsonl",
        "task.scorer=model",
        "task.judge={model='anthropic/x',rubric='Be good.'}",
    )
    (tmp_path / "a.jsonl").write_text('{"question": "Q"}\n')
    assert "ANTHROPIC_API_KEY is not set" in _faults(_found(tmp_path, *sets))["judge"]


def test_faults_of_every_kind_are_in_one_list_and_each_once(tmp_path: Path) -> None:
    """Keys that do not exist, cannot be used or do not go together, and files, models and devices that are missing."""
    sets = {
        "task.scorer=exakt": "reasoning-gym's tasks bring their own",
        "distill.lr=-1": "input should be greater than 0",
        "distill.stepz=1": "unknown key distill.stepz",
        "distill.group=3": "rollouts (8) must be a multiple of group (3)",
        "optimize.seed_prompt_file=no.txt": "there is no such file",
        f"model.name={tmp_path / 'none'}": "neither a folder nor a model",
        "model.device=cuda:3": "CUDA devices",
    }
    found = [str(one.sentence) for one in examine("smoke", list(sets), tmp_path) if one.state == "fault"]
    for said in sets.values():
        assert len([one for one in found if said in one]) == 1, (said, found)
    assert len(found) == len(sets)


def test_a_prompt_that_holds_its_own_test_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"Who is {n}?", "answer": f"B{n}"} for n in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sets = ["task.kind=jsonl", "task.name=t.jsonl", "task.options={}", "optimize.seed_prompt_file=p.txt"]
    sizes = "task.splits={train=0.5,pareto=0.1,select=0.1,test=0.3}"
    for prompt, notes in (("\n".join(row["question"] for row in rows), 1), ("Say who.", 0)):
        (tmp_path / "p.txt").write_text(prompt)
        found = _found(tmp_path, *sets, sizes)
        assert not _faults(found)
        held = [one for one in found if one.about == "prompt" and one.state == "note"]
        assert len(held) == notes
        assert all("6 of select and 18 of test (the first is jsonl:" in one.sentence for one in held)
    assert "select = 50" in _faults(_found(tmp_path, *sets, "task.splits={train=20,select=50}"))["items"]
