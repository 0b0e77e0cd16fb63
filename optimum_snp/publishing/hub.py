"""Pushing a model to the Hub: everything in one commit, or nothing."""

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from transformers import TrainingArguments

from ..file_names import CARD_NAME, MEASUREMENTS_NAME
from ..folders import is_model_file, scratch_folder
from ..processes import run_on_main_process
from ..record import ModelRecord
from .model_folder import choose_layout, read_card, write_model


logger = logging.getLogger(__name__)

DEFAULT_BRANCH = "main"


def check_push(
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: list[str] | None = None,
) -> str:
    """Tells before any work whether a model can be pushed to a repository; changes nothing there.

    Args:
        repo_id, private, token, revision, create_pr, tags:
            As for [`SNPPruner.push_to_hub`].

    Returns:
        `str`: The full id of the repository, with its namespace.

    Raises:
        TypeError, ValueError, PermissionError, ConnectionError: As [`SNPPruner.push_to_hub`].
    """
    validate_repo_id(repo_id)
    if isinstance(tags, str):
        raise TypeError(f"tags must be a list of tags, got {tags!r}.")
    if isinstance(token, str) and not re.fullmatch("[!-~]+", token):  # an error of the client would show it
        raise ValueError("token is empty, or has blanks or letters that no token has. Copy it again.")
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(f"revision {revision} is a commit, which nothing can be added to. Name a branch.")
    api = HfApi(token=token)
    with _explained(repo_id):
        user = api.whoami()
        namespaces = [user["name"], *(organization["name"] for organization in user.get("orgs", []))]
        if "/" not in repo_id:
            repo_id = f"{user['name']}/{repo_id}"
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise PermissionError(
                f"The token of {user['name']} may only read. Make one that may write at "
                f"{api.endpoint}/settings/tokens."
            )
        if repo_id.split("/")[0] not in namespaces and not create_pr:
            raise PermissionError(
                f"{user['name']} may not write to {repo_id}. The namespaces of this token are "
                f"{', '.join(namespaces)}; to a repository of others open a pull request with create_pr=True."
            )
        try:
            repo = api.model_info(repo_id)
            if create_pr and revision is not None:
                api.model_info(repo_id, revision=revision)
        except RepositoryNotFoundError as error:
            if create_pr:
                raise ValueError(f"There is no repository {repo_id} to open a pull request on.") from error
        except RevisionNotFoundError as error:
            raise ValueError(f"{repo_id} has no branch {revision} to open a pull request on.") from error
        else:
            if private and not repo.private:
                raise ValueError(
                    f"{repo_id} is there already and public; private=True would not change that. Make it private at "
                    f"{api.endpoint}/{repo_id}/settings, or push elsewhere."
                )
    return repo_id


def check_push_of_training(args: TrainingArguments) -> dict[str, Any]:
    """[`check_push`] for where the arguments of a training push to.

    Returns:
        `dict[str, Any]`: `repo_id`, `private`, `token` and `revision`, as [`SNPPruner.push_to_hub`] takes them.

    Raises:
        ValueError, PermissionError, ConnectionError: As [`SNPPruner.push_to_hub`].
    """
    target = {"private": args.hub_private_repo, "token": args.hub_token, "revision": args.hub_revision}
    repo_id = check_push(args.hub_model_id or Path(args.output_dir).absolute().name, **target)
    return {"repo_id": repo_id, **target}


def prepare_push_of_training(args: TrainingArguments) -> dict[str, Any]:
    """[`check_push_of_training`], and [`make_branch`] for what it finds, by one process for all."""

    def prepare() -> dict[str, Any]:
        target = check_push_of_training(args)
        make_branch(**target)
        return target

    return run_on_main_process(prepare)


