"""Questions per second of bridge/evaluate.py's decoding against stock `generate`, one by one and in batches of 16.

Each way pays for everything from decoded image to answer: image processor, vision tower, prefill, decoding. The ways
take turns; printed is the median of each, and of the ratios within a round, beside the ratio that is needed. All three
must give the same answers in fp32; those that differ are counted, with the gap between the two logits in question. The
exit code is 1 where something needed is not reached.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tables import verdict

from bridge.data.example import Example
from bridge.evaluation.answering import Asker
from bridge.evaluation.batching import make_batches
from bridge.evaluation.decode import end_ids
from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import new_encoder
from vlm.errors import run_command
from vlm.llava.assembly import assemble
from vlm.llava.model import load
from vlm.llms.load import load_llm
from vlm.llms.precision import default_dtype

COLOURS = ("red", "green", "blue", "white", "black", "wooden")
NOUNS = ("person", "traffic light", "dog", "dining table", "bottle", "cup", "bus", "surfboard")
OURS = "shared prefix"
NEEDED = {"generate, batch  1": 6, "generate, batch 16": 3}  # times as fast
EXAMPLES = """examples:
  python scripts/bench_evaluate.py                       SmolLM2-135M behind a small random ViT with 196 image tokens
  python scripts/bench_evaluate.py runs/bridge/vlm --images 4"""


def make_vlm(llm: str, device: str, dtype: torch.dtype):
    """The real tokenizer, template and LLM with a small random ViT in ViT-B/16's token count."""
    sizes = {
        "vision_width": 192,
        "vision_layers": 3,
        "vision_heads": 3,
        "text_width": 32,
        "text_layers": 1,
        "text_heads": 1,
    }
    vlm = assemble(new_encoder(EncoderConfig(**sizes), seed=0).eval(), load_llm(llm, dtype=dtype))
    vlm.vision_tower.to(dtype)
    vlm.connector.to(dtype)
    vlm.model.to(device)
    return vlm


def make_examples(images: int, questions: int) -> list[Example]:
    """POPE-like: `questions` different objects asked about each image."""
    things = [f"{colour} {noun}" for noun in NOUNS for colour in COLOURS]
    return [
        Example(f"{i}-{q}", Path(f"{i}.jpg"), f"Is there a {things[(7 * i + q) % len(things)]} in the image?", None)
        for i in range(images)
        for q in range(questions)
    ]


class Rival:
    """Stock generate on left-padded batches of whole prompts."""

    def __init__(self, vlm, pictures: dict[Path, Image.Image], max_new_tokens: int):
        self.vlm, self.pictures, self.budget = vlm, pictures, max_new_tokens
        self.ends = end_ids(vlm.model)

    def pixels(self, examples: list[Example]) -> torch.Tensor:
        images = [self.pictures[example.image] for example in examples]
        return self.vlm.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def __call__(self, examples: list[Example], batch: int) -> dict[str, list[int]]:
        answers, end = {}, next(iter(self.ends))
        for start in range(0, len(examples), batch):
            part = examples[start : start + batch]
            prompts = [self.vlm.prompt_ids(example.question) for example in part]
            width = max(map(len, prompts))
            device = self.vlm.model.device
            out = self.vlm.model.generate(
                input_ids=torch.tensor([[end] * (width - len(ids)) + ids for ids in prompts], device=device),
                attention_mask=torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]).to(device),
                pixel_values=self.pixels(part).to(device),
                do_sample=False,
                max_new_tokens=self.budget,
                pad_token_id=end,
            )
            for example, row in zip(part, out[:, width:].tolist()):
                stop = next((i for i, token in enumerate(row) if token in self.ends), len(row))
                answers[example.question_id] = row[:stop]
        return answers

    @torch.inference_mode()
    def gap(self, example: Example, ours: list[int], theirs: list[int]) -> float:
        """Difference of the two logits where the answers part."""
        end = next(iter(self.ends))
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        ids = torch.tensor([self.vlm.prompt_ids(example.question) + ours[:at]], device=self.vlm.model.device)
        pixels = self.pixels([example]).to(self.vlm.model.device)
        logits = self.vlm.model(input_ids=ids, pixel_values=pixels).logits[0, -1]
        return float(abs(logits[[*ours, end][at]] - logits[[*theirs, end][at]]))


