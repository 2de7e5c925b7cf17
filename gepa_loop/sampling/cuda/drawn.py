"""What has been sampled in each slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gepa_loop.errors import Diverged
from gepa_loop.sampling.base import Completion


class Drawn(NamedTuple):
    """What has been sampled in each slot; changed in place by `draw_rows`."""

    uniforms_RT: Tensor
    """Random numbers of each place of a completion."""
    last_R: Tensor
    """The newest token, int64."""
    tokens_RT: Tensor
    """int32."""
    logprobs_RT: Tensor
    """Under the temperature-1 distribution, float32."""
    done_R: Tensor
    """1 once a stop token was sampled; int32."""


def completions(drawn: Drawn, count: int, max_tokens: int, stop_ids: Sequence[int]) -> list[Completion]:
    """What the first `count` slots hold.

    Raises:
        Diverged: A log-probability is not finite.
    """
    tokens_RT = drawn.tokens_RT[:count, :max_tokens].cpu().numpy()
    logprobs_RT = drawn.logprobs_RT[:count, :max_tokens].cpu().numpy()
    ends_RT = np.isin(tokens_RT, stop_ids)
    out = []
    for tokens, logprobs, ends in zip(tokens_RT, logprobs_RT, ends_RT, strict=True):
        stopped = bool(ends.any())
        length = int(ends.argmax()) + 1 if stopped else max_tokens
        if not np.isfinite(logprobs[:length]).all():
            raise Diverged("the model's logits are not finite", "Its weights or adapter are broken.")
        kept = tuple(tokens[:length].tolist()), tuple(logprobs[:length].tolist())
        out.append(Completion(*kept, "stop" if stopped else "length"))
    return out
