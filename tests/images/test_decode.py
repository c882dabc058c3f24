from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from soco_core.config import ImagesConfig
from soco_core.images import DEFAULT_MAX_PIXELS, BadImageError, decode_image

LEFT_RED_RIGHT_BLUE = np.zeros((16, 32, 3), np.uint8)
LEFT_RED_RIGHT_BLUE[:, :16, 0] = 255
LEFT_RED_RIGHT_BLUE[:, 16:, 2] = 255


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def with_orientation(tag: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    return encoded(Image.fromarray(LEFT_RED_RIGHT_BLUE), "PNG", exif=exif)


def test_rgb_comes_back_unchanged_and_writable() -> None:
    image = decode_image(encoded(Image.fromarray(LEFT_RED_RIGHT_BLUE), "PNG"))
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, LEFT_RED_RIGHT_BLUE)


def test_orientation_6_turns_the_image_clockwise() -> None:
    image = decode_image(with_orientation(6))
    assert image.shape == (32, 16, 3)
    # The stored left side is the top of the upright image.
    assert image[0, 0].tolist() == [255, 0, 0]
    assert image[-1, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("tag", range(1, 9))
def test_every_orientation_is_as_pillow_has_it(tag: int) -> None:
    data = with_orientation(tag)
    np.testing.assert_array_equal(decode_image(data), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))


@pytest.mark.parametrize("tag", [0, 9, 255])
def test_an_invalid_orientation_counts_as_unrotated(tag: int) -> None:
    np.testing.assert_array_equal(decode_image(with_orientation(tag)), LEFT_RED_RIGHT_BLUE)


def test_exif_that_cannot_be_parsed_counts_as_none() -> None:
    data = encoded(Image.fromarray(LEFT_RED_RIGHT_BLUE), "JPEG", exif=b"Exif\0\0MM\0*not at all a directory")
    assert decode_image(data).shape == LEFT_RED_RIGHT_BLUE.shape


def test_transparency_is_laid_over_white() -> None:
    pixels = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 200, 51]]], np.uint8)
    # 51 of 255 is a fifth: c / 5 + 255 * 4 / 5.
    assert decode_image(encoded(Image.fromarray(pixels), "PNG")).tolist() == [
        [[255, 255, 255], [10, 20, 30], [204, 224, 244]]
    ]


def test_grey_with_alpha_is_laid_over_white() -> None:
    image = Image.fromarray(np.array([[[100, 51]]], np.uint8), "LA")
    assert decode_image(encoded(image, "PNG")).tolist() == [[[224, 224, 224]]]


def test_a_transparent_palette_colour_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putdata([0, 1])
    assert decode_image(encoded(image, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [0, 200, 0]]]
    assert decode_image(encoded(image, "PNG")).tolist() == [[[200, 0, 0], [0, 200, 0]]]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    image = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert image.mode == "I;16"
    for file_format in ("PNG", "TIFF", "PPM"):
        assert decode_image(encoded(image, file_format))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_float_pixels_are_stretched() -> None:
    image = Image.fromarray(np.array([[-1.0, 0.0, 1.0]], np.float32))
    assert decode_image(encoded(image, "TIFF"))[0, :, 1].tolist() == [0, 128, 255]


def test_cmyk() -> None:
    # No ink is white, full cyan absorbs red.
    image = Image.fromarray(np.array([[[0, 0, 0, 0], [255, 0, 0, 0]]], np.uint8).repeat(8, 0).repeat(8, 1), "CMYK")
    decoded = decode_image(encoded(image, "TIFF"))
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[0, -1].tolist() == [0, 255, 255]
    assert decode_image(encoded(image, "JPEG", quality=100))[0, 0].min() >= 250


def test_lab() -> None:
    # L* = 100 of 100 and a* = b* = 0 is white, L* = 0 black.
    image = Image.frombytes("LAB", (2, 1), bytes([255, 0, 0, 0, 0, 0]))
    decoded = decode_image(encoded(image, "TIFF"))
    assert decoded[0, 0].min() >= 254
    assert decoded[0, 1].max() <= 1


