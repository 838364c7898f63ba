"""The three kinds of folders that are loaded, tiny: a checkpoint, an encoder, a VLM; and what each of them loads."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from faults.fault import Sweep
from vlm.files import write_json
from vlm.integrity import MANIFEST, hashed, listing

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
RECORDS = {"checkpoint": "manifest.json", "encoder": MANIFEST, "vlm": MANIFEST}  # where a folder's hashes are


@cache
def whole(settings: Sweep, kind: str) -> Path:
    """The undamaged folder: "checkpoint", "encoder" or "vlm"."""
    return {"checkpoint": _checkpoint, "encoder": _encoder, "vlm": _vlm}[kind](settings.shared / "folders")


def content(folder: Path, kind: str) -> Any:
    """Everything that loading `folder` gives, by our own loader, to be compared; UserError if it is refused."""
    return _LOADED[kind](folder)


def _checkpoint(root: Path) -> Path:
    """As `vlm.run.checkpoints` commits it."""
    folder = root / "checkpoints" / "step_3"
    folder.mkdir(parents=True)
    save_file({"weight": torch.arange(300.0), "moment": torch.ones(300)}, folder / "weights.safetensors")
    write_json(folder / "state.json", {"step": 3, "counts": list(range(50))})
    record = hashed(folder, listing(folder))
    write_json(folder / "manifest.json", {"step": 3, "world_size": 1, "config": {"lr": 0.5}, "files": record})
    return folder


def _encoder(root: Path) -> Path:
    (encoder(root / "encoder") / "README.md").write_text("of people")
    return root / "encoder"


def _vlm(root: Path) -> Path:
    assembled(root / "vlm", encoder(root / "parts" / "encoder"), llm(root / "parts" / "llm"))
    (root / "vlm" / "README.md").write_text("of people")
    return root / "vlm"


def encoder(folder: Path) -> Path:
    """One layer in each tower, and a tokenizer of its own."""
    from vlm.encoders.config import EncoderConfig
    from vlm.encoders.levljepa import new_encoder
    from vlm.encoders.tokens import CaptionTokenizer

    sizes = EncoderConfig(
        image_size=16, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=16, text_layers=1,
        text_heads=1, vocab_size=300, positions=77, embed_dim=8, projector_width=8, projector_depth=1,
    )  # fmt: skip
    new_encoder(sizes, 0, CaptionTokenizer.train(["a red square", "a blue circle"], 300)).save(folder)
    return folder


def assembled(folder: Path, encoder: Path, llm: Path) -> Path:
    """A VLM of the two."""
    import vlm
    from vlm.encoders.levljepa import load_encoder
    from vlm.llms.load import load_llm

    vlm.assemble(load_encoder(encoder), load_llm(str(llm))).save(folder)
    return folder


def llm(folder: Path) -> Path:
    """A Llama of one layer with a token a byte, behind ChatML's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    extra = ["<|im_start|>", "<|image_pad|>"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, extra_special_tokens=extra, **special)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _loaded_checkpoint(folder: Path) -> Any:
    from vlm.errors import UserError
    from vlm.run.checkpoints import damage

    if problem := damage(folder):
        raise UserError(problem)
    manifest = json.loads((folder / "manifest.json").read_text())
    return manifest, _hexed(load_file(folder / "weights.safetensors")), (folder / "state.json").read_text()


def _loaded_encoder(folder: Path) -> Any:
    from vlm.encoders.levljepa import load_encoder

    encoder = load_encoder(folder)
    return encoder.config.to_json(), _hexed(encoder.state_dict()), encoder.tokenizer.backend.to_str()


def _loaded_vlm(folder: Path) -> Any:
    import vlm

    loaded = vlm.load(folder, torch.device("cpu"), torch.float32)
    config = {**loaded.model.config.to_dict(), "_name_or_path": ""}
    generation, template = loaded.model.generation_config.to_dict(), loaded.processor.chat_template
    tokenizer: Any = loaded.processor.tokenizer
    weights = _hexed(loaded.model.state_dict())
    return config, generation, weights, template, tokenizer.backend_tokenizer.to_str()


def _hexed(weights: dict[str, torch.Tensor]) -> dict[str, str]:
    return {
        name: value.contiguous().flatten().view(torch.uint8).numpy().tobytes().hex() for name, value in weights.items()
    }


_LOADED: dict[str, Callable[[Path], Any]] = {
    "checkpoint": _loaded_checkpoint,
    "encoder": _loaded_encoder,
    "vlm": _loaded_vlm,
}
