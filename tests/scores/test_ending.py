"""Whether a loop goes on after a round that found nothing."""

from dataclasses import replace

import pytest

from gepa_loop.scores.ending import Attempt, nothing_new

TRIED = Attempt(True, True, None, frozenset("ab"), frozenset())


@pytest.mark.parametrize("before", ["", "a", "c", "ac"])
def test_a_search_that_a_budget_ended_may_find_other_prompts(before: str) -> None:
    assert nothing_new(replace(TRIED, before=frozenset(before))) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reads_prompt": False}, "the objective reads no prompt"),
        ({"helped": False}, "none of its prompts helped by more than loop.min_gap"),
        ({"exhausted": "nothing new in 20 iterations"}, "its search was stopped by nothing new in 20 iter"),
        ({"before": frozenset("ab")}, "all of its prompts had been tried on this model"),
        ({"before": frozenset("abc")}, "all of its prompts had been tried on this model"),
        # The first reason that holds is said.
        ({"reads_prompt": False, "helped": False}, "the objective reads no prompt"),
        ({"helped": False, "exhausted": "patience"}, "none of its prompts helped by more than loop.min_gap"),
        ({"exhausted": "patience", "before": frozenset("ab")}, "its search was stopped by patience"),
    ],
)
def test_what_would_only_be_repeated_ends_a_loop(change: dict[str, object], said: str) -> None:
    assert str(nothing_new(replace(TRIED, **change))).startswith(said)
