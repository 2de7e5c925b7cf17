"""Prompts written by rules: worked examples beside those that a user's prompt has already, and what is said of them."""

from gepa_loop.search.propose.rules import OfflineProposer
from gepa_loop.task.items import Item

ITEMS = tuple(Item(f"t:{n}", (("user", f"What is\t{n} + {n}?"),), str(2 * n), {}) for n in range(3))
OWN = "Add the numbers.\n\nExamples:\n1 + 1 = ? 2\n\nExample: 3 and 4\nAnswer: 7"


def proposed(parent: str, proposer: OfflineProposer) -> dict[str, str]:
    """Texts by how they were made, of many draws."""
    made = [proposer.propose(parent, [], number, ()) for number in range(60)]
    return {one.how: one.text for one in made}


def test_worked_examples_are_added_beside_those_of_a_users_own() -> None:
    made = proposed(OWN, OfflineProposer((), 2, ITEMS, 0))
    text = made["add 2 worked examples"]
    assert text.startswith(f"{OWN}\n\nExample: What is\t") and text.count("\nAnswer: ") == 3


def test_worked_examples_are_not_added_to_its_own() -> None:
    """A prompt is normalised before it is a parent, which makes spaces of tabs."""
    proposer = OfflineProposer((), 2, ITEMS, 0)
    assert "drop a paragraph" in proposed("Add.\n\nExample: What is 1 + 1?\nAnswer: 2", proposer)
    assert not [
        how for how in proposed("Add.\n\nExample: What is 1 + 1?\nAnswer: 2", proposer) if "add" in how
    ]


def test_one_worked_example_is_one() -> None:
    assert set(proposed("Add.", OfflineProposer((), 1, ITEMS, 0))) == {"add 1 worked example"}


def test_what_it_says_it_adds_is_what_it_can_add() -> None:
    assert OfflineProposer((), 2, ITEMS, 0).about.endswith(
        "so it adds worked examples and rearranges paragraphs only"
    )
    for without in (OfflineProposer((), 0, ITEMS, 0), OfflineProposer((), 2, (), 0)):
        assert without.about.endswith("so it rearranges paragraphs only")
        assert "nothing left to edit" in proposed("Add.", without)
