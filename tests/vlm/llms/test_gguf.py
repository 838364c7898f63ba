"""GGUF files: converted once and exactly, by one process at a time; damaged ones are refused."""

import os
import struct
import threading
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tiny.gguf import write_gguf

from vlm.errors import UserError
from vlm.llms import gguf as gguf_cache
from vlm.llms.gguf_file import read_header
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


def test_a_link_of_the_hubs_cache_is_known_by_its_content(tmp_path, monkeypatch):
    """`hf download` prints snapshots/REVISION/NAME.gguf, which links to blobs/SHA256."""
    monkeypatch.setenv("LEVLM_CACHE", str(tmp_path / "cache"))
    original, link = write_gguf(tmp_path / "made.gguf", False), tmp_path / "snapshots/0a1b/tiny.gguf"
    (tmp_path / "blobs").mkdir()
    link.parent.mkdir(parents=True)
    (tmp_path / "made.gguf").rename(tmp_path / "blobs/5e6f")
    link.symlink_to("../../blobs/5e6f")
    loaded, ids = load_llm(str(link), torch.float32), torch.arange(3, 203)[None]
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, original(ids).logits, atol=1e-5)
    monkeypatch.setattr(gguf_cache, "_convert", lambda file, folder, _: folder.mkdir())
    monkeypatch.chdir(link.parent)
    assert str(gguf_cache.converted_gguf(Path("tiny.gguf"), ())) == loaded.source
    write_gguf(tmp_path / "blobs/7a8b", True)  # a later revision
    link.unlink()
    link.symlink_to("../../blobs/7a8b")
    assert str(gguf_cache.converted_gguf(link, ())) != loaded.source


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


ARCHITECTURE = struct.pack("<Q20sIQ5s", 20, b"general.architecture", 8, 5, b"llama")
LIST = struct.pack("<Q3sI", 3, b"a.b", 9)


@pytest.mark.parametrize(
    "content, said",
    [
        (struct.pack("<QQ", 0, 2**62), "its header says that it has 4,611,686,018,427,387,904 fields"),
        (struct.pack("<QQ", 2**62, 1) + ARCHITECTURE, "4,611,686,018,427,387,904 tensors, 100,000 are allowed"),
        (struct.pack("<QQQ", 0, 1, 2**63), "it ends at byte 32, and its header asks for bytes up to"),
        *(
            (struct.pack("<QQ", 0, 2) + ARCHITECTURE + LIST + struct.pack("<IQ", kind, 2**60), "values in lists")
            for kind in (0, 4, 8, 9)
        ),
        (struct.pack("<QQ", 0, 2) + ARCHITECTURE + LIST + struct.pack("<IQ", 4, 9), "it ends at byte"),
        (struct.pack("<QQ", 0, 2) + ARCHITECTURE + LIST + struct.pack("<IQ", 9, 1) * 5000, "recursion depth"),
        (struct.pack("<QQ", 0, 1) + ARCHITECTURE, "num_hidden_layers is missing"),
    ],
)
def test_a_header_that_lies_about_lengths_is_refused(tmp_path, content, said):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<I", 3) + content)
    with pytest.raises(UserError, match=said):
        read_header(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    "sizes, said",
    [
        ({"block_count": 10**7}, "num_hidden_layers is 10000000; needed is a whole number from 1 to 1,000"),
        ({"vocab_size": 10**9}, "vocab_size is 1000000000; needed"),
        ({"vocab_size": 10**7}, "holds 16 weights, and its header asks for about 640,0"),
        ({"attention.head_count": 0}, "num_attention_heads is 0; needed"),
        ({"attention.head_count": 3}, "hidden_size 64 cannot be divided among num_attention_heads 3"),
        ({"embedding_length": 2**32 - 1}, "hidden_size is 4294967295; needed"),
    ],
)
def test_a_header_that_asks_for_a_giant_is_refused(tmp_path, monkeypatch, capsys, sizes, said):
    monkeypatch.setenv("LEVLM_CACHE", str(tmp_path / "cache"))
    usual = {"context_length": 64, "embedding_length": 64, "block_count": 1, "feed_forward_length": 96}
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    for name, size in {**usual, "attention.head_count": 2, "vocab_size": 300, **sizes}.items():
        writer.add_uint32(f"llama.{name}", size)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match=said):
        load_llm(str(tmp_path / "a.gguf"))
    assert capsys.readouterr().err == ""


def test_a_gguf_that_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.gguf")
    with pytest.raises(UserError, match=r"cannot read the language model .* it is a FIFO, not a regular file"):
        load_llm(str(tmp_path / "a.gguf"))
