"""--plan: the full size is priced without data, weights or a hub, and given data are counted."""

import pytest
from tiny.stock_vits import write_stock_vit

from bridge.config import BridgeConfig, parse_config, questions_a_step
from bridge.plan import describe, vision_sizes
from bridge.price import TextSizes, VisionSizes, connector_parameters
from bridge.train import load_examples
from vlm.errors import UserError
from vlm.files import write_json
from vlm.llms.presets import SIZES


def columns(text: str, name: str) -> list[float]:
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return [float(value.rstrip("%").replace(",", "")) for value in line[36:].split()]


def test_sizes_are_the_models():
    counted = {name: TextSizes.of(sizes).parameters for name, sizes in SIZES.items()}
    assert counted == {"smollm2": 134_479_872, "llama": 1_235_746_816, "qwen": 1_543_569_408}  # less norms and biases
    assert VisionSizes().parameters == 85_675_776
    assert connector_parameters(TextSizes.of(SIZES["qwen"]), VisionSizes()) == 769 * 1536 + 1537 * 1536


@pytest.mark.parametrize("llm", ["qwen", "llama"])
def test_the_full_size_is_priced_without_anything(monkeypatch, tmp_path, llm):
    monkeypatch.chdir(tmp_path)
    text = describe(parse_config(["--llm", llm, "--plan"]), None, (1, 8))
    assert "GQA: 943,000 questions, 72,140 images\nVQAv2: 443,757 questions, 82,783 images\n" in text
    assert "1,386,757 questions in all" in text
    assert "features: live; an image is shown 1.00 times" in text
    assert min(columns(text, "filled")) >= 0.9
    assert columns(text, "balance")[1] >= 0.95
    hours = columns(text, "hours at 40% of 989 TFLOP/s")
    assert hours[0] / hours[1] > 6
    assert 10 < columns(text, "GB of each: total")[0] < 30


def test_given_data_are_counted(training, tmp_path):
    flags = training.flags(tmp_path / "out", "--plan", "--mfu", "0.5", "--steps", "24")
    config = parse_config(flags)
    text = describe(config, load_examples(config), (2,))
    assert "gqa: 48 questions, 24 images" in text and "vqav2: 72 questions, 24 images" in text
    assert "features: cached" in text and "hours at 50% of 989" in text
    config = parse_config([*flags[:-1], "1", "--lora", "8", "--image-size", "32"])
    text = describe(config, load_examples(config), (2,))
    assert "gqa: 48 questions, 24 images" in text  # of the set, not of the one step
    assert "not counted below: --lora, --precision\n" in text
    assert not (tmp_path / "out/config.json").exists()


def test_without_a_named_encoder_the_runs_own_default_is_priced(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # The current folder's own file names no encoder of this run.
    wide = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "num_layers": 2}
    write_json(tmp_path / "config.json", {"vision_encoder": wide})
    config = parse_config(["--llm", "qwen", "--plan"])
    assert vision_sizes(config) == (VisionSizes(), "none named, taken for a ViT-B/16 at 224 pixels")
    (tmp_path / "runs/pretrain/encoder").mkdir(parents=True)
    write_json(tmp_path / "runs/pretrain/encoder/config.json", {"vision_encoder": wide})
    config = parse_config(["--llm", "qwen", "--plan"])
    assert vision_sizes(config) == (VisionSizes(64, 2, 256, 8, 16), "runs/pretrain/encoder")


@pytest.mark.parametrize("inner", [{"intermediate_size": 96}, {"mlp_ratio": 3}])
def test_a_run_that_goes_on_has_the_vision_tower_of_its_vlm(tmp_path, inner):
    tower = {"hidden_size": 32, "num_hidden_layers": 3, "patch_size": 8, "image_size": 48, **inner}
    write_json(tmp_path / "config.json", {"text_config": SIZES["smollm2"], "vision_config": tower})
    config = parse_config(["--init", str(tmp_path), "--plan"])
    assert vision_sizes(config) == (VisionSizes(32, 3, 96, 8, 36), str(tmp_path))
    assert f"encoder: {tmp_path}\n" in describe(config, None, (1,))
    write_json(tmp_path / "config.json", {"text_config": SIZES["smollm2"]})
    assert vision_sizes(config) == (VisionSizes(), f"{tmp_path}, taken for a ViT-B/16 at 224 pixels")


def test_stock_encoders_have_their_own_sizes_without_weights(tmp_path):
    def sizes(*flags: str) -> tuple[VisionSizes, str]:
        return vision_sizes(parse_config(["--llm", "qwen", "--plan", "--encoder", *flags]))

    large = "timm:vit_large_patch14_clip_336.openai"
    assert sizes(large) == (VisionSizes(1024, 24, 4096, 14, 576), large)
    assert sizes("timm:vit_small_patch16_224", "--image-size", "448")[0] == VisionSizes(384, 12, 1536, 16, 784)
    assert sizes("blind")[0] == VisionSizes(128, 1, 512, 12, 16)
    for kind, inner in (("clip", 40), ("siglip_vision", 40), ("dinov2", 96), ("dinov3", 40)):
        folder = write_stock_vit(tmp_path / kind, kind)
        (folder / "model.safetensors").unlink()
        assert sizes(f"hf:{folder}") == (VisionSizes(24, 3, inner, 8, 9), f"hf:{folder}")
    assert sizes("timm:vit_smal")[1].startswith("timm:vit_smal, taken for a ViT-B/16 at 224 pixels (timm has no model")


def test_an_unknown_llm_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"--plan cannot tell the sizes of owner/none: give smollm2, llama, qwen, or"):
        describe(parse_config(["--llm", "owner/none", "--plan"]), None, (1,))
    for content in ([], {**SIZES["smollm2"], "num_attention_heads": 0, "head_dim": None}):
        write_json(tmp_path / "config.json", content)
        with pytest.raises(UserError, match="--plan cannot tell the sizes of"):
            describe(parse_config(["--llm", str(tmp_path), "--plan"]), None, (1,))


def test_the_default_batch_leaves_a_pass_its_steps():
    sizes = [questions_a_step(BridgeConfig(), total) for total in (100, 56_000, 943_000, 1_386_757, 10_000_000)]
    assert sizes == [56, 56, 943, 1280, 1280]
    assert questions_a_step(BridgeConfig(batch_questions=8), 10_000_000) == 8
