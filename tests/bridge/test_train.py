"""The training command as a user runs it, on tiny parts and data: exact resume, ranks, baselines, errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import bridge.training
from bridge.config import parse_config
from bridge.train import load_examples
from bridge.training import Sums, learning_rate, train, update
from vlm.assemble import load
from vlm.encoder import new_encoder
from vlm.encoder_config import EncoderConfig
from vlm.errors import UserError

ROOT = Path(__file__).parent.parent.parent
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_llm(folder: Path) -> None:
    """A byte-level tokenizer with ChatML's specials and Qwen's image token, and two random Llama layers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    text = ["What colour is it? red green blue yes no Is it assistant user Answer the question using a single word"]
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(special_tokens=specials, initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", "<|image_pad|>"],
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make_data(root: Path) -> None:
    """Plain squares: GQA's question asks for the colour, VQAv2's whether it is a given one."""
    gqa, questions, annotations = {}, [], []
    random = np.random.default_rng(0)
    for folder in ("gqa/images", "vqav2/train2014"):
        (root / folder).mkdir(parents=True)
    for number in range(24):
        colour = list(COLOURS)[number % 3]
        noise = random.integers(-20, 21, (16, 16, 3))
        image = Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))
        image.save(root / f"gqa/images/{number}.jpg")
        image.save(root / f"vqav2/train2014/COCO_train2014_{number:012d}.jpg")
        for variant, question in enumerate(("What colour is it?", "Which colour?")):
            gqa[f"{number}-{variant}"] = {"question": question, "answer": colour, "imageId": str(number)}
        for other, asked in enumerate(COLOURS):
            answer = "yes" if asked == colour else "no"
            key = number * 10 + other
            questions.append({"question_id": key, "image_id": number, "question": f"Is it {asked}?"})
            votes = [{"answer": answer, "answer_id": i, "answer_confidence": "yes"} for i in range(1, 11)]
            annotations.append({"question_id": key, "multiple_choice_answer": answer, "answers": votes})
    (root / "gqa/train_balanced_questions.json").write_text(json.dumps(gqa))
    names = ("v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json")
    (root / "vqav2" / names[0]).write_text(json.dumps({"questions": questions}))
    (root / "vqav2" / names[1]).write_text(json.dumps({"annotations": annotations}))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_llm(root / "llm")
    make_data(root)
    config = EncoderConfig(
        image_size=16, patch_size=8, vision_width=16, vision_layers=1, vision_heads=2, text_width=16, text_layers=1,
        text_heads=1, vocab_size=32, positions=16, embed_dim=8, projector_width=8, projector_depth=1,
    )  # fmt: skip
    new_encoder(config, seed=1).save(root / "encoder")
    return root


SETTINGS = ("--steps", "12", "--batch-questions", "20", "--lr", "0.05", "--save-every", "5")


def flags(world: Path, out: Path, *more: str) -> list[str]:
    given = ["--gqa", str(world / "gqa"), "--vqav2", str(world / "vqav2"), "--out", str(out), *SETTINGS, *more]
    given += [] if "--init" in more or "--llm" in more else ["--llm", str(world / "llm")]
    return given if "--init" in more or "--encoder" in more else [*given, "--encoder", str(world / "encoder")]


def here(world: Path, out: Path, *more: str) -> None:
    config = parse_config(flags(world, out, *more))
    train(config, load_examples(config))


