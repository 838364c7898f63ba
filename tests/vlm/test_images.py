"""vlm.images: every rule of decoding as golden pixels, every refusal with its reason, and parity with transformers."""

import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from tiny.pictures import encoded, photo

from vlm import images
from vlm.encoders.config import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from vlm.errors import UserError
from vlm.images import EvalTransform, ImageError, decode, load_image, upright_rgb

pytestmark = pytest.mark.filterwarnings("ignore:Image size", "ignore:Corrupt EXIF")


def png(width, height, depth, colour, rows, extra=b""):
    """A PNG written by hand: Pillow cannot write 16-bit colour."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def flat(mode, colour):
    return Image.new(mode, (8, 8), colour)


def paletted():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 200, 30, 255, 0, 0])
    image.putpixel((0, 0), 2)
    return image


GREY16 = Image.fromarray(np.full((8, 8), 0x8080, np.uint16))
TRNS16 = struct.pack(">I", 2) + b"tRNS" + b"\x80\x80" + struct.pack(">I", zlib.crc32(b"tRNS\x80\x80"))
ANIMATION = [flat("RGB", "red"), flat("RGB", "blue")]

GOLDEN = {  # name: (bytes, pixel at (4, 4), tolerance)
    "RGB": (encoded(flat("RGB", (1, 2, 3))), (1, 2, 3), 0),
    "L": (encoded(flat("L", 77)), (77, 77, 77), 0),
    "1-bit": (encoded(flat("1", 1)), (255, 255, 255), 0),
    "RGBA, alpha 0 hides its colour": (encoded(flat("RGBA", (200, 0, 0, 0))), (255, 255, 255), 0),
    "RGBA, half red": (encoded(flat("RGBA", (255, 0, 0, 128))), (255, 127, 127), 0),
    "LA": (encoded(flat("LA", (0, 51))), (204, 204, 204), 0),
    "P": (encoded(paletted()), (10, 200, 30), 0),
    "P, transparent index": (encoded(paletted(), transparency=1), (255, 255, 255), 0),
    "L, transparent grey": (encoded(flat("L", 9), transparency=9), (255, 255, 255), 0),
    "16-bit grey": (encoded(GREY16), (128, 128, 128), 0),
    "16-bit grey, transparent": (png(8, 8, 16, 0, (b"\0" + b"\x80\x80" * 8) * 8, TRNS16), (255, 255, 255), 0),
    "16-bit grey and alpha": (png(8, 8, 16, 4, (b"\0" + b"\0\0\x33\x33" * 8) * 8), (204, 204, 204), 0),
    "16-bit RGB": (png(8, 8, 16, 2, (b"\0" + b"\x12\x34\x56\x78\x9a\xbc" * 8) * 8), (0x12, 0x56, 0x9A), 0),
    "CMYK": (encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), (254, 0, 0), 3),
    "JPEG": (encoded(flat("RGB", (40, 80, 160)), "JPEG", quality=95), (40, 80, 160), 3),
    "WEBP with alpha": (encoded(flat("RGBA", (9, 9, 9, 0)), "WEBP", lossless=True), (255, 255, 255), 0),
    "GIF, first frame": (encoded(ANIMATION[0], "GIF", save_all=True, append_images=ANIMATION[1:]), (255, 0, 0), 0),
    "WEBP, first frame": (
        encoded(ANIMATION[0], "WEBP", lossless=True, save_all=True, append_images=ANIMATION[1:]),
        (255, 0, 0),
        0,
    ),
    "APNG, first frame": (encoded(ANIMATION[0], save_all=True, append_images=ANIMATION[1:]), (255, 0, 0), 0),
    "MPO": (encoded(ANIMATION[0], "MPO", save_all=True, append_images=ANIMATION[1:]), (254, 0, 0), 3),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_pixels(name):
    data, expected, tolerance = GOLDEN[name]
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (8, 8))
    assert np.abs(np.subtract(image.getpixel((4, 4)), expected)).max() <= tolerance


def test_sixteen_bit_greys_are_scaled_not_clipped():
    values = np.tile(np.arange(256, dtype=np.uint16) * 257, (8, 1))
    assert np.array_equal(np.asarray(decode(encoded(Image.fromarray(values))))[0, :, 0], np.arange(256))


@pytest.mark.parametrize("fit", [None, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, fit):
    """Where the red corner (top left as stored) ends up, by the EXIF standard, also in a reduced decode."""
    stored = Image.new("RGB", (64, 32), "white")
    stored.paste("red", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, "JPEG", quality=95, exif=exif), fit=fit)
    scale = 1 if fit is None else 2
    assert image.size == ((64 // scale, 32 // scale) if orientation <= 4 else (32 // scale, 64 // scale))
    left, top = 4 // scale, 4 // scale
    right, bottom = image.width - 1 - left, image.height - 1 - top
    corner = {1: (left, top), 2: (right, top), 3: (right, bottom), 4: (left, bottom)}
    corner |= {5: (left, top), 6: (right, top), 7: (right, bottom), 8: (left, bottom)}
    for place in {(x, y) for x in (left, right) for y in (top, bottom)}:
        red = image.getpixel(place)[1] < 60
        assert red == (place == corner[orientation])
    assert upright_rgb(image).tobytes() == image.tobytes()  # turned once, however often it is asked for


def test_a_pil_image_of_any_mode_gives_the_pixels_of_its_file(tmp_path):
    """The same rules whether a picture comes as a file or as Pillow opened it: alpha, greys, palettes, EXIF."""
    rows = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)
    alpha = np.stack([rows % 256, rows % 7, rows % 11, rows % 256], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    colours = Image.fromarray(alpha[..., :3])
    images = [Image.fromarray(alpha), Image.fromarray(alpha[..., 0]), Image.fromarray(rows * 20), colours.quantize(9)]
    transform = EvalTransform(24, CLIP_MEAN, CLIP_STD)
    for image, options in [*((image, {}) for image in images), (colours, {"exif": exif})]:
        image.save(tmp_path / "a.png", **options)
        expected = transform(load_image(tmp_path / "a.png"))
        assert expected.shape == (3, 24, 24)
        assert torch.equal(transform(Image.open(tmp_path / "a.png")), expected)


def test_what_is_no_picture_is_one_line(tmp_path):
    """An empty one would end Python itself, and numbers that are taken for 16-bit greys would be black."""
    transform, levels = EvalTransform(24, CLIP_MEAN, CLIP_STD), np.full((8, 8), 200, np.int32)
    closed = Image.new("RGB", (8, 8))
    closed.save(tmp_path / "a.png")
    closed = Image.open(tmp_path / "a.png")
    closed.close()
    for given, told in (
        (Image.new("RGB", (0, 5)), "an image of 0 x 5 pixels shows nothing"),
        (np.zeros((8, 8, 3), np.uint8), "ndarray is no PIL image"),
        (Image.fromarray(levels), "a PIL image of mode I does not tell its white: give uint8"),
        (Image.fromarray((levels / 255).astype(np.float32)), "a PIL image of mode F does not tell its white"),
        (closed, "the PIL image cannot be read"),
    ):
        with pytest.raises(UserError, match=f"^{told}"):
            transform(given)
    assert torch.equal(transform(Image.fromarray(levels * 257)), transform(Image.fromarray(levels.astype(np.uint8))))


def test_a_large_palette_with_alpha_can_be_transformed():
    """Converted in strips, and then on white: no transparency is left to be applied again."""
    image = decode(encoded(paletted().resize((700, 500)), transparency=b"\x00" * 256))
    assert image.mode == "RGB" and not image.has_transparency_data
    white = EvalTransform(8, (1, 1, 1), (1, 1, 1))(image)
    assert torch.equal(white, torch.zeros(3, 8, 8))


def test_damaged_exif_keeps_the_pixels():
    data = encoded(flat("RGB", (40, 80, 160)), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(20))
    assert np.abs(np.subtract(decode(data).getpixel((4, 4)), (40, 80, 160))).max() <= 3


WHOLE = encoded(photo(200, 160), "JPEG", quality=85)
SMASHED_PNG = bytearray(encoded(photo(32, 32)))
SMASHED_PNG[60] ^= 0xFF


def ztxt_bomb():
    body = b"note\0\0" + zlib.compress(bytes(80_000_000))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return png(8, 8, 8, 0, (b"\0" * 9) * 8, chunk)


REFUSED = {  # name: (bytes, reason)
    "empty": (b"", "not an image"),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "PDF": (b"%PDF-1.4\n", "not an image"),
    "TIFF": (encoded(flat("RGB", "red"), "TIFF"), "not an image"),
    "BMP": (encoded(flat("RGB", "red"), "BMP"), "not an image"),
    "JPEG cut in half": (WHOLE[: len(WHOLE) // 2], "damaged image"),
    "JPEG without its last 2 bytes": (WHOLE[:-2], "damaged image"),
    "JPEG header only": (WHOLE[:10], "damaged image"),
    "PNG cut in half": (encoded(photo(32, 32))[:1000], "damaged image"),
    "PNG, smashed byte": (bytes(SMASHED_PNG), "damaged image"),
    "WEBP cut": (encoded(photo(32, 32), "WEBP")[:-20], "damaged image"),
    "zTXt bomb": (ztxt_bomb(), "damaged image"),
    "64 MP and a row": (png(8000, 8001, 1, 0, b""), "too many pixels"),
    "144 MP, where Pillow only warns": (png(12_000, 12_000, 1, 0, b""), "too many pixels"),
    "400 MP": (png(20_000, 20_000, 1, 0, b""), "too many pixels"),
    "1 x 1": (encoded(Image.new("RGB", (1, 1))), "too small"),
    "5000 x 1": (encoded(Image.new("RGB", (5000, 1))), "too small"),
    "5000 x 20": (encoded(Image.new("RGB", (5000, 20))), "too elongated"),
    "20 x 5000": (encoded(Image.new("RGB", (20, 5000))), "too elongated"),
}


@pytest.mark.parametrize("fit", [None, 16])
@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name, fit, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as another library may leave it
    data, reason = REFUSED[name]
    with pytest.raises(ImageError) as caught:
        decode(data, fit=fit)
    assert caught.value.reason == reason
    assert isinstance(caught.value, UserError)
    copy = pickle.loads(pickle.dumps(caught.value))  # loader workers send it to their parent
    assert (copy.reason, str(copy)) == (reason, str(caught.value))


def test_pixel_cap_is_the_callers():
    data = encoded(photo(100, 80))
    assert decode(data, max_pixels=8000).size == (100, 80)
    with pytest.raises(ImageError, match=r"100 x 80 is above 0\.007999 megapixels"):
        decode(data, max_pixels=7999)


def test_a_limit_of_the_environment_holds_for_all_formats_and_above_pillows_own(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    (tmp_path / "large.png").write_bytes(
        png(20_000, 10_000, 1, 0, b"".join(bytes(2501) for _ in range(10_000)))
    )  # one bit a pixel
    monkeypatch.setenv("LEVLM_MAX_MEGAPIXELS", "199")
    with pytest.raises(ImageError, match=r"20000 x 10000 is above 199 megapixels \(LEVLM_MAX_MEGAPIXELS\)"):
        images.check_header(tmp_path / "large.png")
    monkeypatch.setenv("LEVLM_MAX_MEGAPIXELS", "200")
    images.check_header(tmp_path / "large.png")


@pytest.mark.parametrize("given", ["0", "-5", "64MP", "1.5", "1" * 5_000])
def test_a_limit_that_is_none_is_no_fault_of_the_picture(monkeypatch, given):
    monkeypatch.setenv("LEVLM_MAX_MEGAPIXELS", given)
    with pytest.raises(UserError, match=r"^LEVLM_MAX_MEGAPIXELS=.*: give a whole number of megapixels") as caught:
        decode(encoded(flat("RGB", "red")))
    assert not isinstance(caught.value, ImageError)


def test_load_image_names_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(flat("RGB", (1, 2, 3))))
    (tmp_path / "b.jpg").write_bytes(b"<html>")
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(ImageError, match=r"b\.jpg"):
        load_image(tmp_path / "b.jpg")
    with pytest.raises(UserError, match="No such file"):
        load_image(tmp_path / "c.jpg")


SIZES = {  # (width, height, fit): the size after decoding; at least 1.5 * fit remain on the short side
    (1024, 768, 224): (512, 384),
    (1024, 768, 257): (1024, 768),
    (1024, 768, 32): (128, 96),
    (1023, 767, 64): (255, 191),
    (301, 477, 64): (150, 238),
}


@pytest.mark.parametrize(("width", "height", "fit"), SIZES)
def test_reduced_decoding_equals_the_full_one_after_the_resize(width, height, fit):
    data = encoded(photo(width, height), "JPEG", quality=90)
    reduced = decode(data, fit=fit)
    assert reduced.size == SIZES[width, height, fit]
    expected, got = (np.asarray(image.resize((fit, fit), Image.BICUBIC), float) for image in (decode(data), reduced))
    shifted = np.asarray(reduced.resize((fit, fit), Image.BICUBIC, box=(0, 0, reduced.width - 1, reduced.height - 1)))
    assert np.abs(expected - got).mean() < 1.0
    assert np.abs(expected - shifted).mean() > 1.5 * np.abs(expected - got).mean()  # the field of view is the same


def test_png_has_no_reduced_decode():
    assert decode(encoded(photo(300, 200)), fit=16).size == (300, 200)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (50, 90), (64, 64)])
def test_eval_transform_equals_transformers_to_the_bit(width, height):
    from transformers import CLIPImageProcessor  # as AutoProcessor reloads it

    image = photo(width, height)
    size = {"height": 64, "width": 64}
    stock = CLIPImageProcessor(size=size, do_center_crop=False, resample=Image.Resampling.BICUBIC)
    expected = stock(image, return_tensors="pt").pixel_values[0]
    got = EvalTransform(64, CLIP_MEAN, CLIP_STD)(image)
    assert (got.dtype, tuple(got.shape)) == (expected.dtype, (3, 64, 64))
    assert (got == expected).all()
    stock = CLIPImageProcessor(size=size, do_center_crop=False, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)
    expected = stock(image, return_tensors="pt").pixel_values[0]
    assert (EvalTransform(64, IMAGENET_MEAN, IMAGENET_STD)(image) == expected).all()
