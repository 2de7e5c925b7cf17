"""The Sokoban prompts: their form, and everything in them that a machine can check against the game itself.

A worked board in a prompt is a block of lines: `Board:`, the rows, and one of three claims.

- `Solution: DRUL`, and then the state after each push, as `_trace` writes it; a drawing of it may follow.
- `Solution: none`.
- `Dead squares: (1,1) (2,4)`: where no push can ever bring a box to a goal, whatever the player's place.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from places import ROOT

FOLDER = ROOT / "prompts" / "sokoban"
LINES = {"baseline": (1, 1), "prog2": (30, 50), "detailed": (65, 100), "teacher": (170, 230)}
BLOCK = re.compile(
    r"^Board:\n(?P<rows>(?:[-+*%@X$ ]+\n)+)(?P<kind>Solution|Dead squares): (?P<claim>.+)\n?"
    r"(?P<after>(?:\d+\. .+\n?|\+[-+*%@X$ ]+\n?)*)",
    re.MULTILINE,
)
Cell = tuple[int, int]


def _text(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_bytes().decode("ascii").removesuffix("\n")


def _blocks(name: str, kind: str) -> list[re.Match[str]]:
    return [block for block in BLOCK.finditer(_text(name)) if block["kind"] == kind]


def _examples() -> Iterator[Any]:
    for name in LINES:
        for number, block in enumerate(_blocks(name, "Solution"), 1):
            if block["claim"] != "none":
                yield pytest.param(block, id=f"{name}-{number}")


def _matrix(rows: str) -> np.ndarray:
    return np.array([row.split() for row in rows.strip().split("\n")])


@functools.cache
def _dataset() -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset("sokoban", size=1, seed=0)


def _score(rows: str, answer: str) -> float:
    return float(_dataset().score_answer(answer, {"metadata": {"gamestr": rows}}))


def _state(matrix: np.ndarray) -> str:
    """Player, boxes off goals and boxes on goals with their (row,column), row by row from the top left."""
    found = {symbol: [f"({r},{c})" for r, c in np.argwhere(matrix == symbol)] for symbol in "*%@$"}
    (player,) = [f"{symbol} {cell}" for symbol in "*%" for cell in found[symbol]]
    return ", ".join([player, *(f"{symbol} {' '.join(found[symbol]) or 'none'}" for symbol in "@$")])


def _trace(matrix: np.ndarray, moves: str) -> list[tuple[str, np.ndarray]]:
    """Play `moves`; for each push, the line that describes it and the board after it."""
    from reasoning_gym.games.contrib.sokoban.src.game import Game

    game = Game(height=matrix.shape[0], width=matrix.shape[1])
    game.load_puzzle_matrix(matrix)
    pushes: list[tuple[str, np.ndarray]] = []
    walk, boxes = "", np.isin(matrix, ["@", "$"])
    for move in moves:
        assert game.player.update(key=move) == 1, f"{move} of {moves} does nothing"
        after = game.get_matrix()
        if np.array_equal(boxes, np.isin(after, ["@", "$"])):
            walk += move
            continue
        how = f"walk {walk}, push {move}" if walk else f"push {move}"
        pushes.append((f"{len(pushes) + 1}. {how}: {_state(after)}", after))
        walk, boxes = "", np.isin(after, ["@", "$"])
    assert not walk, f"{moves} ends with moves that push nothing"
    return pushes


def _solvable(matrix: np.ndarray) -> bool:
    """Exhaustive search over the game's own moves."""
    from reasoning_gym.games.contrib.sokoban.src.utils import can_move, get_state, is_solved

    (row, column), *_ = np.argwhere(np.isin(matrix, ["*", "%"]))
    start = (get_state(matrix), (int(row), int(column)))
    seen, queue = {start}, deque([start])
    while queue:
        state, (row, column) = queue.popleft()
        if is_solved(state):
            return True
        for down, right in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            new, _cost = can_move(state, matrix.shape, (row, column), (down, right))
            node = (new, (row + down, column + right))
            if new is not None and node not in seen:
                seen.add(node)
                queue.append(node)
    return False


