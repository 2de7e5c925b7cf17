"""An export on a hub, by the hub's own client against a server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub import TOKEN, Hub, open_hub

from gepa_loop.model.bundled import random_tiny


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub that has the tiny model."""
    model, tokenizer = random_tiny(torch.float32)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    with open_hub() as opened:
        opened.base = tmp_path / "base"
        yield opened


def export(
    place: Path, hub: Hub, to: Path, *words: str, token: str = TOKEN, said: str | None = None
) -> subprocess.CompletedProcess[str]:
    """`gepa-loop export` in a process of its own, as the client reads its environment once."""
    env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    env |= {"HF_TOKEN": token, "HF_HOME": str(to.parent / "hf"), "NO_PROXY": "127.0.0.1"}
    env |= {"HOME": str(to.parent)}
    command = [sys.executable, "-m", "gepa_loop", "export", "d", f"--to={said or to}", *words]
    return subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)


def test_all_of_a_folder_is_pushed_to_a_private_repository(place: Path, hub: Hub, tmp_path: Path) -> None:
    to = tmp_path / "x"
    done = export(place, hub, to, "--base", "somebody/base", "--push", "somebody/student")
    assert done.returncode == 0, done.stderr
    assert "pushing as somebody" in done.stdout
    assert f"pushed to {hub.address}/somebody/student, private" in done.stdout
    [made] = hub.created
    assert made["name"] == "student" and made["organization"] == "somebody"
    assert made.get("private") is True or made.get("visibility") == "private"
    here = {str(path.relative_to(to)): path.read_bytes() for path in to.rglob("*") if path.is_file()}
    sent = {name: data for name, data in hub.files.items() if name != ".gitattributes"}
    assert sent.keys() == {name for name in here if not name.startswith(".cache/")}
    assert all(here[name] == data for name, data in sent.items())
    assert "adapter_model.safetensors" in sent and not any(name.startswith("base/") for name in sent)
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == "somebody/base"
    assert TOKEN not in done.stdout + done.stderr
    # No bars of the libraries between our lines.
    assert "Loading weights" not in done.stderr and "model shards" not in done.stderr, done.stderr
    assert not any(str(tmp_path).encode() in data for data in sent.values())
    assert b"mend `base_model_name_or_path`" not in sent["README.md"]
    assert b'\nlicense: "mit"\n' in sent["README.md"] and b"for `somebody/base`" in sent["README.md"]


@pytest.mark.parametrize(
    ("words", "token", "code", "told"),
    [
        (
            ("--push", "somebody/student"),
            TOKEN,
            2,
            "others cannot load its base, as random:tiny has no id on a hub",
        ),
        (("--base", "a/b", "--push", "student"), TOKEN, 2, "without an owner"),
        (("--base", "/srv/m", "--push", "a/b"), TOKEN, 2, "--base /srv/m is a folder of this machine"),
        (("--base", "~/m", "--push", "a/b"), TOKEN, 2, "--base ~/m is a folder of this machine"),
        (("--base", "a/b", "--push", "somebody/public"), TOKEN, 2, "it is not private"),
        (("--base", "a/b", "--push", "a b/c"), TOKEN, 2, "Name it as OWNER/NAME"),
        (("--base", "a/b", "--push", "a/b"), "hf_other", 3, "Set HF_TOKEN to a token that may write"),
        (("--base", "a/b", "--push", "a/b"), "", 3, "there is no token of the hub"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anything_is_made(
    place: Path, hub: Hub, tmp_path: Path, words: tuple[str, ...], token: str, code: int, told: str
) -> None:
    hub.private["somebody/public"] = False
    done = export(place, hub, tmp_path / "x", *words, token=token)
    assert done.returncode == code, done.stderr
    assert told in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists() and hub.created == [] and hub.files == {}


def test_an_export_outlives_a_hub_that_refuses_it(place: Path, hub: Hub, tmp_path: Path) -> None:
    hub.refuses = "/api/repos/create"
    done = export(place, hub, tmp_path / "x", "--base", "somebody/base", "--push", "a/b")
    assert done.returncode == 3 and "rights" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "x" / "adapter_model.safetensors").exists()


def test_a_private_repository_that_is_there_is_pushed_to(place: Path, hub: Hub, tmp_path: Path) -> None:
    hub.private["somebody/student"] = True
    words = ("--base", "somebody/base", "--push", "somebody/student")
    # As a shell leaves it behind an equals sign.
    done = export(place, hub, tmp_path / "x", *words, said="~/x")
    assert done.returncode == 0, done.stderr
    assert hub.created == [] and "adapter_model.safetensors" in hub.files
    assert f"pushed to {hub.address}/somebody/student, private" in done.stdout


def test_a_repository_that_became_public_meanwhile_is_given_nothing(
    place: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.makes_public = True
    done = export(place, hub, tmp_path / "x", "--base", "somebody/base", "--push", "somebody/student")
    assert done.returncode == 2 and "it is not private" in done.stderr, done.stderr
    assert "private" not in done.stdout and hub.files == {} and hub.large == {}
    assert (tmp_path / "x" / "adapter_model.safetensors").exists()
