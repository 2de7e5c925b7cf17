"""A student's worth, by hand."""

import pytest

from gepa_loop.config.cost import CostConfig
from gepa_loop.cost.records import CallRecord
from gepa_loop.cost.worth import Took, worth

NOW: CallRecord = {"system": 700, "question": 50.0, "reply": None}
AFTER: CallRecord = {"system": 20, "question": 50.0, "reply": None}


def test_on_a_gpu_of_ones_own_seconds_stand_for_dollars() -> None:
    """680 tokens are .068 s of a machine that reads 10,000 a second; an hour of it is 52,942 calls."""
    found = worth(NOW, AFTER, CostConfig(), 10_000.0, Took(3600.0, None))
    assert found["saved"] == 680 and found["price"] is None
    assert found["anew"] == {"usd": None, "month": None, "break_even": 52_942}
    assert found["cached"] == {"usd": None, "month": None, "break_even": None}
    priced = worth(NOW, AFTER, CostConfig(gpu_usd_hour=3.6), 10_000.0, Took(3600.0, 3.6))
    assert priced["price"] == pytest.approx(0.1)
    assert priced["anew"]["usd"] == pytest.approx(68e-6)
    assert priced["anew"]["break_even"] == 52_942
    assert priced["cached"]["usd"] == 0 and priced["cached"]["break_even"] is None


def test_what_apis_cost_is_paid_back_as_well() -> None:
    found = worth(NOW, AFTER, CostConfig(gpu_usd_hour=3.6), 10_000.0, Took(3600.0, 3.6 + 6.8))
    assert found["anew"]["break_even"] == 52_942 + 100_000


def test_an_endpoint_has_prices_of_its_own() -> None:
    """$2 a million tokens, and a tenth of it for those that its cache has: a question is never in the cache."""
    settings = CostConfig(input_usd=2.0, calls=1_000_000)
    found = worth(NOW, AFTER, settings, 10_000.0, Took(3600.0, 27.2))
    assert found["price"] == 2.0
    assert found["anew"]["usd"] == pytest.approx(680 * 2e-6)
    assert found["anew"]["month"] == {"now": pytest.approx(1500.0), "after": pytest.approx(140.0)}
    assert found["anew"]["break_even"] == 20_000
    assert found["cached"]["month"] == {"now": pytest.approx(240.0), "after": pytest.approx(104.0)}
    assert found["cached"]["break_even"] == 200_000
    free = worth(NOW, AFTER, CostConfig(input_usd=2.0, cached_input_usd=0), None, Took(None, 27.2))
    assert free["cached"]["usd"] == 0 and free["cached"]["break_even"] is None


def test_seconds_of_this_machine_pay_for_nothing_elsewhere() -> None:
    found = worth(NOW, AFTER, CostConfig(input_usd=2.0), 10_000.0, Took(3600.0, None))
    assert found["anew"]["break_even"] is None


def test_what_saves_nothing_is_never_paid_back() -> None:
    found = worth(AFTER, NOW, CostConfig(gpu_usd_hour=1), 10_000.0, Took(1.0, 1.0))
    assert found["saved"] == -680 and found["anew"]["break_even"] is None
