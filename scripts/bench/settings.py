"""What each bench can be asked, the sizes it measures, and what ours must reach there. `--help` needs no torch."""

from dataclasses import dataclass

from vlm.run.settings import setting

OWN_THREADS = "torch's own number"


@dataclass(frozen=True)
class BridgeCase:
    """Questions about each image of a step, the ratio of speeds needed, and the size of the whole data set."""

    name: str
    questions: tuple[int, ...]
    needed: float
    total_questions: int
    total_images: int


BRIDGE_CASES = {
    "gqa": BridgeCase("gqa", (13,), 5, 943_000, 72_140),
    "vqav2": BridgeCase("vqav2", (5, 5, 6), 3.5, 443_757, 82_783),
}
BRIDGE_LAYERS = 28  # Qwen2.5-1.5B's


@dataclass(frozen=True)
class BridgeBench:
    """Flags of scripts/bench_bridge.py."""

    cases: tuple[str, ...] = setting(
        tuple(BRIDGE_CASES), help="how many questions an image has", choices=tuple(BRIDGE_CASES)
    )
    layers: int = setting(2, help="layers of the LLM in the comparison", least=1, most=BRIDGE_LAYERS)
    dtype: str | None = setting(
        None, help="dtype of the frozen parts", choices=("bf16", "fp32"), default_text="bf16 if the CPU is fast at it"
    )
    pairs: int = setting(3, help="timed pairs of steps", least=1)
    threads: int | None = setting(None, help="CPU threads of torch", least=1, default_text=OWN_THREADS)
    full: bool = setting(False, help="measure the bridge alone, with all layers")
    host: bool = setting(False, help="measure what is done before the model alone: tokens, rows, pixels")


@dataclass(frozen=True)
class EvaluateBench:
    """Flags of scripts/bench_evaluate.py."""

    vlm: str | None = setting(
        None, help="a saved VLM", positional=True, metavar="RUN/vlm", default_text="one built on the fly"
    )
    llm: str = setting("smollm2", help="the LLM of the one built on the fly")
    images: int = setting(2, help="images that are asked about", least=1)
    questions: int = setting(18, help="distinct questions an image", least=1, most=48)
    max_new_tokens: int = setting(4, help="longest answer, in tokens", least=1)
    batch_questions: int = setting(64, help="questions that ours decodes together", least=1)
    rounds: int = setting(3, help="timed rounds, in each of which every way answers all questions", least=1)
    precision: str | None = setting(
        None, help="dtype of the model", choices=("fp32", "bf16"), default_text="bf16 if the device is fast at it"
    )
    threads: int | None = setting(None, help="CPU threads of torch", least=1, default_text=OWN_THREADS)
    device: str = setting("cpu", help="where the model runs: cpu, cuda or cuda:N")


@dataclass(frozen=True)
class LoaderBench:
    """Flags of scripts/bench_loader.py."""

    image_size: int = setting(224, help="pixels along each side of the result", least=1)
    images: int = setting(48, help="different JPEGs drawn", least=1)
    rounds: int = setting(4, help="times that each image is timed", least=1)
    seconds: float = setting(8.0, help="length of each measurement of the whole loader", above=0)
    margins: bool = setting(False, help="only quality by the margin of reduced decoding")


@dataclass(frozen=True)
class SigregCase:
    """A size, the ratios plain / sigreg that it must reach (and the time ratio hoped for), and how often to time it."""

    batch: int
    dim: int
    time: float
    stretch: float
    memory: float
    pairs: int


SIGREG_CASES = {
    "256x256": SigregCase(256, 256, 12, 30, 40, 9),
    "256x768": SigregCase(256, 768, 8, 12.5, 40, 9),
    "1024x768": SigregCase(1024, 768, 8, 12, 60, 5),
    "4096x768": SigregCase(4096, 768, 8, 13, 60, 3),
}
COMPILED_BATCH = 256  # the batch at which torch.compile is compared


@dataclass(frozen=True)
class SigregBench:
    """Flags of scripts/bench_sigreg.py."""

    cases: tuple[str, ...] = setting(tuple(SIGREG_CASES), help="sizes BxD", choices=tuple(SIGREG_CASES))
    pairs: int | None = setting(None, help="timed pairs of every case", least=1, default_text="9, 9, 5, 3")
    threads: int = setting(1, help="CPU threads of torch", least=1)
    compile: bool = setting(
        False, help=f"also time torch.compile of the plain formulation at B = {COMPILED_BATCH} (needs a C++ compiler)"
    )


STEP_PARTS = ("step", "text", "shares", "host")


@dataclass(frozen=True)
class StepBench:
    """Flags of scripts/bench_step.py."""

    parts: tuple[str, ...] = setting(STEP_PARTS, help="what to measure; see above", choices=STEP_PARTS)
    pairs: int = setting(7, help="timed pairs", least=1)
    batch: int = setting(
        128, help="pairs in a batch of `step`; `text` has twice as many captions, `host` four times", least=2
    )


@dataclass(frozen=True)
class ZeroBench:
    """Flags of scripts/bench_zero.py."""

    stages: tuple[int, ...] = setting((0, 1, 2, 3), help="stages of ZeRO; the first is the reference", choices=range(4))
    width: int = setting(256, help="width of both towers, a multiple of 4", least=4)
    steps: int = setting(5, help="optimizer steps at each stage; the first has no moments yet", least=2)


@dataclass(frozen=True)
class ProbeBench:
    """Flags of scripts/bench_probe.py."""

    images: int = setting(64, help="JPEGs drawn", least=16)
    dtype: str | None = setting(
        None, help="dtype of the kept tokens' encoder", choices=("bf16", "fp32"), default_text="bf16 if the CPU is fast"
    )


@dataclass(frozen=True)
class TrainingSetsBench:
    """Flags of scripts/bench_training_sets.py."""

    folder: str = setting(help="where the synthetic files are", metavar="DIR", positional=True)
    make: bool = setting(False, help="write them; a folder that has files in it is refused")
