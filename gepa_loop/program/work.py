"""What the commands that make a run do, from flags to a finished run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from gepa_loop.command import DISTILL, EVALUATE, LOOP, OPTIMIZE, SWEEP, Flags, Inputs, Part
from gepa_loop.errors import ConfigError
from gepa_loop.session import Session, open_session

if TYPE_CHECKING:
    from gepa_loop.config.grids import Grid
    from gepa_loop.config.whole import Config
    from gepa_loop.cost.records import CostsRecord
    from gepa_loop.lab import Lab
    from gepa_loop.scores.results import LoopRecord
    from gepa_loop.search.records import SearchRecord
    from gepa_loop.show.caller import Caller
    from gepa_loop.stages.grid import Configs
    from gepa_loop.stages.records import EvaluatedRecord, RetentionRecord
    from gepa_loop.stages.score import Subject
    from gepa_loop.sweep import SweepRecord
    from gepa_loop.task.own import Task
    from gepa_loop.task.prompts import Candidate
    from gepa_loop.training.distilled import Distilled

R = TypeVar("R")


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """A finished run."""

    path: Path
    """Its directory."""
    result: R
    """The content of its result.json."""


@dataclass(frozen=True)
class Distillation:
    """A finished run of `distill`."""

    path: Path
    result: RetentionRecord
    done: Distilled
    adapter: Path
    costs: CostsRecord
    report: Path
    answers: bool
    """The task has some: held-out scores are not agreement with the prompted model."""


@dataclass(frozen=True)
class Looped:
    """A finished run of `loop`."""

    path: Path
    result: LoopRecord
    costs: CostsRecord
    report: Path
    missing: str | None
    """Why no student is significantly better on `test`; None where one is."""


def optimize(flags: Flags, task: Task | None, caller: Caller) -> Outcome[SearchRecord]:
    """Evolve prompts from the config's seed prompt."""
    with open_session(OPTIMIZE, flags, Inputs(task=task), caller) as opened:
        from gepa_loop.lab import seed_prompt
        from gepa_loop.run.files import read_record
        from gepa_loop.search.records import SearchRecord
        from gepa_loop.stages.search import Purpose, search

        lab, run, view = opened
        search(lab, seed_prompt(lab.config.optimize), run.path / "optimize", view, Purpose("prompt"))
        return Outcome(run.path, read_record(run.path / "optimize" / "result.json", SearchRecord))


def distill(flags: Flags, prompt: Candidate, source: str, task: Task | None, caller: Caller) -> Distillation:
    """Distill one prompt, and measure what its student keeps; `source` is where the prompt came from."""
    with open_session(DISTILL, flags, Inputs({source: prompt}, task=task), caller) as opened:
        from gepa_loop.show.report.write import write_report
        from gepa_loop.stages.costs import replies_of, write_costs
        from gepa_loop.stages.distillation import bare_scores, distill_from
        from gepa_loop.stages.headroom import note_headroom
        from gepa_loop.stages.questions import with_questions
        from gepa_loop.stages.references import with_references
        from gepa_loop.stages.retention import measure

        lab, run, view = opened
        lab = with_questions(lab, prompt, run, view)
        lab = with_references(lab, prompt, run, view)
        view.stage("baseline", candidate=prompt.id)
        bare = bare_scores(lab, run, view)
        note_headroom(lab, prompt, bare, run, view)
        done = distill_from(lab, prompt, bare, run, view, prompt.id)
        result = measure(lab, prompt, done.adapter, run, view)
        adapter = run.path / "distill" / prompt.id / "adapter"
        cards = result[result["decides"]]
        replies = replies_of(cards["student_minus_base"], cards["prompted"], cards["student"])
        costs = write_costs(lab, prompt, replies, run, view)
        report, answers = write_report(run.path), lab.task.answers == "given"
        return Distillation(run.path, result, done, adapter, costs, report, answers)


def evaluate(
    flags: Flags, subjects: Sequence[Subject], split: str, task: Task | None, caller: Caller
) -> Outcome[EvaluatedRecord]:
    """Score a subject on a split, or two against each other."""
    adapters = {str(one.folder): one.adapter for one in subjects if one.adapter is not None}
    prompts = {one.label: one.candidate for one in subjects if one.candidate is not None}
    more = {"split": split, "subjects": " against ".join(one.id for one in subjects)}
    with open_session(EVALUATE, flags, Inputs(prompts, adapters, more, task), caller) as opened:
        from gepa_loop.stages.score import compare

        lab, run, view = opened
        return Outcome(run.path, compare(lab, subjects, split, run, view))


