"""A prompt that leaves no room is found before items are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from gepa_loop.cli import run as gepa_loop
from gepa_loop.config.tables import ModelConfig
from gepa_loop.errors import PromptError
from gepa_loop.model.outline import outline
from gepa_loop.start.context import check_context

SLOW = """
import gepa_loop
from pathlib import Path

class Slow(gepa_loop.Task):
    def items(self):
        Path("made").touch()
        return [gepa_loop.Item.of(f"Q{n}", f"A{n}") for n in range(300)]
"""


def test_the_prompt_and_the_completion_fit_or_not() -> None:
    model = outline(ModelConfig(name="random:tiny", dtype="float32", device="cpu"))
    tokens = check_context(model, "word " * 10, 16, "p.txt")
    assert tokens == len(model.tokenizer("word " * 10, add_special_tokens=False)["input_ids"])
    assert check_context(model, "word " * 10, model.context - tokens, "p.txt") == tokens
    with pytest.raises(PromptError, match=rf"p.txt: the prompt takes {tokens} tokens and a completion up to"):
        check_context(model, "word " * 10, model.context - tokens + 1, "p.txt")


def test_no_item_is_made_for_a_prompt_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slow.py").write_text(SLOW)
    task = ["--set", "task.kind=python", "--set", "task.name=slow.py:Slow", "--set", "task.extract=whole"]
    argv = ["distill", "--prompt", "p.txt", "--config", "smoke", "--dry-run", *task]
    for text, code, made in (("word " * 5_000, 2, False), ("Answer.", 0, True)):
        (tmp_path / "p.txt").write_text(text)
        assert gepa_loop(argv) == code
        assert (tmp_path / "made").exists() == made
        assert ("over the model's context of 2,048" in capsys.readouterr().err) == (code == 2)
