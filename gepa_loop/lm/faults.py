"""What went wrong with a request to a model behind an API, in our own words: a provider's may repeat a part of the key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dspy.utils.exceptions import (
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMInvalidRequestError,
    LMUnsupportedFeatureError,
)


@dataclass(frozen=True)
class Fault:
    """A failed request."""

    why: str
    hint: str
    retry_after: float | None = None
    """Seconds that the provider asks to wait."""

    def mend(self, key: str) -> str:
        """How to mend it, where the model is set at this key of the configuration."""
        return self.hint.format(key=key)

    @property
    def of_request(self) -> bool:
        """This request cannot pass; another one may."""
        return self.hint == LIMITS

    @property
    def fatal(self) -> bool:
        return self.hint != LATER


LATER = "Check the network and the provider's status, and start again: what was finished is kept."
ACCESS = "Check the model's name, the key in the environment, its rights and its credit."
ADDRESS = "Set the API base, in the environment, to the address that answers itself."
LIMITS = "Check that the model takes {key}.max_tokens and texts of this length."

ANSWERS = {
    401: ("the key is refused", ACCESS),
    402: ("no credit", ACCESS),
    403: ("the key may not do this", ACCESS),
    404: ("no such model", ACCESS),
    408: ("timed out", LATER),
    409: ("conflict", LATER),
    429: ("rate limited", LATER),
    529: ("overloaded", LATER),
}
"""What a status means, and how to mend it."""

SILENCES = {
    "Timeout": "timed out after {seconds:.1f} s",
    "JSONDecodeError": "the answer is not JSON",
    "NoReply": "the answer holds no reply",
    "ConnectError": "it cannot be reached",
    "RemoteProtocolError": "the connection broke off",
    "ReadError": "the connection broke off",
}
"""What it means that an exception's name holds a word, where no readable answer came."""

REFUSALS = (LMAuthError, LMConfigurationError, LMInvalidRequestError, LMUnsupportedFeatureError)
"""litellm's errors from before any request."""


class NoReply(Exception):
    """An answer without choices, which litellm passes on as it is."""


def check_reply(lm: Any) -> bool:
    """True; raises `NoReply` where the last answer to one of DSPy's models has no choices."""
    if not lm.history[-1]["response"].choices:
        raise NoReply
    return True


def fault_of(error: Exception, seconds: float) -> Fault:
    """Read a client's exception after so many seconds.

    litellm makes up a status of 500 where there was no answer, and makes 500 of 529. What arrived is in the HTTP
    client's own exception further down the chain of causes. Clients use httpx or httpx2, so names tell it.
    """
    answer, names, chain = None, set[str](), list[str]()
    link: BaseException | None = error
    while link is not None:
        kinds = {kind.__name__ for kind in type(link).__mro__}
        # litellm's own exceptions have these names too, around answers that it made up.
        theirs = not type(link).__module__.startswith("litellm")
        if answer is None and theirs and kinds & {"HTTPStatusError", "APIStatusError"}:
            answer = getattr(link, "response", None)
        names |= kinds
        chain.append(type(link).__name__)
        link = link.__cause__ or link.__context__
    if isinstance(error, LMBillingError) or "credit balance is too low" in str(error):
        return Fault("no credit", ACCESS)
    if answer is not None:
        status, wait = answer.status_code, answer.headers.get("retry-after", "")
        other = ("the provider failed", LATER) if status >= 500 else ("invalid request", LIMITS)
        other = ("it points to another address, where no key is sent", ADDRESS) if status < 400 else other
        why, hint = ANSWERS.get(status, other)
        return Fault(f"HTTP {status}, {why}", hint, float(wait) if wait.isdecimal() else None)
    for word, why in SILENCES.items():
        if any(word in name for name in names):
            return Fault(why.format(seconds=seconds), LATER)
    return Fault(
        f"no usable answer ({' from '.join(dict.fromkeys(chain))})",
        LIMITS if isinstance(error, REFUSALS) else LATER,
    )
