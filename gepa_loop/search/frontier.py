"""Who is on the front: candidates that are best at something, by posterior means; parents, finalists, and who is handed on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gepa.gepa_utils import find_dominator_programs

from gepa_loop.search.acceptance import DIGITS, leaders, posterior_means
from gepa_loop.search.records import Why

Kind = Literal["instance", "objective", "hybrid", "cartesian"]


@dataclass(frozen=True)
class Measured:
    """What is known of a candidate on the items of one split."""

    scores: Mapping[str, float]
    """Item -> mean of its samples."""
    completion_tokens: Mapping[str, float]
    """Item -> mean length of its completions."""
    prompt_tokens: int

    @property
    def mean(self) -> float:
        return math.fsum(self.scores.values()) / len(self.scores)

    def objectives(self, item: str) -> dict[str, float]:
        """The objectives on one item; more is better, so lengths have a minus."""
        return {
            "score": self.scores[item],
            "prompt_tokens": -float(self.prompt_tokens),
            "completion_tokens": -self.completion_tokens[item],
        }


def best_at(kind: Kind, pool: Sequence[Measured], samples: int) -> dict[Any, set[int]]:
    """For each key of the front, the candidates that are best there, scores being posterior means.

    Args:
        kind: gepa's `frontier_type`: keys are items, objectives, both, or pairs of them.
        pool: The candidates, all measured on the same items.
        samples: Samples of each item's mean.
    """
    posterior = posterior_means([one.scores for one in pool], samples)
    keys: list[dict[Any, float]] = []
    for one, scores in zip(pool, posterior, strict=True):
        by_item = {item: {**one.objectives(item), "score": scores[item]} for item in scores}
        names = next(iter(by_item.values()))
        means = {("objective", n): math.fsum(o[n] for o in by_item.values()) / len(by_item) for n in names}
        match kind:
            case "instance":
                keys.append(dict(scores))
            case "objective":
                keys.append(dict(means))
            case "hybrid":
                keys.append({**scores, **means})
            case "cartesian":
                keys.append({(item, name): o[name] for item, o in by_item.items() for name in names})
    return leaders(keys)


def undominated(kind: Kind, pool: Sequence[Measured], samples: int) -> list[int]:
    """The candidates without whom some key would have no leader, the highest mean first.

    Of equal means the shorter prompt comes first, and is kept where either would do.
    """
    return _undominated(kind, pool, samples, [(one.mean, -one.prompt_tokens) for one in pool])


def _undominated(
    kind: Kind, pool: Sequence[Measured], samples: int, worth: Sequence[tuple[float, int]]
) -> list[int]:
    kept = find_dominator_programs(best_at(kind, pool, samples), worth)
    return sorted(kept, key=lambda n: (-worth[n][0], -worth[n][1], n))


def finalists(kind: Kind, pool: Sequence[Measured], samples: int, most: int) -> list[int]:
    """Whom a search for a prompt scores on fresh items: the seed, which is the pool's first, then the best mean and the front.

    Args:
        kind: gepa's `frontier_type`.
        pool: All that were accepted, measured on `pareto`.
        samples: Samples of each item's mean.
        most: With the seed.
    """
    front = undominated(kind, pool, samples)
    best = max(range(len(pool)), key=lambda n: (pool[n].mean, -n))
    return [0, *[n for n in dict.fromkeys((best, *front)) if n > 0][: most - 1]]


def handed_on(kind: Kind, pool: Sequence[Measured], samples: int, most: int) -> list[tuple[int, Why]]:
    """Whom a search for students hands on, best first, and why; the seed, which is the pool's first, always.

    All by posterior means: the best, those without whom some key of the front would have no leader, then the rest. Of
    candidates with equal scores on every item the earliest stays. A prompt's length counts for nothing.

    Args:
        kind: gepa's `frontier_type`.
        pool: All that were accepted, measured on `pareto`.
        samples: Samples of each item's mean.
        most: Besides the seed.
    """
    earliest: dict[tuple[Any, ...], int] = {}
    for n, one in enumerate(pool):
        earliest.setdefault(tuple(round(score, DIGITS) for score in one.scores.values()), n)
    distinct = list(earliest.values())
    own = [pool[n] for n in distinct]
    posterior = posterior_means([one.scores for one in own], samples)
    worth = [(round(math.fsum(scores.values()), DIGITS), -n) for n, scores in enumerate(posterior)]
    ranked = sorted(range(len(own)), key=lambda n: (-worth[n][0], n))
    front = _undominated(kind, own, samples, worth)
    chosen = [n for n in dict.fromkeys((ranked[0], *front, *ranked)) if n > 0][:most]
    why: dict[int, Why] = {**dict.fromkeys(ranked, "pool"), **dict.fromkeys(front, "front")}
    why |= {0: "seed", ranked[0]: "best mean"}
    return [(distinct[n], why[n]) for n in ranked if n in (0, *chosen)]


def final_front(
    kind: Kind, pool: Sequence[Measured], samples: int, winner: int | None
) -> list[tuple[int, Why]]:
    """Who is handed on, best mean first, and why each stays. The seed is the pool's first.

    Of candidates with equal scores on every item only the one with the shortest prompt stays (the seed, if it
    is among them), and dominated ones go. The seed, the best mean and the winner always stay.

    Args:
        kind: gepa's `frontier_type`.
        pool: The finalists, measured on fresh items.
        samples: Samples of each item's mean.
        winner: The best of those that are significantly better than the seed, if any. It is mostly the best mean.
    """
    first: dict[tuple[Any, ...], int] = {}
    for n in sorted(range(len(pool)), key=lambda n: (n > 0, pool[n].prompt_tokens, n)):
        first.setdefault(tuple(sorted(pool[n].scores.items())), n)
    distinct = sorted(first.values())
    front = [distinct[n] for n in undominated(kind, [pool[n] for n in distinct], samples)]
    best = min(distinct, key=lambda n: (-pool[n].mean, pool[n].prompt_tokens, n))
    always = {0, best} if winner is None else {0, best, winner}
    stay = sorted({*always, *front}, key=lambda n: (-pool[n].mean, pool[n].prompt_tokens, n))
    why: dict[int, Why] = {0: "seed", best: "best mean"}
    return [(n, why.get(n, "front")) for n in stay]
