"""Every error a user can cause or meet, with the exit code of each.

GepaLoopError
├── ConfigError        2    a flag, a key, a value, a prompt or a task that cannot be used
│   ├── PromptError    2    a prompt file or text
│   └── TaskError      2    a task, its options, its splits
├── EnvironmentFault   3    something outside the config: a model, a key, a device, a disk
│   ├── ModelError     3    a model that cannot be loaded or is not what it should be
│   ├── ProviderError  3    a model behind an API refused, failed or cannot be reached
│   │   └── CallFailed 3    one call of it failed after all its retries
│   └── Diverged       3    a loss that is not finite
├── BudgetReached      4    a budget that ends before there is a result
├── NoGain             5    finished, and no candidate is better (only with --require-gain)
├── ConditionHolds     5    finished, and a condition of --fail-if holds
├── RunDirectoryError  6    a run directory that is in use or belongs to another config
└── Interrupted        130  Ctrl-C; what was finished is saved. 143 for SIGTERM, 129 for SIGHUP
    └── CallInterrupted 130  Ctrl-C in a Python program, a KeyboardInterrupt as well
"""

from __future__ import annotations


class GepaLoopError(Exception):
    """Base of all errors that `cli` prints as one message instead of a traceback.

    Args:
        message: What is wrong, with the offending value and where it came from.
        hint: How to mend it; printed below the message.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(GepaLoopError):
    """A flag, a key or a value that cannot be used."""

    exit_code = 2


class PromptError(ConfigError):
    """A prompt that is missing, empty, unreadable or too long."""


class TaskError(ConfigError):
    """A task that does not exist, cannot fill its splits or has malformed items."""


class EnvironmentFault(GepaLoopError):
    """Something outside the config that is missing or broken."""

    exit_code = 3


class ModelError(EnvironmentFault):
    """A model that cannot be loaded or is not what it should be."""


class ProviderError(EnvironmentFault):
    """A model behind an API refused, failed or cannot be reached."""


class CallFailed(ProviderError):
    """One call of such a model failed after all its retries; another one may succeed.

    Args:
        message: As for all errors.
        hint: As for all errors.
        usd: What its tries cost all the same.
    """

    def __init__(self, message: str, hint: str = "", usd: float = 0.0) -> None:
        super().__init__(message, hint)
        self.usd = usd


class Diverged(EnvironmentFault):
    """A loss that is not finite; the last good checkpoint is kept."""


class BudgetReached(GepaLoopError):
    """A budget that ends before there is a result."""

    exit_code = 4


class NoGain(GepaLoopError):
    """The run is finished and no student is significantly better than the base."""

    exit_code = 5


class ConditionHolds(GepaLoopError):
    """Scores meet a condition on which a pipeline is to stop."""

    exit_code = 5


class RunDirectoryError(GepaLoopError):
    """A run directory that is in use, torn beyond repair or made by another config."""

    exit_code = 6


class Interrupted(GepaLoopError):
    """A signal ended the command; the state on disk is complete.

    Args:
        message: As for all errors.
        hint: As for all errors.
        exit_code: 128 and the signal's number.
    """

    def __init__(self, message: str, hint: str = "", exit_code: int = 130) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class CallInterrupted(Interrupted, KeyboardInterrupt):
    """Ctrl-C during a call of a Python program, for which it is a KeyboardInterrupt, too. (typer would take it for its own.)"""


def memory_fault(error: BaseException) -> EnvironmentFault | None:
    """What to say of memory that ran out, in Python or on PyTorch's devices; None of any other error."""
    cause = str(error).partition("\n")[0]
    # PyTorch has a class of its own only for what its allocator on a GPU finds, not for captured graphs and CPUs.
    of_torch = any(words in cause for words in ("out of memory", "can't allocate memory"))
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and of_torch):
        return None
    return EnvironmentFault(
        f"out of memory: {cause or 'no more can be had'}",
        "What was finished is saved. End what else uses the device, or lower sampling.batch, sampling.max_tokens, "
        "distill.micro_tokens or lora.rank, or take a smaller model.",
    )
