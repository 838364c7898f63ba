"""Can this machine run the commands: versions, devices, memory, and the optional extras."""

import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from vlm.apps.doctor.findings import Finding, Findings, attempt, judged
from vlm.llms.precision import default_dtype
from vlm.run.compiler import lacking
from vlm.run.shared_memory import left_buffers

GIB = 1 << 30
SHARED_MEMORY = 1 * GIB  # workers of a loader pass batches through it; a container has 64 MiB unless told otherwise
ROOM = 5 * GIB  # on the disk
TRANSFORMERS = "5.18"  # before it, LLaVA reads features without the final norm in silence
# What an extra is for.
EXTRAS = {
    "pretrain": "pretraining under deepspeed, and TensorBoard",
    "serve": "transformers serve",
    "web": "vlm web",
    "gguf": "asking llama.cpp about vlm export --format gguf",
    "quant": "--load-in 4bit or 8bit",
    "s3": "s3:// shards",
    "gcs": "gs:// shards",
    "dev": "the tests",
}


def findings() -> Findings:
    """All checks of the environment."""
    yield from attempt("python", _python)
    yield from attempt("transformers", _transformers)
    yield from attempt("packages", _packages)
    yield from attempt("device", _devices)
    yield from attempt("compiler", _compiler)
    yield from attempt("shared memory", lambda: _shared_memory(Path("/dev/shm")))
    yield from attempt("shared memory", _left_buffers)
    yield from attempt("disk", _disk)
    yield from attempt("hub", _hub)
    yield from attempt("extras", _extras)


def _python() -> Findings:
    here = f"{platform.python_version()} on {platform.system()} {platform.machine()}, levlm {version('levlm')}"
    enough = tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 10)
    yield judged(enough, "python", here, "install Python 3.10 or later", "FAIL")


def _transformers() -> Findings:
    found = version("transformers")
    good = Version(found).release >= Version(TRANSFORMERS).release
    advice = f"below {TRANSFORMERS}, LLaVA reads other features in silence; pip install 'transformers>={TRANSFORMERS}'"
    yield judged(good, "transformers", f"{found}, {TRANSFORMERS} or later is needed", advice, "FAIL")


def _required() -> dict[str, list[Requirement]]:
    """What levlm requires, by extra; "" is always required."""
    found: dict[str, list[Requirement]] = {}
    for text in requires("levlm") or []:
        need = Requirement(text)
        extra = re.search(r'extra\s*==\s*[\'"]([^\'"]+)', text)
        found.setdefault(extra[1] if extra else "", []).append(need)
    return found


def _state(need: Requirement) -> tuple[str, bool]:
    """ "torch 2.14.1", and whether it satisfies the requirement."""
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return f"{need.name} is not installed", False
    if need.specifier.contains(found, prereleases=True):
        return f"{need.name} {found}", True
    return f"{need.name} {found} is not {need.specifier}", False


def _packages() -> Findings:
    """The required packages but for transformers, which has a line of its own."""
    states = [_state(need) for need in _required().get("", []) if need.name != "transformers"]
    wrong = [text for text, good in states if not good]
    for text in wrong:
        yield Finding("FAIL", "packages", f"{text}: pip install -e .")
    if not wrong:
        yield Finding("OK", "packages", ", ".join(text for text, _ in states))


def _devices() -> Findings:
    """CPU, and each GPU or why there is none."""
    dtype = str(default_dtype("cpu")).removeprefix("torch.")
    yield Finding("OK", "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, models in {dtype}")
    if not torch.cuda.is_available():
        text = f"none, torch {torch.__version__} sees no GPU: everything runs on the CPU"
        build = torch.version.cuda or torch.version.hip
        if torch.backends.mps.is_available():
            yield Finding("OK", "gpu", "Apple's: give --device mps")
        elif shutil.which("nvidia-smi"):
            why = f"is built for CUDA {build}: update the driver" if build else "is built for CPUs: install another"
            yield Finding("warn", "gpu", f"{text}, but nvidia-smi is here. This torch {why}")
        else:
            yield Finding("OK", "gpu", text)
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        dtype = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        name = torch.cuda.get_device_name(index)
        text = f"{name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free, models in {dtype}"
        yield judged(free > total / 10, f"cuda:{index}", text, "another process has it; take another --device")


def _compiler() -> Findings:
    """Whether --compile works here: pretraining takes it on a GPU unless told otherwise."""
    on_gpu = torch.cuda.is_available()
    lack = lacking("cuda" if on_gpu else "cpu")
    if lack and on_gpu:
        yield Finding("warn", "compiler", f"pretraining runs uncompiled, and --compile is refused: {lack}")
    elif lack:
        yield Finding("OK", "compiler", f"none, and needed only for --compile: {lack}")
    else:
        yield Finding("OK", "compiler", "torch.compile has what it needs, for --compile")


def _shared_memory(path: Path) -> Findings:
    if not path.is_dir():
        yield Finding("OK", "shared memory", f"this system has no {path}")
        return
    size = os.statvfs(path)
    total, free = (count * size.f_frsize for count in (size.f_blocks, size.f_bavail))
    text = f"{path} has {total / GIB:.2g} GiB, {free / GIB:.2g} free"
    advice = "loader workers pass batches through it; docker run --shm-size=8g (or --ipc=host), or fewer --workers"
    yield judged(total >= SHARED_MEMORY and free >= SHARED_MEMORY / 2, "shared memory", text, advice)


def _left_buffers() -> Findings:
    if left := left_buffers():
        size = sum(path.stat().st_size for path in left) / GIB
        text = f"{len(left)} buffers of DeepSpeed runs that have ended fill {size:.2g} GiB of /dev/shm"
        yield Finding("warn", "shared memory", f"{text}: the next pretraining removes them, or rm {left[0]} ...")


def _disk() -> Findings:
    free = shutil.disk_usage(".").free
    advice = "a run needs room for two checkpoints and its caches; make some, or give --out on another disk"
    yield judged(free >= ROOM, "disk", f"{free / GIB:.0f} GiB free here", advice)


def _hub() -> Findings:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    models = sum(1 for _ in cache.glob("models--*")) if cache.is_dir() else 0
    yield Finding("OK", "hub", f"{models} models in the cache {cache} (HF_HOME moves it)")


def _extras() -> Findings:
    """Each extra of the installation: present, absent, or too old."""
    for extra, needs in sorted(_required().items()):
        if not extra:
            continue
        states = [_state(need) for need in needs]
        name, purpose = f"extra [{extra}]", EXTRAS.get(extra, "see pyproject.toml")
        install = f"pip install -e '.[{extra}]'"
        if all(good for _, good in states):
            yield Finding("OK", name, f"{', '.join(text for text, _ in states)}: for {purpose}")
        elif all(text.endswith("is not installed") for text, _ in states):
            yield Finding("OK", name, f"not installed, and needed only for {purpose}: {install}")
        else:
            missing = ", ".join(text for text, good in states if not good)
            yield Finding("warn", name, f"{missing}; needed for {purpose}: {install}")
