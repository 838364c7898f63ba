"""A conversation as training sees it: which of its tokens are supervised."""

from typing import Any

from vlm.apps.doctor.findings import coloured
from vlm.errors import UserError
from vlm.files import read_json
from vlm.llava.folder import load_processor, local_folder
from vlm.llms.prompt import Prompts, briefly


def decoded(processor: Any, ids: list[int], prompt: int) -> tuple[str, str]:
    """The text of `prompt` ids, its image slots as one word, and the supervised text, in colour or in [[ ]]."""
    start, stop = ("\033[1;32m", "\033[0m") if coloured() else ("[[", "]]")
    text, slots = processor.tokenizer.decode(ids[:prompt]), ids.count(processor.image_token_id)
    text = text.replace(processor.image_token * slots, f"<{slots} image slots>")
    return text, start + processor.tokenizer.decode(ids[prompt:]) + stop


def show_labels(name: str, question: str, answer: str) -> None:
    """Print a GQA, VQAv2 or POPE question as its token ids decode, supervised tokens in colour, then one a line.

    Raises: UserError if `name` is no VLM's folder or hub id, or a text is empty or holds a control token.
    """
    folder = local_folder(name)
    processor = load_processor(folder)
    slots = read_json(folder / "config.json").get("image_seq_length")
    if not isinstance(slots, int):
        raise UserError(f"{folder}/config.json does not say image_seq_length: copy or train the VLM again")
    prompts = Prompts(processor, slots)
    prompts.check_text(question)  # with the sentence behind it, it would not be empty
    ids, prompt = prompts.conversation_ids(briefly(question), answer)
    text, supervised = decoded(processor, ids, prompt)
    print(text + supervised)
    print(f"\n{prompt} tokens of prompt, {len(ids) - prompt} supervised:")
    for index in ids[prompt:]:
        print(f"{index:8d}  {processor.tokenizer.decode([index])!r}")
