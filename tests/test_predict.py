"""Expected scores of students, by hand."""

import pytest

from gepa_loop.predict import Fit, Prediction, fit, predict

BASE = {"a": 0.0, "b": 0.5}
PROMPTED = {"a": 1.0, "b": 0.5}


def made(base: float, prompted: float, predicted: float, actual: float | None) -> Prediction:
    return Prediction("x", base, prompted, predicted, actual, None, None)


def test_the_first_round_expects_the_whole_gap_to_close() -> None:
    found = predict("x", BASE, PROMPTED, None, {"divergence": 0.5, "gain": 0.1, "score": 1.0}, None)
    assert (found.base, found.prompted, found.predicted, found.actual) == (0.25, 0.75, 0.75, None)
    assert (found.divergence, found.gain) == (0.5, 0.1)


def test_later_rounds_expect_the_share_that_closed_before() -> None:
    found = predict("x", BASE, PROMPTED, {"a": 0.5, "b": 0.5}, None, Fit(2, 0.5, 0.0, None))
    assert (found.predicted, found.actual, found.divergence) == (0.5, 0.5, None)
    assert predict("x", BASE, PROMPTED, None, None, Fit(2, 9.0, 0.0, None)).predicted == 1.0


def test_fit_by_hand() -> None:
    found = fit([made(0.1, 0.3, 0.3, 0.2), made(0.1, 0.5, 0.5, 0.4), made(0.1, 0.2, 0.2, None)])
    assert found is not None
    assert found.n == 2 and found.rate == pytest.approx((0.2 * 0.1 + 0.4 * 0.3) / (0.2**2 + 0.4**2))
    assert found.error == pytest.approx(0.1) and found.r is None
    third = fit([made(0.1, 0.3, 0.3, 0.2), made(0.1, 0.5, 0.5, 0.4), made(0.1, 0.4, 0.4, 0.3)])
    assert third is not None and third.r == pytest.approx(1.0)
    assert "3 students of earlier rounds: predicted scores were off by 0.100" in str(third)


def test_no_student_no_fit() -> None:
    assert fit([]) is None
    assert fit([made(0.1, 0.2, 0.2, None)]) is None
    assert fit([made(0.1, 0.1, 0.1, 0.3)]) is None
