"""Hostile files, pictures, tables, names and templates through the real commands.

Each must end in one clear line and exit code 2 (or a FAIL of `vlm doctor`), within `BOUND` seconds, and nothing in them
may run: what could run makes the file EXECUTED in the fault's folder. Commands run in one resident process.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from faults import hostile
from faults.fault import Fault, Sweep, demand
from faults.resident import Resident

BOUND = 120  # seconds; alone on two cores the slowest takes 6
BUILDING = 600  # for the first, which imports everything
CHAT = ("vlm.cli:main", "chat", "{vlm}", "--image", "{picture}", "--question", "Is it red?")
DOCTOR = ("vlm.cli:main", "doctor", "{vlm}")
FEATURES = ("vlm.cli:main", "features", "{encoder}", "{picture}", "--out", "{folder}/out.png")
STOCK = ("vlm.cli:main", "features", "hf:{hf}", "{picture}", "--out", "{folder}/out.png")
UNTRAINED = ("vlm.cli:main", "features", "random:hf:{hf}", "{picture}", "--out", "{folder}/out.png")
BRIDGE = ("bridge.train:main", "--llm", "{llm}", "--encoder", "{encoder}", "--gqa", "{gqa}", "--steps", "1",
          "--batch-questions", "2", "--out", "{folder}/run", "--tracker", "none")  # fmt: skip
EVALUATE = ("bridge.evaluate:main", "{vlm}", "--gqa", "{gqa}", "--out", "{folder}/eval")
# Reads every pair, which a plan would not.
RETRIEVAL = ("pretrain.probe:main", "{encoder}", "--task", "retrieval", "--data", "{pairs}")
PIPE = (*RETRIEVAL[:-1], 'pipe:touch "$EXECUTED"')
PARTS = ("encoder", "hf", "llm", "vlm", "gqa", "pairs", "picture")
Damage = Callable[[Path, Path], Any]  # the copied part, the fault's folder -> other arguments, if any

CODE: dict[str, tuple[str, tuple[str, ...], Damage]] = {
    "the weights of an LLM": ("llm", BRIDGE, partial(hostile.pickled, "model.safetensors")),
    "pytorch_model.bin of an LLM": ("llm", BRIDGE, partial(hostile.only_pickled, "pytorch_model.bin")),
    "the weights of a VLM": ("vlm", CHAT, partial(hostile.pickled, "model.safetensors")),
    "pytorch_model.bin of a VLM": ("vlm", CHAT, partial(hostile.only_pickled, "pytorch_model.bin")),
    "parity.safetensors of a VLM": ("vlm", CHAT, partial(hostile.pickled, "parity.safetensors")),
    "the weights of an encoder": ("encoder", FEATURES, partial(hostile.pickled, "vision_encoder.safetensors")),
    "Python of an LLM's repository": ("llm", BRIDGE, hostile.auto_map),
    "Python of a VLM's processor": ("vlm", CHAT, hostile.own_processor),
    "pickled members of a tar": ("pairs", RETRIEVAL, hostile.members),
    "a pipe in --data": ("", PIPE, hostile.nothing),
    "the model card of an encoder": ("encoder", ("vlm.cli:main", "doctor", "{encoder}"), hostile.card),
}


def faults(settings: Sweep) -> Iterator[Fault]:
    for number, (name, part, command, damage) in enumerate(_inputs()):
        yield Fault(f"input: {name}", number, partial(strike, settings, part, command, damage))


def _inputs() -> Iterator[tuple[str, str, tuple[str, ...], Damage]]:
    """The name, the part that is damaged, the command, and the damage of every input."""
    configs = (("encoder", FEATURES, hostile.ENCODER), ("llm", BRIDGE, hostile.LLM), ("vlm", CHAT, hostile.VLM),
               ("hf", STOCK, hostile.VIT), ("hf", UNTRAINED, hostile.VIT))  # fmt: skip
    for part, command, keys in configs:
        for index, key in enumerate(keys):
            for turn in range(3):
                name, value = hostile.VALUES[(3 * index + turn) % len(hostile.VALUES)]
                yield (
                    f"{part}/config.json, {'.'.join(key)} is {name}", part, command,
                    partial(hostile.put, "config.json", key, value),
                )  # fmt: skip
    files = (
        ("encoder", FEATURES, "config.json"), ("hf", STOCK, "config.json"), ("hf", STOCK, "preprocessor_config.json"),
        ("llm", BRIDGE, "config.json"), ("llm", BRIDGE, "tokenizer_config.json"), ("llm", BRIDGE, "tokenizer.json"),
        ("vlm", CHAT, "processor_config.json"), ("vlm", DOCTOR, "config.json"),
        ("gqa", BRIDGE, "train_balanced_questions.json"), ("gqa", EVALUATE, "testdev_balanced_questions.json"),
    )  # fmt: skip
    for number, (part, command, file) in enumerate(files):
        for turn in range(5):
            name, make = hostile.FILES[(5 * number + turn) % len(hostile.FILES)]
            yield f"{part}/{file} is {name}", part, command, partial(hostile.replace, file, make)
    for name, template in hostile.TEMPLATES.items():
        yield f"llm chat template: {name}", "llm", BRIDGE, partial(hostile.template, template)
        yield f"vlm chat template: {name}", "vlm", CHAT, partial(hostile.template, template)
    yield "doctor of a vlm whose template loops", "vlm", DOCTOR, partial(hostile.template, hostile.LOOP)
    yield "evaluation of a vlm whose template loops", "vlm", EVALUATE, partial(hostile.template, hostile.LOOP)
    for name, make in hostile.PICTURES.items():
        yield f"picture is {name}", "picture", CHAT, make
        yield f"picture to draw is {name}", "picture", FEATURES, make
    for name, path in hostile.ROWS.items():
        yield f"rows of a table name {name}", "pairs", RETRIEVAL, partial(hostile.rows, path)
    for name, (part, command, damage) in CODE.items():
        yield f"code in {name}", part, command, damage
    for name, size in hostile.GGUF:
        command = tuple("{folder}/a.gguf" if word == "{llm}" else word for word in BRIDGE)
        yield f"a GGUF file's {name} is {size:,}", "", command, partial(hostile.gguf, name, size)
    for name in hostile.NAMES:
        yield f"model called {name!a}", "", tuple(name if word == "{vlm}" else word for word in CHAT), hostile.nothing
        yield f"encoder called {name!a}", "", tuple(name if w == "{encoder}" else w for w in FEATURES), hostile.nothing


def strike(settings: Sweep, part: str, command: tuple[str, ...], damage: Damage, folder: Path) -> str:
    whole = parts(settings)
    places = {name: whole / name for name in PARTS} | {"folder": folder, "picture": whole / "picture.png"}
    if part == "picture":
        places[part] = folder / "picture.png"
    elif part:
        places[part] = folder / part
        shutil.copytree(whole / part, places[part])
    damage(places.get(part, folder), folder)
    marker = folder / "EXECUTED"
    code, text = told(settings, {"command": [word.format(**places) for word in command], "marker": str(marker)})
    demand(not marker.exists(), "EXECUTED")
    lines = [line for line in text.splitlines() if line.strip()]
    clear = code == 2 and lines and lines[-1].startswith("error: ") and "Traceback" not in text
    clear = clear or (code == 1 and any(line.startswith("FAIL") for line in lines) and "Traceback" not in text)
    if code == 0 and "Traceback" not in text:
        return "used"  # such as a table whose bad rows are left out
    demand(bool(clear), f"no clear line, exit code {code}: {' '.join(text.split())[-300:]}")
    return lines[-1][:200]


@cache
def resident(settings: Sweep) -> Resident:
    """What runs the commands; a new one if a command does not come back."""
    process = Resident("faults.inputs_resident", settings.shared / "inputs.log")
    settings.at_end(process.end)
    return process


def told(settings: Sweep, job: dict, bound: float = BOUND) -> tuple[int, str]:
    """The exit code of a job, and what it printed."""
    resident(settings).give(job)
    return resident(settings).answer(bound)


@cache
def parts(settings: Sweep) -> Path:
    """The whole models and data, built once."""
    folder = settings.shared / "inputs"
    folder.mkdir()
    told(settings, {"build": str(folder)}, BUILDING)
    return folder
