"""What the steps of a run came to, read from the device for several steps at once."""

import math
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from tqdm import tqdm

from bridge.data.mixture import Mixture
from bridge.data.schedule import Step, indices
from bridge.folder import RunFolder
from bridge.gradients import Numbers, Sums
from vlm.distributed import is_main
from vlm.run.stopping import Patience


class Taken(NamedTuple):
    """A step whose numbers are still on the device. left_out: what this rank left out just now, question -> why."""

    step: int
    lr: float
    sums: Sums
    norm: torch.Tensor
    left_out: dict[int, str]


class Recorder:
    """Keeps the numbers of steps, and every `log_every` of them reads them: the device never waits inside a step."""

    def __init__(self, run: RunFolder, mixture: Mixture, steps: Sequence[Step], bar: tqdm):
        self._run, self._mixture, self._steps, self._bar = run, mixture, steps, bar
        self.patience = Patience("lower --lr", run.failures)
        self._taken: list[Taken] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time since the last `read` out."""
        self._clock = time.perf_counter()

    def take(self, step: Taken) -> None:
        self._taken.append(step)

    def read(self) -> None:
        """Write what was taken; collective. Raises: UserError if too many steps in a row moved nothing, or too many
        questions were left out.
        """
        if not self._taken:
            return
        values = torch.stack([torch.cat([each.sums.values, each.norm[None]]) for each in self._taken])
        lines = values.tolist()  # the one read: float[steps, 6]
        read = [(Numbers(*sums), norm) for *sums, norm in lines]
        now = time.perf_counter()
        seconds = (now - self._clock) / len(read)
        self._clock = now
        if any(numbers.left_out for numbers, _ in read):  # on any rank
            own = {index: why for each in self._taken for index, why in each.left_out.items()}
            self._run.note(self._mixture, own)
        for taken, (numbers, norm) in zip(self._taken, read):
            answers, questions = numbers.answers, numbers.questions
            loss = numbers.loss / answers if answers else math.nan  # as `Sums.loss`
            moved = math.isfinite(norm) and math.isfinite(loss)
            if answers:  # a step that broken images have emptied says nothing of --lr; --bad-ratio judges it
                self.patience.count(skipped=not moved)
            if answers and not moved and is_main():
                examples = [self._mixture.examples[index] for index in indices(self._steps[taken.step])[:5]]
                names = ", ".join(example.question_id for example in examples)
                self._bar.write(f"step {taken.step}: loss {loss}, nothing updated (questions {names}, ...)", sys.stderr)
            counts = {"questions": int(questions), "tokens": int(numbers.tokens), "answer_tokens": int(answers)}
            self._run.record(taken.step, loss, counts, taken.lr, norm if moved else None, seconds)
            self.patience.check(taken.step)
            self._bar.set_postfix_str(f"step {taken.step + 1}/{len(self._steps)}, loss {loss:.3f}", refresh=False)
            self._bar.update(int(questions))
        self._taken = []
