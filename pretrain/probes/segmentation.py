"""Linear segmentation: does a patch token tell what its patch shows? One linear layer from frozen tokens to classes.

Two layouts are read. The labels are the masks' own numbers; those of one number, `ignore`, count for nothing.

    ADE20K        images/{training,validation}/*.jpg    annotations/{training,validation}/*.png    0 = ignore
    COCO-Stuff    images/{train2017,val2017}/*.jpg      annotations or stuffthingmaps/...          255 = ignore
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pretrain.probes.features import in_order, patch_tokens
from pretrain.probes.heads import ELEMENTS, Standardise, train_heads, training_batches
from pretrain.probes.labelled import image_paths
from pretrain.probes.pixels import Images
from pretrain.probes.tokens import PatchTokens
from vlm.distributed import is_main, on_main
from vlm.encoders.base import VisionEncoder
from vlm.errors import UserError
from vlm.images import ImageError, check_header, load_image, upright_size
from vlm.run.progress import progress

LABELS = 256  # a mask is 8 bits deep
TRAIN_BATCH, DECAY = 16, 0.01  # images a step, weight decay
NOT_COUNTED = -1  # the class of pixels whose label is ignored


@dataclass(frozen=True)
class Pairs:
    """Image files and their mask files, in order."""

    image_paths: list[Path]
    mask_paths: list[Path]
    ignore: int

    def __len__(self) -> int:
        return len(self.image_paths)

    def images(self) -> Images:
        return Images(len(self), self.image)

    def image(self, number: int) -> Image.Image:
        """The image, made smaller if it is large. Raises: UserError if its mask has another size than the file."""
        path, mask_path = self.image_paths[number], self.mask_paths[number]
        image = load_image(path)
        with _open_mask(mask_path) as mask:
            if mask.size != image.size and mask.size != (whole := upright_size(path)):
                sizes = f"{mask.width} x {mask.height}, its image {whole[0]} x {whole[1]}"
                raise UserError(f"{mask_path} is {sizes}: a mask labels each pixel of its image")
        return image

    def mask(self, number: int, size: int | None = None) -> np.ndarray:
        """The labels uint8[H, W], or their nearest neighbours at [size, size]. Raises: UserError for no mask."""
        with _open_mask(self.mask_paths[number]) as mask:
            try:
                return np.array(mask if size is None else mask.resize((size, size), Image.Resampling.NEAREST))
            except (OSError, SyntaxError) as error:
                raise UserError(f"the mask {self.mask_paths[number]} is damaged ({error}): fetch it again") from None


def _open_mask(path: Path) -> Image.Image:
    """A PNG of one 8-bit number a pixel, with no more pixels than an image may have; `UserError` for anything else."""
    try:
        check_header(path)
        mask = Image.open(path, formats=("PNG",))
    except ImageError as error:
        raise UserError(f"the mask {path} cannot be used: {error}") from None
    except OSError as error:
        raise UserError(f"the mask {path} cannot be read as PNG ({error.strerror or error})") from None
    if mask.mode not in ("L", "P"):  # P: labels with a palette to look at
        raise UserError(f"the mask {path} is {mask.mode}, not one number of 8 bits a pixel: convert it to labels")
    return mask


def open_pairs(root: Path, split: str) -> Pairs:
    """The `train` or `val` split in ADE20K's or COCO-Stuff's layout: each image with the mask of its name.

    Raises: UserError if the folder has neither layout, no images, or an image without a mask.
    """
    ade, coco = {"train": ("training", "train2017"), "val": ("validation", "val2017")}[split]
    layouts = [("annotations", ade, 0), ("annotations", coco, 255), ("stuffthingmaps", coco, 255)]
    folders = [(root / "images" / name, root / masks / name, ignore) for masks, name, ignore in layouts]
    there = [(images, masks, ignore) for images, masks, ignore in folders if images.is_dir() and masks.is_dir()]
    if not there:
        raise UserError(
            f"{root} has neither ADE20K's images/{ade} and annotations/{ade} nor COCO-Stuff's images/{coco} "
            f"and annotations/{coco} or stuffthingmaps/{coco}: give a folder in one of these layouts"
        )
    images, masks, ignore = there[0]
    found = image_paths(images)
    if not found:
        raise UserError(f"{images} holds no images")
    paths = [masks / f"{path.stem}.png" for path in found]
    names = {path.name for path in masks.iterdir()}
    if missing := [path for path in paths if path.name not in names]:
        raise UserError(f"{len(missing)} images of {images} have no mask, the first is {missing[0]}")
    return Pairs(found, paths, ignore)


def train_masks(pairs: Pairs, size: int) -> tuple[Tensor, Tensor]:
    """The masks of all pairs at the size of the encoder's image, uint8[B, size, size], and their labels, int64[C].

    Raises: UserError if a mask cannot be used, or none holds a label that counts.
    """
    masks = torch.empty(len(pairs), size, size, dtype=torch.uint8)
    present = torch.zeros(LABELS, dtype=torch.bool)
    with ThreadPoolExecutor(8) as pool, progress(len(pairs), "masks", "mask") as bar:
        for number, mask in enumerate(pool.map(lambda number: pairs.mask(number, size), range(len(pairs)))):
            masks[number] = torch.from_numpy(mask)
            present |= torch.bincount(masks[number].flatten(), minlength=LABELS) > 0
            bar.update()
    present[pairs.ignore] = False
    if not present.any():
        raise UserError(f"the masks of {pairs.mask_paths[0].parent} hold nothing but {pairs.ignore}, which is ignored")
    return masks, present.nonzero()[:, 0]


def _along(tokens: int, pixels: int, device: torch.device) -> Tensor:
    """Weights float32[pixels, tokens] of linear interpolation along one axis (align_corners=False)."""
    # What interpolation makes of each token alone, a row of ones and zeros, is that token's weight in every pixel.
    unit = torch.eye(tokens, device=device)[:, None]  # [tokens, 1, tokens]
    return functional.interpolate(unit, size=pixels, mode="linear", align_corners=False)[:, 0].T


def upsample(logits: Tensor, height: int, width: int, wanted: slice = slice(None)) -> Tensor:
    """Bilinear, [..., h, w] -> the `wanted` rows of [..., height, width]. As two matrix products its gradient is the
    same on every run.
    """
    rows, columns = logits.shape[-2:]
    down, across = _along(rows, height, logits.device)[wanted], _along(columns, width, logits.device)
    return down @ logits @ across.T  # [height, h] @ [..., h, w] @ [w, width]


class SegmentationHead(nn.Module):
    """Patch tokens [B, N, D] of a square image -> logits [B, C, side, side]: one linear layer, which starts at zero."""

    def __init__(self, mean: Tensor, std: Tensor, classes: int):
        super().__init__()
        self.standardise, self.linear = Standardise(mean, std), nn.Linear(len(mean), classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        side = round(tokens.shape[1] ** 0.5)
        return self.linear(self.standardise(tokens)).transpose(1, 2).unflatten(2, (side, side))


def pixel_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits [B, C, h, w], upsampled, over the pixels of targets int64[B, H, W] but for -1."""
    height, width = targets.shape[1:]
    pixels = upsample(logits, height, width).permute(0, 2, 3, 1).flatten(0, 2)  # [B * H * W, C]
    targets = targets.flatten()
    total = functional.cross_entropy(pixels, targets, ignore_index=NOT_COUNTED, reduction="sum")
    return total / (targets >= 0).sum().clamp(min=1)


