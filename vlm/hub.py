"""Files of a repository of the hub: from its cache, which is filled if the hub can be reached."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from vlm.errors import UserError, one_line

_HUB_ID = re.compile(r"(?P<owner>[A-Za-z0-9_][\w.-]*)/(?P<name>[A-Za-z0-9_][\w.-]*)", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether `name` is OWNER/NAME as the hub has them: no path such as `../x`, nothing that climbs out of a cache."""
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name and "--" not in name


def model_folder(name: str, files: Sequence[str], instead: str) -> Path:
    """The folder `name`, or the snapshot of the hub's model of that name.

    files: patterns of what is needed of a repository. instead: what else can be given, for the message.
    Raises: UserError if there is neither.
    """
    folder = Path(os.path.expanduser(name))
    if "\0" not in name and folder.is_dir():
        return folder
    if not is_hub_id(name):
        raise UserError(f"{repr(name)[1:-1]} is neither a folder nor a hub id (OWNER/NAME): {instead}")
    return snapshot(name, files, "model", instead)


def check_repository(repository: str, kind: str, instead: str) -> None:
    """Raise a UserError if a model or data set is neither in the hub's cache nor on the hub. No file is fetched.

    What is in the cache is not asked for: hub's client would note the newest commit, of which no file is there, and
    jobs without a network would no longer find the one that is.
    """
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    snapshots = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind) / "snapshots"
    if not (snapshots.is_dir() and any(snapshots.iterdir())):
        snapshot(repository, [], kind, instead)


def snapshot(repository: str, files: Sequence[str], kind: str, instead: str) -> Path:
    """The snapshot of a model or data set (kind: "model" or "dataset") in the hub's cache, with the files of it.

    files, instead: as for `model_folder`. What is fetched already is not fetched again.
    Raises: UserError if it is not in the cache and the hub does not give it.
    """
    from huggingface_hub import snapshot_download  # half a second, and of no use to folders
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    address = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repository}"
    try:
        return Path(snapshot_download(repository, repo_type=kind, allow_patterns=list(files)))
    except GatedRepoError:
        cause = f"is gated: accept its licence at {address}, then `hf auth login`"
    except RepositoryNotFoundError:
        cause = f"is no folder, and the hub has no such {kind}"
    except LocalEntryNotFoundError:
        cause = "is no folder, is not in the local Hugging Face cache, and the hub cannot be reached: go online once"
    except (HfHubHTTPError, OSError, ValueError) as error:
        cause = f"cannot be downloaded ({one_line(error)})"
    raise UserError(f"{repository} {cause}, or {instead}")
