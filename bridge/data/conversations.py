"""LLaVA's instruction files -> `Example`."""

import sys
from pathlib import Path

from bridge.data.example import Example
from bridge.data.image_folder import ImageFolder, checked
from bridge.data.records import field, text_field
from vlm.errors import UserError
from vlm.files import read_json

LLAVA_FORMAT_PROMPT = "\nAnswer the question using a single word or phrase."


def llava(file: str | Path, images: str | Path) -> list[Example]:
    """A LLaVA-instruct JSON: each (human, gpt) pair of turns becomes one isolated question, id `{index}:{turn}`.

    `<image>` and LLaVA's one-word prompt are cut from the human's text: the chat template writes them. Records without
    an image (ShareGPT in the 665k mix) are left out, and their number is said.
    """
    records = read_json(file)
    if not isinstance(records, list):
        raise UserError(f"{file} is not a LLaVA instruction file: it must be a list of records with `conversations`")
    folder = ImageFolder(Path(images))
    examples = []
    for index, record in enumerate(records):
        where = f"{file}, record {index}"
        turns = field(record, "conversations", (list,), where)
        if "image" not in record:
            continue
        image = folder.find(text_field(record, "image", where))
        speakers = [field(turn, "from", (str,), where) for turn in turns]
        if speakers != ["human", "gpt"] * (len(turns) // 2):
            raise UserError(f"{where}: turns must alternate human, gpt, but are {speakers[:6]}")
        values = [text_field(turn, "value", where) for turn in turns]
        for turn, (question, answer) in enumerate(zip(values[0::2], values[1::2])):
            question = question.replace("<image>", "").strip().removesuffix(LLAVA_FORMAT_PROMPT)
            examples.append(Example(f"{index}:{turn}", image, question, answer))
    if text_only := sum("image" not in record for record in records):
        print(f"{file}: {text_only} of {len(records)} records have no image and are left out", file=sys.stderr)
    return checked(examples, folder, Path(file), allow_missing=False)
