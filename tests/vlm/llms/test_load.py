"""Language models from folders and by name: architectures, dtypes, errors of files and of the hub, no foreign code."""

import json
import shutil

import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, GPT2Config

from vlm.errors import UserError
from vlm.llms import load as llm
from vlm.llms.load import load_llm
from vlm.llms.precision import default_dtype


@pytest.mark.parametrize(
    ("family", "name", "token"),
    [
        ("llama", "LlamaForCausalLM", "<|reserved_special_token_0|>"),
        ("qwen2", "Qwen2ForCausalLM", "<|image_pad|>"),
        ("qwen3", "Qwen3ForCausalLM", "<|image_pad|>"),
    ],
)
def test_a_folder_loads_frozen_with_a_reserved_image_token(llm_folders, family, name, token):
    loaded = load_llm(str(llm_folders[family]))
    assert type(loaded.model).__name__ == name
    assert loaded.image_token == token
    assert loaded.image_token_id == loaded.tokenizer.convert_tokens_to_ids(token) < loaded.model.config.vocab_size
    assert not any(p.requires_grad for p in loaded.model.parameters()) and not loaded.model.training
    assert loaded.model.dtype == default_dtype()
    assert loaded.model.get_input_embeddings().weight.shape[0] == loaded.model.config.vocab_size
    assert load_llm(str(llm_folders[family]), torch.bfloat16).model.dtype == torch.bfloat16


def edited(folder, tmp_path, edit):
    copy = shutil.copytree(folder, tmp_path / "copy")
    edit(copy)
    return str(copy)


def set_config(**values):
    def edit(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return edit


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def incomplete(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def only_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def rename_reserved(folder):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|image_pad|>", "<|other|>"))
    config = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(config.replace("<|image_pad|>", "<|other|>"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: GPT2Config(architectures=["GPT2LMHeadModel"]).save_pretrained(f), "is a GPT2LMHeadModel; supported"),
        (
            set_config(model_type="foonet", architectures=["Foo"]),
            "does not know; supported are Llama",
        ),
        (set_config(model_type="llava", architectures=["LlavaForConditionalGeneration"]), "is a LlavaForCond"),
        (set_config(quantization_config={"quant_method": "gptq", "bits": 4}), "already quantised"),
        (lambda f: (f / "chat_template.jinja").unlink(), "has no chat template"),
        (rename_reserved, "reserves no token that could mark an image"),
        (truncate, "model.safetensors|weights in"),
        (incomplete, r"lack model\.norm\.weight \(1 tensors"),
        (set_config(hidden_size=64), "have other shapes than its config"),
        (set_config(hidden_size="wide"), "cannot load .*hidden_size"),
        (only_pickle, "safetensors"),
        (lambda f: (f / "config.json").unlink(), "a model folder has config.json"),
    ],
)
def test_a_folder_that_cannot_serve_is_one_clear_line(llm_folders, tmp_path, edit, message):
    with pytest.raises(UserError, match=message) as error:
        load_llm(edited(llm_folders["qwen2"], tmp_path, edit))
    assert len(str(error.value)) < 700


def test_unknown_names_and_missing_files():
    with pytest.raises(UserError, match="unknown language model 'smollm3': give smollm2, llama, qwen, a folder"):
        load_llm("smollm3")
    with pytest.raises(UserError, match=r"cannot read the language model no\.gguf: No such file"):
        load_llm("no.gguf")
    with pytest.raises(UserError, match="cannot load in '3bit': give 4bit or 8bit"):
        llm.quantised("3bit", torch.float32)


def test_hub_errors_say_what_to_do(monkeypatch):
    def fail(error):
        def raising(*_, **__):
            raise OSError("You are trying to access a gated repo.\nSee below") from error

        monkeypatch.setattr(AutoConfig, "from_pretrained", raising)

    fail(GatedRepoError.__new__(GatedRepoError))
    with pytest.raises(UserError, match=r"accept its licence at https://huggingface\.co/meta-llama/Llama-3\.2-1B-Inst"):
        load_llm("llama")
    fail(None)
    with pytest.raises(UserError, match=r"Qwen/Qwen2\.5-1\.5B-Instruct is not in the local .* give a folder or \.gguf"):
        load_llm("qwen")


def test_no_code_of_a_model_folder_runs(llm_folders, tmp_path):
    def hostile(folder):
        marker = f"open({str(tmp_path / 'marker')!r}, 'w').close()\n"
        (folder / "evil.py").write_text(marker + "class Config: pass\nclass Model: pass\n")
        names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        set_config(model_type="evil", auto_map=names)(folder)

    with pytest.raises(UserError):
        load_llm(edited(llm_folders["qwen2"], tmp_path, hostile))
    assert not (tmp_path / "marker").exists()


def test_bf16_only_where_the_cpu_has_it(monkeypatch):
    for capabilities, dtype in (({"avx2": True}, torch.float32), ({"amx_bf16": True}, torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capabilities: c, raising=False)
        assert default_dtype("cpu") == dtype
