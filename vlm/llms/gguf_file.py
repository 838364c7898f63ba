"""A GGUF file of strangers, judged by its header before anything is built from it.

A file of 1 kB can say that it holds 10^18 texts or 10 million layers: both readers, gguf's and transformers', believe
it, and go on reading behind its end.
"""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from vlm.checked import Fields
from vlm.errors import UserError, one_line
from vlm.model_files import LARGEST, SPARE, check_sizes, parameters
from vlm.reading import check_regular

# Published files have some 50 fields, a few thousand tensors, and lists of up to 520,000 texts.
MOST_FIELDS, MOST_TENSORS, MOST_VALUES = 10_000, 100_000, 10_000_000

# transformers would take those of another model for one that is missing.
NEEDED = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


class Header(GGUFReader):
    """gguf's reader, that ends where the file does and reads no more than a model has."""

    _values = 0  # in all lists so far

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        end = offset + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data):,}, and its header asks for bytes up to {end:,}")
        return super()._get(offset, dtype, count, override_order)

    def _build_fields(self, offs: int, count: int) -> int:
        _at_most(count, MOST_FIELDS, "fields")
        return super()._build_fields(offs, count)

    def _build_tensor_info(self, offs: int, count: int) -> Any:
        _at_most(count, MOST_TENSORS, "tensors")
        return super()._build_tensor_info(offs, count)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY:  # the type of its values in 4 bytes, then their number in 8
            self._values += int(self._get(orig_offs + 4, np.uint64)[0])
            _at_most(self._values, MOST_VALUES, "values in lists")
        return super()._get_field_parts(orig_offs, raw_type)


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise ValueError(f"its header says that it has {int(count):,} {what}, {most:,} are allowed")


def read_header(file: Path) -> tuple[GGUFReader, dict[str, Any]]:
    """The reader of a GGUF file, and what transformers makes of its metadata: "config", "tokenizer" ...

    Raises: UserError if the header is damaged, a size is out of bounds, or the tensors are far fewer than it asks for.
    """
    try:
        check_regular(file)
        reader = Header(file)
        parsed = load_gguf_checkpoint(str(file), return_tensors=False)
    except OSError as error:
        raise UserError(f"cannot read the language model {file}: {error.strerror}") from None
    except Exception as error:  # a damaged file makes the readers raise nearly anything
        why = one_line(error, 200)
        raise UserError(f"{file} cannot be converted ({why}): download it again, or give a model folder") from error
    config = Fields(parsed["config"], str(file))
    check_sizes(config)
    for name in NEEDED:
        config.whole(name, 1, LARGEST[name])
    held, asked = sum(int(tensor.n_elements) for tensor in reader.tensors), parameters(_Sizes(parsed["config"]))
    if asked > SPARE * held:
        raise UserError(
            f"{file} holds {held:,} weights, and its header asks for about {asked:,}: it was cut off or is made up; "
            "download it again"
        )
    return reader, parsed


class _Sizes:
    """The sizes of a config, as `parameters` reads them: by name."""

    def __init__(self, values: dict[str, Any]):
        self.__dict__.update(values)
