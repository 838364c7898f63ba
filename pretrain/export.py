"""The command `python pretrain/export.py RUN`: a checkpoint of a run as an encoder folder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from pretrain.config import PretrainConfig
from vlm.checked import Fields, brief_value, is_number
from vlm.errors import UserError, run_command
from vlm.files import read_json
from vlm.run.settings import parse, setting, trajectory

if TYPE_CHECKING:  # --help must not wait for it
    from vlm.encoders.tokens import CaptionTokenizer

EXAMPLES = """examples:
  python pretrain/export.py runs/pretrain                     the newest checkpoint
  python pretrain/export.py runs/pretrain --step 4000 --out runs/encoder-4000

It may be called while the run goes on. `pretrain/run.py --export-every N` does the same during the run.
"""


@dataclass(frozen=True)
class ExportConfig:
    """A checkpoint to export."""

    run: str = setting(help="the folder that pretrain/run.py wrote", positional=True)
    step: int | None = setting(None, help="of the checkpoint", least=1, default_text="the newest")
    out: str | None = setting(None, help="the encoder's folder", metavar="DIR", default_text="RUN/encoders/step_N")


def export_checkpoint(run: Path, step: int | None = None, out: Path | None = None) -> Path:
    """Write a checkpoint as the encoder that a run of so many steps leaves, and return its folder.

    Raises: UserError if there is no such checkpoint, it is damaged, its settings cannot be read, its tokenizer is not
    there any more, or `out` cannot be written.
    """
    import torch

    from pretrain.checkpoints import load_weights
    from pretrain.train import build_model, export
    from vlm.encoders.config import pixel_statistics
    from vlm.run.checkpoints import MANIFEST, Checkpoints

    if out is not None:
        _check_out(out)
    step, folder = Checkpoints(run, {}).verified(step)
    recorded = read_json(folder / MANIFEST)["config"]
    config, init = _config(run / "config.json", folder / MANIFEST, recorded)
    model = build_model(config, _tokenizer(run, config, recorded), torch.device("cpu"))
    if init:  # its pixel statistics are the run's
        mean, std = pixel_statistics(Fields(init, f"{run}/config.json").section("init_normalization"), "mean", "std")
        of_init = {name: init[name] for name in ("init_sha256", "init_licence") if name in init}
        training = {**model.encoder.config.training, "init": config.init, **of_init}
        model.encoder = model.encoder.with_config(mean=mean, std=std, training=training)
    load_weights(model, folder)
    out = out or run / "encoders" / f"step_{step}"
    export(model, out)
    return out


def _check_out(out: Path) -> None:
    """Raise a UserError if `out` holds anything else than an encoder, whose place a new one takes."""
    if out.exists() and not (out / "vision_encoder.safetensors").is_file() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"{out} holds something else than an encoder: give another --out, or move it away")


def _config(file: Path, manifest: Path, recorded: dict[str, Any]) -> tuple[PretrainConfig, dict[str, Any]]:
    """A checkpoint's settings, and what its run has of its --init, as `pretrain.init.Init.record` gives it.

    file: the run's config.json, which every start of the run writes anew. recorded: the settings of the checkpoint,
    from its manifest. These go first: the steps up to it had, before an --allow-change, another --lr, say.
    """
    found = read_json(file)
    known = {field.name for field in fields(PretrainConfig)}
    of_init = {"init_sha256", "init_normalization", "init_licence"}
    if not isinstance(found, dict) or not set(found) <= known | of_init:
        raise UserError(f"{file} was not written by pretrain/run.py: give the folder of one of its runs")
    now = {name: value for name, value in found.items() if name in known}
    own = {name: recorded[name] for name in trajectory(PretrainConfig()) if name in recorded}
    _check_types(now, file)
    _check_types(own, manifest)
    return PretrainConfig(**{**now, **own}), {name: found[name] for name in of_init & found.keys()}


def _check_types(settings: dict[str, Any], file: Path) -> None:
    """Raise a `UserError` if a value that was read from `file` is not of its setting's type."""
    kinds = get_type_hints(PretrainConfig)
    for name, value in settings.items():
        kind = kinds[name]
        if not _is_of(value, kind):
            needed = str(kind) if get_args(kind) else kind.__name__
            raise UserError(
                f"{file}: {name} is {brief_value(value)}; needed is {needed}: restore what the run has written"
            )


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a setting's type: int, float, str, bool, one of them or None, or a tuple of str."""
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(isinstance(single, str) for single in value)
    for single in get_args(kind) or (kind,):
        fits = is_number(value) if single is float else type(value) is single
        if fits:
            return True
    return False


def _tokenizer(run: Path, config: PretrainConfig, recorded: dict[str, Any]) -> CaptionTokenizer:
    """The run's tokenizer; one that was learnt from the captions is learnt again, if RUN/encoder does not have it.

    recorded: the settings that the checkpoint was written with.
    Raises: UserError if the file or the captions are not those of the run: other ids would be given to its weights.
    """
    from pretrain.data.source import open_captions
    from pretrain.data.tokenizer import fixed_tokenizer, identity, learnt_tokenizer, trained_size
    from vlm.encoders.tokens import CaptionTokenizer

    if (saved := run / "encoder" / "tokenizer.json").is_file():
        return CaptionTokenizer.load(saved)
    if identity(config.tokenizer) != recorded.get("tokenizer"):
        raise UserError(f"{config.tokenizer} is not the tokenizer that {run} was trained with: restore it")
    size = trained_size(config.tokenizer)
    if not size:
        return fixed_tokenizer(config.tokenizer)
    data = open_captions(config.data, config.image_column, config.caption_column, image_root=config.image_root)
    if data.fingerprint != recorded.get("data_fingerprint"):
        raise UserError(f"{config.data} is not the data that {run} learnt its tokenizer from: restore it")
    return learnt_tokenizer(data, size)


def main() -> None:
    config = parse(ExportConfig, prog="pretrain/export.py", about=__doc__ or "", examples=EXAMPLES)
    out = Path(config.out) if config.out else None
    print(f"encoder written to {export_checkpoint(Path(config.run), config.step, out)}")


if __name__ == "__main__":
    run_command(main)
