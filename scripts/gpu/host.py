"""What a step waits for on the CPU if nothing is done ahead: drawing directions, tokenising captions."""

from itertools import count

import torch

from gpu.check import ROOT, Check
from pretrain.sigreg import random_directions
from vlm.encoders.tokens import CaptionTokenizer


def measure(check: Check) -> None:
    steps, (dim, directions) = count(), (16, 64) if check.smoke else (256, 4096)

    def draw() -> torch.Tensor:
        return random_directions(dim, directions, 0, next(steps), "image", check.device)

    threads = torch.get_num_threads()
    for used in sorted({1, threads}):
        torch.set_num_threads(used)
        took = check.seconds(draw, 10)
        check.note("host", f"directions {dim}x{directions} of a modality, {used} threads", ms=1e3 * took)
    torch.set_num_threads(threads)

    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    tokenizer = CaptionTokenizer.train(words, 512 if check.smoke else 8000)
    generator = torch.Generator().manual_seed(0)
    for rows in (64,) if check.smoke else (512, 4096):
        drawn = torch.randint(len(words), (rows, 11), generator=generator).tolist()
        texts = [" ".join(words[number] for number in numbers) for numbers in drawn]
        took = check.seconds(lambda texts=texts: tokenizer(texts), 5)
        check.note("host", f"tokenising {rows} captions", ms=1e3 * took)
