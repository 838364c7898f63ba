"""Small official files that several tests of the bridge read, and the training command on tiny parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import new_encoder
from vlm.files import read_jsonl, write_json

ROOT = Path(__file__).parent.parent.parent
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SETTINGS = ("--steps", "12", "--batch-questions", "20", "--lr", "0.05", "--save-every", "5", "--precision", "fp32")


def save_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def gqa_record(image: str, question: str, answer: str, structural: str) -> dict:
    return {
        "imageId": image,
        "question": question,
        "answer": answer,
        "isBalanced": True,
        "types": {"structural": structural, "semantic": "attr", "detailed": "x"},
        "groups": {"global": None, "local": "x"},
        "semantic": [{"operation": "select", "argument": "cat (-)", "dependencies": []}],
        "entailed": [],
        "equivalent": [],
    }


def make_benchmarks(root: Path) -> Path:
    """gqa (3 images, 5 questions), vqav2 (2, 3) and pope (2, 3 x 4), and captions of all images."""
    questions = {
        "01": gqa_record("10", "Is it red?", "yes", "verify"),
        "1": gqa_record("10", "What color is the cat?", "red", "query"),
        "2": gqa_record("11", "Is it red?", "no", "verify"),
        "3": gqa_record("12", "What is it?", "cat", "query"),
        "4": gqa_record("12", "Is it a cat or a dog?", "cat", "choose"),
    }
    write_json(root / "gqa/testdev_balanced_questions.json", questions)
    asked = [(101, 7, "How many cats are there?"), (102, 7, "Is it red?"), (103, 8, "What is on the table?")]
    records = [{"question_id": key, "image_id": image, "question": text} for key, image, text in asked]
    write_json(root / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": records})
    answers = {101: ["2"] * 7 + ["3"] * 3, 102: ["yes"] * 10, 103: ["a cat"] * 2 + ["dog"] * 8}
    annotations = [
        {
            "question_id": key,
            "image_id": image,
            "question_type": "none of the above",
            "answer_type": "other",
            "multiple_choice_answer": answers[key][0],
            "answers": [{"answer": a, "answer_id": i, "answer_confidence": "yes"} for i, a in enumerate(answers[key])],
        }
        for key, image, _ in asked
    ]
    write_json(root / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    for category, negative in (("random", "bus"), ("popular", "cup"), ("adversarial", "dog")):
        lines = [
            {"question_id": 2 * n + i + 1, "image": f"COCO_val2014_{n:012d}.jpg", "text": text, "label": label}
            for n in (1, 2)
            for i, (text, label) in enumerate([("Is there a cat?", "yes"), (f"Is there a {negative}?", "no")])
        ]
        (root / "pope").mkdir(exist_ok=True)
        (root / f"pope/coco_pope_{category}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = [f"gqa/images/{i}.jpg" for i in (10, 11, 12)]
    files += [f"vqav2/val2014/COCO_val2014_{i:012d}.jpg" for i in (7, 8)]
    files += [f"pope/val2014/COCO_val2014_{i:012d}.jpg" for i in (1, 2)]
    for number, file in enumerate(files):
        save_picture(root / file, number)
    write_json(root / "captions.json", {file: f"a picture of cat {n}" for n, file in enumerate(files)})
    return root


@pytest.fixture(scope="session")
def benchmark_files(tmp_path_factory) -> Path:
    return make_benchmarks(tmp_path_factory.mktemp("benchmarks"))


def make_llm(folder: Path) -> None:
    """A byte-level tokenizer with ChatML's specials and Qwen's image token, and two random Llama layers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    text = ["What colour is it? red green blue yes no Is it assistant user Answer the question using a single word"]
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(special_tokens=specials, initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|image_pad|>"],
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make_data(root: Path) -> None:
    """Plain squares: GQA's question asks for the colour, VQAv2's whether it is a given one."""
    gqa, questions, annotations = {}, [], []
    random = np.random.default_rng(0)
    for folder in ("gqa/images", "vqav2/train2014"):
        (root / folder).mkdir(parents=True)
    for number in range(24):
        colour = list(COLOURS)[number % 3]
        noise = random.integers(-20, 21, (16, 16, 3))
        image = Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))
        image.save(root / f"gqa/images/{number}.jpg")
        image.save(root / f"vqav2/train2014/COCO_train2014_{number:012d}.jpg")
        for variant, question in enumerate(("What colour is it?", "Which colour?")):
            gqa[f"{number}-{variant}"] = {"question": question, "answer": colour, "imageId": str(number)}
        for other, asked in enumerate(COLOURS):
            answer = "yes" if asked == colour else "no"
            key = number * 10 + other
            questions.append({"question_id": key, "image_id": number, "question": f"Is it {asked}?"})
            votes = [{"answer": answer, "answer_id": i, "answer_confidence": "yes"} for i in range(1, 11)]
            annotations.append({"question_id": key, "multiple_choice_answer": answer, "answers": votes})
    (root / "gqa/train_balanced_questions.json").write_text(json.dumps(gqa))
    names = ("v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json")
    (root / "vqav2" / names[0]).write_text(json.dumps({"questions": questions}))
    (root / "vqav2" / names[1]).write_text(json.dumps({"annotations": annotations}))


class Training:
    """The training command on tiny parts in `root`: `llm`, `encoder`, `gqa`, `vqav2`."""

    def __init__(self, root: Path):
        self.root = root
        make_llm(root / "llm")
        make_data(root)
        config = EncoderConfig(
            image_size=16, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=16, text_layers=1,
            text_heads=1, vocab_size=32, positions=16, embed_dim=8, projector_width=8, projector_depth=1,
        )  # fmt: skip
        new_encoder(config, seed=1).save(root / "encoder")

    def flags(self, out: Path, *more: str) -> list[str]:
        """Of a run into `out` on both data sets; `more` may name other parts."""
        given = ["--gqa", str(self.root / "gqa"), "--vqav2", str(self.root / "vqav2"), "--out", str(out), *SETTINGS]
        for part in ("llm", "encoder"):
            if "--init" not in more and f"--{part}" not in more:
                given += [f"--{part}", str(self.root / part)]
        return [*given, *more]

    def run(self, out: Path, *more: str) -> None:
        """In this process, which has the libraries loaded already."""
        from bridge.config import parse_config
        from bridge.loop import train
        from bridge.train import load_examples

        config = parse_config(self.flags(out, *more))
        train(config, load_examples(config))

    @staticmethod
    def command(*arguments: str, launcher: tuple[str, ...] = (), expect: int = 0) -> str:
        """In a process of its own, as a user starts it; its output, stdout before stderr."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        call = [sys.executable, *launcher, str(ROOT / "bridge/train.py"), *arguments]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=480)
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    @staticmethod
    def metrics(out: Path) -> list[dict]:
        return list(read_jsonl(out / "metrics.jsonl"))

    @classmethod
    def losses(cls, out: Path) -> list[float]:
        return [line["loss"] for line in cls.metrics(out)]

    @staticmethod
    def weights(out: Path) -> dict[str, torch.Tensor]:
        """What was trained, after the last step."""
        return load_file(out / "checkpoints/step_12/weights.safetensors")


@pytest.fixture(scope="session")
def training(tmp_path_factory) -> Training:
    return Training(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="session")
def whole(training, tmp_path_factory) -> Path:
    """An uninterrupted run, by the command."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    output = training.command(*training.flags(out))
    assert f"saved {out / 'vlm'}" in output
    assert "features: 4" in output
    return out