def as_command(*arguments: str, launcher: tuple[str, ...] = (), expect: int = 0) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    call = [sys.executable, *launcher, str(ROOT / "bridge/train.py"), *arguments]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=480)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints/step_12/weights.safetensors")


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> Path:
    """An uninterrupted run, by the command."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    output = as_command(*flags(world, out))
    assert f"saved {out / 'vlm'}" in output
    assert "features: 4" in output
    return out


def test_a_run_learns_and_leaves_a_stock_llava(world, whole):
    lines = metrics(whole)
    assert [line["step"] for line in lines] == list(range(12))
    assert {"loss", "lr", "samples_per_s", "questions_per_s", "tokens", "answer_tokens"} <= lines[0].keys()
    assert np.mean(losses(whole)[-3:]) < np.mean(losses(whole)[:3]) - 0.5
    assert json.loads((whole / "config.json").read_text())["encoder"] == str(world / "encoder")
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["step_10", "step_12"]

    stock = AutoModelForImageTextToText.from_pretrained(whole / "vlm", dtype=torch.float32)
    trained = load_file(whole / "checkpoints/step_12/weights.safetensors")
    for name, value in stock.model.multi_modal_projector.state_dict().items():
        assert torch.equal(trained[f"model.multi_modal_projector.{name}"], value)
    llm = LlamaForCausalLM.from_pretrained(world / "llm", dtype=torch.float32)
    for name, value in llm.model.state_dict().items():
        assert torch.equal(stock.model.language_model.state_dict()[name], value), f"the frozen LLM moved: {name}"


def test_resume_equals_an_uninterrupted_run(world, whole, tmp_path, capsys):
    out = tmp_path / "resumed"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "vlm")
    shutil.rmtree(out / "checkpoints/step_12")  # as if killed after step 11; its metrics are already written
    here(world, out, "--resume", "required", "--no-cache")
    assert losses(out) == losses(whole)
    assert weights(out).keys() == weights(whole).keys()
    assert all(torch.equal(weights(out)[name], value) for name, value in weights(whole).items())

    damaged = out / "checkpoints/step_12/weights.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-5] ^= 16
    damaged.write_bytes(data)
    here(world, out)
    assert "step_12: weights.safetensors is missing or not what was written" in capsys.readouterr().err
    assert losses(out) == losses(whole)

    with pytest.raises(UserError, match=r"started with other settings \(lr 0.05 -> 0.02\)"):
        here(world, out, "--lr", "0.02")
    with pytest.raises(UserError, match="holds a run at step 12: give another --out"):
        here(world, out, "--resume", "never")


def test_sigterm_saves_the_step(world, whole, tmp_path, monkeypatch):
    real, updates = bridge.training.update, []

    def update_then_signal(*arguments):
        norm = real(*arguments)
        updates.append(norm)
        if len(updates) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return norm

    monkeypatch.setattr(bridge.training, "update", update_then_signal)
    with pytest.raises(SystemExit) as exit:
        here(world, tmp_path / "out")
    assert exit.value.code == 143
    monkeypatch.undo()
    saved = len(losses(tmp_path / "out"))
    assert saved == 4  # the ranks agree on it in the sums of the next step
    assert (tmp_path / f"out/checkpoints/step_{saved}").is_dir()
    here(world, tmp_path / "out")
    assert losses(tmp_path / "out") == losses(whole)


def test_a_folder_serves_one_run_at_a_time(world, tmp_path):
    with bridge.training.locked(tmp_path), pytest.raises(UserError, match="another run is writing"):
        here(world, tmp_path)


def test_two_ranks_equal_one(world, whole, tmp_path):
    # `accelerate launch` starts several CPU processes through MPI only; torchrun starts them through gloo
    as_command(
        *flags(world, tmp_path / "two"),
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    )
    one, two = metrics(whole), metrics(tmp_path / "two")
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], rtol=1e-5)
    for name in ("questions", "tokens", "answer_tokens", "lr"):
        assert [line[name] for line in two] == [line[name] for line in one]
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, atol=1e-5, rtol=1e-4)


def test_lora_goes_on_from_a_run_and_is_merged(world, whole, tmp_path):
    out = tmp_path / "lora"
    here(world, out, "--init", str(whole / "vlm"), "--lora", "4")
    assert losses(out)[0] < losses(whole)[0] - 0.3
    assert np.mean(losses(out)[-3:]) < np.mean(losses(whole)[-3:])
    assert (out / "adapter/adapter_config.json").exists()
    before = AutoModelForImageTextToText.from_pretrained(whole / "vlm").state_dict()
    after = AutoModelForImageTextToText.from_pretrained(out / "vlm").state_dict()
    assert before.keys() == after.keys()
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "linear_1", "linear_2"}


def test_baselines(world, whole, tmp_path):
    here(world, tmp_path / "random", "--encoder", f"random:{world / 'encoder'}", "--steps", "2")
    assert losses(tmp_path / "random")[0] != losses(whole)[0]
    here(world, tmp_path / "blind", "--encoder", "blind")
    assert np.mean(losses(tmp_path / "blind")[-3:]) < losses(tmp_path / "blind")[0]  # it learns what is often right
    blind = load(tmp_path / "blind/vlm")
    answers = [blind.answer(Image.new("RGB", (40, 40), name), "What color is it?") for name in ("red", "blue")]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("more", [("--load-in", "4bit"), ("--load-in", "8bit", "--lora", "4")])
def test_a_quantised_llm_trains_and_leaves_a_full_one(world, whole, tmp_path, more):
    pytest.importorskip("bitsandbytes")
    out = tmp_path / "out"
    here(world, out, *more)
    np.testing.assert_allclose(losses(out)[0], losses(whole)[0], rtol=0.05)
    assert losses(out)[0] != losses(whole)[0]
    assert np.mean(losses(out)[-3:]) < np.mean(losses(out)[:3]) - 0.5
    config = json.loads((out / "vlm/config.json").read_text())
    assert "quantization_config" not in config
    assert "quantization_config" not in config["text_config"]
    stock = AutoModelForImageTextToText.from_pretrained(out / "vlm", dtype=torch.float32).state_dict()
    llm = LlamaForCausalLM.from_pretrained(world / "llm", dtype=torch.float32).model.state_dict()
    changed = {name.split(".")[-2] for name in llm if not torch.equal(stock[f"model.language_model.{name}"], llm[name])}
    assert changed == ({"q_proj", "k_proj", "v_proj", "o_proj"} if "--lora" in more else set())
    trained = weights(out)
    prefix = "model.multi_modal_projector." + ("modules_to_save.default." if "--lora" in more else "")
    for name in ("linear_1.weight", "linear_2.bias"):
        assert torch.equal(stock[f"model.multi_modal_projector.{name}"], trained[prefix + name])


def test_gradient_checkpointing_changes_nothing(world, whole, tmp_path):
    here(world, tmp_path / "out", "--gradient-checkpointing", "--micro-tokens", "60")
    np.testing.assert_allclose(losses(tmp_path / "out"), losses(whole), rtol=1e-4)


def test_bf16_trains_an_fp32_connector(world, whole, tmp_path):
    here(world, tmp_path / "out", "--precision", "bf16")
    np.testing.assert_allclose(losses(tmp_path / "out"), losses(whole), rtol=0.02)
    assert weights(tmp_path / "out")["model.multi_modal_projector.linear_1.weight"].dtype == torch.float32
    assert json.loads((tmp_path / "out/vlm/config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--gqa", "none"], "none is not a folder: GQA needs"),
        (["--row-tokens", "9"], "more than --row-tokens 9 allows"),
        (["--llm", "none"], "unknown language model 'none'"),
        (["--encoder", "none"], "none/config.json does not exist"),
        (["--encoder", "random:none"], "none/config.json does not exist"),
        (["--gqa-split", "test"], "test_balanced_questions.json is missing"),
        (["--init", "none", "--load-in", "4bit"], "leave out --encoder, --normalisation and --load-in"),
        (["--llava", "none"], "belong together"),
    ],
)
def test_bad_input(world, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        here(world, tmp_path / "out", *changes)
    assert not (tmp_path / "out/vlm").exists()


def test_bad_input_of_the_command_is_one_line(world, tmp_path):
    output = as_command(*flags(world, tmp_path / "out", "--gqa", str(tmp_path / "none")), expect=2)
    assert output == f"error: {tmp_path}/none is not a folder: GQA needs its question files and images in one folder\n"


def test_no_flags_name_the_commands_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"run `python scripts/make_world.py runs/world`"):
        parse_config(["--llm", "smollm2"])
    (tmp_path / "runs/world").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run `deepspeed pretrain/run.py` first"):
        parse_config(["--llm", "smollm2"])
    (tmp_path / "runs/pretrain/encoder").mkdir(parents=True)
    config = parse_config(["--llm", "smollm2"])
    assert (config.gqa, config.vqav2) == ("runs/world/gqa", "runs/world/vqav2")
    assert (config.encoder, config.out) == ("runs/pretrain/encoder", "runs/bridge")


def test_learning_rate_is_a_function_of_the_step():
    rates = [learning_rate(step, 100, peak=1.0, warmup=0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert learning_rate(0, 1, 1.0, 0.05) == 1.0


@pytest.mark.parametrize(("loss", "gradient"), [(float("nan"), 1.0), (1.0, float("inf")), (1.0, float("nan"))])
def test_nothing_moves_without_a_finite_gradient(loss, gradient):
    weight = torch.nn.Parameter(torch.ones(3))
    trainee = SimpleNamespace(weights={"w": weight})
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.full((3,), gradient)
    assert update(trainee, optimizer, Sums(loss, 1, 1, 1, False), clip=1.0) is None
    assert weight.tolist() == [1, 1, 1]
    assert not optimizer.state
    weight.grad = torch.full((3,), 2.0)
    norm = update(trainee, optimizer, Sums(1.0, 1, 1, 1, False), clip=1.0)
    assert norm == pytest.approx(12**0.5)
    assert weight[0] < 1
