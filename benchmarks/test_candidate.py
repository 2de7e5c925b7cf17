"""Ours and stock DSPy give a candidate the same completions and scores (`make check-peers`)."""

import dataclasses

import pytest

from benchmarks.candidate import SCORINGS, Scored, Setting, open_setting
from benchmarks.candidate_dspy import open_dspy
from benchmarks.candidate_ours import open_ours


@pytest.fixture(scope="module", params=["random:tiny", "random"])
def setting(request: pytest.FixtureRequest) -> Setting:
    case = dataclasses.replace(SCORINGS["E-tiny"], weights=request.param, items=12)
    return open_setting(case)


@pytest.mark.parametrize(("threads", "gather"), [(None, False), (None, True), (12, True)])
def test_dspy_scores_a_candidate_as_ours_does(setting: Setting, threads: int | None, gather: bool) -> None:
    for number in range(2):
        prompt = setting.candidate(SCORINGS["E-tiny"], number)
        ours: Scored = open_ours(setting)(prompt)
        theirs: Scored = open_dspy(threads, gather)(setting)(prompt)
        assert ours.completions == theirs.completions
        assert ours.scores == theirs.scores
        assert all(ours.completions) and len(set(ours.completions)) > 1