def ours(vlm, pictures: dict[Path, Image.Image], examples: list[Example], args) -> dict[str, list[int]]:
    asker = Asker(vlm, args.max_new_tokens)
    answers = {}
    for batch in make_batches(examples, args.batch_questions):
        decoded = asker.decode(batch, [pictures[unit.image] for unit in batch])
        for unit, unit_answers in zip(batch, decoded):
            answers |= {key: ids for keys, ids in zip(unit.ids, unit_answers) for key in keys}
    return answers


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, None: default_dtype(args.device)}[args.precision]
    vlm = load(args.vlm, args.device, dtype) if args.vlm else make_vlm(args.llm, args.device, dtype)
    side = vlm.model.config.vision_config.image_size
    noise = np.random.default_rng(0).integers(0, 256, (args.images, side, side, 3), np.uint8)
    pictures = {Path(f"{i}.jpg"): Image.fromarray(pixels) for i, pixels in enumerate(noise)}
    examples = make_examples(args.images, args.questions)
    rival = Rival(vlm, pictures, args.max_new_tokens)
    ways = {
        OURS: lambda part: ours(vlm, pictures, part, args),
        "generate, batch  1": lambda part: rival(part, 1),
        "generate, batch 16": lambda part: rival(part, 16),
    }
    answers, seconds = measure(ways, examples, args.rounds)
    mine = answers[OURS]
    tokens = [len(vlm.prompt_ids(example.question)) for example in examples]
    print(
        f"{len(examples)} questions on {args.images} images, {sum(tokens) / len(tokens):.0f} prompt tokens and "
        f"{sum(map(len, mine.values())) / len(mine):.1f} new ones (limit {args.max_new_tokens}) on average, "
        f"{args.threads} threads, {args.device}, {str(dtype).removeprefix('torch.')}, {args.rounds} rounds"
    )
    print(f"{OURS:18} {len(examples) / statistics.median(seconds[OURS]):7.2f} questions/s")
    passed = True
    for name in NEEDED:
        theirs = answers[name]
        ratio = statistics.median(slow / fast for slow, fast in zip(seconds[name], seconds[OURS]))
        differ = [example for example in examples if theirs[example.question_id] != mine[example.question_id]]
        line, good = judge(name, ratio, len(differ), dtype == torch.float32)
        passed &= good
        print(f"{name:18} {len(examples) / statistics.median(seconds[name]):7.2f} questions/s, {line}")
        for example in differ:
            gap = rival.gap(example, mine[example.question_id], theirs[example.question_id])
            print(f"  {example.question_id}: they part where two logits differ by {gap:.1e}")
    if not passed:
        sys.exit(1)


def judge(name: str, ratio: float, differ: int, exact: bool) -> tuple[str, bool]:
    """A line on one rival, and whether what is needed is reached. exact: in bf16 logits tie, and answers may differ."""
    fast, same = ratio >= NEEDED[name], differ == 0 or not exact
    needed = f"needed 0: {verdict(same)}" if exact else "not judged in bf16"
    return (
        f"ours x {ratio:.2f} (needed {NEEDED[name]}: {verdict(fast)}), {differ} answers differ ({needed})",
        fast and same,
    )


def measure(ways: dict[str, Callable], examples: list[Example], rounds: int) -> tuple[dict, dict[str, list[float]]]:
    """Answers of each way, and its seconds in each round; the ways take turns after a warm-up."""
    answers, seconds = {}, {name: [] for name in ways}
    for way in ways.values():
        way(examples[:2])
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            answers[name] = way(examples)
            seconds[name].append(time.perf_counter() - start)
    return answers, seconds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("vlm", nargs="?", metavar="RUN/vlm", help="a saved VLM [built on the fly]")
    add("--llm", default="smollm2", help="LLM of the one built on the fly [%(default)s]")
    add("--images", type=int, default=2, help="[%(default)s]")
    add("--questions", type=int, default=18, help="distinct questions an image, 48 at most [%(default)s]")
    add("--max-new-tokens", type=int, default=4, help="[%(default)s]")
    add("--batch-questions", type=int, default=64, help="[%(default)s]")
    add("--rounds", type=int, default=3, help="[%(default)s]")
    add("--precision", choices=("fp32", "bf16"), help="[bf16 where the device is fast at it]")
    add("--threads", type=int, default=torch.get_num_threads(), help="[%(default)s]")
    add("--device", default="cpu", help="[%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
