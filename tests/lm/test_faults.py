"""Failures of a client in our own words."""

from __future__ import annotations

from gepa_loop.lm.faults import LATER, fault_of


def test_an_unknown_failure_names_its_causes_but_not_their_words() -> None:
    error, named, other = RuntimeError("sk-secret"), ValueError("sk-secret"), ModuleNotFoundError("sk-secret")
    error.__cause__, named.__context__ = named, other
    fault = fault_of(error, 1.0)
    assert fault.why == "no usable answer (RuntimeError from ValueError from ModuleNotFoundError)"
    assert fault.hint == LATER
