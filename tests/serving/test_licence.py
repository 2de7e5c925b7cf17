"""The licence of a base: its folder's card, the hub's, or what is known of a bundled model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import TOKEN, open_hub

from gepa_loop.model.bundled import SMOLLM, TINY
from gepa_loop.serving.licence import copy_licence, licence_of

CARD = "---\nlicense: apache-2.0\nbase: x\n---\n# m\n"


@pytest.mark.parametrize(
    ("card", "found"),
    [
        (CARD, "apache-2.0"),
        ("\ufeff" + CARD.replace("\n", "\r\n"), "apache-2.0"),
        ("---\nlicense: 'mit'\ntags: [\n---\n", "mit"),
        ("---\nbase: x\n---\nlicense: mit\n", None),
        ("# m\n", None),
    ],
)
def test_a_folder_has_a_card(card: str, found: str | None, tmp_path: Path) -> None:
    assert licence_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text(card, newline="")
    assert licence_of(str(tmp_path)) == found


def test_of_bundled_models_it_is_known() -> None:
    assert licence_of(SMOLLM) == "apache-2.0" and licence_of(TINY) is None


def _asked(name: str, address: str, home: Path, **more: str) -> str:
    """In a process of its own, as the hub's client reads its environment once."""
    code = f"from gepa_loop.serving.licence import licence_of; print(licence_of({name!r}))"
    env = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "NO_PROXY": "127.0.0.1",
    }
    env |= {"HF_HUB_OFFLINE": "0", **more}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_hub_has_a_card(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with open_hub() as hub:
        hub.base = tmp_path / "base"
        assert _asked("somebody/base", hub.address, tmp_path / "none") == "None"
        (hub.base / "README.md").write_text(CARD)
        assert _asked("somebody/base", hub.address, tmp_path / "hf") == "apache-2.0"
        assert _asked("some body/base", hub.address, tmp_path / "hf") == "None"
        assert _asked("somebody/base", hub.address, tmp_path / "off", HF_HUB_OFFLINE="1") == "None"
    # Nobody listens any more; what was read before is there.
    assert _asked("somebody/base", hub.address, tmp_path / "gone") == "None"
    assert _asked("somebody/base", hub.address, tmp_path / "hf") == "apache-2.0"


def test_the_text_goes_along(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "LICENSE").write_text("all of it")
    copy_licence(str(tmp_path / "base"), tmp_path)
    copy_licence(SMOLLM, tmp_path)
    assert (tmp_path / "LICENSE").read_text() == "all of it" and not (tmp_path / "LICENSE.txt").exists()
