"""Files of a model repository: a local folder, or the hub's cache, which is filled if the hub can be reached."""

import re
from pathlib import Path

from vlm.errors import UserError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_folder(name: str, files: list[str], instead: str) -> Path:
    """The folder `name`, or the cached snapshot of the hub's repository of that name.

    files: patterns of what is needed of a repository. instead: what else can be given, for the message.
    Raises: UserError if there is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(name):
        raise UserError(f"{name} is neither a folder nor a hub id (OWNER/NAME): {instead}")
    from huggingface_hub import snapshot_download  # half a second, and of no use to folders
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except GatedRepoError:
        cause = f"is gated: accept its licence at https://huggingface.co/{name}, then `hf auth login`"
    except RepositoryNotFoundError:
        cause = "is no folder, and the hub has no such model"
    except LocalEntryNotFoundError:
        cause = "is no folder, is not in the local Hugging Face cache, and the hub cannot be reached: go online once"
    except (HfHubHTTPError, OSError, ValueError) as error:
        cause = f"cannot be downloaded ({str(error).splitlines()[0]})"
    raise UserError(f"{name} {cause}, or {instead}")
