"""The bridge run: set-up, loop, metrics, checkpoints, result."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator

from bridge import checkpoints, fingerprint
from bridge.config import BridgeConfig
from bridge.data.example import Example
from bridge.data.features import FeatureCache, Features, VisionTower
from bridge.data.questions import Prepared, Questions
from bridge.data.schedule import Step
from bridge.forward import KeysAndValues, loss_sum, prefill, shared_prefill
from bridge.parts import Trainee, build_vlm, freeze, save_result
from vlm.distributed import all_sum, barrier, is_main
from vlm.errors import UserError
from vlm.files import append_jsonl, read_json, write_json
from vlm.run.checkpoints import Checkpoints, refuse_changes
from vlm.run.folder import forget_from, locked
from vlm.run.progress import progress
from vlm.run.resume import starting_step
from vlm.run.schedule import cosine
from vlm.run.settings import trajectory
from vlm.run.stopping import Patience, leave, termination

A, B = TypeVar("A"), TypeVar("B")
Constant = Callable[[], AbstractContextManager[KeysAndValues]]


def constant_text(trainee: Trainee, ids: Sequence[int]) -> Constant:
    """What gives each step the keys and values of the constant text: computed once, or each time where LoRA trains."""
    if trainee.adapter is not None:
        return lambda: shared_prefill(trainee.vlm.model, ids)
    with torch.no_grad():
        past = prefill(trainee.vlm.model, ids)
    return lambda: nullcontext(past)


@dataclass(frozen=True)
class Sums:
    """What a step amounts to over all ranks; `loss` is the mean over its answer tokens."""

    loss: float
    answer_tokens: int
    tokens: int
    questions: int
    stop: bool


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over the share `warmup` of the steps, then a cosine to zero after the last one."""
    rising = max(1, round(warmup * steps))
    return cosine(step, steps + 1, rising, peak, floor=0.0)  # + 1: the last step still moves