def loop(flags: Flags, task: Task | None, caller: Caller) -> Looped:
    """Search, distill and choose, round by round."""
    with open_session(LOOP, flags, Inputs(task=task), caller) as opened:
        from gepa_loop.lab import seed_prompt
        from gepa_loop.rounds import run_loop
        from gepa_loop.scores.outcome import missing_gain
        from gepa_loop.show.report.write import write_report
        from gepa_loop.stages.costs import replies_of, write_costs
        from gepa_loop.task.prompts import read_prompt

        lab, run, view = opened
        result = run_loop(lab, seed_prompt(lab.config.optimize), run, view)
        missing = missing_gain(lab.config.loop.alpha, result)
        prompt, test = read_prompt(run.path / result["prompt"]), result["test"]
        replies = replies_of(test["student_minus_base"], test["prompted"], test["student"])
        costs = write_costs(lab, prompt, replies, run, view)
        return Looped(run.path, result, costs, write_report(run.path), missing)


@dataclass(frozen=True)
class Asked:
    """Which cells a sweep is asked for."""

    grid: Grid
    seeds: int
    """Of each cell, from the config's on."""
    cell: str | None = None
    """The folder of the only one that this process makes; None is all of them, and what they come to."""


def sweep(flags: Flags, asked: Asked, prompt: Candidate, source: str, caller: Caller) -> Outcome[SweepRecord]:
    """Distill one prompt under every cell of a grid; the cells are made of the config and the settings of `flags`."""
    with _swept(flags, asked, prompt, source, caller) as (_, configs, (lab, run, view)):
        from gepa_loop.show.sweep_report import write_sweep_report
        from gepa_loop.sweep import run_sweep

        result = run_sweep(lab, asked.grid, configs, prompt, run, view)
        write_sweep_report(run.path)
        return Outcome(run.path, result)


def sweep_cell(flags: Flags, asked: Asked, prompt: Candidate, source: str, caller: Caller) -> Path:
    """Make the one cell and seed that is asked for, while other processes make others; returns its folder."""
    with _swept(flags, asked, prompt, source, caller) as (over, configs, (lab, run, view)):
        from gepa_loop.config.load import load_config
        from gepa_loop.run.files import write_json, write_text
        from gepa_loop.stages.grid import cell_folder, go_on_with
        from gepa_loop.sweep import make_cell, score_untrained
        from gepa_loop.task.sources import settle

        sweep = run.path.parent
        go_on_with(sweep, asked.grid, configs, prompt.id)
        whole = settle(load_config(over.config, over.sets))
        write_json(sweep / "config.json", whole.model_dump(mode="json"))
        write_text(sweep / "prompts" / f"{prompt.id}.txt", f"{prompt.text}\n")
        score_untrained(lab, sweep, configs, prompt, view)
        which = next(one for one in configs if cell_folder(*one) == asked.cell)
        make_cell(lab, which, prompt, run, view)
        return run.path


@contextmanager
def _swept(
    flags: Flags, asked: Asked, prompt: Candidate, source: str, caller: Caller
) -> Iterator[tuple[Flags, Configs, Session]]:
    """The flags with the sweep's config, the configurations of all cells, and the session of the sweep or of one cell."""
    from gepa_loop.config.grids import cell_configs, grid_source
    from gepa_loop.show.costs import sweep_line
    from gepa_loop.stages.grid import cell_folder
    from gepa_loop.sweep import check_cells
    from gepa_loop.task.sources import settle

    grid, config = asked.grid, flags.config
    if isinstance(config, Mapping):
        raise ValueError("a sweep's cells are made over a file or a preset")
    cells = cell_configs(grid, config, flags.sets, asked.seeds)
    own = [one for one in cells if asked.cell in (None, cell_folder(*one))]
    if not own:
        raise ConfigError(
            f"cell {asked.cell!r}: the sweep has none of this name",
            f"It has {', '.join(cell_folder(*one) for one in cells)}.",
        )

    @cache  # not before the session has said whose code it runs
    def configs() -> dict[tuple[str, int], Config]:
        return {cell: settle(one) for cell, one in cells.items()}

    # Cells and seeds may become more; what they are compared with stays.
    more = {"baseline": grid.baseline, f"cells.{grid.baseline}": " ".join(grid.cells[grid.baseline])}

    def check(lab: Lab) -> None:
        check_cells(lab, grid, {one: configs()[one] for one in own}, prompt, source)

    def facts() -> list[str]:
        told = [f"cell {name}, seed {seed}: {' '.join(grid.cells[name])}" for name, seed in own]
        return [*told, sweep_line([configs()[one] for one in own])]

    part = None
    if asked.cell is not None:
        part = Part(asked.cell, lambda lab: lab.under(configs()[own[0]]))
    inputs = Inputs({source: prompt}, more=more, check=check, facts=facts, part=part)
    over = replace(flags, config=grid_source(grid, config))
    with open_session(SWEEP, over, inputs, caller) as opened:
        yield over, configs(), opened
