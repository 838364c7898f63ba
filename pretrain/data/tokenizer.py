"""What --tokenizer names: `gpt2`, a BPE learnt from the captions of the run, or a file."""

from pathlib import Path

from pretrain.data.pairs import Captions
from vlm.encoders.config import EncoderConfig
from vlm.encoders.tokens import CaptionTokenizer
from vlm.errors import UserError
from vlm.files import file_sha256

LEARNT_FROM = 20_000  # captions of the data, the first ones
BYTE_TOKENS = 256  # of a byte-level BPE that has learnt nothing


def trained_size(name: str) -> int | None:
    """SIZE of `train:SIZE`, None of `gpt2` or a file. Raises: UserError if the name is none of these."""
    kind, _, size = name.partition(":")
    if kind == "train" and size.isdigit() and int(size) > BYTE_TOKENS:
        return int(size)
    if name == "gpt2" or Path(name).is_file():
        return None
    sizes = f"train:SIZE with SIZE above {BYTE_TOKENS}"
    raise UserError(f"--tokenizer {name}: give gpt2, {sizes}, or the path of a tokenizer.json")


def load_tokenizer(name: str, data: Captions) -> CaptionTokenizer:
    """Load `gpt2` or a tokenizer.json, or learn `train:SIZE` from the first captions of the data, in stored order."""
    size = trained_size(name)
    return learnt_tokenizer(data, size) if size else fixed_tokenizer(name)


def learnt_tokenizer(data: Captions, size: int) -> CaptionTokenizer:
    """Learn a BPE of at most `size` tokens from the first captions of the data, in stored order."""
    return CaptionTokenizer.train(data.first_captions(LEARNT_FROM), size)


def fixed_tokenizer(name: str) -> CaptionTokenizer:
    """Load `gpt2` or a tokenizer.json."""
    return CaptionTokenizer.gpt2() if name == "gpt2" else CaptionTokenizer.load(name)


def vocabulary(name: str) -> int:
    """Number of tokens, without data or hub; for train:SIZE the SIZE, which a small data set may not reach."""
    if size := trained_size(name):
        return size
    return EncoderConfig.vocab_size if name == "gpt2" else CaptionTokenizer.load(name).vocab_size


def identity(name: str) -> str:
    """Give `name`, or for a file the hash of its content: a moved file is the same tokenizer, an edited one is not."""
    return name if name == "gpt2" or trained_size(name) else f"sha256:{file_sha256(name)}"
