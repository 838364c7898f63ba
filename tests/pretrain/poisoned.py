"""Two ranks pretrain on captions of which rank 1 gets NaN pixels in steps 2 and 3, once for every ZeRO stage.

Run by test_run.py: poisoned.py OUT FLAGS of pretrain/run.py. Rank R leaves OUT/zero_STAGE/digests.R, one hash a step
of weights, BatchNorm statistics and optimizer state as they are after it. A last run meets NaN from step 4 on.
"""

import hashlib
import sys
from pathlib import Path

import torch

from pretrain import train, zero
from pretrain.run import parse
from vlm.distributed import rank
from vlm.errors import UserError, run_command

out, flags = Path(sys.argv[1]), sys.argv[2:]
poisoned, engine = range(2, 4), None


class Batches(train.CaptionBatches):
    def __iter__(self):
        for step, batch in enumerate(super().__iter__()):
            if self.rank == 1 and step in poisoned:
                batch["images"] = batch["images"].float().index_fill_(0, torch.tensor([0]), torch.nan)
            yield batch


class Recorder(train.Recorder):
    def add(self, *arguments):
        super().add(*arguments)
        optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
        with zero.gathered(list(engine.module.parameters())):
            states = [state[name] for state in optimizer.state.values() for name in sorted(state)]
            digest = hashlib.sha256()
            for tensor in [*engine.module.state_dict().values(), *states]:
                digest.update(tensor.detach().contiguous().numpy().tobytes())
        with open(self.path.with_name(f"digests.{rank()}"), "a") as file:
            print(digest.hexdigest(), file=file)


def start_engine(*arguments):
    global engine
    engine = zero.start_engine(*arguments)
    return engine


train.CaptionBatches, train.Recorder, train.start_engine = Batches, Recorder, start_engine


def main() -> None:
    global poisoned
    for stage in "0123":
        train.train(parse([*flags, "--out", str(out / f"zero_{stage}"), "--zero", stage, "--steps", "6"]))
    poisoned = range(4, 99)
    try:
        train.train(parse([*flags, "--out", str(out / "lost"), "--steps", "99", "--save-every", "2"]))
    except UserError as error:
        (out / "lost" / f"error.{rank()}").write_text(str(error))


run_command(main)  # as pretrain/run.py ends: torch may abort a process of several at an ordinary end
