"""Questions of its judges in a prompt: counted, and the first quoted."""

from gepa_loop.task.held import held_questions
from gepa_loop.task.records import Item


def _items(split: str, *questions: str) -> tuple[Item, ...]:
    return tuple(
        Item(f"t:{split}:{n}", (("user", question),), "1", {}) for n, question in enumerate(questions)
    )


SPLITS = {
    "train": _items("train", "Add 5 and 5."),
    "pareto": _items("pareto", "Add 6 and 6."),
    "race": (),
    "select": _items("select", "Add 1 and 1", "Add 2\n and 2"),
    "test": _items("test", "Add 3 and 3", "Add 4 and 4" + " now" * 40),
}


def test_one_question_is_quoted() -> None:
    said = held_questions("Add.\nAdd 2\n and 2? 4", "p.txt", SPLITS)
    assert said == (
        "p.txt holds questions it will be judged by: 1 of select (t:select:1 'Add 2 and 2'); its scores are too good"
    )


def test_of_several_the_first_is() -> None:
    text = "\n".join(item.question for items in SPLITS.values() for item in items)
    assert "2 of select and 2 of test (the first is t:select:0 'Add 1 and 1');" in str(
        held_questions(text, "p.txt", SPLITS)
    )
    long = held_questions(SPLITS["test"][1].question, "p.txt", SPLITS)
    assert long is not None and " ... " in long and len(long) < 170


def test_what_judges_nothing_and_a_part_of_a_number_are_no_questions() -> None:
    assert held_questions("Add 5 and 5. Add 6 and 6. Add 1 and 14.", "p.txt", SPLITS) is None
