"""Searches with a slow reflection model: as many proposals on both sides, each reply to its own question."""

from benchmarks.proposals import both, opened, shown
from benchmarks.slow_model import SENTENCES, written


def test_both_sides_make_as_many_proposals_and_wait_differently() -> None:
    one, four = both(opened("smoke", (), 4), 4, 8, 0.2)
    assert (one.total, four.total) == (8, 8) and (one.proposals, four.proposals) == (1, 4)
    # Eight replies one after the other, and two times four together.
    assert one.waiting >= 8 * 0.2 > four.waiting >= 2 * 0.2
    assert one.rollouts > 8 and four.rollouts > 8
    assert f"{one.seconds / four.seconds:.2f} times" in str(shown([one, four]).caption)


def test_the_same_question_gets_the_same_instruction() -> None:
    texts = [written(b"%d" % n) for n in range(50)]
    assert texts == [written(b"%d" % n) for n in range(50)] and len(set(texts)) == 50
    assert all(any(sentence in text for text in texts) for sentence in SENTENCES)
