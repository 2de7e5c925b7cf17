"""An export on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gepa_loop.errors import ConfigError, EnvironmentFault
from gepa_loop.outside.redact import redacted

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN = "Set HF_TOKEN to a token that may write, or log in with `hf auth login`."


def check_push(repository: str) -> str:
    """Find out, before anything is made, who would push; returns the account's name.

    Args:
        repository: OWNER/NAME on the hub that `HF_ENDPOINT` names.

    Raises:
        ConfigError: It is no such name, or that of a repository which others can read.
        EnvironmentFault: There is no token, it is refused, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"--push {repository}: {error}", "Name it as OWNER/NAME.") from None
    if "/" not in repository:
        raise ConfigError(f"--push {repository}: without an owner", f"Name it as OWNER/{repository}.")
    with _hub_errors(repository):
        hub = HfApi()
        account = str(hub.whoami()["name"])
        if hub.repo_exists(repository):
            _refuse_public(hub, repository)
    return account


def push(folder: Path, repository: str) -> str:
    """Upload a folder to a repository, which is made, private, where there is none; returns its address.

    Raises:
        ConfigError: Others can read the repository.
        EnvironmentFault: The hub refuses it or cannot be reached; the folder is as it was.
    """
    from huggingface_hub import HfApi

    with _hub_errors(repository):
        hub = HfApi()
        address = hub.create_repo(repository, private=True, exist_ok=True)
        # It does not change one that is there, and says nothing of it.
        _refuse_public(hub, repository)
        hub.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="A student made by gepa-loop"
        )
    return str(address)


def _refuse_public(hub: HfApi, repository: str) -> None:
    if not hub.repo_info(repository).private:
        raise ConfigError(
            f"--push {repository}: it is not private, and the export holds the prompt and questions of test",
            "Name one that is not there yet, or make it private in its settings on the hub.",
        )


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn what the hub's client raises into EnvironmentFault."""
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise EnvironmentFault(f"--push {repository}: there is no token of the hub", TOKEN) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = TOKEN if status in (401, 403) else "Try again, or upload the folder by hand."
        raise EnvironmentFault(f"--push {repository}: the hub says {redacted(str(error))}", hint) from error
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise EnvironmentFault(
            f"--push {repository}: the hub cannot be reached: {redacted(str(error))}",
            "Is HF_HUB_OFFLINE set, or HF_ENDPOINT another hub?",
        ) from error
