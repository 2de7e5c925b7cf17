"""What a person sees while a run goes on, where there is no terminal."""

from __future__ import annotations

import io

from rich.console import Console

from gepa_loop.show.live import View


def _said(view: View) -> list[str]:
    assert isinstance(view.console.file, io.StringIO)
    return view.console.file.getvalue().splitlines()


def test_a_stage_that_is_full_is_said_once() -> None:
    with View(Console(file=io.StringIO(), width=100)) as view:
        view.stage("items", candidate="seed 1")
        for made in (119, 120, 120, 120):  # repeats are drawn after the last
            view.progress(made, 120)
        view.stage("items", candidate="seed 2")
        view.progress(120, 120)
        view.progress(120, 120, kl=0.5)
    assert _said(view) == [
        "items · seed 1",
        "  120/120",
        "items · seed 2",
        "  120/120",
        "  120/120  train KL 0.500",
    ]


def test_the_divergence_of_training_is_told_from_what_is_held_out() -> None:
    with View(Console(file=io.StringIO(), width=100)) as view:
        view.stage("distill")
        view.progress(1, 2, held_out=0.25)
        view.progress(2, 2, kl=1.5, held_out=None)
    assert _said(view)[-1] == "  2/2  held-out .250  train KL 1.500"
