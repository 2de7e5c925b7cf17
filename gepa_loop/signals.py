"""What ends a command from outside: Ctrl-C, a scheduler's SIGTERM, a terminal that is closed (SIGHUP)."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

from gepa_loop.errors import CallInterrupted, Interrupted

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]

SHOW_CURSOR = "\x1b[?25h"


def end_at_once() -> None:
    """Have a signal end the process with one line: until a run is open there is nothing to save."""
    _handle(_end)


SAVED = "what was finished is saved. Continue with:"


def typed() -> list[str]:
    """The command of this process as it is typed to go on with its run."""
    return ["gepa-loop", *(word for word in sys.argv[1:] if word != "--fresh")]


@contextmanager
def interruptible(left: str = SAVED, hint: str | None = None) -> Iterator[None]:
    """Turn a signal into `Interrupted` once what is open was closed; a second Ctrl-C ends the process at once.

    A second SIGTERM does not, until the process ends: Slurm sends two in the same moment, one of them by way of `srun`, and whoever
    cannot wait sends SIGKILL.

    Args:
        left: What is said of it, behind how the command ended; "" says nothing at all, for one that is left so as a rule.
        hint: What to type then; None is the same command.

    Raises:
        Interrupted: With the command that continues, and the exit code that shells and schedulers give the signal.
    """
    came: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        came.append(number)
        _handle(_end)
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = _handle(remember)
    try:
        yield
    except BaseException as error:
        # A library may have made another exception of ours.
        if not came and not isinstance(error, KeyboardInterrupt):
            raise
        _show_cursor()  # also where the signal came while a live view was being started
        number = came[0] if came else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        told = f"\n{how}; {left}" if left else ""
        raise Interrupted(told, f"  {shlex.join(typed())}" if hint is None else hint, 128 + number) from None
    finally:
        for number, handler in before.items():
            if number != signal.SIGTERM or number not in came:
                signal.signal(number, handler)


@contextmanager
def interrupted(said: str) -> Iterator[None]:
    """Turn the KeyboardInterrupt of a program whose signal handlers are its own into `CallInterrupted`, which says `said`."""
    try:
        yield
    except KeyboardInterrupt:
        raise CallInterrupted(said) from None


def _handle(handler: Handler) -> dict[signal.Signals, Handler | int | None]:
    """Handle the signals that nobody asked to ignore (nohup, a shell's background jobs); returns what did before."""
    if current_thread() is not main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in ENDING}
    # None: a handler that was not set by Python, and cannot be put back by it.
    handled: dict[signal.Signals, Handler | int | None] = {
        number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)
    }
    for number in handled:
        signal.signal(number, handler)
    return handled


def _end(number: int, _: FrameType | None) -> None:
    _show_cursor()
    os.write(2, f"\nended by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def _show_cursor() -> None:
    if os.isatty(1):
        os.write(1, SHOW_CURSOR.encode())
