"""What vLLM is told of a student, and that it takes this process's place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from gepa_loop.cli import run
from gepa_loop.config.tables import ModelConfig
from gepa_loop.errors import ConfigError, ModelError
from gepa_loop.model.bundled import random_tiny
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.serving.by_vllm import Serving, check_vllm, need_vllm, vllm_words
from gepa_loop.serving.finished import Finished, read_finished

SERVING = Serving("127.0.0.1", 8123, 0.5, 40)


@pytest.fixture(scope="module")
def finished(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run as one of a model in a folder, as vLLM knows no random one."""
    found = read_finished(str(place / "runs" / "d"))
    folder = tmp_path_factory.mktemp("base") / "tiny"
    model, tokenizer = random_tiny(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    own = found.config.model.model_copy(update={"name": str(folder)})
    return replace(found, config=found.config.model_copy(update={"model": own}))


def test_vllm_is_told_what_the_run_knows(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path))
    words = vllm_words(finished, SERVING)
    told = dict(pairwise(words))
    assert words[:2] == ["serve", finished.config.model.name] and "--enable-lora" in words
    assert told["--host"] == "127.0.0.1" and told["--port"] == "8123"
    # Of rank 3, which vLLM does not serve.
    assert told["--max-lora-rank"] == "8"
    assert json.loads(told["--override-generation-config"]) == {"temperature": 0.5, "max_new_tokens": 40}
    name, _, folder = told["--lora-modules"].partition("=")
    served, own = read_adapter(Path(folder)), read_adapter(finished.adapter)
    assert name == "student" and served.rank == 8
    for module in own.modules:
        (a, b), (c, d) = served.pair(module), own.pair(module)
        torch.testing.assert_close(served.scale * b @ a, own.scale * d @ c)
    assert "<|im_start|>" in Path(told["--chat-template"]).read_text()
    assert vllm_words(finished, SERVING) == words, "the files are there already"


def test_other_weights_than_those_that_were_trained_are_not_served(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path / "cache"))
    model, tokenizer = random_tiny(torch.float32)
    next(model.parameters()).data += 1
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    own = finished.config.model.model_copy(update={"name": str(tmp_path / "other")})
    other = replace(finished, config=finished.config.model_copy(update={"model": own}))
    with pytest.raises(ModelError, match="other"):
        vllm_words(other, SERVING)


def test_without_a_gpu_the_programs_own_sampler_serves(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = read_finished(str(place / "runs" / "d"))
    assert check_vllm(tiny) == "vLLM does not load random:tiny"
    own = ModelConfig(name="bundled:smollm2-135m-instruct", device="cpu")
    there = replace(tiny, config=tiny.config.model_copy(update={"model": own}))
    assert check_vllm(there) == "the model lies on cpu"
    model = there.config.model.model_copy(update={"device": "split"})
    split = replace(there, config=there.config.model_copy(update={"model": model}))
    assert check_vllm(split) == "model.device = 'split', and vLLM is started for one GPU"
    with pytest.raises(ConfigError, match=r"--engine vllm: model\.device = 'split'"):
        need_vllm(split)
    monkeypatch.chdir(place)
    assert run(["serve", "d", "--engine", "vllm"]) == 2
    assert "does not load random:tiny" in capsys.readouterr().err


def test_a_process_becomes_vllm(tmp_path: Path) -> None:
    """Its interpreter runs vLLM's command, here one that says what it was given."""
    package = tmp_path / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text("import os, sys\nprint(os.getpid(), sys.argv[1:])\n")
    here = tmp_path / "here"
    (here / "vllm").mkdir(parents=True)
    (here / "vllm" / "__init__.py").write_text("print('not this one')\n")
    code = (
        "import os; print(os.getpid(), end=' ')\n"
        "from gepa_loop.serving.by_vllm import become_vllm\n"
        "become_vllm(['serve', 'a b'])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, cwd=here
    )
    before, after, words = done.stdout.split(" ", 2)
    assert before == after and words.strip() == "['serve', 'a b']"
