"""Examples for the page: held-out pictures of an embedded world, each with a question about it."""

from pathlib import Path

from vlm.errors import UserError
from vlm.files import read_json

QUESTIONS = "gqa/testdev_balanced_questions.json"
COUNT = 4


def find_world(folder: str, given: str | None) -> Path | None:
    """The world that is given, or one that lies beside a folder around `folder`: runs/world for runs/bridge/x/vlm.

    Raises: UserError if the one that is given is none.
    """
    if given is not None:
        if not (Path(given) / QUESTIONS).is_file():
            raise UserError(f"--world {given} holds no {QUESTIONS}: give a folder made by scripts/make_world.py")
        return Path(given)
    places = [*(parent / "world" for parent in Path(folder).resolve().parents), Path("runs/world")]
    return next((place for place in places if (place / QUESTIONS).is_file()), None)


def examples(world: Path, count: int = COUNT) -> list[tuple[str, str]]:
    """Pairs of a picture's path and a question, of different pictures spread evenly over the held-out ones."""
    first: dict[str, list[str]] = {}
    for question in read_json(world / QUESTIONS).values():
        first.setdefault(question["imageId"], []).append(question["question"])
    pictures = [(world / "gqa/images" / f"{image}.jpg", asked) for image, asked in first.items()]
    pictures = [(path, asked) for path, asked in pictures if path.is_file()]
    step = max(1, len(pictures) // count)
    # Another question of each picture, or all would be of the kind that comes first.
    return [(str(path), asked[i % len(asked)]) for i, (path, asked) in enumerate(pictures[::step][:count])]
