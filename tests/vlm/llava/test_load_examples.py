"""A saved VLM is loaded with smollm2's worked examples, or without them to be trained."""

import torch

from vlm.llava.model import load
from vlm.llms.prompt import build_template


def test_worked_examples_stay_unless_the_language_model_is_trained(tiny_vlm, tmp_path):
    vlm = load(tiny_vlm, "cpu", torch.float32)
    full, bare = (build_template(vlm.processor.image_token, wording=wording) for wording in
                  (("smollm2_examples", "smollm2"), ("smollm2",)))  # fmt: skip
    vlm.processor.chat_template = vlm.processor.tokenizer.chat_template = full
    vlm.save(tmp_path / "vlm")
    assert load(tmp_path / "vlm", "cpu", torch.float32).processor.chat_template == full
    trained = load(tmp_path / "vlm", "cpu", torch.float32, examples=False)
    assert trained.processor.chat_template == trained.processor.tokenizer.chat_template == bare
    text = trained.processor.tokenizer.decode(trained.prompt_ids("Is it red?", images=0))
    assert text == "\nIs it red? Answer:"
