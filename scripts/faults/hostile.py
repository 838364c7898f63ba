"""What `faults.inputs` damages, and how: values, files, templates, pictures, rows, code and names."""

import io
import json
import os
import pickle
import socket
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HUGE = "1" + "0" * 4_999  # written as it is: Python's own JSON refuses to read it
VALUES: list[tuple[str, Any]] = [
    ("1e9", 10**9), ("0", 0), ("a list", [1, 2]), ("-1", -1), ("1e7", 10**7), ("a text", "many"), ("NaN", float("nan")),
    ("an object", {"a": 1}), ("5,000 digits", HUGE), ("1.5", 1.5), ("true", True), ("Infinity", float("inf")), ("7", 7),
]  # fmt: skip
_TOWERS = [("vision_encoder", key) for key in ("hidden_size", "num_layers", "num_heads")]
_TOWERS += [("text_encoder", key) for key in ("hidden_size", "num_layers", "num_heads", "vocab_size")]
ENCODER = [*_TOWERS, ("embed_dim",), ("projector_width",), ("projector_depth",), ("normalization",),
           ("normalization", "mean"), ("normalization", "std"), ("training",)]  # fmt: skip
_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
LLM = [(key,) for key in (*_SIZES, "num_key_value_heads", "vocab_size", "head_dim", "max_position_embeddings")]
VLM = [(part, key) for part in ("text_config", "vision_config") for key in _SIZES]
VIT = [(key,) for key in (*_SIZES, "image_size", "patch_size")]


def nothing(part: Path, folder: Path) -> None:
    """The name alone is hostile."""


def put(file: str, key: tuple[str, ...], value: Any, part: Path, folder: Path) -> None:
    """Set a value in a JSON file."""
    whole = json.loads((part / file).read_text())
    inner = whole
    for name in key[:-1]:
        inner = inner[name]
    inner[key[-1]] = value
    (part / file).write_text(json.dumps(whole).replace(f'"{HUGE}"', HUGE))


