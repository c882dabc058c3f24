"""Image sets: which images there are, where they lie, and their pixels as upright RGB."""

from soco_core.images.decode import DEFAULT_MAX_PIXELS, BadImageError, decode_image
from soco_core.images.fingerprint import source_fingerprint
from soco_core.images.image_set import ImageSet, open_image_set, open_source
from soco_core.images.sources import ImageSource

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "BadImageError",
    "ImageSet",
    "ImageSource",
    "decode_image",
    "open_image_set",
    "open_source",
    "source_fingerprint",
]
