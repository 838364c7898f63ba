"""Masks, interpolation and IoU against slow, obvious ones and literal values."""

import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from tiny import pictures
from torch.nn import functional

from pretrain.probes import heads, segmentation
from pretrain.probes.segmentation import (
    confusion_matrix,
    intersection_over_union,
    open_pairs,
    picture_confusion,
    pixel_loss,
    segmentation_probe,
    train_masks,
    upsample,
)
from vlm.errors import UserError

LAYOUTS = {
    "ADE20K": ("training", "validation", "annotations", 0),
    "COCO-Stuff": ("train2017", "val2017", "annotations", 255),
    "COCO-Stuff, stuffthingmaps": ("train2017", "val2017", "stuffthingmaps", 255),
}


def write_pair(root, split, name, image, mask, folder="annotations", mode="L"):
    """image: uint8[H, W, 3], mask: uint8[H, W]."""
    pictures.save(Image.fromarray(image), root / "images" / split / f"{name}.jpg", quality=95)
    picture = Image.fromarray(mask)
    if mode == "P":
        picture = picture.convert("P")
        picture.putpalette([255, 0, 0] * 256)  # every label shown in one red
        picture.frombytes(mask.tobytes())
    pictures.save(picture, root / folder / split / f"{name}.png")


def test_iou_counts_no_ignored_pixel_and_no_label_that_is_absent():
    truth = torch.tensor([[1, 1, 1, 2], [2, 2, 0, 0]], dtype=torch.uint8)
    found = torch.tensor([[1, 1, 2, 2], [2, 3, 1, 2]], dtype=torch.uint8)
    confusion = confusion_matrix(truth, found, ignore=0)
    assert confusion.sum() == 6 and confusion[1, 1] == 2 and confusion[2, 3] == 1
    assert intersection_over_union(confusion) == {1: 2 / 3, 2: 2 / 4}  # 3 was found, but is nowhere
    everything = confusion_matrix(truth, found, ignore=255)
    assert intersection_over_union(everything) == {0: 0.0, 1: 2 / 4, 2: 2 / 5}


def test_confusion_is_that_of_a_loop():
    generator = np.random.default_rng(0)
    truth, found = (generator.integers(0, 256, (40, 30), dtype=np.uint8) for _ in range(2))
    expected = np.zeros((256, 256), int)
    for t, f in zip(truth.ravel(), found.ravel()):
        expected[t, f] += t != 255
    assert np.array_equal(confusion_matrix(torch.tensor(truth), torch.tensor(found), 255).numpy(), expected)


@pytest.mark.parametrize("size", [(7, 10), (3, 2), (4, 5)])
def test_upsampling_is_bilinear_interpolation(size):
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    assert torch.allclose(upsample(logits, *size), expected, atol=1e-6)


def test_the_loss_is_the_mean_over_pixels_that_count():
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[[0, 1], [-1, 2]], [[-1, -1], [2, 2]]])
    rows = [
        functional.cross_entropy(logits[b, :, y, x], targets[b, y, x])
        for b in range(2) for y in range(2) for x in range(2) if targets[b, y, x] >= 0
    ]  # fmt: skip
    assert pixel_loss(logits, targets).item() == pytest.approx(float(sum(rows)) / 5)
    assert pixel_loss(logits, torch.full_like(targets, -1)).item() == 0


