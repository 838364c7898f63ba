"""What a saved folder does in the hands of transformers alone: every way to ask it, and any precision."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, GenerationConfig

from vlm.encoders.config import EncoderConfig
from vlm.encoders.levljepa import new_encoder
from vlm.errors import UserError
from vlm.llava import parity
from vlm.llava.assembly import assemble
from vlm.llava.model import load
from vlm.llava.parity import check_parity
from vlm.llms.load import load_llm

STOCK = Path(__file__).with_name("stock_calls.py")
SHORT = "Answer the question using a single word or phrase."
# As lmms-eval words GQA, POPE and VQAv2; the questions differ in length, so that a batch is padded.
QUESTIONS = [
    f"Is it?\n{SHORT}",
    f"What is the color of the thing on the left side of the picture, please?\n{SHORT}",
    f"Is there a star in the image?\n{SHORT}",
]


@pytest.fixture(scope="module")
def smollm2(encoder, tmp_path_factory):
    """The real SmolLM2 in a saved VLM: its text format ends an answer with a newline."""
    model = assemble(encoder, load_llm("smollm2", torch.float32))
    folder = tmp_path_factory.mktemp("smollm2") / "vlm"
    model.save(folder)
    return folder


def stock(folder, picture, tmp_path):
    """What `stock_calls.py` gives in a process with transformers alone; pictures shrunk, enlarged and as they are."""
    files = [tmp_path / f"{size}.png" for size in ("large", "small", "same")]
    for file, size in zip(files, [(70, 50), (11, 9), (24, 24)]):
        picture.resize(size).save(file)
    questions = list(zip(map(str, files), QUESTIONS))
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    call = [sys.executable, str(STOCK), str(folder), str(tmp_path / "questions.json")]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    return questions, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "smollm2"])
def test_stock_tools_get_the_answers_of_this_project(saved, smollm2, family, picture, tmp_path):
    folder = smollm2 if family == "smollm2" else saved / family
    questions, found = stock(folder, picture, tmp_path)
    ours = load(folder, "cpu", torch.float32)
    expected = [ours.answer(*question, max_new_tokens=6) for question in questions]
    assert len(set(expected)) > 1  # equal answers would show nothing
    for way, answers in found["answers"].items():
        assert [answer.strip() for answer in answers] == expected, way
        assert not any(answer.endswith("\n") for answer in answers) or family != "smollm2", way
    prompts = [ours.prompt_ids(question) for _, question in questions]
    assert found["ids"] == found["lmms ids"] == prompts
    for (file, _), pixels in zip(questions, found["pixels"]):
        served = ours.processor.image_processor(images=Image.open(file), return_tensors="pt").pixel_values[0]
        assert torch.equal(torch.tensor(pixels), served)


# What a turn ends with, its id, the ids that stop generation, and the id that pads.
ENDS = {
    "llama": ("<|eot_id|>", 320, [320], 320),
    "qwen2": ("<|im_end|>", 319, [319], 317),
    "qwen3": ("<|im_end|>", 319, [319], 319),
    "smollm2": ("Ċ", 198, [198, 2], 2),
}


@pytest.mark.parametrize("family", list(ENDS))
def test_what_ends_a_turn_is_the_same_everywhere(saved, smollm2, family):
    """In the template, the tokenizer, the generation config and the ids that are trained on."""
    folder = smollm2 if family == "smollm2" else saved / family
    token, end, stops, pad = ENDS[family]
    tokenizer, config = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == (token, end, pad)
    assert (config.eos_token_id, config.pad_token_id, config.do_sample) == (stops, pad, False)
    ours = load(folder, "cpu", torch.float32)
    assert ours.prompts.end_ids[0] == end == ours.conversation_ids("Is it?", "yes")[0][-1]
    assert tokenizer.decode([end], skip_special_tokens=True) == ""


@pytest.mark.parametrize("family", list(ENDS))
def test_what_is_set_is_what_is_reloaded(models, saved, smollm2, encoder, family):
    folder = smollm2 if family == "smollm2" else saved / family
    made = assemble(encoder, load_llm("smollm2", torch.float32)) if family == "smollm2" else models[family]
    again = AutoProcessor.from_pretrained(folder)
    assert type(again.image_processor) is type(made.processor.image_processor)
    assert again.image_processor.to_dict() == made.processor.image_processor.to_dict()
    for name in ("chat_template", "image_token", "image_token_id", "patch_size", "num_additional_image_tokens"):
        assert getattr(again, name) == getattr(made.processor, name), name
    assert again.vision_feature_select_strategy == "default"
    for name in ("chat_template", "padding_side", "eos_token", "pad_token", "bos_token", "model_max_length"):
        assert getattr(again.tokenizer, name) == getattr(made.processor.tokenizer, name), name
    text = "Is it?\n\nA line\n <think> Ċ"
    assert again.tokenizer(text).input_ids == made.processor.tokenizer(text).input_ids
    assert GenerationConfig.from_pretrained(folder).to_diff_dict() == made.model.generation_config.to_diff_dict()


def test_newlines_of_smollm2_keep_their_ids(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer("\n\nQ: a\nb\n").input_ids == [198, 198, 65, 42, 253, 198, 82, 198]
    model = load(smollm2, "cpu", torch.float32)
    assert tokenizer.decode(model.prompt_ids("Two\nlines?", images=0)).endswith("\nTwo\nlines? Answer:")
    with pytest.raises(UserError, match="contains the control token Ċ"):
        model.prompt_ids("Is it Ċ?")


IMAGE, Q = {"type": "image"}, {"type": "text", "text": "Is it?"}
STRINGS = {
    "<image>\nIs it?": [IMAGE, Q],
    "Is it?\n<image>": [IMAGE, Q],
    "<image>Is it?": [IMAGE, Q],
    "<image> <image>\nIs it?": [IMAGE, IMAGE, Q],
    "<image>\nIs it?\n<image>": [IMAGE, IMAGE, Q],
    "Is it?": [Q],
}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "smollm2"])
def test_an_image_in_a_plain_string_is_a_slot(saved, smollm2, family):
    """Stock tools write <image>, whatever the model's image token is; in a list, text stays text."""
    processor = AutoProcessor.from_pretrained(smollm2 if family == "smollm2" else saved / family)

    def render(content, role="user"):
        return processor.apply_chat_template([{"role": role, "content": content}], add_generation_prompt=True)

    token = processor.image_token
    for text, content in STRINGS.items():
        assert render(text) == render(content) == render(text.replace("<image>", token)), text
        assert render(text).count(token) == text.count("<image>") and "<image>" not in render(text)
    between = "<image>\nIs A in <image> and B in <image> or not?"
    assert f"Is A in {token} and B in {token} or not?" in render(between)
    assert render(between).count(token) == 3
    assert f"{token}\n" in render(between)[: render(between).index("Is A")]
    assert "Is <image> a tag?" in render([{"type": "text", "text": "Is <image> a tag?"}])
    assert token not in render("An <image> is shown.", role="assistant")


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


def test_the_stored_features_are_computed_without_tf32(llm_folders, monkeypatch):
    """A CPU may check what a GPU has saved."""

    def rounds() -> bool:
        cudnn = torch.backends.cudnn
        return cudnn.conv.fp32_precision != "ieee" if hasattr(cudnn, "conv") else cudnn.allow_tf32

    vlm, inside, asked = bf16_vlm("tiny", llm_folders["qwen2"]), [], parity.connector_input
    monkeypatch.setattr(parity, "connector_input", lambda *both: inside.append(rounds()) or asked(*both))
    parity.stored_fixture(vlm.model, vlm.fixture)
    with pytest.raises(KeyError), parity.whole_convolutions():
        raise KeyError
    assert inside == [False] and rounds()
