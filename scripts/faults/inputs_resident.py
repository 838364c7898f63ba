"""A process that builds the tiny models and data of `faults.inputs`, then runs real commands, one a line of stdin."""

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from vlm.errors import run_command

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]


def build(folder: Path) -> None:
    """Write FOLDER/{encoder,hf,llm,vlm,gqa,pairs,picture.png}, all whole and tiny."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    import vlm
    from vlm.encoders.config import EncoderConfig
    from vlm.encoders.levljepa import new_encoder
    from vlm.encoders.tokens import CaptionTokenizer
    from vlm.llms.load import load_llm

    sizes = EncoderConfig(
        image_size=16, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=16, text_layers=1,
        text_heads=1, vocab_size=300, positions=77, embed_dim=8, projector_width=8, projector_depth=1,
    )  # fmt: skip
    encoder = new_encoder(sizes, 0, CaptionTokenizer.train(["a red star", "a blue square"], 300))
    encoder.save(folder / "encoder")
    ViTModel(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16,
                  patch_size=8), add_pooling_layer=False,
    ).save_pretrained(folder / "hf")  # fmt: skip
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "hf")
    _language_model(folder / "llm")
    vlm.assemble(vlm.load_encoder(folder / "encoder"), load_llm(str(folder / "llm"))).save(folder / "vlm")
    _data(folder)


def _language_model(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=CONTROL[1:]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512),
    ).save_pretrained(folder)  # fmt: skip


def _data(folder: Path) -> None:
    """GQA's layout with 8 questions, and 8 pairs of images and texts."""
    questions = {}
    (folder / "gqa/images").mkdir(parents=True)
    (folder / "pairs").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"gqa/images/{number}.jpg")
        Image.fromarray(pixels).save(folder / f"pairs/{number}.png")
        (folder / f"pairs/{number}.txt").write_text(f"picture number {number}")
        questions[str(number)] = {"imageId": str(number), "question": "Is it red?", "answer": "yes"}
    Image.fromarray(pixels).save(folder / "picture.png")
    for split in ("train", "testdev"):
        (folder / f"gqa/{split}_balanced_questions.json").write_text(json.dumps(questions))


def run(command: list[str]) -> tuple[int, str]:
    """A command's exit code and what it printed; `module:function arguments`."""
    module, function = command[0].split(":")
    sys.argv = [module, *command[1:]]
    with tempfile.TemporaryFile() as said:
        kept = os.dup(1), os.dup(2)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            run_command(getattr(importlib.import_module(module), function))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException as error:
            code = 1
            print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, handle in zip((1, 2), kept):
                os.dup2(handle, number)
                os.close(handle)
        said.seek(0)
        return code, said.read().decode("utf-8", "replace")


def main() -> None:
    answers, jobs = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
    sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    for line in jobs:
        job = json.loads(line)
        if "build" in job:
            build(Path(job["build"]))
            answer = 0, ""
        else:
            answer = run(job["command"])
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
