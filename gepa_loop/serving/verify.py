"""Whether what was exported is the student: its log-probabilities of stored replies, read by the libraries of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gepa_loop.errors import ModelError
from gepa_loop.model.base import Base
from gepa_loop.model.device import place_beside
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.low_rank import Twin
from gepa_loop.sampling.base import Sampling
from gepa_loop.sampling.canary import ALLOWED
from gepa_loop.serving.talk import Talker
from gepa_loop.task.records import Messages

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sample:
    """A question, the student's greedy reply, and what the student and the bare model make of it."""

    messages: list[dict[str, str]]
    reply: str
    prompt_ids: tuple[int, ...]
    reply_ids: tuple[int, ...]
    student_T: Tensor
    """The student's log-probability of each token of the reply, float32 on the CPU."""
    bare_T: Tensor
    """The bare model's."""
    top_TV: Tensor
    """The student's log-probabilities over the whole vocabulary, for the divergence."""


@dataclass(frozen=True)
class Verdict:
    """How far what was read is from the student."""

    nats: float
    """Mean absolute difference of the log-probabilities of the replies' tokens."""
    effect: float
    """The same of the bare model: what the adapter changes."""
    kl: float
    """KL(student || what was read), nats a token."""

    def sentence(self, student: str) -> str:
        """What was found; `student` names who was to be written."""
        return (
            f"loaded again, {self.nats:.2g} nats a token from the {student} on stored replies, where the adapter changes {self.effect:.2g}; "
            f"KL({student} || it) {self.kl:.2g}"
        )


def samples_of(talker: Talker, chats: Sequence[Messages]) -> list[Sample]:
    """Greedy replies of a run's student to some chats, with what it makes of each token."""
    limit = Sampling(0.0, talker.finished.config.sampling.max_tokens)
    prompts = [talker.tokens("student", chat) for chat in chats]
    replies = talker.sampler.generate(prompts, limit, [0] * len(prompts), talker.student)
    twin, found = Twin(talker.base.model), []
    for chat, prompt, reply in zip(chats, prompts, replies, strict=True):
        twin.set_adapter(talker.student)
        whole_TV = reply_logprobs(twin.model, prompt, reply.token_ids)
        twin.set_adapter(None)
        bare_TV = reply_logprobs(twin.model, prompt, reply.token_ids)
        found.append(
            Sample(
                [{"role": role, "content": content} for role, content in chat],
                talker.renderer.reply(reply.token_ids),
                tuple(prompt),
                reply.token_ids,
                _of_tokens(whole_TV, reply.token_ids),
                _of_tokens(bare_TV, reply.token_ids),
                whole_TV,
            )
        )
    return found


def distance(talker: Talker, other: Adapter, samples: Sequence[Sample]) -> float:
    """KL(other || the adapter that the samples are of), nats a token of their replies."""
    import torch

    twin = Twin(talker.base.model)
    twin.set_adapter(other)
    theirs = [reply_logprobs(twin.model, one.prompt_ids, one.reply_ids) for one in samples]
    twin.set_adapter(None)
    kl_N = torch.cat([(t.exp() * (t - s.top_TV)).sum(-1) for t, s in zip(theirs, samples, strict=True)])
    return float(kl_N.mean())


def reply_logprobs(model: PreTrainedModel, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    """A model's log-probabilities at each token of a reply, [T, V] float32 on the CPU."""
    import torch

    with torch.inference_mode():
        ids_1T = torch.tensor([[*prompt, *reply]], device=model.device)
        logits = model(input_ids=ids_1T, use_cache=False, logits_to_keep=len(reply) + 1).logits
        found: Tensor = logits[0, :-1].float().log_softmax(-1).cpu()
        return found


def _of_tokens(logprobs_TV: Tensor, tokens: Sequence[int]) -> Tensor:
    import torch

    return logprobs_TV.gather(-1, torch.tensor(tokens)[:, None])[:, 0]


def read_as_peft(folder: Path, base: Base, samples: Sequence[Sample]) -> Verdict:
    """Load an adapter's folder as users of PEFT do, and compare.

    Raises:
        ModelError: It cannot be loaded, or is not the student.
    """
    from peft import AutoPeftModelForCausalLM

    return _compared("PEFT", AutoPeftModelForCausalLM, folder, base, samples, merged=False)


def read_as_whole(folder: Path, base: Base, samples: Sequence[Sample]) -> Verdict:
    """Load merged weights as users of transformers do, and compare.

    Merged weights are rounded to their type, and so is what the adapter changes: that is measured, and no error unless they are nearer to the bare
    model than to the student.

    Raises:
        ModelError: They cannot be loaded, or are not the student's.
    """
    from transformers import AutoModelForCausalLM

    return _compared("merged weights", AutoModelForCausalLM, folder, base, samples, merged=True)


def _compared(
    what: str, loader: Any, folder: Path, base: Base, samples: Sequence[Sample], *, merged: bool
) -> Verdict:
    import warnings

    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what PEFT asks of transformers
            model = loader.from_pretrained(folder, dtype=base.model.dtype, attn_implementation="sdpa")
        # On a GPU that is too small for two models they are compared on the CPU, whose rounding is allowed for as well.
        model = model.to(place_beside(base.model)).eval()
    except (
        OSError,
        ValueError,
        RuntimeError,
        LookupError,
        AttributeError,
        TypeError,
        SafetensorError,
    ) as error:
        raise ModelError(
            f"{folder}: {what} cannot be loaded again: {type(error).__name__}: {error}"
        ) from error
    return judged(
        what, [reply_logprobs(model, one.prompt_ids, one.reply_ids) for one in samples], base, samples, merged
    )


def judged(what: str, read: Sequence[Tensor], base: Base, samples: Sequence[Sample], merged: bool) -> Verdict:
    """How far log-probabilities that were read again are from the student's.

    Args:
        what: Of whom, for a message.
        read: Of each sample [T, V].
        base: Says which type was computed in.
        samples: What they are compared with.
        merged: They are of rounded weights, whose distance is told and not limited.

    Raises:
        ModelError: They are another model's.
    """
    import torch

    theirs_N = torch.cat(
        [_of_tokens(one, sample.reply_ids) for one, sample in zip(read, samples, strict=True)]
    )
    student_N, bare_N = (
        torch.cat([getattr(one, name) for one in samples]) for name in ("student_T", "bare_T")
    )
    kl_N = torch.cat(
        [(s.top_TV.exp() * (s.top_TV - one)).sum(-1) for s, one in zip(samples, read, strict=True)]
    )
    found = Verdict(
        float((theirs_N - student_N).abs().mean()),
        float((bare_N - student_N).abs().mean()),
        float(kl_N.mean()),
    )
    allowed = ALLOWED[str(base.model.dtype).removeprefix("torch.")]
    from_bare = float((theirs_N - bare_N).abs().mean())
    if not found.nats <= allowed and not merged:
        raise ModelError(
            f"{what}: its log-probabilities are {found.nats:.2g} nats a token from the student's; {allowed:.2g} are allowed"
        )
    if not found.nats <= max(from_bare, allowed):
        raise ModelError(
            f"{what}: its log-probabilities are nearer to the bare model's ({from_bare:.2g} nats a token) than to the student's ({found.nats:.2g})",
            "The change of the adapter is lost in the rounding of the weights; serve the adapter itself."
            if merged
            else "",
        )
    return found
