"""The bridge run: examples -> schedule -> packed rows -> features and loss -> checkpoints -> RUN/vlm."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch.optim import Optimizer

from bridge.config import BridgeConfig, keeps_features, questions_a_step
from bridge.data.balance import RowLengths
from bridge.data.batches import StepData, step_data
from bridge.data.features import FeatureCache, default_cache
from bridge.data.judging import check_some_left, questions_about, steps_without
from bridge.data.mixture import Mixture
from bridge.data.patches import Features, PatchEncoder
from bridge.data.pictures import Picture
from bridge.data.questions import Questions
from bridge.data.schedule import Schedule, Step, indices
from bridge.digests import images_digest, model_digests, questions_digest
from bridge.folder import RunFolder, check_data
from bridge.gradients import backward, prefilled_opening, update
from bridge.held_out import HeldOut
from bridge.parts import Trainee, build_vlm, freeze, make_optimizer, save_result
from bridge.recorder import Recorder, Taken
from bridge.same_run import check_folder
from vlm.device import CLOSE, LESS, enough_memory
from vlm.distributed import AnyRank, active, is_main, late_ranks_named, on_main
from vlm.llava.model import VLM
from vlm.run.compiler import check_compiler
from vlm.run.folder import finish, locked
from vlm.run.progress import progress
from vlm.run.schedule import cosine
from vlm.run.signals import keeping, stoppable
from vlm.run.steps import kept_words
from vlm.run.stopping import leave

AHEAD = 2  # steps that are prepared while one is trained on
SAMPLED_ROWS = 256  # rows that are packed to learn how long rows are


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Linear warm-up over the share `warmup` of the steps, then a cosine to zero after the last one."""
    rising = max(1, round(warmup * steps))
    return cosine(step, steps + 1, rising, peak, floor=0.0)  # + 1: the last step still moves


