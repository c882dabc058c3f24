"""Image sets: which images there are, and their pixels as upright RGB."""

from soco_core.images.decode import BadImageError, decode_image
from soco_core.images.folder import ImageSet, open_image_set

__all__ = ["BadImageError", "ImageSet", "decode_image", "open_image_set"]