def _is_dead(matrix: np.ndarray, box: Cell) -> bool:
    """Whether a lone box cannot reach a goal from any place of the player."""
    for player in map(tuple, np.argwhere(matrix != "+")):
        if player != box:
            board = matrix.copy()
            board[box] = "@"
            board[player] = "%" if board[player] == "X" else "*"
            if _solvable(board):
                return False
    return True


@pytest.mark.parametrize("name", LINES)
def test_form(name: str) -> None:
    text = _text(name)
    low, high = LINES[name]
    assert low <= len(text.split("\n")) <= high
    assert text == inspect.cleandoc(text)
    assert all(line == line.rstrip() for line in text.split("\n"))
    assert "<answer>" in text
    assert "</answer>" in text
    assert "<|" not in text
    assert "|>" not in text


@pytest.mark.parametrize("name", ["prog2", "detailed", "teacher"])
def test_every_symbol_is_explained(name: str) -> None:
    legend = re.findall(r"^(\S) - ((?:An?|The) .+)$", _dataset()[0]["question"], re.MULTILINE)
    assert sorted(symbol for symbol, _ in legend) == sorted("*%@X$+-")
    for symbol, meaning in legend:
        (line,) = re.findall(rf"^ *{re.escape(symbol)}  (.+)$", _text(name), re.MULTILINE)
        nouns = {"player", "goal", "box", "wall", "empty"} & set(meaning.lower().split())
        assert nouns
        assert nouns <= set(re.findall(r"\w+", line.lower()))


@pytest.mark.parametrize("name", LINES)
def test_every_board_is_in_a_checked_block(name: str) -> None:
    assert _text(name).count("Board:") == len(BLOCK.findall(_text(name)))


def test_guides_have_worked_examples() -> None:
    solved = {name: sum(b["claim"] != "none" for b in _blocks(name, "Solution")) for name in LINES}
    assert solved["detailed"] >= 2
    assert solved["teacher"] >= 4


@pytest.mark.parametrize("block", _examples())
def test_worked_example_solves_its_board(block: re.Match[str]) -> None:
    rows, moves = block["rows"], block["claim"]
    assert _score(rows, moves) == 1.0
    assert _score(rows, moves[:-1]) == 0.0
    given = block["after"].strip().split("\n")
    for line, board in _trace(_matrix(rows), moves):
        assert given.pop(0) == line
        if given and given[0].startswith("+"):
            drawing = "\n".join(given.pop(0) for _ in board)
            assert np.array_equal(_matrix(drawing), board)
    assert given == []


def test_boards_called_lost_have_no_solution() -> None:
    lost = [b for name in LINES for b in _blocks(name, "Solution") if b["claim"] == "none"]
    assert lost
    for block in lost:
        assert not _solvable(_matrix(block["rows"])), block[0]


def test_dead_squares_are_all_the_dead_squares() -> None:
    blocks = [b for name in LINES for b in _blocks(name, "Dead squares")]
    assert blocks
    for block in blocks:
        matrix = np.where(np.isin(_matrix(block["rows"]), ["*", "@"]), "-", _matrix(block["rows"]))
        dead = [(r, c) for r, c in np.argwhere(matrix != "+").tolist() if _is_dead(matrix, (r, c))]
        assert block["claim"] == " ".join(f"({r},{c})" for r, c in dead)


def test_what_the_prompts_say_about_answers() -> None:
    rows = "+ + + + + +\n+ * @ - X +\n+ + + + + +\n"
    assert _score(rows, "RR") == 1.0
    assert _score(rows, "rr") == 0.0
    assert _score(rows, "LURR") == 1.0, "a move into a wall changes nothing"
    assert _score(rows, "RRL") == 1.0, "only the last position counts"
    rows = "+ + + + + + +\n+ * @ X - - +\n+ + + + + + +\n"
    assert _score(rows, "R") == 1.0
    assert _score(rows, "RR") == 0.0, "a solved board can be spoilt by further pushes"
    rows = "+ + + + + + +\n+ * @ @ X X +\n+ + + + + + +\n"
    assert _score(rows, "RR") == 0.0, "two boxes in a row do not move"