def confusion_matrix(truth: Tensor, found: Tensor, ignore: int) -> Tensor:
    """uint8[H, W] each -> int64[256, 256]: how many pixels of label i were found to be j, but for i = `ignore`."""
    counted = truth != ignore
    pairs = truth[counted].long() * LABELS + found[counted].long()  # one number for each (i, j)
    return torch.bincount(pairs, minlength=LABELS**2).view(LABELS, LABELS)


def intersection_over_union(confusion: Tensor) -> dict[int, float]:
    """IoU of every label that occurs in the truth."""
    right, truth, found = confusion.diagonal(), confusion.sum(1), confusion.sum(0)  # pixels of each label, int64[256]
    share = right.double() / (truth + found - right).clamp(min=1)
    return {int(label): float(share[label]) for label in truth.nonzero()[:, 0]}


def fit_head(
    encoder: VisionEncoder, pairs: Pairs, seed: int, folder: str | None = None
) -> tuple[SegmentationHead, Tensor] | None:
    """The linear head fitted on `pairs`, and the label of each of its classes, int64[C]; None on all ranks but one.

    folder: as for `PatchTokens`.
    Raises: UserError if images, masks or the folder cannot be used; if it is the masks, SystemExit(2) on other ranks.
    """
    loaded: list[tuple[Tensor, Tensor]] = []  # by rank 0, which alone learns from the masks
    on_main(lambda: loaded.append(train_masks(pairs, encoder.config.image_size)))
    tokens = PatchTokens(encoder, pairs.images(), folder)
    if not is_main():
        return None
    masks, labels = loaded[0]
    # The head's classes are the labels that occur: class_of[label] is the class, or NOT_COUNTED.
    class_of = torch.full((LABELS,), NOT_COUNTED)
    class_of[labels] = torch.arange(len(labels))
    head = SegmentationHead(tokens.mean, tokens.std, len(labels)).to(encoder.device)

    def targets(rows: list[int]) -> Tensor:
        return class_of[masks[rows].long()].to(encoder.device)  # int64[B, size, size]

    steps, batches = training_batches(tokens, torch.arange(len(pairs)), targets, TRAIN_BATCH, seed)
    train_heads([head], [DECAY], batches, pixel_loss, steps, "segmentation head")
    return head, labels