def test_one_bit_grey_and_the_first_frame_of_an_animation() -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    assert decode_image(encoded(bits, "PNG")).tolist() == [[[255, 255, 255], [0, 0, 0]]]
    grey = Image.fromarray(np.array([[7, 200]], np.uint8))
    assert decode_image(encoded(grey, "PNG")).tolist() == [[[7, 7, 7], [200, 200, 200]]]
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(animation)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_files_are_refused(file_format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    with pytest.raises(BadImageError):
        decode_image(data[: int(len(data) * share)])


def test_reasons_name_the_trouble_and_repeat() -> None:
    with pytest.raises(BadImageError, match=r"^empty file$"):
        decode_image(b"")
    with pytest.raises(BadImageError, match=r"^not an image in a known format$"):
        decode_image(b"<html>not found</html>")


@pytest.mark.filterwarnings("error")
def test_more_pixels_than_the_limit_are_refused_without_a_warning() -> None:
    data = encoded(Image.fromarray(LEFT_RED_RIGHT_BLUE), "PNG")
    assert decode_image(data, max_pixels=512).shape == (16, 32, 3)
    # Within twice its own limit Pillow only warns.
    with pytest.raises(BadImageError, match=r"^more than the limit of 511 pixels$"):
        decode_image(data, max_pixels=511)


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that declares `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9_460, 12_000, 60_000])  # just above the limit, below twice the limit, far above
def test_a_bomb_is_refused_before_it_is_decoded(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        pytest.fail("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", explode)
    with pytest.raises(BadImageError, match=f"^more than the limit of {DEFAULT_MAX_PIXELS} pixels$"):
        decode_image(bomb(side))


def test_a_higher_limit_than_pillows_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(Image.fromarray(LEFT_RED_RIGHT_BLUE), "PNG")  # 512 pixels: Pillow would raise
    assert decode_image(data, max_pixels=600).shape == (16, 32, 3)


def test_the_default_limit_is_the_recipes() -> None:
    assert ImagesConfig().max_pixels == DEFAULT_MAX_PIXELS


def test_sixteen_bits_a_channel() -> None:
    blue_green_red = np.array([[[0, 257, 32896], [65535, 40000, 128]]], np.uint16)
    for suffix in (".png", ".tiff"):
        data = cv2.imencode(suffix, blue_green_red)[1].tobytes()
        # 32896 = 128 x 257, 257 = 1 x 257; Pillow drops the low byte: 40000 >> 8 = 156.
        assert decode_image(data).tolist() == [[[128, 1, 0], [0, 156, 255]]]
    with_alpha = np.array([[[0, 0, 0, 51 * 257]]], np.uint16)
    assert decode_image(cv2.imencode(".png", with_alpha)[1].tobytes()).tolist() == [[[204, 204, 204]]]


def test_a_reason_names_no_address() -> None:
    def refuse(*_: object) -> None:
        raise ValueError(f"cannot read {io.BytesIO()}")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ImageFile.ImageFile, "load", refuse)
        with pytest.raises(BadImageError, match=r"^cannot read <_io\.BytesIO object>$"):
            decode_image(encoded(Image.fromarray(LEFT_RED_RIGHT_BLUE), "PNG"))


def test_the_files_that_break_loaders(shared_data: Path) -> None:
    folder = shared_data / "nasty"
    for entry in json.loads((folder / "index.json").read_text()):
        data = (folder / entry["file"]).read_bytes()
        if entry["pil_load"] != "ok":
            with pytest.raises(BadImageError):
                decode_image(data)
            continue
        width, height = entry["size"]
        if entry["exif_orientation"] in {5, 6, 7, 8}:
            width, height = height, width
        assert decode_image(data).shape == (height, width, 3), entry["file"]