def make_branch(
    repo_id: str, *, private: bool | None = None, token: str | bool | None = None, revision: str | None = None
) -> None:
    """Makes sure that a repository and a branch of it are there; the branch starts as a copy of `main`.

    Raises:
        PermissionError, ConnectionError: As [`SNPPruner.push_to_hub`].
    """
    api = HfApi(token=token)
    with _explained(repo_id):
        if not api.repo_exists(repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
            logger.info(f"Made the repository {repo_id}.")
        if revision not in (None, DEFAULT_BRANCH) and not api.revision_exists(repo_id, revision):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
            logger.info(f"Made the branch {revision} of {repo_id}.")


def push_model(
    record: ModelRecord,
    repo_id: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: list[str] | None = None,
    layout: str | None = None,
    card: str | None = None,
    **options: Any,
) -> CommitInfo:
    """Pushes a model in one commit; see [`SNPPruner.push_to_hub`], which lets one process do this.

    Args:
        card (`str`, *optional*):
            A card whose hand-written part is pushed where the repository has no card yet.
    """
    layout = choose_layout(record, layout)
    repo_id = check_push(repo_id, private=private, token=token, revision=revision, create_pr=create_pr, tags=tags)
    api = HfApi(token=token)
    with scratch_folder() as temporary:
        folder = temporary / "model"
        folder.mkdir()
        with _explained(repo_id):
            parent, theirs = _head(api, repo_id, revision)
            if CARD_NAME in theirs:
                card = _read_card(api, repo_id, parent, temporary)
        write_model(folder, record, layout=layout, repo_id=repo_id, previous_card=card, **options)
        if tags:
            _add_tags(folder / CARD_NAME, tags)
        if not create_pr:
            make_branch(repo_id, private=private, token=token, revision=revision)
        with _explained(repo_id, made=parent is None, outcome=lambda: _outcome(api, repo_id, revision, parent)):
            ours = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            stale = [name for name in theirs if is_model_file(name) and name not in ours]
            commit = api.create_commit(
                repo_id,
                [
                    *(CommitOperationAdd(name, path) for name, path in sorted(ours.items())),
                    *(CommitOperationDelete(name, is_folder=False) for name in stale),
                ],
                commit_message=commit_message or "Upload model",
                revision=revision,
                create_pr=create_pr,
                parent_commit=parent,  # what somebody else commits meanwhile is not overwritten
            )
    logger.info(f"Pushed to {commit.pr_url or commit.commit_url}")
    return commit


def _head(api: HfApi, repo_id: str, revision: str | None) -> tuple[str | None, list[str]]:
    """The commit that a push starts from, and its files; a branch that is still to be made starts from `main`."""
    try:
        try:
            commit = api.model_info(repo_id, revision=revision).sha
        except RevisionNotFoundError:
            commit = api.model_info(repo_id).sha
    except RepositoryNotFoundError:
        return None, []
    return commit, api.list_repo_files(repo_id, revision=commit)


def _outcome(api: HfApi, repo_id: str, revision: str | None, parent: str | None) -> str:
    """What became of a commit that nobody confirmed, as far as the Hub can tell."""
    try:
        commit, files = _head(api, repo_id, revision)
    except (HTTPError, OSError, ValueError):
        return f"Whether it arrived cannot be told: a push is one commit, so look at {api.endpoint}/{repo_id}."
    if commit == parent or MEASUREMENTS_NAME not in files:
        return "Nothing was pushed."
    return f"{repo_id} has a new commit, {commit[:7]}, so that the push seems to have arrived."


def _read_card(api: HfApi, repo_id: str, commit: str, folder: Path) -> str | None:
    return read_card(Path(api.hf_hub_download(repo_id, CARD_NAME, revision=commit, local_dir=folder)))


def _add_tags(path: Path, tags: list[str]) -> None:
    card = ModelCard.load(path)
    card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
    card.save(path)


@contextlib.contextmanager
def _explained(
    repo_id: str, *, made: bool = False, outcome: Callable[[], str] = lambda: "Nothing was pushed."
) -> Iterator[None]:
    """Turns the errors of the Hub's client into built-in ones that name the remedy.

    Args:
        repo_id (`str`):
            The repository.
        made (`bool`, *optional*, defaults to `False`):
            Whether it had to be made for this push. It is left there: what failed to push may fail to delete.
        outcome (`Callable`, *optional*):
            Tells what became of the push, where an error does not.
    """
    stays = f" The repository {repo_id} was made for this push and stays; pushing again fills it." if made else ""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PermissionError(
            f"Pushing to {repo_id} needs a token, and there is none. Log in with `hf auth login`, set HF_TOKEN, or "
            "pass token=."
        ) from error
    except HfHubHTTPError as error:
        message = {
            401: "The Hub does not accept the token. Log in again with `hf auth login`, or pass another token=.",
            403: f"The token may not write to {repo_id}. Give it that right in its settings, or pass another token=.",
            409: f"{repo_id} was changed by somebody else meanwhile. Push again.",
            412: f"{repo_id} was changed by somebody else meanwhile. Push again.",
        }.get(status := error.response.status_code, f"The Hub refused the push to {repo_id}.")
        kind = PermissionError if status in (401, 403) else OSError
        became = outcome() if status >= 500 else "Nothing was pushed."
        raise kind(f"{message} {became}{stays} ({error})") from error
    except JSONDecodeError as error:
        raise ConnectionError(
            "What answered is not the Hub: a network that wants you to sign in first, or a proxy. Open a page in a "
            f"browser, and check HF_ENDPOINT, then push again. {outcome()}{stays}"
        ) from error
    # A RuntimeError is what uploads of large files end in, whatever stopped them.
    except (HTTPError, LocalEntryNotFoundError, RuntimeError) as error:
        raise ConnectionError(
            "The Hub cannot be reached, or broke off. Check the network and HF_ENDPOINT, then push again. A push is "
            f"one commit: it arrived whole or not at all. {outcome()}{stays} ({type(error).__name__}: {error})"
        ) from error
