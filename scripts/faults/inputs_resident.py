"""A process that builds the tiny models and data of `faults.inputs`, then runs real commands for it."""

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from faults.folders import assembled, encoder, llm
from faults.resident import serve
from vlm.errors import run_command


def build(folder: Path) -> None:
    """Write FOLDER/{encoder,hf,llm,vlm,gqa,pairs,picture.png}, all whole and tiny."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    assembled(folder / "vlm", encoder(folder / "encoder"), llm(folder / "llm"))
    ViTModel(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16,
                  patch_size=8), add_pooling_layer=False,
    ).save_pretrained(folder / "hf")  # fmt: skip
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "hf")
    _data(folder)


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


def answered(job: dict) -> tuple[int, str]:
    if "build" in job:
        build(Path(job["build"]))
        return 0, ""
    os.environ["EXECUTED"] = job["marker"]  # what hostile code, if it runs here, makes
    return run(job["command"])


if __name__ == "__main__":
    serve(answered)
