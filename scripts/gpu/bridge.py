"""The bridge's step at Qwen2.5-1.5B's sizes: eight ranks by simulation, speed beside LLaVA's ways, masks, 4 bits."""

import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from bench.bridge import ERROR, MERGED, PEAK, REFERENCE, UTILISATION, differences
from bench.bridge_flops import bridge_flops, merged_flops, reference_flops
from bench.bridge_ways import SLOTS, Bridge, MergedConversation, OneQuestionASequence, Way, frozen_model, model_config
from bench.settings import BRIDGE_CASES, BRIDGE_LAYERS
from transformers import AutoModelForImageTextToText, LlavaConfig

from bridge.config import BATCH, BridgeConfig
from bridge.loop import prefetched
from bridge.plan import load_of, published_rows
from gpu import bridge_attention
from gpu.check import Check
from vlm.llava.folder import KEEP_FULL
from vlm.llms.precision import keep_layout, quantised

# Of one H100 SXM, which calls itself so, at GQA's 13 questions an image.
GOAL_DEVICE, QUESTIONS_A_SECOND = "H100 80GB HBM3", 1960
RANKS, SPEED_UP = 8, 7
SMOKE = (
    dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, vocab_size=200),
    dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_hidden_layers=2),
)
OURS, COMPILED = "bridge", "bridge --compile"
# What each way is given of the step: the last one, several times as slow, a quarter.
WAYS: dict[str, tuple[type[Way], int]] = {
    OURS: (Bridge, 1),
    COMPILED: (Bridge, 1),
    MERGED: (MergedConversation, 1),
    REFERENCE: (OneQuestionASequence, 4),
}


def measure(check: Check) -> None:
    ranks(check)
    parity(check)
    for case in BRIDGE_CASES:
        speeds(check, case)
    bridge_attention.measure(check, sizes(check, 4), step_of(check, "gqa"))
    four_bits(check)


def sizes(check: Check, layers: int) -> LlavaConfig:
    """The model's, with so many layers."""
    return model_config(2, *SMOKE) if check.smoke else model_config(layers)


def step_of(check: Check, case: str) -> tuple[int, ...]:
    """How many questions are asked about each image of a default step on a large data set."""
    once = BRIDGE_CASES[case].questions
    return once * (40 // sum(once) if check.smoke else BATCH[1] // sum(once))


def ranks(check: Check) -> None:
    """Tokens of one process over those of the slowest of several, as a step of GQA and VQAv2 is dealt out to them."""
    rows, budget = published_rows(BridgeConfig(), SLOTS), BridgeConfig().micro_tokens
    alone, several = load_of(rows, 1, budget), load_of(rows, RANKS, budget)
    speed_up = RANKS * several.balance * (1 - several.padding) / (1 - alone.padding)
    values = {"balance": several.balance, "padding": several.padding, "speed_up": speed_up}
    check.note("bridge", f"{RANKS} ranks, simulated", speed_up >= SPEED_UP, **values)


def parity(check: Check) -> None:
    """The same questions packed and one a sequence, in float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    loss, gradient = differences(sizes(check, 2), (13, 5), check.device)
    torch.backends.cudnn.allow_tf32 = before
    passed = loss <= ERROR and gradient <= ERROR
    check.note("bridge", f"float32 against {REFERENCE}", passed, loss_error=loss, gradient_error=gradient)
    check.free()


def speeds(check: Check, case: str) -> None:
    """A row for each way on the same questions, and ratios."""
    rates = {}
    for name in WAYS:
        if name == COMPILED and not check.on_gpu:
            check.note("bridge", f"{case}, {name}", skipped="on a GPU alone: a CPU compiles 28 layers for minutes")
            continue
        try:
            rates[name] = _speed(check, case, name)
        except torch.OutOfMemoryError:
            check.note("bridge", f"{case}, {name}", out_of_memory=True)
        check.free()
    for name in (COMPILED, MERGED, REFERENCE):
        if {OURS, name} <= rates.keys():
            check.note("bridge", f"{case}, bridge over {name}", ratio=rates[OURS] / rates[name])


def _speed(check: Check, case: str, name: str) -> float:
    """One row; questions a second."""
    kind, part = WAYS[name]
    config, questions = sizes(check, BRIDGE_LAYERS), step_of(check, case)
    questions = questions[: max(1, len(questions) // part)]
    with tempfile.TemporaryDirectory() as folder:
        way = kind(frozen_model(config, torch.bfloat16, check.device), questions, Path(folder))
        if isinstance(way, Bridge) and name == COMPILED:
            way.compile()
        step = prepared_ahead(way) if isinstance(way, Bridge) else way.step
        start = time.perf_counter()
        memory = check.peak_gib(step)  # and it is warm
        first = {"first_step_s": time.perf_counter() - start} if name == COMPILED else {}
        took = check.pipelined(step, 1 if check.smoke else 3, warm=0)
        idle = check.idle(step) if name in (OURS, COMPILED) else {}
    asked, passed = sum(questions), None
    values = {"questions": asked, "questions_per_s": asked / took, "tokens_per_s": way.tokens / took}
    values |= {"step_ms": 1e3 * took, "peak_gib": memory}
    if not check.smoke:
        ours = partial(bridge_flops, device=check.device.type)
        operations = {OURS: ours, COMPILED: ours, MERGED: merged_flops, REFERENCE: reference_flops}[name]
        rate = sum(operations(questions, config).values()) / took
        values |= {"tflops": rate / 1e12, "mfu": rate / PEAK}
        if name == OURS and case == "gqa":
            passed = reached(check.name, rate / PEAK, asked / took)
    check.note("bridge", f"{case}, {name}", passed, **values, **first, **idle)
    return asked / took


def reached(device: str, mfu: float, questions_a_second: float) -> bool | None:
    """Whether the goal is reached; None on a device that has none."""
    return mfu >= UTILISATION and questions_a_second >= QUESTIONS_A_SECOND if GOAL_DEVICE in device else None


def prepared_ahead(bridge: Bridge) -> Callable[[], torch.Tensor]:
    """A step as the loop makes it: threads pack it and read its features while the one before is trained on."""
    data = prefetched([()] * 1000, lambda _: bridge.prepare())
    return lambda: bridge.train(next(data))


def four_bits(check: Check) -> None:
    """The LLM in 4 bits: seconds to load it, what it weighs, a step."""
    if find_spec("bitsandbytes") is None:
        check.note("bridge", "4 bits", skipped="bitsandbytes is not installed: scripts/gpu_wheels.sh carries it")
        return
    config, questions = sizes(check, BRIDGE_LAYERS), step_of(check, "gqa")
    chosen = torch.cuda.device(check.device) if check.on_gpu else nullcontext()
    with tempfile.TemporaryDirectory() as folder, chosen:
        frozen_model(config, torch.bfloat16, check.device).save_pretrained(folder)
        check.free()
        start = time.perf_counter()
        quantisation = quantised("4bit", torch.bfloat16, KEEP_FULL)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16, **quantisation)
        keep_layout(model)
        check.sync()
        values: dict[str, Any] = {"load_s": time.perf_counter() - start, "loaded_gib": check.peak_gib(lambda: None)}
        step = prepared_ahead(Bridge(model, questions, Path(folder)))
        memory, took = check.peak_gib(step), check.pipelined(step, 2, warm=0)
    values |= {"questions_per_s": sum(questions) / took, "peak_gib": memory}
    layers = sum(type(module).__name__ == "Linear4bit" for module in model.modules())
    check.note("bridge", "4 bits", layers=layers, **values)
