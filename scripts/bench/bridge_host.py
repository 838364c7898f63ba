"""What a step costs before the model sees it: questions a second that are tokenised, packed and batched, no model."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.harness import Goals, header, row, seconds, take_turns
from bench.noise import noise_jpegs
from bridge.config import BATCH, BridgeConfig
from bridge.data.batches import step_data
from bridge.data.example import Example
from bridge.data.mixture import Mixture
from bridge.data.patches import PatchEncoder
from bridge.data.pictures import Picture
from bridge.data.questions import Questions, talk_of
from bridge.data.schedule import Schedule
from bridge.loop import prefetched
from vlm.llava.model import VLM
from vlm.llms.load import load_llm

QUESTIONS_A_SECOND = 20_000  # needed, of both cores
PIXELS_RATIO = 1.8  # needed of two threads over one, if both cores are free
STEPS, JPEGS, ROUNDS = 4, 48, 9
FORMS = (
    "Is the {} {} to the left of the {}?",
    "What color is the {1} that is on top of the {2}?",
    "Are there either any {1}s or {2}s in this picture?",
    "Which side of the photo is the {} {} on, the right or the left?",
    "How many {}s are in front of the {} {}?",
    "Who is wearing the {} shirt?",
)
WORDS = (
    "dog cat table chair person umbrella bowl bench window building plate man woman red blue white black wooden large"
)


class NoImages:
    """Features of nothing, at no cost."""

    pins = False

    def prepare(self, images: Sequence[Picture]) -> dict[Picture, str]:
        return {}

    def forget(self, images: Iterable[Picture]) -> None:
        pass

    def load(self, images: Sequence[Picture]) -> torch.Tensor:
        return torch.zeros(len(images))

    def encode(self, loaded: torch.Tensor) -> torch.Tensor:
        return loaded


def examples(count: int) -> list[Example]:
    """Questions as GQA's, 13 an image, and as VQAv2's, 5 an image."""
    random = np.random.default_rng(0)
    made: list[Example] = []
    while len(made) < count:
        image = Path(f"{len(made)}.jpg")
        for _ in range(random.choice([13, 5])):
            words = random.choice(WORDS.split(), 4)
            question = FORMS[random.integers(len(FORMS))].format(*words)
            made.append(Example(str(len(made)), image, question, str(words[3])))
    return made[:count]


def host(vlm: VLM) -> tuple[float, float, float]:
    """Questions a second as the loop prepares its steps, microseconds of a processor for one, and microseconds for its
    ids alone: the best of some rounds, since other work on the machine only ever adds.
    """
    mixture = Mixture.of([examples(STEPS * BATCH[1])])
    questions = Questions(mixture, vlm.prompts, BridgeConfig())
    steps = Schedule(mixture, 0, BATCH[1], 1024 - vlm.prompts.slots).steps(None)
    prepare = partial(step_data, questions=questions, features=NoImages(), micro_tokens=8192)
    talks = [talk_of(example) for example in mixture.examples]
    prepare(steps[0])  # frames are made once
    ways = {
        "clock": lambda: seconds(lambda: list(prefetched(steps, prepare))),
        "work": lambda: seconds(lambda: list(prefetched(steps, prepare)), time.process_time),
        "ids": lambda: len(talks) / BATCH[1] * seconds(lambda: vlm.prompts.lessons(talks[: BATCH[1]])),
    }
    best = {name: min(times) / len(talks) for name, times in take_turns(ways, ROUNDS).items()}
    return 1 / best["clock"], 1e6 * best["work"], 1e6 * best["ids"]


def pixels(vlm: VLM, folder: Path) -> dict[int, float]:
    """Images a second whose pixels are made, by threads."""
    encoder, paths, rates = PatchEncoder(vlm.model, vlm.processor.image_processor), noise_jpegs(folder, JPEGS), {}
    for threads in (1, 2) * ROUNDS:
        encoder._pool = ThreadPoolExecutor(threads)
        start = time.perf_counter()
        encoder.prepare(paths)
        rate = len(paths) / (time.perf_counter() - start)
        rates[threads] = max(rate, rates.get(threads, 0.0))
    return rates


def second_core() -> float:
    """How much faster two threads are that share nothing: 2 if both cores are free."""
    block, best = b"x" * 20_000_000, {}
    for threads in (1, 2) * ROUNDS:
        with ThreadPoolExecutor(threads) as pool:
            taken = seconds(lambda pool=pool: list(pool.map(lambda _: hashlib.sha256(block).digest(), range(4))))
        best[threads] = min(taken, best.get(threads, taken))
    return best[1] / best[2]


def measure(folder: Path, goals: Goals) -> None:
    """Print what the host does in a second."""
    from bench.evaluate import make_vlm

    torch.set_num_threads(1)
    header("host alone", "by the clock", "of a processor", "ids alone")
    for name, llm in (("the model's chat template", load_llm("smollm2").source), ("smollm2's text", "smollm2")):
        rate, work, ids = host(make_vlm(llm, "cpu", torch.float32))
        cell = f"{rate:,.0f} q/s"
        if llm != "smollm2":  # its text has no control tokens, at which it could be cut
            cell += f" (needed {QUESTIONS_A_SECOND:,}: {goals.judge(rate >= QUESTIONS_A_SECOND)})"
        row(name, cell, f"{work:.0f} us a question",
            f"{ids:.0f} us a question")  # fmt: skip
    rates, free = pixels(make_vlm("smollm2", "cpu", torch.float32), folder), second_core()
    ratio = goals.at_least(rates[2] / rates[1], PIXELS_RATIO * free / 2)
    print(f"\npixels of 640 x 480 JPEGs: {rates[1]:.0f} images/s on one thread, {rates[2]:.0f} on two, {ratio}")
    print(f"two threads that need no lock (SHA-256) are {free:.2f} times as fast as one on this machine now")
