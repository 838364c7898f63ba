"""Time and memory of opening GQA's and VQAv2's training questions at their real size."""

import json
import os
import resource
import time
from pathlib import Path

from world.making import vacant

from bench.harness import Goals
from bench.settings import TrainingSetsBench
from vlm.errors import UserError

GQA, GQA_IMAGES, VQAV2, VQAV2_IMAGES = 943_000, 72_140, 443_757, 82_783
SEMANTIC = [
    {"operation": "select", "argument": f"wooden table ({number})", "dependencies": [number]} for number in range(3)
]


def run(settings: TrainingSetsBench) -> Goals:
    """Write the files, or open them and print what that takes. There is nothing to compare with, and so no verdict.

    Raises: UserError if the folder to write has files in it, or the one to open has none of these.
    """
    folder = Path(settings.folder)
    if settings.make:  # real downloads have the names of the files that are written
        make(vacant(settings.folder))
    elif (folder / "gqa").is_dir():
        open_sets(folder)
    else:
        raise UserError(f"{folder} has no synthetic files: write them with --make")
    return Goals()


def make(root: Path) -> None:
    """Write files with as many records as the official ones, of about their size, and empty image files."""
    for folder in ("gqa/images", "vqav2/train2014"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for image in range(GQA_IMAGES):
        (root / f"gqa/images/{2_300_000 + image}.jpg").touch()
    for image in range(VQAV2_IMAGES):
        (root / f"vqav2/train2014/COCO_train2014_{image:012d}.jpg").touch()
    with open(root / "gqa/train_balanced_questions.json", "w", encoding="utf-8") as file:
        for number in range(GQA):
            file.write(("{" if number == 0 else ", ") + json.dumps(f"0{number:08d}") + ": " + json.dumps(_gqa(number)))
        file.write("}")
    questions, annotations = [], []
    for number in range(VQAV2):
        key, image = number * 10, number * VQAV2_IMAGES // VQAV2
        questions.append({"image_id": image, "question": f"What color is the thing {number}?", "question_id": key})
        votes = [
            {"answer": f"a{(number + n // 7) % 999}", "answer_confidence": "yes", "answer_id": n} for n in range(10)
        ]
        annotation = {"question_type": "what color is the", "answer_type": "other", "image_id": image}
        annotation |= {"multiple_choice_answer": votes[0]["answer"], "answers": votes, "question_id": key}
        annotations.append(annotation)
    for name, kind, records in (
        ("v2_OpenEnded_mscoco_train2014_questions", "questions", questions),
        ("v2_mscoco_train2014_annotations", "annotations", annotations),
    ):
        (root / f"vqav2/{name}.json").write_text(json.dumps({kind: records}), encoding="utf-8")


def _gqa(number: int) -> dict:
    return {
        "semantic": SEMANTIC, "entailed": [f"0{number + n:08d}" for n in range(4)], "equivalent": [f"0{number:08d}"],
        "question": f"Is the small wooden table number {number} to the left of the chair?",
        "answer": f"word{number % 1800}",
        "imageId": str(2_300_000 + number * GQA_IMAGES // GQA), "isBalanced": True,
        "semanticStr": "select: table->verify",
        "groups": {"global": "furniture", "local": "06-table_left"},
        "annotations": {"answer": {"0": "681267"}, "question": {"4": "681267"}, "fullAnswer": {"4": "681267"}},
        "types": {"detailed": "relS", "semantic": "rel", "structural": "query"},
        "fullAnswer": "Yes, the table is to the left of the chair.",
    }  # fmt: skip


def open_sets(root: Path) -> None:
    """Read, judge, digest and schedule as bridge/train.py does before the model is loaded."""
    from bridge.config import BridgeConfig
    from bridge.digests import questions_digest
    from bridge.loop import scheduled_steps
    from bridge.train import load_examples

    before = _anonymous()
    start = time.perf_counter()
    config = BridgeConfig(gqa=str(root / "gqa"), vqav2=str(root / "vqav2"), out=str(root / "run"))
    mixture = load_examples(config)
    read = time.perf_counter()
    digest = questions_digest(mixture, votes=False)
    steps = scheduled_steps(config, mixture, 196)
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"rank {os.environ.get('RANK', 0)}: {len(mixture.examples):,} questions in {len(steps):,} steps, "
        f"{digest}: read {read - start:.1f} s, "
        f"digest and schedule {end - read:.1f} s; {_anonymous() - before:.2f} GB its own, peak {peak:.2f} GB resident"
    )


def _anonymous() -> float:
    """GB that are this process's alone; mapped files are not."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e6
