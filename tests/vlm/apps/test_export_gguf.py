"""`vlm export --format gguf`: what the files hold, that llama.cpp answers as the VLM does, and what is refused."""

import copy
import errno
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, quants
from PIL import Image
from tiny.stock_vits import write_stock_vit
from transformers import LlamaConfig

from vlm.apps.export import export, llama_cpp
from vlm.apps.export.comparing import sample_picture
from vlm.apps.export.llama_cpp import preparing, runtime, tensors, text, wrapping
from vlm.apps.settings import ExportSettings
from vlm.encoders.by_name import open_encoder
from vlm.errors import UserError
from vlm.files import read_json, write_json
from vlm.images import load_image
from vlm.llava.assembly import assemble
from vlm.llava.folder import load_processor
from vlm.llava.model import load
from vlm.llms.load import load_llm

needs_llama_cpp = pytest.mark.skipif(not runtime.installed(), reason="needs xllamacpp: pip install -e '.[gguf]'")


@pytest.fixture(scope="module")
def folder(saved):
    """A VLM whose language model is a llama with plain GPT-2 rules, and Llama 3's control tokens and template."""
    return saved / "llama"


@pytest.fixture
def without_llama_cpp(monkeypatch):
    monkeypatch.setattr(llama_cpp, "installed", lambda: False)


def metadata(file) -> dict:
    return {key: field.contents() for key, field in GGUFReader(file).fields.items()}


def tensors_of(file) -> dict:
    return {tensor.name: tensor for tensor in GGUFReader(file).tensors}


