"""Grids and sweeps on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from observers import Silent, Watch
from rich.console import Console

from gepa_loop.cli import run as gepa_loop
from gepa_loop.config.grids import Grid, cell_configs, grid_source, grids, load_grid, parse_grid
from gepa_loop.config.load import load_config
from gepa_loop.errors import ConfigError, PromptError, RunDirectoryError
from gepa_loop.lab import Lab, open_lab
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.run.directory import open_run
from gepa_loop.run.files import read_json, read_jsonl
from gepa_loop.scores.over_seeds import seed_difference
from gepa_loop.scores.records import OverSeedsRecord, ScoreRow
from gepa_loop.scores.statistics import item_scores
from gepa_loop.show.tables import sweep_table
from gepa_loop.stages.counts import distillation, sweep_stages
from gepa_loop.stages.observer import Observer
from gepa_loop.sweep import CellRecord, check_cells, compared, run_sweep
from gepa_loop.task.prompts import Candidate

PROMPT = Candidate("Answer with one number.")

GRID = """
config = "smoke"
baseline = "low"

[cells]
low = ["distill.lr=1e-3"]
high = ["distill.lr=1e-1", "objective.type=token_kl"]
"""


def test_a_sweep_reads_the_local_file_as_other_commands_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text(GRID)
    grid = load_grid("grid.toml")
    assert cell_configs(grid, None, (), seeds=1)["low", 0].distill.steps == 3
    (tmp_path / "gepa-loop.toml").write_text('preset = "smoke"\nseed = 7\n[distill]\nsteps = 5\n')
    assert cell_configs(grid, None, (), seeds=1)["low", 7].distill.steps == 5
    assert cell_configs(grid, "smoke", (), seeds=1)["low", 0].distill.steps == 3
    assert grid_source(grid, None) == str(tmp_path / "gepa-loop.toml")


class StopsAt(Watch):
    """Ends at the n-th stage."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        super().stage(name, round=round, candidate=candidate)
        if len(self.stages) == self.count:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def lab() -> Lab:
    return open_lab(load_config("smoke", env={}))


def sweep(lab: Lab, file: Path, folder: Path, observer: Observer, seeds: int = 2) -> dict[str, Any]:
    grid = load_grid(str(file))
    configs = cell_configs(grid, None, ["distill.steps=2"], seeds=seeds)
    with open_run(folder, lab.identity(command="sweep")) as run:
        return run_sweep(lab, grid, configs, PROMPT, run, observer)


@pytest.mark.parametrize("name", sorted(grids()))
def test_every_grid_fits_its_config(name: str) -> None:
    grid = load_grid(name)
    configs = cell_configs(grid, None, (), seeds=2)
    assert len(configs) == 2 * len(grid.cells) and grid.baseline in grid.cells
    assert len({config.model_dump_json() for config in configs.values()}) == len(configs)
    assert len(grids()[name]) > 20


def test_the_baseline_cells_are_the_recipe() -> None:
    recipe = load_config("sokoban-qwen3-4b", env={})
    for name in set(grids()) - {"objectives"}:
        grid = load_grid(name)
        assert cell_configs(grid, None, (), 1)[grid.baseline, 0] == recipe, name


