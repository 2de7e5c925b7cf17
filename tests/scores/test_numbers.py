"""How numbers are printed: scores, differences, intervals, counts."""

from __future__ import annotations

from gepa_loop.scores.numbers import gain_text, interval_text, is_flat, items_text, plain, score_text


def test_only_a_leading_zero_is_left_out() -> None:
    texts = ["10.5", "0.5", "-0.5", "100.025", "20.0", "1e-05", "0", "3"]
    assert [plain(text) for text in texts] == ["10.5", ".5", "-.5", "100.025", "20.0", ".00001", "0", "3"]


def test_means_stand_before_their_intervals() -> None:
    assert interval_text([-0.25, 1.0]) == "[-.250, 1.000]"
    assert interval_text((-0.25, 0.5), "+") == "[-.250, +.500]"
    assert score_text({"n": 3, "mean": 0.5, "ci": [0.25, 0.75]}) == ".500 [.250, .750]"
    assert score_text({"mean": 1.1, "ci": [0.9, 1.25]}) == "1.100 [.900, 1.250]"
    assert gain_text({"mean": -0.125, "ci": [-0.25, 0.0], "p": 0.5}) == "-.125 [-.250, +.000]"


def test_what_differs_on_no_item_has_no_interval() -> None:
    level = {"mean": 0.0, "ci": [0.0, 0.0], "p": 1.0}
    assert is_flat(level) and gain_text(level) == "+.000 on every item"
    near = {"mean": 0.0, "ci": [0.0, 0.001], "p": 1.0}
    assert not is_flat(near) and gain_text(near) == "+.000 [+.000, +.001]"


def test_one_item_is_no_items() -> None:
    assert [items_text(n) for n in (0, 1, 2, 1200)] == ["0 items", "1 item", "2 items", "1,200 items"]
