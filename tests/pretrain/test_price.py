"""The price of a run, against literal numbers and against the modules that it prices."""

import os

import pytest
import torch

from pretrain import price as plan
from pretrain.config import from_preset
from pretrain.model import Pretrainer, encoder_config
from pretrain.run import main
from vlm.encoders.levljepa import Encoder
from vlm.errors import UserError

BASE = {
    "image tower": 85_798_656,  # timm's vit_base_patch16_224 without a classifier
    "image head": 2_103_552,
    "image predictor": 13_656_320,
    "caption tower": 124_439_808,  # GPT-2
    "caption head": 2_103_552,
    "caption predictor": 13_656_320,
}


def test_parameters_of_the_published_sizes():
    assert plan.parameters(from_preset("base")) == BASE
    assert plan.parameters(from_preset("small"))["image tower"] == 21_665_664  # vit_small_patch16_224


def test_objectives_have_the_heads_they_train():
    assert plan.parameters(from_preset("base", objective="siglip")) == {
        **BASE, "image predictor": 0, "caption predictor": 0, "logits": 2
    }  # fmt: skip


def test_parameters_are_those_of_a_real_build():
    config = from_preset("tiny")
    encoder = Encoder(encoder_config(config, 1024))
    assert sum(plan.parameters(config).values()) == sum(p.numel() for p in encoder.parameters()) == 1_364_864


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (0, [4000, 0, 4000, 8000, 0]),
        (1, [4000, 1000, 4000, 2000, 200_000_000]),
        (2, [4000, 1000, 1000, 2000, 200_000_000]),
        (3, [5000, 1000, 1000, 2000, 200_000_000]),
    ],
)
def test_model_states_of_1000_parameters_on_4_processes(stage, expected):
    assert list(plan.model_states(1000, stage, 4).values()) == expected


@pytest.mark.parametrize(
    ("objective", "dtype"), [("levljepa", "fp32"), ("levljepa", "bf16"), ("levljepa-plus", "fp32"), ("clip", "fp32")]
)
def test_activations_are_what_autograd_keeps(objective, dtype):
    """Bytes a sample: a batch of 8 less a batch of 4, so that what does not grow with the batch drops out."""
    wide = {"dtype": dtype, "vision_width": 256, "text_width": 256, "objective": objective}
    config = from_preset("tiny", **wide)
    crops = {48: 1} if objective != "levljepa-plus" else {48: 2, 24: 4}
    encoder = Encoder(encoder_config(config, 1024))
    model = Pretrainer(encoder, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32)
    own = {part.untyped_storage().data_ptr() for part in [*encoder.parameters(), *encoder.buffers()]}

    def kept(batch):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        pixels = [torch.randn(batch, views, 3, side, side) for side, views in crops.items()]
        inputs = torch.zeros(batch, 77, dtype=torch.long), torch.full((batch,), 77)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            embeddings = model(pixels if len(crops) > 1 else pixels[0][:, 0], *inputs)
        return embeddings and sum(part.nbytes() for at, part in storages.items() if at not in own)

    ours = plan.activation_bytes(from_preset("tiny", **wide, batch_size=4), 1) / 4
    ours -= sum(views * 3 * side**2 for side, views in crops.items())  # the batch itself
    assert (kept(8) - kept(4)) / 4 == pytest.approx(ours, rel=0.02)


def test_micro_batches_keep_the_larger_tower_of_one():
    whole, micro = (plan.activation_bytes(from_preset("base", micro_batch_size=size), 8) for size in (0, 256))
    image = 197 * 768 * (11 * 36 + 12) + 3 * 224**2 * 2
    assert micro == 32 * image + 512 * (2 * 3 * 5 * 2048 * 2 + 3 * 224**2)
    assert whole > 10 * micro


def test_milestones_take_their_room_on_the_disk():
    """Two checkpoints and one while it is written, 12 bytes a parameter; the encoder at the end has 4."""
    assert plan.disk_bytes(from_preset("tiny", steps=1000), 100) == 3 * 1200 + 400
    assert plan.disk_bytes(from_preset("tiny", steps=1000, keep_every=250), 100) == (3 + 4) * 1200 + 400


def test_the_bucket_is_that_of_the_deepspeed_file(tmp_path):
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"reduce_bucket_size": 2e6}}')
    config = from_preset("tiny", deepspeed=str(file))
    assert plan.bucket_size(config) == 2_000_000 and plan.model_states(1000, 1, 4, 2_000_000)["bucket"] == 8_000_000
    assert "  bucket                   0.0       8.0       8.0       8.0" in plan.describe(config, 4, None).splitlines()
    file.write_text('{"zero_optimization": {"reduce_bucket_size": "large"}}')
    with pytest.raises(UserError, match="reduce_bucket_size 'large': give a number of gradients"):
        plan.describe(config, 4, None)
    file.unlink()
    with pytest.raises(UserError, match=r"ds\.json"):
        plan.describe(config, 4, None)


def test_the_command_prints_it_without_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--preset", "base", "--plan", "--world-size", "8", "--throughput", "4000", "--data", "none"]
    monkeypatch.setattr("sys.argv", ["run.py", *flags])
    main()
    printed = capsys.readouterr().out
    for line in (
        "base: world size 8, 512 samples each, ZeRO 1",
        "  total                241,758,208",
        "memory of each, MB      ZeRO 0   ZeRO 1*    ZeRO 2    ZeRO 3",
        "  moments              1,934.1     241.8     241.8     241.8",
        "samples: 819,200,000 = 200,000 steps x 4,096",
        "epochs: unknown (none does not exist: ",
        "time: 56.9 hours at 4,000 samples a second",
        "disk: 2,901 MB a checkpoint, the last 2 are kept; encoder 967 MB",
        "  at most 9,670 MB in runs/pretrain, while a checkpoint is replaced; ",
    ):
        assert line in printed
    assert os.listdir(tmp_path) == []
    for name in ("train:256", "train:x", "gpt3"):  # as the run itself refuses them
        monkeypatch.setattr("sys.argv", ["run.py", *flags, "--tokenizer", name])
        with pytest.raises(UserError, match=f"--tokenizer {name}: give gpt2, train:SIZE"):
            main()
    monkeypatch.setattr("sys.argv", ["run.py", "--plan", "--world-size", "0"])
    with pytest.raises(UserError, match="--world-size 0: give 1 or more"):
        main()
    monkeypatch.setattr("sys.argv", ["run.py", "--throughput", "4000"])
    with pytest.raises(UserError, match="--world-size and --throughput are for --plan"):
        main()