def picture_confusion(logits: Tensor, label_of_class: Tensor, truth: Tensor, ignore: int) -> Tensor:
    """The confusion matrix int64[256, 256] of one picture: logits [C, h, w] against truth uint8[H, W].

    In strips of rows: of 16 megapixels the logits of ADE20K's 150 classes would take 10 GB.
    """
    (height, width), classes = truth.shape, len(label_of_class)
    confusion = torch.zeros(LABELS, LABELS, dtype=torch.int64, device=truth.device)
    step = max(1, ELEMENTS // (classes * width))
    for top in range(0, height, step):
        strip = slice(top, top + step)
        found = label_of_class[upsample(logits, height, width, strip).argmax(0)]  # uint8[rows, W]
        confusion += confusion_matrix(truth[strip], found, ignore)
    return confusion


@torch.no_grad()
def confusion_on(encoder: VisionEncoder, head: SegmentationHead, labels: Tensor, pairs: Pairs) -> Tensor:
    """The head's confusion matrix int64[256, 256] on all pairs, each at its mask's own size."""
    label_of_class = labels.to(encoder.device, torch.uint8)
    confusion = torch.zeros(LABELS, LABELS, dtype=torch.int64, device=encoder.device)
    batches = in_order(len(pairs))
    with progress(len(pairs), "segmenting", "image") as bar:
        for numbers, tokens in zip(batches, patch_tokens(encoder, pairs.images(), batches)):
            for number, logits in zip(numbers, head(tokens.float())):  # logits: [C, side, side]
                truth = torch.from_numpy(pairs.mask(number)).to(encoder.device)
                confusion += picture_confusion(logits, label_of_class, truth, pairs.ignore)
                bar.update()
    return confusion


def segmentation_probe(encoder: VisionEncoder, root: str | Path, seed: int, folder: str | None = None) -> dict:
    """Mean IoU on the validation masks over the labels that occur in them.

    Training sees images and masks at the encoder's size. A label that no training mask has is never found: IoU 0.
    folder: as for `PatchTokens`. On all ranks but the first nothing is returned.
    Raises: UserError if images or masks cannot be used, or no mask holds a label that counts.
    """
    train, val = open_pairs(Path(root), "train"), open_pairs(Path(root), "val")
    fitted = fit_head(encoder, train, seed, folder)
    if fitted is None:
        return {}
    confusion = confusion_on(encoder, *fitted, val)
    shares = intersection_over_union(confusion)
    if not shares:
        raise UserError(f"the masks of {val.mask_paths[0].parent} hold nothing but {val.ignore}, which is ignored")
    miou, pixels_right = sum(shares.values()) / len(shares), float(confusion.diagonal().sum() / confusion.sum())
    counts = {"labels": len(shares), "train_images": len(train), "images": len(val)}
    return {"miou": miou, "pixel_accuracy": pixels_right, **counts, "iou_per_label": shares}
