"""The sampler against brute force: one full forward for each token."""

import random
from typing import Any

import torch
from torch import Tensor

from gepa_loop.model.base import Base
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.sampling.batches import ROW
from gepa_loop.sampling.network import ModuleNetwork
from gepa_loop.sampling.plain import TorchSampler, draw

PROMPTS = [[260 - 200 - n, 5, 7, *range(30, 30 + n)] for n in range(1, 7)]
SHARED = [[9, 8, 7, 6, *range(40, 40 + n)] for n in range(1, 6)]


def brute_force(base: Base, prompt: list[int], completion: Completion) -> torch.Tensor:
    """Log-probability of each completion token from a plain forward of its own past."""
    out = []
    for n, token in enumerate(completion.token_ids):
        ids = torch.tensor([[*prompt, *completion.token_ids[:n]]])
        out.append(base.model(input_ids=ids).logits[0, -1].float().log_softmax(-1)[token])
    return torch.stack(out).detach()


def test_logprobs_equal_a_forward_per_token_with_padding_and_shared_prefix(tiny: Base) -> None:
    for prompts in (PROMPTS, SHARED, [SHARED[0]] * 3):
        done = TorchSampler(tiny, 64).generate(prompts, Sampling(1.0, 12), list(range(len(prompts))), None)
        for prompt, completion in zip(prompts, done, strict=True):
            expected = brute_force(tiny, prompt, completion)
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=2e-5, rtol=1e-5)


def test_a_row_does_not_depend_on_the_batch_around_it(tiny: Base) -> None:
    prompts, seeds = [*PROMPTS, *SHARED], list(range(11))
    together = TorchSampler(tiny, 64).generate(prompts, Sampling(1.0, 12), seeds, None)
    in_threes = TorchSampler(tiny, 3).generate(prompts, Sampling(1.0, 12), seeds, None)
    alone = [
        TorchSampler(tiny, 1).generate([p], Sampling(1.0, 12), [s], None)[0]
        for p, s in zip(prompts, seeds, strict=True)
    ]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone] == [c.token_ids for c in in_threes]
    assert len({c.token_ids for c in together}) > 5


def test_rows_of_all_lengths_are_the_same_in_any_batch_and_order(tiny: Base) -> None:
    """Long rows among short ones: sorted and split, the tokens and their order stay those of rows on their own."""
    draw = random.Random(0)
    lengths = [draw.randrange(1, 40) for _ in range(30)]
    lengths[7], lengths[19] = 900, 400
    prompts = [[draw.randrange(10, 250) for _ in range(length)] for length in lengths]
    network = Watched(tiny)
    done = TorchSampler(tiny, 16, network).generate(prompts, Sampling(1.0, 8), list(range(30)), None)
    for number, (prompt, completion) in enumerate(zip(prompts, done, strict=True)):
        (alone,) = TorchSampler(tiny, 1).generate([prompt], Sampling(1.0, 8), [number], None)
        assert completion.token_ids == alone.token_ids
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), torch.tensor(alone.logprobs), atol=2e-5, rtol=1e-5
        )
    # Unsorted they would be 16 * 900 + 14 * 400.
    assert sum(rows * width for rows, width in network.read) < 2 * sum(lengths)
    assert max(rows * (width + 8) for rows, width in network.read) <= 16 * ROW


class Watched(ModuleNetwork):
    """Keeps the shapes of what it reads."""

    def __init__(self, base: Base) -> None:
        super().__init__(base)
        self.read: list[tuple[int, int]] = []

    def forward(self, ids_BT: Tensor, past: Any, positions_BT: Tensor, mask_BTS: Tensor | None) -> Tensor:
        if past.length == 0:
            self.read.append(tuple(ids_BT.shape))
        return super().forward(ids_BT, past, positions_BT, mask_BTS)


def test_stop_token_is_kept_and_length_truncates(tiny: Base) -> None:
    sampler = TorchSampler(tiny, 32)
    done = sampler.generate([[5, 6, 7]] * 200, Sampling(1.0, 40), list(range(200)), None)
    stopped = [c for c in done if c.finish_reason == "stop"]
    assert stopped and len(stopped) < 200
    for completion in done:
        ends = completion.token_ids[-1] in tiny.stop_ids
        assert ends == (completion.finish_reason == "stop")
        assert not any(t in tiny.stop_ids for t in completion.token_ids[:-1])
        assert len(completion.token_ids) == len(completion.logprobs)
        assert ends or len(completion.token_ids) == 40


def test_greedy_takes_the_most_likely_token(tiny: Base) -> None:
    (completion,) = TorchSampler(tiny, 1).generate([[5, 6, 7]], Sampling(0.0, 5), [0], None)
    ids = [5, 6, 7]
    for token in completion.token_ids:
        assert token == int(tiny.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_draw_inverts_the_cumulative_distribution() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.0, 0.25]]).log().expand(6, 4)
    uniforms = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 1 - 2**-24])
    tokens, logprobs = draw(logits, uniforms, 1.0)
    assert tokens.tolist() == [0, 0, 1, 1, 3, 3]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.5, 0.5, 0.25, 0.25, 0.25, 0.25]))


def test_temperature_changes_the_draw_and_not_the_logprob() -> None:
    logits = torch.tensor([[2.0, 0.0]]).expand(2, 2)
    cold, logprob = draw(logits, torch.tensor([0.9, 0.99]), 0.5)
    assert cold.tolist() == [0, 1]  # softmax([4, 0]) gives .982 to the first
    torch.testing.assert_close(logprob, logits[0].log_softmax(-1)[cold])