def two_halves(root, layout, mode="L", colors=((220, 30, 30), (30, 40, 220))):
    """Left red (label 7), right blue (label 3), or the other way round, and a corner that is ignored."""
    train, val, folder, ignore = LAYOUTS[layout]
    generator = np.random.default_rng(0)
    for split, count in ((train, 6), (val, 3)):
        for index in range(count):
            size = (48, 48) if split == train else (36, 60)  # validation keeps its own size
            mask = np.full(size, 7, np.uint8)
            mask[:, size[1] // 2 :] = 3
            mask = mask[:, :: (-1) ** index]
            image = np.where(mask[..., None] == 7, *(np.array(color, np.uint8) for color in colors))
            image = (image + generator.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
            mask[:9, :9] = ignore
            write_pair(root, split, f"{index:012d}", image, np.ascontiguousarray(mask), folder, mode)
    return root


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr("pretrain.probes.heads.MIN_STEPS", 60)
    monkeypatch.setattr("pretrain.probes.heads.LEARNING_RATE", 1e-2)


@pytest.mark.parametrize(("layout", "mode"), [*((layout, "L") for layout in LAYOUTS), ("ADE20K", "P")])
def test_a_random_encoder_tells_red_from_blue(tiny_encoder, tmp_path, layout, mode):
    found = segmentation_probe(tiny_encoder, two_halves(tmp_path, layout, mode), seed=0)
    assert found["miou"] > 0.95 and found["pixel_accuracy"] > 0.97
    assert sorted(found["iou_per_label"]) == [3, 7] and (found["train_images"], found["images"]) == (6, 3)


def test_the_labels_are_those_that_occur_and_count(tmp_path):
    masks, labels = train_masks(open_pairs(two_halves(tmp_path, "COCO-Stuff"), "train"), 48)
    assert masks.dtype == torch.uint8 and masks.shape == (6, 48, 48) and labels.tolist() == [3, 7]
    assert masks[0, 0, [0, 9, 23, 24, 47]].tolist() == [255, 7, 7, 3, 3]


def worker(rank, root, encoder):
    """Fit on both ranks, then once more when no label counts, and note each mask that is read."""
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    heads.MIN_STEPS = 5
    read, plain = [], segmentation.Pairs.mask
    segmentation.Pairs.mask = lambda pairs, number, size=None: read.append(number) or plain(pairs, number, size)
    fitted = segmentation.fit_head(encoder, open_pairs(root, "train"), 0, str(root))
    found = {"read": sorted(read), "labels": fitted and fitted[1].tolist()}
    dist.barrier()
    if rank == 0:
        spoil_labels(root)
    dist.barrier()
    try:
        segmentation.fit_head(encoder, open_pairs(root, "train"), 0, str(root))
    except (UserError, SystemExit) as error:
        found["refused"] = f"{type(error).__name__}: {error}"
    (root / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_rank_0_alone_reads_the_masks_and_a_refusal_reaches_all(tiny_encoder, tmp_path):
    root = two_halves(tmp_path, "ADE20K")
    mp.spawn(worker, args=(root, tiny_encoder), nprocs=2)
    first, second = (json.loads((root / f"{rank}.json").read_text()) for rank in range(2))
    assert first.pop("refused").endswith("annotations/training hold nothing but 0, which is ignored")
    assert first == {"read": [0, 1, 2, 3, 4, 5], "labels": [3, 7]}
    assert second == {"read": [], "labels": None, "refused": "SystemExit: 2"}


def test_pictures_that_are_made_smaller_keep_their_masks(tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("vlm.images.FULL_PIXELS", 2000)  # 48 x 48 and 60 x 36 have more
    pairs = open_pairs(two_halves(tmp_path, "ADE20K"), "val")
    assert pairs.image(0).size == (30, 18) and pairs.mask(0).shape == (36, 60)
    found = segmentation_probe(tiny_encoder, tmp_path, seed=0)
    assert found["miou"] > 0.9 and (found["train_images"], found["images"]) == (6, 3)
    Image.new("L", (30, 20)).save(pairs.mask_paths[0])
    with pytest.raises(UserError, match=r"000\.png is 30 x 20, its image 60 x 36: a mask labels each pixel"):
        pairs.image(0)


def test_a_mask_fits_a_large_picture_as_it_is_turned(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm.images.FULL_PIXELS", 2000)
    write_pair(tmp_path, "training", "a", np.zeros((40, 60, 3), np.uint8), np.zeros((60, 40), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (60, 40)).save(tmp_path / "images/training/a.jpg", exif=exif)
    assert open_pairs(tmp_path, "train").image(0).size == (20, 30)


def test_a_large_picture_is_judged_in_strips_of_rows(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 4, 4, generator=generator), torch.tensor([7, 3, 9], dtype=torch.uint8)
    truth = labels[torch.randint(3, (50, 30), generator=generator)]
    whole = picture_confusion(logits, labels, truth, ignore=0)
    shapes, plain = [], confusion_matrix
    monkeypatch.setattr(
        "pretrain.probes.segmentation.confusion_matrix",
        lambda truth, *rest: shapes.append(tuple(truth.shape)) or plain(truth, *rest),
    )
    monkeypatch.setattr("pretrain.probes.segmentation.ELEMENTS", 3 * 30 * 20)
    assert torch.equal(picture_confusion(logits, labels, truth, ignore=0), whole)
    assert shapes == [(20, 30), (20, 30), (10, 30)] and whole.sum() == 1500


def test_a_mask_of_too_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch):
    root = two_halves(tmp_path, "ADE20K")
    path = root / "annotations/training/000000000002.png"
    Image.new("L", (1100, 1000)).save(path)
    monkeypatch.setenv("LEVLM_MAX_MEGAPIXELS", "1")
    with pytest.raises(UserError, match=r"002\.png .*1100 x 1000 is above 1 megapixels \(LEVLM_MAX_MEGAPIXELS\)"):
        open_pairs(root, "train").mask(2)


def test_a_label_that_training_never_shows_costs_its_share(tiny_encoder, tmp_path):
    root = two_halves(tmp_path, "ADE20K")
    path = root / "annotations/validation/000000000000.png"
    mask = np.array(Image.open(path))
    mask[-1] = 9
    Image.fromarray(mask).save(path)
    found = segmentation_probe(tiny_encoder, root, seed=0)
    assert found["iou_per_label"][9] == 0 and 0.6 < found["miou"] < 2 / 3 and found["labels"] == 3
    assert found == segmentation_probe(tiny_encoder, root, seed=0)


def spoil_size(root):
    Image.new("L", (48, 47)).save(root / "annotations/training/000000000002.png")


def spoil_mode(root):
    Image.new("RGB", (48, 48)).save(root / "annotations/training/000000000002.png")


def spoil_bytes(root):
    path = root / "annotations/training/000000000002.png"
    path.write_bytes(path.read_bytes()[:60])


def spoil_labels(root):
    for path in (root / "annotations/training").iterdir():
        Image.new("L", (48, 48)).save(path)


SPOILT = {
    "size": (spoil_size, r"000000000002\.png is 48 x 47, its image 48 x 48"),
    "mode": (spoil_mode, r"000000000002\.png is RGB, not one number of 8 bits a pixel"),
    "bytes": (spoil_bytes, r"mask .*000000000002\.png is damaged"),
    "missing": (lambda root: (root / "annotations/training/000000000002.png").unlink(), "1 images of .* have no mask"),
    "all ignored": (spoil_labels, "hold nothing but 0, which is ignored"),
    "layout": (lambda root: (root / "images").rename(root / "pictures"), "neither ADE20K's images/training"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_cannot_be_used_is_named(tiny_encoder, tmp_path, name):
    spoil, words = SPOILT[name]
    spoil(two_halves(tmp_path, "ADE20K"))
    with pytest.raises(UserError, match=words):
        segmentation_probe(tiny_encoder, tmp_path, seed=0)


def test_no_validation_split(tmp_path):
    root = two_halves(tmp_path, "COCO-Stuff")
    (root / "images/val2017").rename(root / "images/test2017")
    with pytest.raises(UserError, match="nor COCO-Stuff's images/val2017"):
        open_pairs(root, "val")
