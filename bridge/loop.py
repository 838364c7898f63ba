"""The bridge run: examples -> schedule -> packed rows -> features and loss -> checkpoints -> RUN/vlm."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from bridge.config import BridgeConfig
from bridge.data.batches import StepData, step_data
from bridge.data.features import FeatureCache, Features, PatchEncoder
from bridge.data.judging import left_out, questions_about
from bridge.data.mixture import Mixture
from bridge.data.questions import Questions
from bridge.data.schedule import Schedule, Step, indices
from bridge.folder import RunFolder, check_data, images_content, questions_content, run_content
from bridge.gradients import backward, constant_text, update
from bridge.held_out import HeldOut
from bridge.parts import Trainee, build_vlm, freeze, save_result
from bridge.same_run import check_folder
from vlm.distributed import is_main, on_main
from vlm.run.folder import finish, locked
from vlm.run.progress import progress
from vlm.run.schedule import cosine
from vlm.run.signals import keeping, stoppable
from vlm.run.stopping import Patience, leave


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over the share `warmup` of the steps, then a cosine to zero after the last one."""
    rising = max(1, round(warmup * steps))
    return cosine(step, steps + 1, rising, peak, floor=0.0)  # + 1: the last step still moves


def prefetched(steps: Sequence[Step], prepare: Callable[[Step], StepData]) -> Iterator[StepData]:
    """Each step's data, in order. A thread prepares it while the caller trains on the step before, so that tokenising,
    packing and reading cost no time unless they take longer than that.
    """
    with ThreadPoolExecutor(1) as pool:
        ahead: list[Future[StepData]] = []
        for step in steps:
            ahead.append(pool.submit(prepare, step))
            if len(ahead) > 1:
                yield ahead.pop(0).result()  # the thread goes on behind the yield
        for last in ahead:
            yield last.result()


def loop(
    run: RunFolder,
    trainee: Trainee,
    questions: Questions,
    features: Features,
    steps: list[Step],
    start: int,
    held_out: HeldOut | None = None,
) -> None:
    """Train from step `start` to the last. Data and learning rate are functions of the step alone.

    held_out: what is asked every `show_every` steps; None on all ranks but the first, or if nothing is.
    """
    config = run.config
    constant = constant_text(trainee, questions.constant)
    patience = Patience("lower --lr")
    prepare = partial(step_data, questions=questions, features=features, micro_tokens=config.micro_tokens)
    sizes = [len(indices(step)) for step in steps]
    bar = progress(sum(sizes), "bridge", "q", initial=sum(sizes[:start]), show=is_main())
    clock = time.perf_counter()
    with stoppable(deferred=True) as told, bar:
        for number, data in enumerate(prefetched(steps[start:], prepare), start=start):
            # 1. Gradients and update.
            lr = learning_rate(number, len(steps), config.lr, config.warmup)
            for group, peak in zip(run.optimizer.param_groups, (config.lr, config.lr_lora or config.lr)):
                group["lr"] = lr if peak == config.lr else learning_rate(number, len(steps), peak, config.warmup)
            sums = backward(trainee, data, constant, stop=told() is not None)
            norm = update(trainee.weights.values(), run.optimizer, sums.loss, config.clip)

            if sums.bad:  # on any rank
                run.note(questions.mixture, data.bad)

            # 2. A step without a finite gradient moves nothing; too many in a row end the run.
            patience.count(skipped=norm is None)
            if norm is None and is_main():
                examples = [questions.mixture.examples[index] for index in indices(steps[number])[:5]]
                names = ", ".join(example.question_id for example in examples)
                bar.write(f"step {number}: loss {sums.loss}, nothing updated (questions {names}, ...)", sys.stderr)
            now = time.perf_counter()
            run.record(number, sums, lr, norm, now - clock)
            clock = now
            patience.check(number)
            bar.set_postfix_str(f"step {number + 1}/{len(steps)}, loss {sums.loss:.3f}", refresh=False)
            bar.update(sums.questions)

            # 3. Answers to held-out questions; the time that they take is no step's.
            done = number + 1
            if held_out is not None and (done % config.show_every == 0 or done == len(steps)):
                held_out.show(run, number)
                clock = time.perf_counter()

            # 4. Checkpoints, and the end that a signal asks for.
            if sums.stop or done == len(steps) or done % config.save_every == 0:
                run.save(done)
            if sums.stop and done < len(steps):
                leave(done, bar, told())


def train(config: BridgeConfig, mixture: Mixture) -> None:
    """Run or continue `config.out` on the mixture's questions; on return RUN/vlm is a stock LLaVA folder."""
    accelerator = Accelerator()  # starts the process group
    with locked(Path(config.out)):
        data = {"questions": questions_content(mixture, votes=config.vqav2_answers == "votes")}
        data["images"] = images_content(mixture)
        on_main(lambda: (check_folder(config), check_data(config, data)))  # before anything is loaded
        vlm = build_vlm(config, accelerator.device, config.load_in)
        encoder = PatchEncoder(vlm.model, vlm.processor.image_processor)
        content = {**data, **run_content(vlm), "encoder": encoder.key[:12]}
        trainee = freeze(vlm.model, config)
        questions = Questions(mixture, vlm.prompts, config)
        steps = scheduled_steps(config, mixture, vlm.prompts.slots)
        bad = questions.check({index for step in steps for index in indices(step)})
        steps = left_out(steps, bad)

        run = RunFolder(config, trainee.weights, content)
        start = run.resume()
        on_main(lambda: run.check_room(vlm.model))
        run.begin(start)  # from here on the folder is this run's
        features: Features = encoder
        if config.cache:
            features = cache = FeatureCache(config.features or run.folder / "features", encoder)
            ahead = (row for step in steps[start:] for row in step)
            with keeping(f"the features so far are in {cache.folder}, the same command goes on from there"):
                unreadable = cache.fill(image for row in ahead for image in mixture.examples[row.examples[0]].images)
            bad |= questions_about(mixture, steps, unreadable | (run.listed_images() if start else {}))
            steps = left_out(steps, bad)
        on_main(lambda: run.quarantine(mixture, bad, start))
        held_out: list[HeldOut] = []  # rank 0's alone
        if config.show_every and start < len(steps):
            on_main(lambda: held_out.append(HeldOut(config, vlm, trainee, encoder, mixture)))
        loop(run, trainee, questions, features, steps, start, next(iter(held_out), None))
        on_main(lambda: save_result(vlm, trainee, config, run.folder, data))
        on_main(lambda: finish(run.folder, len(steps), run.folder / "vlm"))
    accelerator.end_training()


def scheduled_steps(config: BridgeConfig, mixture: Mixture, image_slots: int) -> list[Step]:
    """Every step of the run. image_slots: tokens that an image takes in a row.

    With --gradient-checkpointing the text before the image is in the row as well. It is not counted here, so that a run
    can go on with or without that flag: the same questions meet in a step, and `fill_rows` splits a row that is then
    too long.
    """
    room = config.row_tokens - image_slots
    return Schedule(mixture, config.seed, config.batch_questions, room, config.shares()).steps(config.steps)