def set_rates(optimizer: Optimizer, config: BridgeConfig, step: int, steps: int) -> float:
    """Set each group's rate of a step, by the peak that `make_optimizer` gave it -> that of --lr."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, steps, group["peak"], config.warmup)
    return learning_rate(step, steps, config.lr, config.warmup)


def prefetched(steps: Sequence[Step], prepare: Callable[[Step], StepData]) -> Iterator[StepData]:
    """Each step's data, in order. Threads prepare the next steps while the caller trains on this one, so that
    tokenising, packing and reading cost no time unless they take longer than that. One tokenises or decodes, without
    Python's lock, while another packs.
    """
    with ThreadPoolExecutor(AHEAD) as pool:
        ahead: list[Future[StepData]] = []
        for step in steps:
            ahead.append(pool.submit(prepare, step))
            if len(ahead) > AHEAD:
                yield ahead.pop(0).result()  # the thread goes on behind the yield
        for last in ahead:
            yield last.result()


def loop(
    run: RunFolder,
    trainee: Trainee,
    questions: Questions,
    prepare: Callable[[Step], StepData],
    steps: list[Step],
    start: int,
    held_out: HeldOut | None = None,
    left_out: Collection[int] = (),
) -> None:
    """Train from step `start` to the last. Data and learning rate are functions of the step alone.

    prepare: this rank's part of a step. held_out: what is asked every `show_every` steps; None on all ranks but the
    first, or if nothing is. left_out: questions that are known to be in no step's data.
    """
    config = run.config
    opening = prefilled_opening(trainee, questions.opening_ids)
    stopped = AnyRank(trainee.model.device) if active() else bool
    sizes = [sum(index not in left_out for index in indices(step)) for step in steps]
    bar = progress(sum(sizes), "bridge", "q", initial=sum(sizes[:start]), show=is_main())
    recorder = Recorder(run, questions.mixture, steps, bar)
    number, data = start, None
    smaller = enough_memory(lambda: _in_step(number, len(steps), data), lambda: _smaller(config))
    with stoppable(deferred=True) as told, bar, smaller:
        for number, data in enumerate(prefetched(steps[start:], prepare), start=start):
            stop = stopped(told() is not None)
            # 1. Gradients and update: nothing here waits for the device.
            lr = set_rates(run.optimizer, config, number, len(steps))
            sums = backward(trainee, data, opening)
            norm = update(trainee.weights.values(), run.optimizer, sums.loss, config.clip)
            recorder.take(Taken(number, lr, sums, norm, data.left_out))

            # 2. What the steps came to. A step without a finite gradient has moved nothing; many in a row end the run.
            done = number + 1
            shows = config.show_every > 0 and (done % config.show_every == 0 or done == len(steps))
            saves = stop or done == len(steps) or done % config.save_every == 0
            if shows or saves or done % config.log_every == 0:
                recorder.read()

            # 3. Answers to held-out questions; the time that they take is no step's.
            if held_out is not None and shows:
                with enough_memory(lambda: "while held-out questions were answered", lambda: _unshown(config)):
                    held_out.show(run, number)
                recorder.restart_clock()

            # 4. Checkpoints, and the end that a signal asks for.
            if saves:
                run.save(done, recorder.patience.failures)
            if stop and done < len(steps):
                leave(done, bar, told())


def _in_step(number: int, steps: int, data: StepData | None) -> str:
    """Where memory ran out, such as "in step 7 of 300 (56 questions of this process in 2 micro-batches)"."""
    batch = f" ({data.questions} questions of this process in {len(data.batches)} micro-batches)" if data else ""
    return f"in step {number} of {steps}{batch}"


def _smaller(config: BridgeConfig) -> str:
    """What makes the step smaller without making it another one, and that nothing is lost."""
    also = "" if config.gradient_checkpointing else " or --gradient-checkpointing"
    micro = max(1, config.micro_tokens // 2)
    return f"give --micro-tokens {micro} (now {config.micro_tokens}){also}; {kept_words(Path(config.out))}"


def _unshown(config: BridgeConfig) -> str:
    return f"give --show-every 0; {kept_words(Path(config.out))}"


def _elsewhere(config: BridgeConfig) -> str:
    """What helps where no step is taken: while models are loaded, images encoded, the result saved."""
    return f"{CLOSE if config.load_in else LESS}; {kept_words(Path(config.out))}"


def train(config: BridgeConfig, mixture: Mixture) -> None:
    """Run or continue `config.out` on the mixture's questions; on return RUN/vlm is a stock LLaVA folder.

    Every process calls this, and all of them come to each collective. What can refuse a run before models are loaded
    does so in 1.
    """
    limit = InitProcessGroupKwargs(timeout=timedelta(minutes=config.timeout))
    accelerator = Accelerator(kwargs_handlers=[limit])  # starts the process group
    if config.compile:
        check_compiler(accelerator.device)
    around = enough_memory(lambda: "before or after the steps", lambda: _elsewhere(config))
    with late_ranks_named(config.timeout), locked(Path(config.out)), around:
        # 1. What is trained on. A run that may not go on with it is refused here, before anything is loaded.
        data_digests = _judged_data(config, mixture)

        # 2. What is trained.
        vlm = build_vlm(config, accelerator.device, config.load_in)
        encoder = PatchEncoder(vlm.model, vlm.processor.image_processor)
        digests = {**data_digests, **model_digests(vlm, encoder)}  # of the weights as they were loaded
        trainee = freeze(vlm.model, config)

        # 3. Which questions are in which step. Later no step goes: a checkpoint's number means the same at every start.
        questions = Questions(mixture, vlm.prompts, config)
        steps = scheduled_steps(config, mixture, vlm.prompts.slots)
        left_out = questions.check({index for step in steps for index in indices(step)})
        steps = steps_without(steps, left_out)

        # 4. Resume. From `begin` on the folder is this run's.
        run = RunFolder(config, trainee.weights, make_optimizer(trainee, config), digests)
        start = run.resume()
        on_main(lambda: run.check_room(vlm.model))
        run.begin(start)
        if start:
            left_out |= on_main(lambda: run.left_out_before(mixture))

        # 5. Features: live, or from a cache that is filled now.
        features, left_out = _features(config, mixture, encoder, steps, start, left_out)
        sharing = {"micro_tokens": config.micro_tokens, "lengths": row_lengths(questions, steps, vlm.prompts.slots)}
        prepare = partial(step_data, questions=questions, features=features, left_out=left_out, **sharing)
        on_main(lambda: run.quarantine(mixture, left_out, start))

        # 6. Steps.
        shows = config.show_every > 0 and start < len(steps)
        held_out = held_out_questions(config, vlm, trainee, encoder, mixture) if shows else None
        loop(run, trainee, questions, prepare, steps, start, held_out, left_out)

        # 7. The result, and RUN/done.json.
        with keeping(kept_words(run.folder)):
            on_main(lambda: save_result(vlm, trainee, config, run.folder, data_digests))
        on_main(lambda: finish(run.folder, len(steps), run.folder / "vlm"))
    accelerator.end_training()


def _judged_data(config: BridgeConfig, mixture: Mixture) -> dict[str, str]:
    """Digests of the questions and images; collective.

    Raises: UserError if --out holds another run, or this one learnt from other data.
    """
    digests = {"questions": questions_digest(mixture, votes=config.vqav2_answers == "votes")}
    digests["images"] = images_digest(mixture)
    on_main(lambda: (check_folder(config), check_data(config, digests)))
    return digests


def _features(
    config: BridgeConfig,
    mixture: Mixture,
    encoder: PatchEncoder,
    steps: list[Step],
    start: int,
    left_out: dict[int, str],
) -> tuple[Features, dict[int, str]]:
    """Where patch tokens come from: `encoder`, live, or a cache that is filled first; collective.

    left_out: questions of the mixture -> why. The result has those whose images could not be cached as well.
    """
    ahead = [row for step in steps[start:] for row in step]
    shown = [image for row in ahead for image in mixture.examples[row.examples[0]].images]
    if not cached(config, shown):
        return encoder, left_out
    cache = FeatureCache(config.features or default_cache(encoder), encoder, shared=config.features is None)
    with keeping(f"the features so far are in {cache.folder}, the same command goes on from there"):
        unreadable = cache.fill(shown)
    left_out = left_out | questions_about(mixture, steps, unreadable)
    check_some_left(steps, left_out)
    return cache, left_out


def held_out_questions(
    config: BridgeConfig, vlm: VLM, trainee: Trainee, encoder: PatchEncoder, mixture: Mixture
) -> HeldOut | None:
    """What is asked every `show_every` steps; None on all ranks but the first. Collective."""
    made: HeldOut | None = None

    def make() -> None:
        # It is not returned: `on_main` sends what its function returns to every rank, and this holds the model.
        nonlocal made
        made = HeldOut(config, vlm, trainee, encoder, mixture)

    on_main(make)  # what fails on the first rank ends all of them
    return made


def cached(config: BridgeConfig, shown: Sequence[Picture]) -> bool:
    """Whether features are worth keeping. shown: the images of all rows to come.

    An image that is shown once is encoded when its step comes, while the step before trains: nothing waits for it, and
    nothing is written.
    """
    if not shown:
        return False
    times = len(shown) / len(set(shown))
    kept = keeps_features(config, times)
    if config.cache and not kept and is_main():
        print(
            f"features: encoded live, an image is shown {times:.2f} times; --features DIR keeps them", file=sys.stderr
        )
    return kept


def row_lengths(questions: Questions, steps: Sequence[Step], image_slots: int) -> RowLengths:
    """What rows take, learnt from a few of them that are packed."""
    lengths = RowLengths(questions.mixture, image_slots)
    rows = [row for step in steps for row in step]
    sample = rows[:: max(1, len(rows) // SAMPLED_ROWS)]
    lengths.learn(sample, [sum(len(row.ids) for row in packed) for packed in questions.pack(sample)])
    return lengths


def scheduled_steps(config: BridgeConfig, mixture: Mixture, image_slots: int) -> list[Step]:
    """Every step of the run. image_slots: tokens that an image takes in a row.

    With --gradient-checkpointing the opening is in the row as well. It is not counted here, so that a run can go on
    with or without that flag: the same questions meet in a step, and `fill_rows` splits a row that is then too long.
    """
    room = config.row_tokens - image_slots
    batch = questions_a_step(config, len(mixture.examples))
    return Schedule(mixture, config.seed, batch, room, config.shares()).steps(config.steps)
