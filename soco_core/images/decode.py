"""From the bytes of an image file to upright 8-bit RGB, whatever mode it is stored in.

Proposals and pretraining read images through this one function, so that a box always lies on the
pixels that it was found on.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

DEFAULT_MAX_PIXELS = 89_478_485
"""Pillow's limit: a quarter of a gigabyte of RGB."""
BACKGROUND = (255, 255, 255)
"""Colour behind transparent pixels."""


class BadImageError(Exception):
    """A file cannot be decoded. Its text is the reason, without the file's name.

    Whoever reads a set of images catches it and names the file: one bad file never stops a run.
    """


def decode_image(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    EXIF orientation is applied (an invalid tag counts as unrotated), transparency is laid over white,
    16-bit values are scaled to 8 bits, and of an animation the first frame is taken.

    Args:
        data: the whole file, in any format that Pillow reads; its name does not matter.
        max_pixels: an image that declares more is refused before it is decoded: a decompression bomb.

    Returns:
        uint8 RGB [H, W, 3], writable.

    Raises:
        BadImageError: the data are empty, no image, damaged, truncated, or of more pixels than
            `max_pixels`.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise BadImageError("empty file")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow's own check would refuse what is allowed here
    too_large = BadImageError(f"more than the limit of {max_pixels} pixels")
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, and of a too large image that it opens nevertheless: refused below.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > max_pixels:
                    raise too_large
                if image.width * image.height == 0:
                    raise BadImageError("no pixels")
                image.load()
                return np.array(_rgb(_upright(image)))
        except BadImageError:
            raise
        except Image.DecompressionBombError as error:
            raise too_large from error
        except UnidentifiedImageError as error:
            raise BadImageError("not an image in a known format") from error
        except MemoryError:
            raise  # the machine's trouble, not the file's
        except Exception as error:  # a damaged file leads Pillow's readers into errors of any type
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            # Some name a stream by its address, and a reason is the same in every process.
            raise BadImageError(re.sub(r" at 0x[0-9a-fA-F]+", "", reason)) from error


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF data that cannot be parsed say nothing; the pixels are already decoded
        return image


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        # Straight to RGBA there is no way from some modes with premultiplied alpha.
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        with_alpha = image.convert(straight).convert("RGBA")
        background = Image.new("RGBA", with_alpha.size, (*BACKGROUND, 255))
        return Image.alpha_composite(background, with_alpha).convert("RGB")
    if image.mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # None only comes back when it works in place
        return converted
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit values map 0..65535 to 0..255; other ranges (float, 32 bits) are stretched from least to most."""
    import numpy as np
    from PIL import Image

    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