def test_a_sweep_goes_on_where_it_stopped(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "lr.toml"
    file.write_text(GRID)
    whole = sweep(lab, file, tmp_path / "whole", Silent())
    watch = Watch()
    sweep(lab, file, tmp_path / "whole2", watch)
    assert "untrained" in watch.stages and "baseline" not in watch.stages  # which is a cell
    for stop in range(1, len(watch.stages) + 1, 3):
        with pytest.raises(KeyboardInterrupt):
            sweep(lab, file, tmp_path / "torn", StopsAt(stop))
    assert sweep(lab, file, tmp_path / "torn", Silent()) == whole
    assert sweep(lab, file, tmp_path / "whole", StopsAt(1)) == whole  # read, and no stage begins

    assert whole["seeds"] == [0, 1] and whole["items"] == 32
    low, high = whole["cells"]
    assert low["difference"] is None
    assert high["difference"]["p"] is None and len(high["difference"]["by_seed"]) == 2  # below three seeds
    assert low["student"]["ci"] is None and len(low["student"]["by_seed"]) == 2
    prints = [
        read_adapter(tmp_path / "whole" / path).fingerprint for path in low["adapters"] + high["adapters"]
    ]
    assert len(set(prints)) == 4
    configs = [read_json(tmp_path / "whole" / f"{cell}_seed1" / "config.json") for cell in ("low", "high")]
    assert [(c["seed"], c["objective"]["type"]) for c in configs] == [(1, "full_kl"), (1, "token_kl")]
    assert sweep_table(whole).row_count == 4
    # A p is printed in one way, whichever test it is of.
    for p, text in ((3e-6, "<= .0001"), (0.0123, ".0123"), (None, "-")):
        cells = [
            {**cell, "difference": cell["difference"] and {**cell["difference"], "p": p}}
            for cell in whole["cells"]
        ]
        (*_, ps) = sweep_table({**whole, "cells": cells}).columns
        assert [one for one in ps.cells if one] == [text]


def test_the_untrained_model_is_scored_as_each_cell_is(lab: Lab, tmp_path: Path) -> None:
    """Cells with another horizon or model are beside a base with the same, not that of the first cell."""
    file = tmp_path / "tokens.toml"
    file.write_text(
        'config = "smoke"\nbaseline = "8"\n[cells]\n'
        '8 = ["sampling.max_tokens=8"]\nlr = ["distill.lr=1e-2"]\n2 = ["sampling.max_tokens=2"]\n'
    )
    found = sweep(lab, file, tmp_path / "run", Silent())
    assert [one["cells"] for one in found["untrained"]] == [["8", "lr"], ["2"]]
    rows = [read_jsonl(path) for path in sorted((tmp_path / "run" / "evaluate").glob("base_*_seed0.jsonl"))]
    assert sorted(max(row["tokens"] for row in part) for part in rows) == [2, 8]
    assert sweep_table(found).row_count == 7


def test_an_item_that_several_seeds_drew_counts_once(tmp_path: Path) -> None:
    """Of 24 records, of which each seed scores 8 others."""
    data, grid = tmp_path / "d.jsonl", tmp_path / "grid.toml"
    data.write_text("".join(f'{{"question": "What is {n} + 1?", "answer": "{n % 7}"}}\n' for n in range(24)))
    grid.write_text('baseline = "a"\n[cells]\na = []\nb = ["distill.lr=1e-2"]\n')
    sizes = "{train = 4, pareto = 4, race = 1, select = 8, test = 4}"
    task = (
        f'task={{kind = "jsonl", name = "{data}", extract = "whole", scorer = "includes", splits = {sizes}}}',
    )
    sets = (*task, "distill.steps=1", "sampling.max_tokens=16")
    configs = cell_configs(load_grid(str(grid)), "smoke", sets, seeds=3)
    own = open_lab(load_config("smoke", sets, env={}))
    with open_run(tmp_path / "run", own.identity(command="sweep")) as run:
        found = run_sweep(own, load_grid(str(grid)), configs, PROMPT, run, Silent())
    by_item: dict[str, list[float]] = {}
    for path in (tmp_path / "run" / "evaluate").glob("base_*.jsonl"):
        for item, score in item_scores(read_jsonl(path, ScoreRow)).items():
            by_item.setdefault(item, []).append(score)
    times = sorted(map(len, by_item.values()))
    assert sum(times) == 24 and times[0] == 1 and times[-1] > 1
    assert found["items"] == found["untrained"][0]["base"]["n"] == len(by_item) < 24
    means = {item: sum(own) / len(own) for item, own in by_item.items()}
    assert found["untrained"][0]["base"]["mean"] == pytest.approx(sum(means.values()) / len(means))
    assert sum(means.values()) > 0 and len({len(own) for own in by_item.values() if sum(own)}) > 1
    assert found["untrained"][0]["prompted"]["n"] == len(by_item)


def test_every_cells_teacher_and_prompt_are_checked_first(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('baseline = "a"\n[cells]\na = []\nb = ["sampling.max_tokens=100000"]\n')
    grid = load_grid(str(file))
    configs = cell_configs(grid, "smoke", (), seeds=2)
    with pytest.raises(
        PromptError, match=r"grid grid, cell 'b': p.txt, item \S+: .* over the model's context"
    ):
        check_cells(lab, grid, configs, PROMPT, "p.txt")
    file.write_text('baseline = "a"\n[cells]\na = []\nb = ["objective.type=kl"]\n')
    with pytest.raises(ConfigError, match=r"grid grid, cell 'b': --set objective.type=kl: "):
        cell_configs(load_grid(str(file)), "smoke", (), seeds=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baseline = ", "not a grid"),
        ('config = "smoke"\nbaseline = "a"\n', "not a grid: 'cells'"),
        ('config = "smoke"\nbaseline = ["a"]\n[cells]\na = []\n', "is no cell"),
        ('config = "smoke"\nbaseline = "b"\n[cells]\na = []\n', "baseline = 'b' is no cell"),
        ('config = "smoke"\nbaseline = "a"\nsplit = 1\n[cells]\na = []\n', "unknown key split"),
        ('config = "smoke"\nbaseline = "../a"\n[cells]\n"../a" = []\n', "not a plain folder name"),
        (
            'config = "smoke"\nbaseline = "0"\n[cells]\n0.5 = ["distill.lr=1"]\n',
            "not a list of key.path=value",
        ),
    ],
)
def test_a_broken_grid_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_grid(str(file))
    assert message in str(caught.value)


def test_a_grid_has_an_end_and_a_depth(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    for text, message in (
        ("#" * (2**20 + 1), "at most 1,048,576 are read"),
        ("a = " + "[" * 10**5, "too deeply"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_grid(str(file))


def test_cells_that_cannot_be_paired_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    for own in ("task.splits.select=8", "seed=5", "evaluate.temperature=0", "evaluate.samples=2"):
        file.write_text(f'config = "smoke"\nbaseline = "a"\n[cells]\na = []\nb = ["{own}"]\n')
        with pytest.raises(ConfigError, match="cell 'b': it changes the task, how it is scored or the seed"):
            cell_configs(load_grid(str(file)), None, (), seeds=1)
    with pytest.raises(ConfigError, match="cell 'temperature=0': it changes"):
        cell_configs(parse_grid("evaluate.temperature=1,0"), "smoke", (), seeds=1)
    assert cell_configs(load_grid("masks"), "smoke", ["evaluate.temperature=0"], seeds=1)
    assert cell_configs(load_grid("masks"), "smoke", ["task.splits.select=8"], seeds=1)


def test_a_sweep_grows(lab: Lab, tmp_path: Path) -> None:
    """With a cell and a seed more it is what it would have been at once; what is there is not made again."""
    file = tmp_path / "lr.toml"
    file.write_text(GRID + 'mid = ["distill.lr=1e-2"]\n')
    whole = sweep(lab, file, tmp_path / "whole", Silent(), seeds=3)
    file.write_text(GRID)
    sweep(lab, file, tmp_path / "grown", Silent(), seeds=2)
    before = {
        path: path.read_bytes() for path in (tmp_path / "grown").glob("*_seed*/distill/*/metrics.jsonl")
    }
    file.write_text(GRID + 'mid = ["distill.lr=1e-2"]\n')
    with pytest.raises(KeyboardInterrupt):
        sweep(lab, file, tmp_path / "grown", StopsAt(9), seeds=3)
    assert sweep(lab, file, tmp_path / "grown", Silent(), seeds=3) == whole
    assert len(before) == 4 and all(path.read_bytes() == text for path, text in before.items())
    assert whole["seeds"] == [0, 1, 2] and [cell["cell"] for cell in whole["cells"]] == ["low", "high", "mid"]
    # Three seeds are the fewest with an interval.
    students = [cell["student"] for cell in whole["cells"]]
    assert all(len(one["by_seed"]) == 3 and (one["ci"] is None) == (one["sd"] == 0) for one in students)


def test_a_sweep_keeps_its_cells(lab: Lab, tmp_path: Path) -> None:
    file, folder = tmp_path / "lr.toml", tmp_path / "run"
    file.write_text(GRID)
    sweep(lab, file, folder, Silent(), seeds=2)
    with pytest.raises(RunDirectoryError, match=r"has low_seed1, high_seed1, and neither"):
        sweep(lab, file, folder, StopsAt(1), seeds=1)
    file.write_text('config = "smoke"\nbaseline = "low"\n[cells]\nlow = ["distill.lr=1e-3"]\n')
    with pytest.raises(RunDirectoryError, match=r"has high_seed0, high_seed1, and neither"):
        sweep(lab, file, folder, StopsAt(1), seeds=2)
    file.write_text(GRID.replace("1e-1", "0.2"))
    with pytest.raises(RunDirectoryError) as caught:
        sweep(lab, file, folder, StopsAt(1), seeds=2)
    assert str(caught.value).splitlines() == [
        f"{folder}/high_seed0 was made with other values:",
        "  distill.lr: 0.1 in the cell, now 0.2",
    ]
    # A cell that was asked for and not begun may be left out again.
    file.write_text(GRID + 'more = ["distill.lr=1e-2"]\n')
    with pytest.raises(KeyboardInterrupt):
        sweep(lab, file, folder, StopsAt(1), seeds=2)
    file.write_text(GRID)
    assert sweep(lab, file, folder, StopsAt(1), seeds=2)["seeds"] == [0, 1]


def test_a_cell_without_a_p_counts_among_those_that_are_tested() -> None:
    """Three cells beside the baseline: of the other two, one differs by the same amount at every seed."""
    grid = Grid("g", None, "base", dict.fromkeys(("base", "same", "far", "near"), ()))
    students = {
        "base": {seed: {"i": 0.25} for seed in range(3)},
        "same": {seed: {"i": 0.5} for seed in range(3)},
        "far": {seed: {"i": 0.5 + seed / 64} for seed in range(3)},
        "near": {seed: {"i": 0.25 + seed / 8} for seed in range(3)},
    }
    cells = {cell["cell"]: cell for cell in compared(grid, students, {name: [] for name in students})}
    raw = {name: seed_difference(students[name], students["base"]).p or 1.0 for name in ("far", "near")}
    found = {name: cell["difference"] and cell["difference"]["p"] for name, cell in cells.items()}
    assert found == {
        "base": None,
        "same": None,
        "far": pytest.approx(3 * raw["far"]),
        "near": pytest.approx(2 * raw["near"]),
    }
    gap = cells["same"]["difference"]
    assert gap is not None and gap["ci"] is None and gap["mean"] == 0.25


def test_what_no_spread_is_seen_of_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    gap: OverSeedsRecord = {"mean": 0.25, "by_seed": [0.25] * 3, "sd": 0.0, "ci": None, "p": None}
    far: OverSeedsRecord = {"mean": 0.5, "by_seed": [0.5, 0.4, 0.6], "sd": 0.1, "ci": [0.2, 0.8], "p": 0.5}
    cells: list[CellRecord] = [
        {"cell": "low", "sets": [], "student": far, "difference": None, "adapters": []},
        {"cell": "high", "sets": [], "student": gap, "difference": gap, "adapters": []},
    ]
    head = {
        "grid": "g",
        "split": "select",
        "items": 8,
        "seeds": [0, 1, 2],
        "untrained": [],
        "baseline": "low",
    }
    Console(width=200).print(sweep_table({**head, "cells": cells}))  # type: ignore[typeddict-item]
    said = capsys.readouterr().out
    (row,) = (line.split() for line in said.splitlines() if line.startswith("high"))
    assert row == ["high", ".250", "-", ".250", ".250", ".250", "+.250", "-", "-"]
    assert "-: the same at every seed, so its spread is not known" in said
    Console(width=200).print(sweep_table({**head, "cells": cells[:1]}))  # type: ignore[typeddict-item]
    assert "the same at every seed" not in capsys.readouterr().out


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "prompt.txt").write_text(PROMPT.text)
    argv = ["sweep", "--preset", "grid.toml", "--prompt", "prompt.txt", "--set", "distill.steps=1"]
    assert gepa_loop([*argv, "--dry-run"]) == 0
    assert not (tmp_path / "runs").exists()
    assert gepa_loop(argv) == 0
    assert "against low" in capsys.readouterr().out
    (page,) = (tmp_path / "runs").glob("*/report.html")
    assert "Nothing is claimed: 1 training seed" in page.read_text()
    page.unlink()
    assert gepa_loop(["report", "last"]) == 0 and page.exists()
    capsys.readouterr()
    (result,) = (tmp_path / "runs").glob("*/result.json")
    assert [cell["cell"] for cell in json.loads(result.read_text())["cells"]] == ["low", "high"]
    assert gepa_loop([*argv, "--seeds", "2"]) == 0  # in the same folder
    assert len(list((tmp_path / "runs").glob("*/*_seed1/result.json"))) == 0
    assert len(list((tmp_path / "runs").glob("*/*_seed1/manifest.json"))) == 2
    capsys.readouterr()
    assert gepa_loop(["runs", "cells", "last"]) == 0
    said = capsys.readouterr().out
    assert "4 students: 4 done" in said and said.count("▁") >= 4
    assert gepa_loop(["sweep", "--preset", "masc", "--prompt", "prompt.txt"]) == 2
    assert gepa_loop([*argv, "--run-name", "other", "--set", "teacher.privileged=nosuch"]) == 2
    assert "item lcm:train:" in capsys.readouterr().err  # and no emoji


def test_a_grid_in_a_line() -> None:
    grid = parse_grid("distill.lr=1e-5, 5e-5 x objective.type=full_kl,token_kl")
    assert grid.cells == {
        "lr=1e-5 type=full_kl": ("distill.lr=1e-5", "objective.type=full_kl"),
        "lr=1e-5 type=token_kl": ("distill.lr=1e-5", "objective.type=token_kl"),
        "lr=5e-5 type=full_kl": ("distill.lr=5e-5", "objective.type=full_kl"),
        "lr=5e-5 type=token_kl": ("distill.lr=5e-5", "objective.type=token_kl"),
    }
    assert grid.baseline == "lr=1e-5 type=full_kl" and grid.config is None
    # Commas inside of lists and tables part no values.
    lists = parse_grid("distill.betas=[0.9,0.95],[0.8,0.9] x lora.rank=8")
    assert list(lists.cells) == ["betas=[0.9,0.95] rank=8", "betas=[0.8,0.9] rank=8"]
    configs = cell_configs(lists, "smoke", [], 1)
    assert [config.distill.betas for config in configs.values()] == [(0.9, 0.95), (0.8, 0.9)]


@pytest.mark.parametrize(
    ("values", "parted"),
    [
        ('"a x b","c, d"', ['"a x b"', '"c, d"']),
        ("'a, \"b' , c", ["'a, \"b'", "c"]),
        (r'"a\", b",c', [r'"a\", b"', "c"]),
        ("[[1, 2], [3, 4]],[[5, 6]]", ["[[1, 2], [3, 4]]", "[[5, 6]]"]),
        ('{a = "}, ]", b = [1, 2]},{a = "z x z"}', ['{a = "}, ]", b = [1, 2]}', '{a = "z x z"}']),
        # An apostrophe, or a bracket that was not opened, holds nothing together.
        ("don't,won't", ["don't", "won't"]),
        ("a],b", ["a]", "b"]),
    ],
)
def test_values_are_parted_outside_of_quotes_and_brackets(values: str, parted: list[str]) -> None:
    grid = parse_grid(f"task.note={values} x lora.rank=8,16")
    assert list(grid.cells.values()) == [
        (f"task.note={value}", f"lora.rank={rank}") for value in parted for rank in (8, 16)
    ]


def test_a_value_in_quotes_reaches_the_config() -> None:
    configs = cell_configs(parse_grid('optimize.seed_prompt="a x b, c","d"'), "smoke", (), seeds=1)
    assert [config.optimize.seed_prompt for config in configs.values()] == ["a x b, c", "d"]


def test_cells_of_one_recipe_are_refused(tmp_path: Path) -> None:
    """Under two names they would be two cells, and a comparison of a recipe with itself."""
    grid = parse_grid("distill.lr=1e-4,2e-4,0.0001")
    with pytest.raises(ConfigError, match=r"cells 'lr=1e-4' and 'lr=0.0001' are one recipe"):
        cell_configs(grid, "smoke", (), seeds=2)
    (tmp_path / "g.toml").write_text('baseline = "a"\n[cells]\na = []\nb = ["distill.steps=3"]\n')
    with pytest.raises(ConfigError, match=r"grid g: cells 'a' and 'b' are one recipe"):
        cell_configs(load_grid(str(tmp_path / "g.toml")), "smoke", (), seeds=1)
    assert cell_configs(load_grid(str(tmp_path / "g.toml")), "smoke", ["distill.steps=2"], seeds=1)


def test_a_cell_whose_name_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    long = "x" * 300
    for grid in (f"optimize.seed_prompt={long},b", f"optimize.seed_prompt=b,{'é' * 110}"):
        with pytest.raises(ConfigError, match=r"--grid: the name of cell 'seed_prompt=.* is too long"):
            parse_grid(grid)
    assert parse_grid(f"optimize.seed_prompt={'x' * 180},b")
    file = tmp_path / "g.toml"
    file.write_text(f'baseline = "a"\n[cells]\na = []\n{long} = ["distill.steps=3"]\n')
    with pytest.raises(ConfigError, match=r"the name of cell 'xxx.* is too long"):
        load_grid(str(file))


@pytest.mark.parametrize(
    "text", ["", "distill.lr", "distill.lr=", "distill.lr=1,,2", "=1,2", "lora.rank=8,8"]
)
def test_what_is_no_grid_in_a_line(text: str) -> None:
    with pytest.raises(ConfigError, match="--grid"):
        parse_grid(text)


def test_a_sweep_has_one_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("Answer with one number.")
    for flags in ([], ["--preset", "masks", "--grid", "lora.rank=1,2"]):
        assert gepa_loop(["sweep", "--prompt", "p.txt", *flags]) == 2
        assert "needs --preset or --grid" in capsys.readouterr().err
    assert (
        gepa_loop(["sweep", "--prompt", "p.txt", "--config", "smoke", "--grid", "lora.rank=1,2", "--dry-run"])
        == 0
    )
    told = capsys.readouterr().out
    assert "cell rank=2, seed 0: lora.rank=2" in told and "minutes, without loading" not in told
    assert "in all at most 2 students, 6 steps, " in " ".join(told.split())


@pytest.mark.parametrize(
    ("grids", "said"),
    [
        ([], "a sweep needs --preset or --grid\n"),
        (["--preset", "a", "--grid", "b=1,2"], "--grid, and not both\n"),
    ],
)
def test_what_a_sweep_needs_is_said(grids: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gepa_loop(["sweep", "--prompt", "p.txt", *grids]) == 2
    assert said in capsys.readouterr().err


def test_what_a_sweep_takes_is_counted_over_its_cells() -> None:
    """Two cells at two seeds, of 16 items of `select` and 8 of `pareto` at 4 samples; one samples longer, and begins with rows of its own."""
    rates = cell_configs(parse_grid("distill.lr=1e-4,1e-3"), "smoke", (), seeds=2)
    each = distillation(rates["lr=1e-4", 0])
    assert sweep_stages(rates.values()) == {
        "base and prompt": 2 * 2 * 16 * 4,
        "untrained": 4 * 8 * 4,
        "training": 4 * (each.trained + each.recorded),
        "checks": 4 * each.checks,
        "students": 4 * 16 * 4,
    }
    longer = cell_configs(parse_grid("sampling.max_tokens=8,9"), "smoke", (), seeds=2)
    assert sweep_stages(longer.values())["base and prompt"] == 2 * 4 * 16 * 4
