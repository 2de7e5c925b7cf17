"""What a search has used: an item of a candidate once, and for whom."""

from types import SimpleNamespace

from gepa_loop.search.budget import Spent
from gepa_loop.search.meter import Meter


def test_an_item_is_paid_once_and_claimed_in_its_iteration() -> None:
    a, b, c = ("p", "a"), ("p", "b"), ("q", "a")
    meter = Meter(SimpleNamespace(scores={a: [1.0, 0.0], b: [1.0, 1.0], c: [0.0, 0.0]}, seconds={a: 3.0}))
    meter.count([a, b, a])
    meter.add(Spent(proposals=1, usd=0.5, seconds=1.0))
    assert meter.spent == Spent(4, 1, 0.5, 4.0)
    assert meter.claim([a, c]) == Spent(rollouts=2, seconds=3.0)
    assert meter.claim([a]) == Spent()
    # `b` was sampled and is in no row: nobody's, also later.
    meter.end_iteration(9.0)
    meter.count([b, c])
    assert meter.spent == Spent(6, 1, 0.5, 9.0)
    assert meter.claim([a, b, c]) == Spent(rollouts=2)
