"""What every command begins with: the config, the checks, the run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.outside.redact import printable
from gepa_loop.show.terminal import out
from gepa_loop.signals import interruptible

if TYPE_CHECKING:
    from gepa_loop.config.whole import Config
    from gepa_loop.lab import Lab
    from gepa_loop.model.lora.adapter import Adapter
    from gepa_loop.run.directory import Run
    from gepa_loop.show.live import View
    from gepa_loop.task.prompts import Candidate


class Session(NamedTuple):
    """What a command works with once everything is checked and its run directory is open."""

    lab: Lab
    run: Run
    view: View


def shown(path: Path) -> str:
    """A path relative to the working directory where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def open_session(
    command: str,
    config: str | None,
    sets: list[str] | None,
    run_name: str | None,
    dry_run: bool,
    fresh: bool,
    prompts: Mapping[str, Candidate] | None = None,
    more: Mapping[str, str] | None = None,
    check: Callable[[Lab], None] | None = None,
    adapters: Mapping[str, Adapter] | None = None,
) -> Iterator[Session | None]:
    """Config, model, task, checks, run directory and view of a command; None on a dry run.

    Args:
        command: The command's name.
        config: A TOML file or a preset.
        sets: `KEY.PATH=VALUE` settings.
        run_name: Folder below runs/; None makes one from the command and the config.
        dry_run: Check and print everything, and open no run.
        fresh: Delete what an earlier run of this name left.
        prompts: The prompts that the command reads, by where each came from; None is the config's seed prompt.
        more: Further values that the results depend on.
        check: Checks a command that trains; None checks the first prompt as its teacher's.
        adapters: Adapters that the command reads, by where each came from; the model must be theirs.
    """
    from gepa_loop.config.load import load_config
    from gepa_loop.lab import seed_prompt, seed_source, without_limits
    from gepa_loop.model.origin import check_origin
    from gepa_loop.run.directory import open_run
    from gepa_loop.run.files import write_json
    from gepa_loop.run.identity import fingerprint
    from gepa_loop.show.live import View
    from gepa_loop.stages.questions import FOLDER, check_writer, writer_name
    from gepa_loop.stages.search import check_search, proposer_name
    from gepa_loop.stages.spread import FILE as JUDGED
    from gepa_loop.stages.spread import check_judge, measure_spread
    from gepa_loop.task.judge import RECORD, Record, dollars

    settings = load_config(config, sets or ())
    searches = command in ("optimize", "loop")
    if prompts is None:
        prompts = {seed_source(settings): seed_prompt(settings)}
    extra = {"command": command, "prompts": " ".join(p.id for p in prompts.values()), **(more or {})}
    if searches:
        from gepa_loop.config.whole import check_budget

        check_budget(settings)
        # What `auto` means depends on the environment, and a run goes on with whom it began.
        extra["reflection"] = proposer_name(settings)
    writes = command == "distill" and settings.distill.questions > 0
    if writes:
        extra["writer"] = writer_name(settings)
    label = Path(config).stem if config else "default"
    resolved = settings.model_dump(mode="json")
    path = _run_path(run_name or f"{command}-{label}-{fingerprint([without_limits(resolved), extra])[:6]}")
    lab = _checked_lab(command, settings, prompts, check, None if fresh else _begun(path))
    notes = [
        check_origin(adapter.origin, lab.base.origin, source) for source, adapter in (adapters or {}).items()
    ]
    _print_facts(lab, prompts, notes)
    if writes and (fresh or not (path / FOLDER / "result.json").exists()):
        out.print(check_writer(lab, next(iter(prompts.values()))), highlight=False)
    if dry_run:
        from gepa_loop.stages.plan import plan

        if lab.task.judge is not None:
            lab.task.judge.remote.provider()  # a missing key is found for nothing
        if searches:
            out.print("measuring a sample of rollouts", highlight=False)
        for line in plan(lab, command):
            out.print(line, highlight=False)
        out.print(f"would write {shown(path)}", highlight=False)
        yield None
        return
    if command == "loop":
        from gepa_loop.loop import rounds_done

        done = not fresh and rounds_done(path) >= settings.loop.rounds
    else:
        done = not fresh and (path / "optimize" / "result.json").exists()
    if searches and not done:
        check_search(lab, seed_prompt(settings))
    if fresh or not (path / JUDGED).exists():
        check_judge(lab)
    with interruptible(), open_run(path, lab.identity(**extra), fresh=fresh) as run:
        write_json(run.path / "config.json", resolved)
        out.print(f"run {shown(path)}", highlight=False)
        run.event("start", command=command, **lab.data_facts())
        lab = lab.in_run(run.path)
        if (spread := measure_spread(lab, run)) is not None:
            out.print(str(spread), highlight=False)
        with View(out) as view:
            yield Session(lab, run, view)
    if lab.task.judge is not None:
        # From the file: the cells of a sweep have records of their own.
        record = Record(run.path / RECORD)
        out.print(f"judge: {record.calls:,} calls in this run, {dollars(record.usd)}", highlight=False)


def _run_path(name: str) -> Path:
    if Path(name).name != name or name.startswith("."):
        raise ConfigError(f"--run-name {name}: not a plain folder name", "It becomes a folder below runs/.")
    return Path.cwd() / "runs" / name


def _begun(path: Path) -> str | None:
    """The day on which the run in a folder began; None where there is none."""
    from gepa_loop.run.identity import read_manifest

    day = (
        read_manifest(path).get("identity", {}).get("model.date")
        if (path / "manifest.json").exists()
        else None
    )
    return day if isinstance(day, str) else None


def _checked_lab(
    command: str,
    settings: Config,
    prompts: Mapping[str, Candidate],
    check: Callable[[Lab], None] | None,
    day: str | None,
) -> Lab:
    from gepa_loop.lab import open_lab
    from gepa_loop.stages.questions import refuse_questions
    from gepa_loop.stages.references import check_references
    from gepa_loop.task.sources import code_of

    if command == "loop":
        refuse_questions(settings, command)
    for task in filter(None, (settings.task, settings.distill.control)):
        for file in code_of(task):
            out.print(f"task {task.name} runs {file}", highlight=False)
    lab = open_lab(settings, day)
    if lab.task.answers == "none":
        if command != "distill":
            raise TaskError(
                f"task {lab.task.name} has no answers: `{command}` has nothing to score replies by",
                "`distill` does without: it compares with the prompted model's own replies.",
            )
        check_references(lab)
    for source, candidate in prompts.items():
        lab.check_prompt(candidate, source)
    if command in ("distill", "loop", "sweep"):
        from gepa_loop.distill.teacher.choose import check_teacher

        lab = lab.for_training()
        if check is None:
            check_teacher(lab, next(iter(prompts.values())).text)
        else:
            check(lab)
    return lab


def _print_facts(lab: Lab, prompts: Mapping[str, Candidate], notes: Sequence[str | None]) -> None:
    told = (lab.prompt_facts(prompt, source) for source, prompt in prompts.items())
    for line in (*lab.facts(), *told):
        out.print(line, highlight=False)
    overlaps = (lab.overlap(candidate, source) for source, candidate in prompts.items())
    for line in (*lab.task.warnings(), *filter(None, overlaps), *filter(None, notes)):
        out.print(Text.assemble(("warning:", "yellow"), " ", printable(line)), highlight=False)
