"""`vlm doctor`: checks that a VLM folder is what it was when it was made, and shows what training is given."""

import os
import sys

from vlm.errors import UserError
from vlm.files import read_json
from vlm.llava.folder import load_processor
from vlm.llava.model import load
from vlm.llava.parity import check_parity
from vlm.llms.prompt import Prompts, briefly


def check(folder: str) -> None:
    """Print one line a check, and raise `UserError` at the first that fails."""
    vlm = load(folder)
    if vlm.fixture is None:
        print("vision tower: not checked, the folder has no parity.safetensors")
    else:
        print(f"vision tower: gives the encoder's features (relative error {check_parity(vlm.model, vlm.fixture):.1e})")
    ids, prompt = vlm.conversation_ids("What color is the car?", "red")
    slots = ids.count(vlm.processor.image_token_id)
    print(
        f"chat template: a prompt of {prompt} tokens, {slots} of them the image; the answer follows it token by token"
    )
    end, stops = ids[-1], vlm.model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    if end not in stops:
        raise UserError(f"{folder}: a turn ends with token {end}, but generation stops only at {stops}; train again")
    print(f"generation: stops at {vlm.processor.tokenizer.convert_ids_to_tokens(end)!r}, which ends a turn")


def show_labels(folder: str, question: str, answer: str) -> None:
    """Print a GQA, VQAv2 or POPE question as its token ids decode, supervised tokens in colour, then one a line."""
    processor = load_processor(folder)
    prompts = Prompts(processor, read_json(f"{folder}/config.json")["image_seq_length"])
    ids, prompt = prompts.conversation_ids(briefly(question), answer)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    start, stop = ("\033[1;32m", "\033[0m") if colour else ("[[", "]]")
    text, slots = processor.tokenizer.decode(ids[:prompt]), ids.count(processor.image_token_id)
    text = text.replace(processor.image_token * slots, f"<{slots} image slots>")
    print(text + start + processor.tokenizer.decode(ids[prompt:]) + stop)
    print(f"\n{prompt} tokens of prompt, {len(ids) - prompt} supervised:")
    for index in ids[prompt:]:
        print(f"{index:8d}  {processor.tokenizer.decode([index])!r}")
