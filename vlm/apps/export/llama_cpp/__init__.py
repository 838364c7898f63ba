"""`--format gguf`: a VLM as the two files that llama.cpp reads, the language model and the "mmproj", with a README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter

from vlm.apps.ask_llama_cpp import PACKAGE
from vlm.apps.export.comparing import sample_picture
from vlm.apps.export.huggingface import vlm_card
from vlm.apps.export.llama_cpp.preparing import prepared, use
from vlm.apps.export.llama_cpp.runtime import compare_runtime, installed
from vlm.apps.export.llama_cpp.tensors import FILE_TYPES, Tensors, compare_tensors, file_size, write_tensors
from vlm.apps.export.llama_cpp.text import add_text_metadata, check_text, text_tensors
from vlm.apps.export.llama_cpp.vision import add_vision_metadata, check_vision, vision_tensors
from vlm.apps.export.llama_cpp.vocabulary import add_vocabulary, check_vocabulary
from vlm.apps.export.llama_cpp.wrapping import neighbours, template
from vlm.cards.card import with_section, write_card
from vlm.llava.model import VLM, load
from vlm.llms.precision import chosen_device
from vlm.room import require_room

METADATA = 32 << 20  # bytes, at most: a vocabulary of 150,000 tokens has 6 MB


def write_gguf(source: Path, out: Path, name: str, results: str | None, quantise: str) -> str:
    """Write both files and a README -> what the comparison found.

    name: what the files are called by. quantise: F32, F16 or Q8_0, of matrices. results: see `vlm.cards.scores`.
    Raises: UserError if llama.cpp cannot compute this VLM, the disk lacks room, or what was written differs.
    """
    card = vlm_card(source, name, results)
    vlm = load(source, chosen_device(None), torch.float32)
    config: Any = vlm.model.config
    check_text(config.text_config)
    check_vision(config)
    check_vocabulary(vlm.processor.tokenizer)
    stem = f"{Path(name).resolve().name}-{quantise}.gguf"
    text, mmproj = out / stem, out / f"mmproj-{stem}"
    parts = {text: text_tensors(vlm), mmproj: vision_tensors(vlm)}
    sizes = {file.name: file_size(tensors, quantise) for file, tensors in parts.items()}
    advice = "make room, give another folder, a smaller --quantise"
    require_room(out.parent, {**sizes, "metadata, at most": METADATA}, advice=advice)
    for file, tensors in parts.items():
        _write(file, tensors, vlm, quantise)
    largest = max(compare_tensors(file, tensors) for file, tensors in parts.items())
    done = f"read again, its weights are within {largest:.1g} of the VLM's (of a block's largest)"
    if installed():
        done += f"; {compare_runtime(text, mmproj, vlm, prepared(vlm, sample_picture()), quantise)}"
    else:
        done += f"; llama.cpp itself was not asked, since {PACKAGE} is not installed: pip install -e '.[gguf]'"
    data: Any = card.data
    data.library_name, data.tags = "gguf", [*(data.tags or []), "gguf", "llama.cpp"]
    write_card(with_section(card, "Use", use(vlm, text.name, mmproj.name)), out)
    return done


def _write(file: Path, tensors: Tensors, vlm: VLM, quantise: str) -> None:
    config: Any = vlm.model.config.text_config
    vision = file.name.startswith("mmproj-")
    writer = GGUFWriter(None, "clip" if vision else config.model_type)
    writer.add_type("mmproj" if vision else "model")
    writer.add_name(file.stem)
    writer.add_file_type(FILE_TYPES[quantise])
    writer.add_quantization_version(2)  # of the blocks' layout
    if vision:
        add_vision_metadata(writer, vlm)
    else:
        add_text_metadata(writer, config)
        add_vocabulary(
            writer,
            vlm.processor.tokenizer,
            config.vocab_size,
            template(str(vlm.processor.chat_template), neighbours(vlm)),
        )
    write_tensors(writer, tensors, quantise, file)