def replace(file: str, make: Callable[[Path], None], part: Path, folder: Path) -> None:
    """Put something else in the place of a file."""
    path = part / file
    content = path.read_bytes() if path.exists() else b"{}"
    path.unlink(missing_ok=True)
    make(path)
    if path.is_file() and not path.is_symlink() and path.read_bytes() == b"HALF":
        path.write_bytes(content[: len(content) // 2])


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)
    os.chdir(here)


def _write(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a FIFO": lambda path: os.mkfifo(path),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a socket": _socket,
}
FILES: list[tuple[str, Callable[[Path], None]]] = [
    ("100,000 brackets deep", _write(b"[" * 100_000 + b"]" * 100_000)), *list(SPECIAL.items())[:2],
    ("a number of 5,000 digits", _write(HUGE.encode())), ("a list", _write(b'[{"a": 1}]')), ("empty", _write(b"")),
    ("an object without keys", _write(b"{}")), ("half", _write(b"HALF")), *list(SPECIAL.items())[2:],
    ("no UTF-8", _write(b'{"a": "\xff\xfe"}')), ("a number", _write(b"17")), ("null", _write(b"null")),
]  # fmt: skip

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "nested loops": LOOP,
    "a power": "{{ 9 ** 9 ** 9 ** 9 }}",
    "a text of 100 GB": "{{ 'a' * 10 ** 11 }}",
    "a text that doubles": "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}",
    "lists in lists": "{% set n = namespace(a=[1]) %}{% for i in range(40) %}{% set n.a = [n.a, n.a] %}{% endfor %}"
    "{{ n.a }}",
    "20 MB": "{% for i in range(99999) %}{{ 'a' * 200 }}{% endfor %}",
    "an error": "{{ raise_exception('refused') }}",
    "broken": "{% for %}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "out of the sandbox": "{{ cycler.__init__.__globals__.os.system('touch $EXECUTED') }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "300,000 characters": "a" * 300_000,
    "brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "a file": "{% include '/etc/passwd' %}",
}  # fmt: skip


def template(text: str, part: Path, folder: Path) -> None:
    (part / "chat_template.jinja").write_text(text)


def _png(width: int, height: int) -> bytes:
    """A PNG of zeros that says it has this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def noise(seed: int) -> bytes:
    """A harmless PNG of 300 x 200 pixels, another for each seed."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _picture(make: Callable[[Path], None], path: Path, folder: Path) -> None:
    make(path)


PICTURES = {
    name: partial(_picture, make)
    for name, make in {
        **SPECIAL,
        "no picture": _write(b"<html>"),
        "EPS": _write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "of 400 megapixels": _write(_png(20_000, 20_000)),
        "of 63 megapixels without pixels": _write(_png(9_000, 7_000)),
        "of one column": _write(_png(1, 9_000)),
    }.items()
}
ROWS = {
    "/dev/zero": "/dev/zero", "/etc/passwd": "/etc/passwd", "a picture outside": "../picture.png",
    "a picture outside, by its whole path": "{folder}/picture.png", "a link to a picture outside": "link.png",
    "a FIFO inside": "fifo.png", "a folder": "nested", "an address": "http://127.0.0.1:1/x.png", "NUL": "a\0b.png",
    "a file:// path": "file:///etc/passwd",
}  # fmt: skip


def rows(path: str, part: Path, folder: Path) -> None:
    """A table in place of the pairs, whose rows all name `path`."""
    import pyarrow
    import pyarrow.parquet

    (folder / "picture.png").write_bytes((part / "0.png").read_bytes())
    for file in part.iterdir():
        file.unlink()
    (part / "link.png").symlink_to(folder / "picture.png")
    (part / "nested").mkdir()
    os.mkfifo(part / "fifo.png")
    table = pyarrow.table({"image": [path.format(folder=folder)] * 8, "caption": ["a"] * 8})
    pyarrow.parquet.write_table(table, part / "rows.parquet")


GGUF = [("block_count", 10**7), ("vocab_size", 10**9), ("vocab_size", 10**7), ("attention.head_count", 0),
        ("embedding_length", 2**32 - 1), ("feed_forward_length", 2**31), ("a list", 2**60)]  # fmt: skip


def gguf(name: str, size: int, part: Path, folder: Path) -> None:
    """A GGUF file of a kilobyte that says that it has this size."""
    from gguf import GGUFWriter

    usual = {"context_length": 64, "embedding_length": 64, "block_count": 1, "feed_forward_length": 96}
    writer = GGUFWriter(folder / "a.gguf", "llama")
    for key, value in {**usual, "attention.head_count": 2, "vocab_size": 300, name: size}.items():
        if key != "a list":
            writer.add_uint32(f"llama.{key}", value)
    writer.add_array("llama.list", [7, 7, 7])
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if name == "a list":
        content, three = (folder / "a.gguf").read_bytes(), (3).to_bytes(8, "little") + (7).to_bytes(4, "little")
        (folder / "a.gguf").write_bytes(content.replace(three, size.to_bytes(8, "little") + three[8:]))


class _Touch:
    def __reduce__(self) -> Any:
        return os.system, ('touch "$EXECUTED"',)


def pickled(file: str, part: Path, folder: Path) -> None:
    (part / file).write_bytes(pickle.dumps(_Touch()))


def only_pickled(file: str, part: Path, folder: Path) -> None:
    for weights in part.glob("*.safetensors"):
        weights.unlink()
    pickled(file, part, folder)


def auto_map(part: Path, folder: Path) -> None:
    """A repository's own Python, as trust_remote_code would run it."""
    config = json.loads((part / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {name: "own.Own" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")}
    (part / "config.json").write_text(json.dumps(config))
    (part / "own.py").write_text("import os\nos.system('touch \"$EXECUTED\"')\nclass Own: pass\n")


def own_processor(part: Path, folder: Path) -> None:
    _auto_map_in(part / "processor_config.json", {"AutoProcessor": "own.Own"})
    (part / "own.py").write_text("import os\nos.system('touch \"$EXECUTED\"')\nclass Own: pass\n")


def _auto_map_in(file: Path, names: dict[str, str]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": names, "processor_class": "Own"}))


def members(part: Path, folder: Path) -> None:
    """Members of a tar that webdataset would unpickle."""
    for file in part.iterdir():
        file.unlink()
    (folder / "p").write_bytes(pickle.dumps(_Touch()))
    with tarfile.open(part / "a.tar", "w") as tar:
        for suffix in ("pkl", "pth", "pyd", "npy", "jpg", "txt"):
            tar.add(folder / "p", f"0.{suffix}")


def card(part: Path, folder: Path) -> None:
    (part / "README.md").write_text("---\nlicense: !!python/object/apply:os.system ['touch \"$EXECUTED\"']\n---\n")


NAMES = ("../../x", "../x", "org/name/../..", "org/..", "a\0b", "https://host/x", "a--b/c", "~nobody/x", "/dev/zero")
