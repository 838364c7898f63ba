"""Captions to token ids, as the released checkpoint reads them: the text is embedded at its end-of-text token."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from vlm.errors import UserError
from vlm.hub import model_folder
from vlm.reading import check_regular

END = "<|endoftext|>"
CONTEXT = 77  # tokens of a caption at most, the end of text included, as in CLIP


class CaptionTokenizer:
    """A byte-level BPE. A caption becomes its first 76 tokens, the end of text, and more of these as padding."""

    def __init__(self, tokenizer: Tokenizer):
        end = tokenizer.token_to_id(END)
        if end is None:
            raise UserError(f"the tokenizer has no {END} token: captions are read at it")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # spelt out in a caption they are text
        self.backend, self.end = tokenizer, end

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """texts -> ids int64[B, T] padded to the longest, lengths int64[B] with the end-of-text token counted."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [[*encoding.ids[: CONTEXT - 1], self.end] for encoding in encodings]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), self.end)
        for row, tokens in zip(ids, rows):
            row[: len(tokens)] = torch.tensor(tokens)
        return ids, lengths

    def save(self, path: str | Path) -> None:
        self.backend.save(str(path))

    @classmethod
    def load(cls, path: str | Path) -> "CaptionTokenizer":
        """Read a tokenizer.json; `UserError` if the file is something else."""
        try:
            check_regular(path)
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust tokenizer raises plain Exception
            raise UserError(f"{path} is not a tokenizer.json ({error})") from None
        return cls(tokenizer)

    @classmethod
    def gpt2(cls) -> "CaptionTokenizer":
        """GPT-2's tokenizer, from the hub or its local cache; `UserError` if it is in neither."""
        advice = "put its tokenizer.json beside the encoder's config.json, or pretrain with --tokenizer train:2048"
        return cls.load(model_folder("openai-community/gpt2", ["tokenizer.json"], advice) / "tokenizer.json")

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int) -> "CaptionTokenizer":
        """A byte-level BPE learnt from `captions`, for data sets too small to need GPT-2's 50,257 entries."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(captions, trainer)
        return cls(tokenizer)
