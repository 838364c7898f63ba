"""`vlm export`: a VLM or an encoder for another runtime, loaded again by it and compared before it counts."""

from __future__ import annotations

import os
from pathlib import Path

from vlm.apps.settings import ExportSettings
from vlm.directories import atomic_directory
from vlm.encoders.naming import parse_encoder
from vlm.errors import UserError, one_line, writing
from vlm.hub import is_hub_id
from vlm.integrity import write_manifest
from vlm.llava.folder import is_llava, local_folder

ENCODER_FORMATS, VLM_FORMATS = ("hf", "timm"), ("hf", "vipllava", "gguf")


def export(settings: ExportSettings) -> None:
    """Write OUT, whole or not at all, compare it with what it came from, and push it if asked; say so.

    Raises: UserError if OUT is taken or inside of DIR, the format cannot hold the model exactly, or what was written
    computes something else.
    """
    out = Path(settings.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: give a new folder, or move it away")
    if settings.push is not None:
        check_push(settings.push)
    elif settings.private:
        raise UserError("--private is of --push: give --push OWNER/NAME, or leave it out")
    if settings.quantise is not None and settings.format != "gguf":
        raise UserError("--quantise is of --format gguf: give both, or leave it out")
    source = _vlm_folder(settings.folder)
    _check_place(out, source or parse_encoder(settings.folder).path)
    known, kind = (ENCODER_FORMATS, "an encoder") if source is None else (VLM_FORMATS, "a VLM")
    if settings.format not in known:
        raise UserError(
            f"{settings.folder} is {kind}: give --format {', '.join(known[:-1])} or {known[-1]}, not {settings.format}"
        )
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(out) as partial:
        try:
            done = _write_encoder(settings, partial) if source is None else _write_vlm(settings, source, partial)
            write_manifest(partial)
        except UserError as error:  # the user knows the folder by the name that it will have
            raise UserError(str(error).replace(str(partial), str(out))) from error
    print(f"exported {out} ({settings.format}): {done}")
    if settings.push is not None:
        print(f"pushed to {push(out, settings.push, settings.private)}")


def _check_place(out: Path, source: Path | None) -> None:
    """Raise a UserError if nothing could be put at `out`, or if it would lie in the model that it is made from.

    A folder of a model that holds a file more than its manifest lists is not loaded again. What is written takes the
    place of `out` by a rename, which no system allows for a mount point, and which would leave a shell in a folder that
    is no longer there.
    """
    place = out.resolve()
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out} is a link to {place}, which does not exist: make that folder, or give another one")
    if source is not None and source.is_dir() and place.is_relative_to(source.resolve()):
        raise UserError(f"{out} is inside of {source}, which could not be loaded any more: give a folder elsewhere")
    if place == Path.cwd() or os.path.ismount(place):
        kind = "the current folder" if place == Path.cwd() else "a mount point"
        raise UserError(f"{out} is {kind}, which cannot be replaced: give a new folder in it, such as {out / 'new'}")


def _vlm_folder(name: str) -> Path | None:
    """The folder of a VLM; None if `name` is of something else."""
    if Path(name).is_dir():
        if (Path(name) / "vlm").is_dir() and is_llava(Path(name) / "vlm"):
            raise UserError(f"{name} is the folder of a run: give {Path(name) / 'vlm'}")
        return Path(name) if is_llava(Path(name)) else None
    if not is_hub_id(name):
        if name == "blind" or ":" in name:
            return None  # an encoder's name
        raise UserError(f"{name} is neither a folder nor a hub id: give RUN/vlm, or RUN/encoder")
    folder = local_folder(name)
    return folder if is_llava(folder) else None


def _write_vlm(settings: ExportSettings, source: Path, partial: Path) -> str:
    """Write into `partial` -> what the comparison found."""
    shown = settings.push or settings.out
    if settings.format == "vipllava":
        from vlm.apps.export.vipllava import write_vipllava

        return write_vipllava(source, partial, shown, settings.results)
    if settings.format == "gguf":
        from vlm.apps.export.llama_cpp import write_gguf

        return write_gguf(source, partial, shown, settings.results, settings.quantise or "F16")
    from vlm.apps.export.huggingface import write_hf

    return write_hf(source, partial, shown, settings.results)


def _write_encoder(settings: ExportSettings, partial: Path) -> str:
    if settings.results:
        raise UserError("--results are of a VLM: leave them out for an encoder")
    from vlm.apps.export.encoders import write_hf_encoder, write_timm_encoder

    shown = settings.push or settings.out
    if settings.format == "timm":
        return write_timm_encoder(settings.folder, partial, shown, on_hub=settings.push is not None)
    return write_hf_encoder(settings.folder, partial, shown)


def check_push(repository: str) -> None:
    """Raise a UserError, before any work, if nothing could be pushed to `repository`."""
    from huggingface_hub import get_token

    if not is_hub_id(repository):
        raise UserError(f"--push {repository}: give OWNER/NAME")
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError("--push needs the hub, but HF_HUB_OFFLINE is set: unset it")
    if get_token() is None:
        raise UserError("--push needs an account on the hub: run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload `folder` as one commit, into a repository that is made if there is none; returns its address.

    Raises: UserError if the hub refuses or cannot be reached; `folder` stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by vlm export")
    except Exception as error:  # which classes a lost connection has depends on the version of the hub's client
        again = f"`hf upload {repository} {folder}` tries again"
        raise UserError(f"{repository} was not pushed ({one_line(error)}); {folder} is written: {again}") from error
    return str(address)
