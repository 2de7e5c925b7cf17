"""`gepa-loop submit`: a command that makes a run as a job of a Slurm cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gepa_loop.cli import complete
from gepa_loop.cli.answer import STANDARD_OUTPUT, give, head, reader
from gepa_loop.cli.options import JsonOption, NameOption, say_next

if TYPE_CHECKING:
    from gepa_loop.cli.records.jobs import SubmittedAnswer

ANY = {"ignore_unknown_options": True}
"""What is not this command's is that of the one that is submitted."""


def submit(
    context: typer.Context,
    command: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND",
            help="optimize, distill, loop, evaluate or sweep.",
            autocompletion=complete.submitted,
        ),
    ],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[FLAG]...", help="Its own flags, as it takes them.")
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE,...",
            help="Options of sbatch: partition=gpu,gpus=1,time=04:00:00; several times.",
        ),
    ] = None,
    array: Annotated[
        str | None,
        typer.Option(
            "--array",
            metavar="seeds=N",
            help="An array of N tasks, one a seed, from the config's on; a sweep is one of its cells.",
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(
            "--prefix",
            metavar="COMMAND",
            help="What runs `gepa-loop` on the node, as a container: 'apptainer exec --nv image.sif'.",
        ),
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(
            "--setup", metavar="LINE", help="A line of shell before it, as 'module load cuda'; several times."
        ),
    ] = None,
    run_name: NameOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the script, and stop.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Run a command as a job of a Slurm cluster; one that is preempted or out of time goes on by itself."""
    from gepa_loop.cli.batch import check_gpus, checked, prefix_words, seeds_of, setup_lines, slurm_options
    from gepa_loop.jobs.folder import SCRIPT, job_folder, read_job, write_job
    from gepa_loop.jobs.script import Node, Work, script_text
    from gepa_loop.jobs.slurm import check_ended
    from gepa_loop.jobs.slurm import submit as hand_over
    from gepa_loop.run.files import write_text
    from gepa_loop.session import shown

    seeds = seeds_of(array, command)
    node = Node(slurm_options(slurm or ()), prefix_words(prefix or ""), setup_lines(setup or ()))
    found = checked(context, command, words or ())
    check_gpus(node.options, found.config)
    name = found.name(run_name)
    tasks, folder = found.tasks(name, seeds), job_folder(name)
    is_array = seeds is not None or command == "sweep"
    own = [] if is_array else tasks[0]["words"]
    each = [one["words"] for one in tasks] if is_array else []
    text = script_text(Work(name, folder, [command, *found.words, *own], each), node)
    answer: SubmittedAnswer = {
        **head("submit"),
        "job": name,
        "job_id": None,
        "script": text,
        "path": str(folder),
        "runs": [one["run"] if one["cell"] is None else f"{one['run']}/{one['cell']}" for one in tasks],
    }
    if dry_run:
        give(json_file, answer)
        if json_file != STANDARD_OUTPUT:
            typer.echo(text, nl=False)
        return
    before = read_job(name)
    numbers = before["job_ids"] if before is not None else []
    if before is not None:
        check_ended(name, numbers[-1], len(before["tasks"]))
    write_text(folder / SCRIPT, text)
    number = hand_over(folder / SCRIPT)
    write_job(
        name,
        {
            "run_command": command,
            "words": found.words,
            "array": is_array,
            "tasks": tasks,
            "job_ids": [*numbers, number],
        },
    )
    give(json_file, {**answer, "job_id": number})
    to = reader(json_file)
    count = f", {len(tasks)} tasks" if is_array else ""
    to.print(f"job {number}{count}: {name}\nscript: {shown(folder / SCRIPT)}", highlight=False)
    say_next("jobs", "status", name, to=to)
