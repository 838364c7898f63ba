"""GGUF files: converted once and exactly, by one process at a time; damaged ones are refused."""

import threading
import time

import pytest
import torch
from tiny.gguf import write_gguf

from vlm.errors import UserError
from vlm.llms import gguf as gguf_cache
from vlm.llms.load import load_llm


@pytest.mark.parametrize("scale_rope", [False, True])
def test_a_gguf_file_is_converted_once_and_exactly(tmp_path, monkeypatch, scale_rope):
    monkeypatch.setenv("LEVLM_CACHE", str(tmp_path / "cache"))
    original = write_gguf(tmp_path / "tiny.gguf", scale_rope)
    loaded = load_llm(str(tmp_path / "tiny.gguf"), torch.float32)
    monkeypatch.setattr(gguf_cache, "_convert", None)
    assert load_llm(str(tmp_path / "tiny.gguf")).source == loaded.source
    ids = torch.arange(3, 203)[None]
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, original(ids).logits, atol=1e-5)
    assert not hasattr(loaded.model.config, "quantization_config")
    assert loaded.image_token == "<|reserved_special_token_0|>"
    folders = [path.name for path in (tmp_path / "cache/llm").iterdir() if not path.name.startswith(".")]
    assert len(folders) == 1 and folders[0].startswith("tiny-") and loaded.source.endswith(folders[0])


@pytest.mark.parametrize(
    "words, cut",
    [
        ("smollm", ["It", "'s", "Ġ", "1", "2", "3", "4", "Ġdogs"]),
        ("llama-bpe", ["It", "'s", "Ġ", "123", "4", "Ġdogs"]),
        ("qwen2", ["It", "'s", "Ġ", "1", "2", "3", "4", "Ġdogs"]),
        ("gpt-2", ["It", "'s", "Ġ1234", "Ġdogs"]),
    ],
)
def test_words_are_cut_as_the_file_says(tmp_path, monkeypatch, words, cut):
    monkeypatch.setenv("LEVLM_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf", False, words)
    rules = load_llm(str(tmp_path / "tiny.gguf"), torch.float32).tokenizer.backend_tokenizer.pre_tokenizer
    assert [text for text, _ in rules.pre_tokenize_str("It's 1234 dogs")] == cut


def test_of_two_that_convert_at_once_one_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("LEVLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    calls, folders = [], []

    def convert(file, folder, _):
        calls.append(file)
        time.sleep(0.3)
        folder.mkdir()

    monkeypatch.setattr(gguf_cache, "_convert", convert)
    threads = [
        threading.Thread(target=lambda: folders.append(gguf_cache.converted_gguf(tmp_path / "tiny.gguf", ("llama",))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(folders) == 2 and folders[0] == folders[1]


def test_a_damaged_gguf_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("LEVLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.gguf").write_text("<html>not found</html>")
    with pytest.raises(UserError, match="is not a GGUF file"):
        load_llm(str(tmp_path / "text.gguf"))
    write_gguf(tmp_path / "cut.gguf", False)
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "cut.gguf").read_bytes()[:9000])
    with pytest.raises(UserError, match="cannot be converted"):
        load_llm(str(tmp_path / "cut.gguf"))
    assert all(path.suffix == ".lock" for path in (tmp_path / "cache/llm").iterdir())
