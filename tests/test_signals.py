"""Signals, and standard streams that are closed, full or ASCII: as a shell and a scheduler see them."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from gepa_loop.errors import EnvironmentFault, Interrupted
from gepa_loop.show.live import View
from gepa_loop.show.terminal import Terminal, stream_fault
from gepa_loop.signals import ENDING, SHOW_CURSOR, interruptible


def interrupted(work: Callable[[], None]) -> None:
    with interruptible():
        work()
        raise AssertionError("no signal came")


GEPA_LOOP = [sys.executable, "-m", "gepa_loop"]
LOOP = [*GEPA_LOOP, "loop", "--config", "smoke", "--run-name", "r"]
CONTINUE = "gepa-loop loop --config smoke --run-name r"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a test does to the signals of this process is undone, and none is ignored, as under nohup."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_becomes_an_error_with_the_code_that_shells_give_it(
    number: signal.Signals, code: int
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="what was finished is saved") as caught:
        interrupted(lambda: os.kill(os.getpid(), number))
    assert caught.value.exit_code == code
    # A scheduler's second SIGTERM may come while what is left is said.
    assert signal.getsignal(number) is (signal.SIG_IGN if number == signal.SIGTERM else before)


def test_a_second_sigterm_changes_nothing() -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # srun's, beside that of the node's daemon

    with pytest.raises(Interrupted) as caught:
        interrupted(work)
    assert caught.value.exit_code == 143


def test_a_second_ctrl_c_ends_at_once() -> None:
    code = (
        "import os, signal\n"
        "from gepa_loop.signals import interruptible\n"
        "with interruptible():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        os.write(1, b'saved after all')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (130, b"", b"\nended by SIGINT\n")


def test_a_signal_that_a_library_makes_an_error_of_is_still_one() -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("the engine failed") from None

    with pytest.raises(Interrupted) as caught:
        interrupted(work)
    assert caught.value.exit_code == 143


def test_signals_that_are_ignored_stay_so_and_errors_are_no_signals() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does

    def work() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        raise RuntimeError("an error")

    with pytest.raises(RuntimeError, match="an error"):
        interrupted(work)


def start(cwd: Path, stdout: int) -> subprocess.Popen[bytes]:
    # A background job of a shell, as these tests may be, hands on that Ctrl-C is ignored.
    return subprocess.Popen(
        LOOP,
        cwd=cwd,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_a_scheduler_ends_a_run_and_the_terminal_is_left_as_it_was(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = start(tmp_path, theirs)
    os.close(theirs)
    shown = b""
    while b"\x1b[?25l" not in shown:
        shown += os.read(ours, 10_000)
    process.send_signal(signal.SIGTERM)
    with suppress(OSError):  # what Linux answers at a terminal's end
        while more := os.read(ours, 10_000):
            shown += more
    _, said = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 143, said
    assert b"ended by SIGTERM; what was finished is saved" in said and CONTINUE.encode() in said
    assert b"Traceback" not in said
    assert shown.rfind(SHOW_CURSOR.encode()) > shown.rfind(b"\x1b[?25l") > 0


def test_ctrl_c_while_torch_is_imported_has_no_traceback(tmp_path: Path) -> None:
    process = start(tmp_path, subprocess.PIPE)
    while process.poll() is None and "torch" not in Path(f"/proc/{process.pid}/maps").read_text():
        pass  # the process is watched, not waited for
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (130, b"", b"\nended by SIGINT\n")
    assert not (tmp_path / "runs").exists()


def test_a_reader_that_leaves_is_not_complained_of() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    for command in (["config", "show"], ["--version"]):
        done = subprocess.run([*GEPA_LOOP, *command], stdout=theirs, stderr=subprocess.PIPE)
        assert done.returncode in (1, 141) and done.stderr == b"", done
    os.close(theirs)


def test_a_full_standard_output_is_one_sentence() -> None:
    for command in (["config", "show"], ["--version"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([*GEPA_LOOP, *command], stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (3, b"error: standard output: No space left on device\n")


def test_streams_that_are_closed_or_full_change_no_exit_code(tmp_path: Path) -> None:
    gepa_loop = f"{sys.executable} -m gepa_loop"
    for command, code in (
        (f"{gepa_loop} config show >&-", 0),
        (f"{gepa_loop} config show <&- >&- 2>&-", 0),
        (f"{gepa_loop} config show --set x=1 >&- 2>/dev/full", 2),
        (f"{gepa_loop} evaluate --config smoke --dry-run >&-", 0),
    ):
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True)
        assert (done.returncode, done.stderr) == (code, b""), command


def test_a_folder_that_was_deleted_is_one_sentence(tmp_path: Path) -> None:
    command = f"rmdir . 2>/dev/null; rmdir {tmp_path}; {sys.executable} -m gepa_loop evaluate --config smoke"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    said = "error: the working directory was deleted\nChange to one that exists.\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, "", said)


def test_a_standard_output_of_ascii_shows_all_else_as_escapes() -> None:
    command = [
        *GEPA_LOOP,
        "config",
        "show",
        "--config",
        "smoke",
        "--set",
        "optimize.seed_prompt=Z\u00e4hle \u6570",
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True
    )
    assert rb"Z\xe4hle \u6570" in done.stdout


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(EnvironmentFault, match=r"a\.txt: Permission denied"):
        stream_fault(PermissionError(13, "Permission denied", "a.txt"))


def test_names_are_no_markup_and_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Terminal(markup=False, emoji=False, soft_wrap=True)
    console.print("runs/[red]a[/red] :smile: \x1b[2J")
    with View(console) as view:
        view.stage("stage", candidate="[red]b\x1b]0;title\x07")
        view.note("[/nothing] is closed")
    terminal = Console(force_terminal=True, width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with View(terminal) as view:
        view.stage("stage", candidate="[/x] [red]c")
        view.progress(1, 1, held_out=0.5)
    shown = capsys.readouterr().out
    assert (
        shown
        == "runs/[red]a[/red] :smile: \\x1b[2J\nstage · [red]b\\x1b]0;title\\x07\n  [/nothing] is closed\n"
    )
    assert "stage · [/x] [red]c" in terminal.export_text()
