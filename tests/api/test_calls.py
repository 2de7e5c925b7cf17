"""The commands as functions: in a thread, beside a running loop, quietly, with errors and Ctrl-C as exceptions."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest

import gepa_loop
from gepa_loop.cli import run as command
from gepa_loop.errors import (
    ConfigError,
    EnvironmentFault,
    Interrupted,
    ModelError,
    RunDirectoryError,
    TaskError,
)
from gepa_loop.show.report.about import commands, config_text
from gepa_loop.show.report.read import read_told
from gepa_loop.task.prompts import candidate

SMALL = {"distill__steps": 2, "distill__check_every": 2, "task__splits__test": 8}


class Desks(gepa_loop.Task):
    """Scored by a coroutine, in whichever loop it is asked."""

    def __init__(self, count: int = 72) -> None:
        self.count = count

    def items(self) -> list[gepa_loop.Item]:
        return [gepa_loop.Item.of(f"Ticket {n}", "north", place=n) for n in range(self.count)]

    async def score(self, item: gepa_loop.Item, reply: str) -> gepa_loop.Score:
        await asyncio.sleep(0)
        return gepa_loop.Score(0.25, f"Ticket {item.entry['place']} goes north.")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_call_and_a_command_make_the_same_run(
    distilled: gepa_loop.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = distilled.path.parent.parent
    monkeypatch.chdir(place)
    (place / "p.txt").write_text("Answer with one number.\n")
    (trained,) = distilled.path.glob("distill/*/metrics.jsonl")
    before, result = trained.stat().st_mtime_ns, (distilled.path / "result.json").read_text()
    sets = ["--set", "distill.steps=2", "--set", "task.splits.test=8"]
    assert command(["distill", "--config", "smoke", "--prompt", "p.txt", "--run-name", "d", *sets]) == 0
    shown = capsys.readouterr().out
    # And the same end, but for the next command and what both took.
    again = gepa_loop.distill("smoke", prompt="Answer with one number.", run_name="d", **SMALL_OF_RUN)
    told = capsys.readouterr().out
    ends = [text[text.index("test, 8 items") : text.index("took ")] for text in (told, shown)]
    assert ends[0] == ends[1] and "next: " in shown and "next: " not in told
    assert again == distilled and (distilled.path / "result.json").read_text() == result
    assert trained.stat().st_mtime_ns == before, "nothing was trained again"


SMALL_OF_RUN = {"distill__steps": 2, "task__splits__test": 8}


def test_beside_a_running_loop_with_a_task_of_coroutines_and_nothing_is_printed(
    distilled: gepa_loop.Run, capfd: pytest.CaptureFixture[str]
) -> None:
    async def cell() -> gepa_loop.Run:
        return gepa_loop.distill("smoke", prompt="Go north.", task=Desks(), run_name="n", quiet=True, **SMALL)

    # In a thread of its own: tests in a browser leave a running loop in this one.
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(asyncio.run, cell()).result()
    assert capfd.readouterr() == ("", "")
    assert run.result["greedy"]["student"]["mean"] == 0.25
    rows = run.rows()
    assert rows[rows.file.str.startswith("test/")].feedback.str.contains(r"Ticket \d+ goes north\.").all()
    assert run("Ticket 3", max_tokens=2, seed=0) == run("Ticket 3", max_tokens=2, seed=0)
    # The page's way to make it again is a call, as no command finds the object.
    told, file = read_told(run.path), f"runs/n/prompts/{candidate('Go north.', '').id}.txt"
    first = commands(told)[0]
    assert first.line == f"gepa_loop.distill('run-n.toml', prompt='{file}', task=task, run_name='again')"
    assert "object of a Python program" in first.about and first.line in (
        run.path / "report.html"
    ).read_text().replace("&#39;", "'")
    Path("gepa-loop.toml").write_text(config_text(told)[0])
    again = gepa_loop.distill("gepa-loop.toml", prompt=file, task=Desks(), run_name="again", quiet=True)
    assert again.result["greedy"] == run.result["greedy"]
    assert commands(read_told(distilled.path))[0].line.startswith("gepa-loop distill --prompt ")


def test_in_threads_of_their_own_and_signals_are_left_alone() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    found: list[gepa_loop.Run | BaseException] = []

    def search(number: int) -> None:
        try:
            found.append(
                gepa_loop.optimize("smoke", prompt=f"Prompt {number}.", run_name=f"o{number}", quiet=True)
            )
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            found.append(error)

    for number in (1, 2):
        thread = Thread(target=search, args=(number,))
        thread.start()
        thread.join()
    one, two = found
    assert isinstance(one, gepa_loop.Run) and isinstance(two, gepa_loop.Run), found
    assert (one.prompt, two.prompt) == ("Prompt 1.", "Prompt 2.")  # no meaningful scores: the seed stays
    assert one.adapter is None and one.result["winner"] is None
    with pytest.raises(ConfigError, match="makes no student"):
        one("Hi")
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_a_loop_and_an_evaluation(distilled: gepa_loop.Run, capfd: pytest.CaptureFixture[str]) -> None:
    looped = gepa_loop.loop("smoke", prompt="Say it.", run_name="l", quiet=True, loop__rounds=1)
    assert (looped.command, looped.adapter, looped.result["status"]) == ("loop", None, "null")
    assert (looped.path / "report.html").is_file() and looped.prompt
    with pytest.raises(RunDirectoryError, match="has no student"):
        looped("Hi")
    scored = gepa_loop.evaluate(
        "smoke", adapter=distilled, against=("Say it.", None), run_name="e", quiet=True
    )
    assert capfd.readouterr() == ("", "")
    ids = [one["id"] for one in scored.result["subjects"]]
    # A run's folder, its name and an adapter's folder are the same student.
    for adapter in (distilled.path, str(distilled.adapter)):
        same = gepa_loop.evaluate("smoke", adapter=adapter, run_name="same", fresh=True, quiet=True)
        assert [one["id"] for one in same.result["subjects"]] == ids[:1]
    assert ids[0].startswith("none+") and ids[1].endswith("+base") and scored.result["split"] == "select"
    assert scored.prompt == "" and scored.adapter is None
    prompted = gepa_loop.evaluate(
        {"preset": "smoke"}, prompt="Say it.", split="pareto", run_name="p", quiet=True
    )
    assert prompted.prompt == "Say it." and prompted.result["difference"] is None
    with pytest.raises(ConfigError, match="this run has no student"):
        gepa_loop.evaluate("smoke", adapter=looped)
    with pytest.raises(RunDirectoryError, match="run l has no student"):
        gepa_loop.evaluate("smoke", adapter="l")
    with pytest.raises(ModelError, match="no adapter can be read there"):
        gepa_loop.evaluate("smoke", adapter="nowhere")


def test_what_is_wrong_is_an_error_of_ours_and_writes_nothing(tmp_path: Path) -> None:
    class Broken(Desks):
        def score(self, item: gepa_loop.Item, reply: str) -> float:
            return {}["desk"]  # type: ignore[no-any-return]

    for error, said, call in (
        (ConfigError, "split tset: no such split", lambda: gepa_loop.evaluate("smoke", split="tset")),
        (ConfigError, "not a plain folder name", lambda: gepa_loop.loop("smoke", run_name="a/b", quiet=True)),
        (TaskError, "only 3 questions", lambda: gepa_loop.loop("smoke", task=Desks(3), quiet=True)),
        (ConfigError, "nearest is", lambda: gepa_loop.distill("smoke", prompt="P", distill__lrr=1)),
    ):
        with pytest.raises(gepa_loop.GepaLoopError, match=said) as caught:
            call()
        assert isinstance(caught.value, error)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        EnvironmentFault, match=r'KeyError(.|\n)*test_calls.py, line \d+: return {}\["desk"\]'
    ):
        gepa_loop.evaluate("smoke", task=Broken(), quiet=True)


def test_ctrl_c_is_an_interruption_and_a_keyboard_interrupt(tmp_path: Path) -> None:
    class Stopped(Desks):
        def score(self, item: gepa_loop.Item, reply: str) -> float:
            os.kill(os.getpid(), signal.SIGINT)
            return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted, match="The same call continues") as caught:
            gepa_loop.evaluate("smoke", task=Stopped(), run_name="r", quiet=True)
        assert isinstance(caught.value, KeyboardInterrupt) and caught.value.exit_code == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    # The lock is free, and what was made of other code is refused.
    with pytest.raises(RunDirectoryError, match=r"task\.code"):
        gepa_loop.evaluate("smoke", task=Desks(), run_name="r", quiet=True)
    assert gepa_loop.evaluate("smoke", task=Desks(), run_name="r", fresh=True, quiet=True).name == "r"


def test_an_error_shows_how_to_mend_it_below_its_message() -> None:
    """In a traceback, where nobody prints the hint."""
    with pytest.raises(ConfigError) as caught:
        gepa_loop.optimize("nosuch")
    assert caught.value.hint and caught.value.__notes__ == [caught.value.hint]
