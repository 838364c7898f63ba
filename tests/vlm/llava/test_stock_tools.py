"""What a saved folder does in the hands of transformers alone: batches, and any precision."""

import ast
import subprocess
import sys

import pytest
import torch

from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import new_encoder
from vlm.errors import UserError
from vlm.llava.assembly import assemble
from vlm.llava.model import load
from vlm.llava.parity import check_parity
from vlm.llms.load import load_llm

# Run in a process that knows nothing of this project. The questions differ in length, so that a batch is padded.
STOCK = """
import sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, picture = sys.argv[1:]
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
image = Image.open(picture)
questions = ("Is it?", "What is the color of the thing on the left side of the picture, please?", "Is it red?")
prompts = []
for question in questions:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompts.append(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))

def answers(texts):
    inputs = processor(text=texts, images=[image] * len(texts), padding=True, return_tensors="pt")
    new = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1]:]
    return processor.batch_decode(new, skip_special_tokens=True)

one_by_one, together = [answers([prompt])[0] for prompt in prompts], answers(prompts)
assert "vlm" not in sys.modules
assert processor.tokenizer.padding_side == "left", processor.tokenizer.padding_side
assert one_by_one == together, (one_by_one, together)
print(one_by_one)
"""


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_stock_batch_answers_as_one_by_one(saved, family, picture, tmp_path):
    picture.save(tmp_path / "picture.png")
    call = [sys.executable, "-c", STOCK, str(saved / family), str(tmp_path / "picture.png")]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(set(ast.literal_eval(done.stdout))) > 1  # a batch of equal answers would show nothing


SIZES = {
    "tiny": dict(image_size=24, patch_size=8, vision_width=24, vision_layers=2, vision_heads=2),
    "ViT-B": dict(image_size=224, patch_size=16, vision_width=768, vision_layers=12, vision_heads=12),
}


def bf16_vlm(size, llm_folder):
    """A VLM assembled in fp32 and rounded to bf16, as a run in bf16 leaves it; ViT-B's weights are away from zero."""
    text = dict(text_width=16, text_layers=1, text_heads=1, vocab_size=32, positions=16)
    heads = dict(embed_dim=8, projector_width=8, projector_depth=1)
    encoder = new_encoder(EncoderConfig(**SIZES[size], **text, **heads), seed=3).eval().requires_grad_(False)
    noise = torch.Generator().manual_seed(4)
    for parameter in encoder.vision.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=noise))
    vlm = assemble(encoder, load_llm(str(llm_folder), torch.bfloat16))
    vlm.vision_tower.to(torch.bfloat16)
    return vlm


@pytest.mark.parametrize("size", list(SIZES))
def test_a_folder_written_in_bf16_opens_in_fp32_and_back(size, llm_folders, tmp_path):
    vlm = bf16_vlm(size, llm_folders["qwen2"])
    rounding = check_parity(vlm.model, vlm.fixture)  # against the encoder itself
    vlm.save(tmp_path / "bf16")
    full = load(tmp_path / "bf16", "cpu", torch.float32)
    assert check_parity(full.model, full.fixture) < 1e-5 < rounding
    full.save(tmp_path / "fp32")
    for dtype in (torch.bfloat16, torch.float32):
        again = load(tmp_path / "fp32", "cpu", dtype)
        assert again.vision_tower.dtype == dtype
        weights = zip(again.vision_tower.state_dict().values(), vlm.vision_tower.state_dict().values())
        assert all(torch.equal(one.float(), other.float()) for one, other in weights)


def test_another_weight_is_still_noticed_in_fp32(llm_folders, tmp_path):
    vlm = bf16_vlm("tiny", llm_folders["qwen2"])
    vlm.save(tmp_path)
    full = load(tmp_path, "cpu", torch.float32)
    full.vision_tower.layers[1].mlp.fc1.weight.data *= 1.05
    with pytest.raises(UserError, match=r"other features .* allowed 0\.001"):
        check_parity(full.model, full.fixture)
