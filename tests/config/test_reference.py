"""The reference of keys, and configurations as files with comments."""

from __future__ import annotations

from pathlib import Path

import pytest

from gepa_loop.config.document import short_document, toml_text, whole_document
from gepa_loop.config.explain import all_keys
from gepa_loop.config.layers import presets
from gepa_loop.config.load import load_config
from gepa_loop.config.reference import REQUIRED, all_keys_explained, explained, read_by
from gepa_loop.errors import ConfigError
from gepa_loop.outside.files import parse_toml

KNOWN = all_keys_explained()


def test_every_key_says_what_it_means_and_which_values_it_takes() -> None:
    for key in KNOWN:
        assert key.about.strip(), key.name
        assert "typing" not in key.kind and "<" not in key.kind, key
        # A sentence of many words would be a paragraph in the list of all keys.
        assert 2 < len(key.summary) < 230, key
    assert {key.name for key in KNOWN} == set(all_keys())


@pytest.mark.parametrize(
    ("name", "kind", "default", "under"),
    [
        ("seed", "whole number from 0", 0, ""),
        ("model.dtype", "one of auto, float32, bfloat16", "auto", ""),
        ("model.date", "date or none", None, ""),
        ("task.name", "text", REQUIRED, ""),
        ("sampling.vllm.memory", "number above 0 below 1", 0.4, ""),
        ("distill.betas", "list of 2: number from 0 below 1, number from 0 below 1", (0.9, 0.95), ""),
        ("distill.on_policy", "number from 0 to 1 or none", None, ""),
        ("race.rungs", "list of: number above 0 below 1", (0.1, 0.2, 0.4), ""),
        ("objective.type", "one of full_kl, token_kl, sequence_kl, grpo, sft", "full_kl", ""),
        ("objective.beta", "number from 0 to 1", 0.5, "objective.type = full_kl"),
        ("objective.skip_tokens", "whole number from 0", 0, ""),
        ("teacher.rate", "number above 0 to 1", 0.05, "teacher.kind = ema"),
        ("task.options", "table", {}, ""),
        ("task.splits.train", "whole number from 1 or share between 0 and 1", 256, ""),
        ("task.splits.race", "whole number from 1 or share between 0 and 1 or none", None, ""),
    ],
)
def test_a_key(name: str, kind: str, default: object, under: str) -> None:
    key = next(key for key in KNOWN if key.name == name)
    assert (key.kind, key.default, key.under) == (kind, default, under)


def test_a_key_that_several_tables_have_is_explained_for_each() -> None:
    taus = explained("objective.teacher_tau", KNOWN)
    assert [key.under.rpartition(" ")[2] for key in taus] == ["full_kl", "token_kl", "sequence_kl"]
    # Where another default is given, what it means is still said.
    (grpo,) = (key for key in KNOWN if key.name == "objective.adv_tau" and not key.under)
    assert grpo.default == 0 and "advantage" in grpo.about
    assert [key.name for key in explained("lora", KNOWN)] == [
        "lora",
        "lora.rank",
        "lora.alpha",
        "lora.targets",
    ]
    with pytest.raises(ConfigError, match="no such key") as caught:
        explained("lr", KNOWN)
    assert "distill.lr" in caught.value.hint


@pytest.mark.parametrize("name", presets())
def test_a_file_with_comments_means_what_was_shown(name: str, tmp_path: Path) -> None:
    config = load_config(name, env={}, cwd=tmp_path)
    text = whole_document(config)
    (tmp_path / "c.toml").write_text(text, "utf-8")
    again = load_config("c.toml", env={}, cwd=tmp_path)
    assert again == config
    # What nobody set is a comment, and so `loop` can still take values of its own for it.
    assert again.for_aim("student") == config.for_aim("student")
    assert "# lr = " in text or "\nlr = " in text
    assert all(len(line) <= 113 or '"' in line for line in text.splitlines() if line.startswith("#"))


def test_a_short_file_has_a_sentence_and_a_note_for_each_key(tmp_path: Path) -> None:
    prompt = 'Say "GX4"\nand \\ no more.\n\n\ttab'
    values = {
        "task": {"name": "demo", "fields": {"question": "{a}\n{b}"}},
        "optimize": {"seed_prompt": prompt},
        "distill": {"lr": 1e-3, "horizon": [[0, 8], [4, 16]]},
    }
    text = short_document(values, {"distill.lr": "As measured.", "distill": "For a CPU."}, "From X.\nBy Y.")
    assert parse_toml(text) == values
    assert text.startswith("# From X.\n# By Y.\n")
    assert "# Highest learning rate.\n# As measured.\nlr = 0.001\n" in text
    assert "[distill]\n# For a CPU.\n" in text


@pytest.mark.parametrize("text", ["a\r\nb", "a\rb\n", "\r\n\r\n", "\na\n\n", '"""\n\\', "\u2028\n\x85\x0b"])
def test_a_text_with_any_line_ends_is_the_same_when_it_is_read(text: str, tmp_path: Path) -> None:
    values = {"task": {"name": "demo"}, "optimize": {"seed_prompt": text}}
    assert parse_toml(short_document(values, {}, "From X.")) == values
    assert parse_toml(f"value = {toml_text([text, {'in': text}])}") == {"value": [text, {"in": text}]}
    for sets in ({"optimize": {"seed_prompt": f"{text}x"}}, {}):
        config = load_config({**values, "preset": "smoke", **sets}, env={}, cwd=tmp_path)
        (tmp_path / "c.toml").write_bytes(whole_document(config).encode())
        assert load_config("c.toml", env={}, cwd=tmp_path) == config


def test_the_settings_that_a_command_reads() -> None:
    """Those that may come next as well: what only looks hands all of them on."""
    deals = ["task.splits.test=8", "seed=1"]
    writes = ["optimize.reflection.model=offline", "optimize.max_usd=1"]  # of questions
    trains = ["distill.steps=2", " teacher.kind =ema", "cost.calls=9"]
    searches = [
        "optimize.max_rollouts=60",
        "optimize.seed_prompt_file=a=b.txt",
        "loop.front=2",
        "race.on=false",
    ]
    every = [*deals, *writes, *trains, *searches]
    assert read_by("distill", every) == [*deals, *writes, *trains]
    assert read_by("optimize", [*every, "loop.alpha=.1"]) == [*deals, *writes, *searches[:2], "loop.alpha=.1"]
    assert read_by("loop", every) == read_by("check", every) == read_by("plan", every) == every


def test_the_narrowest_name_says_who_reads_a_key() -> None:
    by_name = {key.name: key.readers for key in KNOWN}
    assert by_name["optimize.minibatch"] == "optimize, loop" and by_name["loop.front"] == "loop"
    assert (
        by_name["optimize.reflection.sections"] == by_name["optimize.reflection"] == "optimize, distill, loop"
    )
    assert by_name["seed"] == by_name["sampling.batch"] == "all commands"