def test_two_files_and_a_readme(folder, tmp_path, without_llama_cpp, capsys):
    export(ExportSettings(str(folder), str(tmp_path / "out"), "gguf"))
    said = capsys.readouterr().out
    assert "llama.cpp itself was not asked, since xllamacpp is not installed: pip install -e '.[gguf]'" in said
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["README.md", "levlm_manifest.json", "mmproj-out-F16.gguf", "out-F16.gguf"]
    found = metadata(tmp_path / "out/out-F16.gguf")
    wanted = {
        "general.architecture": "llama", "general.file_type": 1, "llama.block_count": 2, "llama.embedding_length": 32,
        "llama.attention.head_count": 4, "llama.rope.dimension_count": 8, "llama.vocab_size": 334,
        "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.bos_token_id": 317, "tokenizer.ggml.eos_token_id": 320,
        "tokenizer.ggml.eot_token_id": 320, "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    assert {key: found[key] for key in wanted} == wanted
    assert found["tokenizer.ggml.tokens"][320:325] == [
        "<|eot_id|>", "<|reserved_special_token_0|>", "<think>", "</think>", "[PAD324]",
    ]  # fmt: skip
    assert found["tokenizer.ggml.token_type"][316:325] == [1, 3, 3, 3, 3, 3, 4, 4, 5]  # text, control, added, none
    vision = metadata(tmp_path / "out/mmproj-out-F16.gguf")
    wanted = {
        "general.architecture": "clip", "clip.projector_type": "internvl", "clip.use_gelu": True,
        "clip.vision.image_size": 24, "clip.vision.patch_size": 8, "clip.vision.projection_dim": 32,
        "clip.vision.projector.scale_factor": 1,
    }  # fmt: skip
    assert {key: vision[key] for key in wanted} == wanted
    card = (tmp_path / "out/README.md").read_text()
    assert "llama-server -m out-F16.gguf --mmproj mmproj-out-F16.gguf --jinja" in card
    assert "image = image.resize((24, 24), Image.Resampling.BICUBIC)" in card
    assert "library_name: gguf" in card


def test_the_readmes_client_prepares_pictures_as_chat_reads_them(models, tmp_path):
    vlm, noise = models["qwen2"], np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)
    grey16 = np.random.default_rng(1).integers(0, 65536, (40, 30)).astype(np.uint16)
    image = Image.fromarray(noise)
    image.save(tmp_path / "alpha.png")
    image.convert("LA").save(tmp_path / "grey alpha.png")
    image.convert("RGB").save(tmp_path / "a colour.png", transparency=tuple(noise[0, 0, :3].tolist()))
    image.convert("RGB").convert("P").save(tmp_path / "palette.png", transparency=bytes(range(256)))
    Image.fromarray(grey16).save(tmp_path / "grey16.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    image.convert("RGB").save(tmp_path / "turned.jpg", exif=turned)
    readme, code = preparing.use(vlm, "a.gguf", "b.gguf"), {}
    exec(re.search(r"(?s)```python\n(import base64.*?)\ndef data_uri", readme)[1], code)
    for file in tmp_path.iterdir():
        ours = preparing.prepared(vlm, load_image(file))
        assert np.array_equal(np.asarray(code["prepared"](file)), np.asarray(ours)), file.name


def test_queries_are_reordered_the_class_token_is_last_and_only_matrices_are_rounded(
    folder, tmp_path, without_llama_cpp
):
    export(ExportSettings(str(folder), str(tmp_path / "out"), "gguf", quantise="Q8_0"))
    vlm = load(folder, torch.device("cpu"), torch.float32)
    found = tensors_of(tmp_path / "out/out-Q8_0.gguf")
    assert found["blk.0.attn_q.weight"].tensor_type.name == "Q8_0"
    assert found["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    query = vlm.language_model.state_dict()["layers.0.self_attn.q_proj.weight"].numpy()
    stored = quants.dequantize(found["blk.0.attn_q.weight"].data, found["blk.0.attn_q.weight"].tensor_type)
    order = [0, 4, 1, 5, 2, 6, 3, 7]  # of the 8 channels of a head
    assert np.abs(stored[:8] - query[order]).max() <= np.abs(query).max() * 0.005
    vision = tensors_of(tmp_path / "out/mmproj-out-Q8_0.gguf")
    positions = vlm.vision_tower.state_dict()["embeddings.position_embeddings"][0].numpy()
    assert vision["v.patch_embd.weight"].tensor_type.name == "F16"
    assert np.array_equal(vision["v.position_embd.weight"].data[-1], positions[0])
    assert np.array_equal(vision["v.position_embd.weight"].data[0], positions[1])


def test_queries_of_llama_turn_neighbours_together():
    rows = torch.arange(8).reshape(8, 1)  # two heads of width 4
    assert text.interleaved(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_words_around_a_picture_are_those_of_the_prompt(models):
    vlm = models["qwen2"]  # its head is tied
    stored, newline = text.text_tensors(vlm), vlm.prompts.tokenizer("\n").input_ids[0]
    table, head = stored["token_embd.weight"](), stored["output.weight"]()
    assert table.shape == head.shape == (vlm.model.config.text_config.vocab_size + 2, 32)
    assert torch.equal(table[-2:], table[[newline, newline]])
    assert torch.equal(head[:-2], table[:-2]) and torch.equal(head[-1], head[vlm.processor.image_token_id])


def test_rotary_factors_of_llama_3():
    scaling = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    config = LlamaConfig(head_dim=8, rope_parameters=scaling, max_position_embeddings=512)
    factors = text.rope_factors(config)
    # Turns within 64 positions: 10.2 (kept), 1.02 (between the two), 0.1 and 0.01 (slowed by 8).
    assert [round(value, 2) for value in factors.tolist()] == [1.0, 7.67, 8.0, 8.0]


@needs_llama_cpp
@pytest.mark.parametrize(
    "family, quantise, same", [("llama", "F32", "3"), ("qwen2", "Q8_0", "[1-3]"), ("qwen3", "F16", "3")]
)
def test_llama_cpp_reads_renders_and_answers_as_the_vlm_does(saved, tmp_path, capsys, family, quantise, same):
    export(ExportSettings(str(saved / family), str(tmp_path / "out"), "gguf", quantise=quantise))
    said = (
        rf"asked by llama\.cpp itself, {same} of 3 greedy answers are the VLM's, and log-probabilities at most 0\.\d+ "
    )
    assert re.search(said, capsys.readouterr().out)


@needs_llama_cpp
def test_dinov2_whose_pictures_are_cut_from_the_centre(llm_folders, tmp_path, capsys):
    write_stock_vit(tmp_path / "dinov2", "dinov2")
    encoder = open_encoder(f"hf:{tmp_path / 'dinov2'}")
    vlm = assemble(encoder, load_llm(str(llm_folders["llama"]), torch.float32))
    vlm.save(tmp_path / "vlm")
    export(ExportSettings(str(tmp_path / "vlm"), str(tmp_path / "out"), "gguf"))
    assert "asked by llama.cpp itself" in capsys.readouterr().out
    card = (tmp_path / "out/README.md").read_text()
    assert "scale = 28 / min(image.size)" in card
    assert "image = image.crop((left, top, left + 24, top + 24))" in card
    picture = preparing.prepared(vlm, sample_picture())
    as_it_is = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    prepare = vlm.processor.image_processor
    wanted, found = prepare(sample_picture(), return_tensors="pt"), prepare(picture, **as_it_is)
    assert (wanted.pixel_values - found.pixel_values).abs().max() < 0.05  # two grey levels


@needs_llama_cpp
def test_weights_in_another_order_are_found_by_llama_cpp(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "interleaved", lambda weight, heads: weight)
    with pytest.raises(UserError, match=r"llama\.cpp answers with other probabilities than the VLM"):
        export(ExportSettings(str(folder), str(tmp_path / "out"), "gguf"))
    assert list(tmp_path.iterdir()) == []


@needs_llama_cpp
def test_a_file_that_llama_cpp_cannot_take_is_one_line(tmp_path):
    request = {"text": str(tmp_path / "none.gguf"), "mmproj": "", "context": 64, "threads": 1}
    with pytest.raises(UserError, match=r"llama\.cpp cannot use what was written \(.+\)"):
        runtime._ask(request, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        "<__media_x7__>\nIs it red?",  # as llama.cpp joins a picture and a text
        "Is it red?\n<__media_x7__>",
        [{"type": "text", "text": "<__media_x7__>"}, {"type": "text", "text": "Is it red?"}],
    ],
)
def test_the_template_sets_the_picture_apart_again(saved, models, content):
    processor = load_processor(saved / "llama")
    entries = [{"type": "image"}, {"type": "text", "text": "Is it red?"}]
    wanted = processor.apply_chat_template([{"role": "user", "content": entries}], add_generation_prompt=True)
    around = wrapping.neighbours(models["llama"])
    template = wrapping.template(str(processor.chat_template), around)
    tokenizer = processor.tokenizer
    found = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True, tokenize=False
    )
    assert (around.text_before, around.text_after) == ("\n", "\n")  # a newline ends the header, one the picture's line
    assert found == wanted.replace("\n" + processor.image_token + "\n", "<__media_x7__>")


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("vision_config", {"model_type": "clip_vision_model"}, r"this VLM has another tower \(.*\): give --format hf"),
        ("vision_config", {"tie_last_hidden_states": False}, "takes a plain ViT whose patches are read after the"),
        ("vision_config", {"hidden_act": "quick_gelu"}, "the vision tower activates with quick_gelu"),
        ("text_config", {"model_type": "mistral"}, "the language model is a mistral: --format gguf takes llama"),
        ("text_config", {"rope_parameters": {"rope_type": "yarn"}}, "scales its rotary positions by yarn"),
        ("text_config", {"layer_types": ["sliding_attention"]}, "has a sliding window"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(models, part, change, message):
    config = copy.deepcopy(models["llama"].model.config)
    for name, value in change.items():
        setattr(getattr(config, part), name, value)
    with pytest.raises(UserError, match=message):
        llama_cpp.check_text(config.text_config)
        llama_cpp.check_vision(config)


def test_a_full_disk_is_one_line_before_and_while_it_is_written(folder, tmp_path, monkeypatch, without_llama_cpp):
    settings = ExportSettings(str(folder), str(tmp_path / "out"), "gguf")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(UserError, match=r"\(metadata, at most\) = 33,\d+,\d+ bytes needed, 1,000 bytes free"):
            export(settings)

    def full(self, tensor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(GGUFWriter, "write_tensor_data", full)
    with pytest.raises(UserError, match=r"cannot write .*out-F16\.gguf \(No space left on device"):
        export(settings)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_other_weights_is_refused(folder, tmp_path, without_llama_cpp):
    export(ExportSettings(str(folder), str(tmp_path / "out"), "gguf"))
    file, vlm = tmp_path / "out/out-F16.gguf", load(folder, torch.device("cpu"), torch.float32)
    assert tensors.compare_tensors(file, text.text_tensors(vlm)) < 2**-11
    vlm.language_model.state_dict()["layers.1.mlp.up_proj.weight"][3, 4] += 0.01
    with pytest.raises(UserError, match=r"blk\.1\.ffn_up\.weight in out-F16\.gguf differs from the model's"):
        tensors.compare_tensors(file, text.text_tensors(vlm))


def test_a_weight_that_fp16_cannot_hold_is_refused(tmp_path):
    weight = torch.full((2, 32), 1e6)
    with pytest.raises(
        UserError, match=r"the weights of token_embd\.weight are too large for F16: give --quantise F32"
    ):
        tensors.write_tensors(GGUFWriter(None, "llama"), {"token_embd.weight": lambda: weight}, "F16", tmp_path / "a")


def test_the_newline_that_ends_answers_is_not_printed(folder, tmp_path, without_llama_cpp):
    """smollm2's text format ends an answer with a newline, spelled as a byte-level tokenizer spells it."""
    other = tmp_path / "vlm"
    shutil.copytree(folder, other)
    stored = read_json(other / "tokenizer.json")
    newline = stored["model"]["vocab"]["Ċ"]
    stored["added_tokens"].append({**stored["added_tokens"][0], "id": newline, "content": "Ċ", "single_word": True})
    write_json(other / "tokenizer.json", stored)
    write_json(other / "tokenizer_config.json", {**read_json(other / "tokenizer_config.json"), "eos_token": "Ċ"})
    (other / "levlm_manifest.json").unlink()
    export(ExportSettings(str(other), str(tmp_path / "out"), "gguf"))
    found = metadata(tmp_path / "out/out-F16.gguf")
    assert found["tokenizer.ggml.eos_token_id"] == newline
    assert found["tokenizer.ggml.token_type"][newline] == 3  # control: llama.cpp does not print it