def prefetched(items: Iterable[A], function: Callable[[A], B]) -> Iterator[B]:
    """`function` of each item, computed on a thread while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in items:
            following = pool.submit(function, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def backward(trainee: Trainee, prepared: Prepared, constant: Constant, stop: bool) -> Sums:
    """Gradients of the mean loss over all answer tokens of the step, whichever rank has them.

    Each rank adds up its own losses; sums and gradients are added over the ranks and divided by the global count.
    """
    weights = list(trainee.weights.values())
    device = weights[0].device
    totals = torch.tensor([0, 0, prepared.tokens, prepared.questions, stop], dtype=torch.float64)
    with constant() as past:
        for batch, features in prepared.batches:
            loss = loss_sum(trainee.vlm.model, batch.to(device), features, past)
            loss.backward()
            totals[:2] += torch.tensor([loss.item(), len(batch.labels)])
    loss, answers, tokens, questions, stopping = all_sum(totals.to(device)).tolist()
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    flat = all_sum(torch.cat([gradient.flatten() for gradient in gradients])) / max(1, answers)
    for weight, gradient in zip(weights, flat.split([weight.numel() for weight in weights])):
        weight.grad = gradient.view_as(weight)
    return Sums(loss / max(1, answers), int(answers), int(tokens), int(questions), stopping > 0)


def update(trainee: Trainee, optimizer: torch.optim.Optimizer, sums: Sums, clip: float) -> float | None:
    """One optimizer step -> the gradients' norm before clipping; None, and nothing moved, where it is not finite.

    clip: the largest norm, 0 for any.
    """
    norm = torch.nn.utils.clip_grad_norm_(list(trainee.weights.values()), clip or math.inf).item()
    finite = math.isfinite(norm) and math.isfinite(sums.loss)
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm if finite else None


class Run:
    """The folder of a run: config.json, metrics.jsonl, checkpoints."""

    def __init__(self, config: BridgeConfig, trainee: Trainee, content: dict[str, str]):
        """content: digests of what the settings name, so that a checkpoint never goes on with something else."""
        self.folder, self.config, self._trainee = Path(config.out), config, trainee
        self._checkpoints = Checkpoints(self.folder, {**trajectory(config), **content}, same_processes=False)
        weights = list(trainee.weights.values())
        self.optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=config.weight_decay)

    def resume(self) -> int:
        """Load the newest whole checkpoint as --resume asks -> the step to go on with."""
        step = starting_step(self._checkpoints, self.config.resume, "vlm")
        if step is None:
            return 0
        checkpoints.load(self._checkpoints.path(step), self._trainee.weights, self.optimizer)
        return step

    def begin(self, step: int) -> None:
        """Record the settings and drop the metrics of steps that will be repeated."""
        if is_main():
            write_json(self.folder / "config.json", asdict(self.config))
        forget_from(self.folder / "metrics.jsonl", step)

    def save(self, step: int) -> None:
        self._checkpoints.save(step, checkpoints.writer(self._trainee.weights, self.optimizer))

    def record(self, step: int, sums: Sums, lr: float, norm: float | None, seconds: float) -> None:
        if is_main():
            rate = round(sums.questions / seconds, 2)
            line = {"step": step, "loss": sums.loss, "lr": lr, "samples_per_s": rate, "questions_per_s": rate}
            line |= {"questions": sums.questions, "tokens": sums.tokens, "answer_tokens": sums.answer_tokens}
            append_jsonl(self.folder / "metrics.jsonl", line | {"gradient_norm": norm})


def loop(run: Run, trainee: Trainee, questions: Questions, features: Features, steps: list[Step], start: int) -> None:
    """Steps `start` to the last: data and learning rate are functions of the step alone."""
    config, patience, clock = run.config, Patience("lower --lr"), time.perf_counter()
    constant = constant_text(trainee, questions.constant)
    done, total = (sum(len(questions.ids(step)) for step in part) for part in (steps[:start], steps))
    prepared = prefetched(steps[start:], lambda step: questions.prepare(step, features))
    with termination() as terminated, progress(total, "bridge", "q", initial=done, show=is_main()) as bar:
        for number, part in enumerate(prepared, start=start):
            lr = learning_rate(number, len(steps), config.lr, config.warmup)
            run.optimizer.param_groups[0]["lr"] = lr
            sums = backward(trainee, part, constant, bool(terminated))
            norm = update(trainee, run.optimizer, sums, config.clip)
            patience.count(skipped=norm is None)
            if norm is None and is_main():
                names = ", ".join(questions.ids(steps[number])[:5])
                bar.write(f"step {number}: loss {sums.loss}, nothing updated (questions {names}, ...)", sys.stderr)
            now = time.perf_counter()
            run.record(number, sums, lr, norm, now - clock)
            clock = now
            patience.check(number)
            bar.set_postfix_str(f"step {number + 1}/{len(steps)}, loss {sums.loss:.3f}", refresh=False)
            bar.update(sums.questions)
            if sums.stop or (number + 1) % config.save_every == 0 or number + 1 == len(steps):
                run.save(number + 1)
            if sums.stop and number + 1 < len(steps):
                leave(number + 1, bar)


def check_folder(config: BridgeConfig) -> None:
    """UserError where --out holds something else than this run."""
    run = Path(config.out)
    if run.exists() and not run.is_dir():
        raise UserError(f"{run} is a file: give a folder as --out")
    if not (run / "config.json").exists():
        return
    old, new = read_json(run / "config.json"), trajectory(config)
    # Parts that are named rather than lie at a path: the difference is told before anything is loaded.
    for part in ("llm", "encoder"):
        before, now = old.get(part), getattr(config, part)
        if before and now and not Path(before).exists() and not Path(now).exists():
            new[part] = now
    refuse_changes(run, {name: old.get(name) for name in new}, new)


def train(config: BridgeConfig, sets: Sequence[Sequence[Example]]) -> None:
    """Run or continue `config.out` on the data sets' questions; on return RUN/vlm is a stock LLaVA folder."""
    check_folder(config)
    accelerator = Accelerator()
    with locked(Path(config.out)):
        vlm = build_vlm(config, accelerator.device, config.load_in)
        tower = VisionTower(vlm)
        content = {**fingerprint.content(vlm, sets, config.vqav2_answers == "votes"), "encoder_key": tower.key()}
        trainee = freeze(vlm, config)
        run = Run(config, trainee, content)
        questions = Questions(sets, trainee.vlm, config)
        steps, features = questions.plan(), tower
        start = run.resume()
        run.begin(start)  # from here on the folder is this run's
        if config.cache:
            features = FeatureCache(config.features or run.folder / "features", tower)
            features.fill(questions.images(steps[start:]))
        loop(run, trainee, questions, features, steps, start)
        if is_main():
            save_result(trainee, config, run.folder)
            print(f"saved {run.folder / 'vlm'}; score it with: python bridge/evaluate.py {run.folder / 'vlm'}")
        barrier()
    accelerator.end_training()
