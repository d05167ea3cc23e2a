"""A policy to the hub: the files that its stage recorded and its model card, nothing else."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spin_train.errors import UserError, one_line
from spin_train.run.cards import write_cards
from spin_train.run.policies import Policy
from spin_train.run.run import Run

__all__ = ["Parcel", "named_policy", "pack", "push"]

_CARD = "README.md"


@dataclass(frozen=True)
class Parcel:
    """What is sent, and where to."""

    policy: Policy
    folder: Path
    files: dict[str, int]
    """Size of each file in bytes, by its name."""
    kept_back: list[str]
    """Names in the folder that no stage recorded: they are not sent."""
    repository: str
    endpoint: str
    card: str
    """The model card, which goes with it."""


def named_policy(run: Run, name: str) -> Policy:
    """Find a policy by its name or number: `2`, `p_2`, `control 2`, or `best`."""
    if name == "best":
        if run.best is None:
            raise UserError(f"nothing in {run.root} is evaluated yet, so no policy is the best")
        return run.best.policy
    wanted = f"p_{name}" if name.isdecimal() else name
    for policy in run.listed:
        if policy.name == wanted:
            return policy
    names = ", ".join(policy.name for policy in run.listed)
    raise UserError(f"no policy {name!r} in {run.root}; choose from {names}, best")


def pack(run: Run, policy: Policy, repository: str) -> Parcel:
    """List what would be sent; UserError where the policy is not whole, or not of this run."""
    from huggingface_hub import constants

    if not isinstance(policy.source, Path):
        raise UserError(
            f"{policy.name} is {policy.source}, which this run only starts from; choose another "
            "with --policy"
        )
    if run.has_removed(policy):
        others = [name for name, one in run.policies.items() if isinstance(one.source, Path)]
        raise UserError(
            f"{policy.name} of {run.root} was removed by keep; choose another with --policy: "
            f"{', '.join(others)}"
        )
    folder = policy.source
    recorded = _recorded(run, folder)
    if not recorded:
        raise UserError(f"{policy.name} of {run.root} is not trained yet")
    write_cards(run)
    card = folder / _CARD
    sizes = {name: (folder / name).stat().st_size for name in (*recorded, _CARD)}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return Parcel(
        policy,
        folder,
        dict(sorted(sizes.items())),
        sorted(there - set(sizes)),
        repository,
        os.environ.get("HF_ENDPOINT") or constants.ENDPOINT,
        card.read_text(encoding="utf-8"),
    )


def _recorded(run: Run, folder: Path) -> list[str]:
    """Names of the files in the folder that a complete stage left there."""
    manifest, place = run.manifest(), folder.relative_to(run.root)
    for stage, record in manifest.content["stages"].items():
        names = [Path(name) for name in record["files"] if Path(name).is_relative_to(place)]
        if names and manifest.is_complete(stage):
            return [str(name.relative_to(place)) for name in names]
    return []


def push(parcel: Parcel, *, private: bool = False) -> str:
    """Send it; the address of the commit comes back.

    UserError without a token, where the hub cannot be reached or refuses, and where `private` is
    asked for but the repository is there already and public.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise UserError("no token for the hub: run `hf auth login`, or set HF_TOKEN")
    api = HfApi(endpoint=parcel.endpoint, token=token)
    try:
        api.create_repo(parcel.repository, private=private, exist_ok=True)
        is_public = not api.repo_info(parcel.repository).private
    except Exception as error:
        raise _refused(parcel, error) from None
    if private and is_public:
        raise UserError(
            f"{parcel.repository} is there already and public; nothing was sent. Make it private "
            "on the hub, or choose another name"
        )
    try:
        sent: Any = api.upload_folder(
            repo_id=parcel.repository,
            folder_path=parcel.folder,
            allow_patterns=list(parcel.files),
            commit_message=f"{parcel.policy.name}, by spin-train push",
        )
    except Exception as error:
        raise _refused(parcel, error) from None
    return str(sent.commit_url)


def _refused(parcel: Parcel, error: Exception) -> UserError:
    """Say in one line what the library, or the network under it, has raised."""
    return UserError(
        f"push to {parcel.repository} at {parcel.endpoint} failed: {type(error).__name__}: "
        f"{one_line(error, 300)}"
    )
