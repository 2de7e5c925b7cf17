"""From what a Python program passes to a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gepa_loop.api.settings import flags_of, object_of, prompt_of, seeded
from gepa_loop.config.load import load_config
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, PromptError
from gepa_loop.task.own import Task
from gepa_loop.task.records import Item


def _config(source: Any = "smoke", task: Any = None, **settings: Any) -> Config:
    flags = flags_of(source, None, False, task, settings)
    return load_config(flags.config, flags.sets, env={})


class Own(Task):
    def items(self) -> list[Item]:
        return []


def test_settings_are_keys_with_two_underscores_for_a_dot() -> None:
    found = _config(
        seed=3,
        distill__lr=2e-5,
        lora__targets=("q_proj", "v_proj"),
        task__options={"min_value": 2, "max_value": 30},
        optimize__seed_prompt='Two "quoted" \\ lines\n[and] = é🙂 # no comment\n',
        optimize__reflection__sections=[{"mends": "cut", "text": "Be {brief}."}],
        race__on=False,
    )
    assert (found.seed, found.distill.lr, found.lora.targets) == (3, 2e-5, ("q_proj", "v_proj"))
    assert found.task.options == {"min_value": 2, "max_value": 30} and found.race.on is False
    assert found.optimize.seed_prompt == 'Two "quoted" \\ lines\n[and] = é🙂 # no comment\n'
    assert [one.text for one in found.optimize.reflection.sections] == ["Be {brief}."]


def test_a_config_may_be_tables_on_a_preset_or_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"preset": "smoke", "distill": {"steps": 7}, "task": {"splits": {"test": 9}}}
    found = _config(tables, distill__group=2)
    assert (found.distill.steps, found.distill.group, found.task.splits.test) == (7, 2, 9)
    assert (found.task.splits.train, found.model.name) == (16, "random:tiny")
    assert tables == {"preset": "smoke", "distill": {"steps": 7}, "task": {"splits": {"test": 9}}}
    # Without a preset nothing stands below, as with a file: not ./gepa-loop.toml, not `demo`.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gepa-loop.toml").write_text("seed = 5\n[task]\nname = 'gcd'\n")
    alone = _config({"task": {"name": "lcm"}})
    assert (alone.task.name, alone.seed, _config(None).task.name) == ("lcm", 0, "gcd")
    file = tmp_path / "own.toml"
    file.write_text("[task]\nname = 'chain_sum'\n")
    assert _config(file).task.name == "chain_sum"


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("smoke", {"distill__lrr": 1}, "the nearest is distill.lr"),
        ("smoke", {"distill__lr": None}, "distill__lr = None: None is no value of TOML"),
        ("smoke", {"distill__lr": object()}, "TOML has no value for object"),
        ({"preset": "smoke", "distill": {"lrr": 1}}, {}, "the config: unknown key distill.lrr"),
        ({"preset": "smok", "seed": 1}, {}, "the config: preset = 'smok' is no preset"),
        ({"preset": "smoke", "task": 3}, {}, "the config: task = 3: it is a table"),
        ("smok", {}, "neither a file nor a preset"),
    ],
)
def test_what_cannot_be_a_config_is_said(source: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _config(source, **settings)
    assert said in str(caught.value)


def test_a_task_is_an_object_or_a_name(tmp_path: Path) -> None:
    own = Own()
    assert object_of(own) is own and object_of("t.py:Own") is None and object_of(None) is None
    named = _config(task="t.py:Own").task
    assert (named.kind, named.name, named.options) == ("python", "t.py:Own", {})
    assert _config(task=own).task.name.endswith("test_settings:Own")
    with pytest.raises(ConfigError, match="no object of a class that extends") as caught:
        object_of(Own)  # type: ignore[arg-type]
    assert "Make one: Name()." in caught.value.hint


def test_a_prompt_is_a_text_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("From a file.\n")
    assert [prompt_of(one)[1].text for one in ("A text.", file, str(file))] == [
        "A text.",
        "From a file.",
        "From a file.",
    ]
    for wrong in (tmp_path / "none", "none.txt", "  "):
        with pytest.raises(PromptError):
            prompt_of(wrong)
    for text in ("yes/no", "and/or."):
        with pytest.raises(PromptError, match=f"prompt = '{text}': there is no such file") as caught:
            prompt_of(text)
        assert "end it with a new line" in caught.value.hint
        assert prompt_of(f"{text}\n")[1].text == text
    with pytest.raises(PromptError, match="it is a folder"):
        prompt_of(str(tmp_path))
    assert seeded(None) == {}
    assert _config(**seeded("A text.")).optimize.seed_prompt == "A text."
    for one in (file, str(file)):
        assert _config(**seeded(one)).optimize.seed_prompt_file == str(file)
