"""What `soco views` does: find an image and its proposals, and draw its views."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from tempfile import TemporaryDirectory

from soco_core import storage
from soco_core.artifacts.proposals import Proposals
from soco_core.artifacts.result import open_result
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InputError
from soco_core.images import BadImageError, decode_image, open_source
from soco_core.pretrain.data import ViewDataset
from soco_core.pretrain.proposed import as_proposed
from soco_core.proposals.engines import build_engine
from soco_core.proposals.filters import distinct_boxes, filter_boxes
from soco_core.views.draw import PicturedImage, draw_views


def draw_image(
    recipe: Recipe,
    *,
    image: str,
    output: str,
    epoch: int = 0,
    proposals: str | None = None,
    images: str | None = None,
) -> None:
    """Draw the views of one image.

    Args:
        recipe: the resolved recipe; its seed, the epoch and the image's number determine the views.
        image: an image file (path or S3 URI), which is searched for proposals here and counts as image 0; or, with
            `proposals`, one of their images (its id or path), which gets the very views that a pretraining sees.
        output: the PNG, a local path or an S3 URI.
        epoch: the epoch, from 0.
        proposals: result of `soco propose`.
        images: the images of `proposals`, if they now lie elsewhere.

    Raises:
        InputError: there is no such image, or it cannot be decoded; `images` without `proposals`; or the output cannot
            be written.
    """
    if images is not None and proposals is None:
        raise InputError(f"--images {images}: these are the images of --proposals; give both or neither")
    if not storage.is_s3(output) and (not Path(output).name or Path(output).is_dir()):
        raise InputError(f"--output {output!r}: not a file; name one, such as views.png")
    if not output.lower().endswith(".png"):
        raise InputError(f"--output {output}: the picture is a PNG; give it a name that ends in .png")
    pictured = _search(recipe, image) if proposals is None else _look_up(recipe, image, proposals, images)
    try:
        draw_views(output, [pictured], recipe, epoch)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}); name another file") from error


def _search(recipe: Recipe, uri: str) -> PicturedImage:
    """Find the proposals of an image file, as `soco propose` does."""
    try:
        pixels = decode_image(storage.read_bytes(uri), recipe.images.max_pixels)
    except BadImageError as error:
        raise InputError(f"{uri}: {error}; give an image file") from error
    config, name = recipe.proposals, uri.rpartition("/")[2]
    with TemporaryDirectory(prefix="soco.") as folder:
        imported = None
        if config.boxes_file:
            from soco_core.proposals.imported import convert_boxes_file

            imported = Path(folder, "imported.arrow")
            convert_boxes_file(config.boxes_file, imported)
        found = build_engine(config, recipe.seed, imported).search(name, pixels)
    kept, _ = filter_boxes(found, pixels.shape[1], pixels.shape[0], config)
    return PicturedImage(name, pixels, kept if config.keep_duplicates else distinct_boxes(kept), 0)


def _look_up(recipe: Recipe, image: str, uri: str, images: str | None) -> PicturedImage:
    """Find an image, by its id or its path, among those of `soco propose`."""
    proposed = open_result(uri, stage="proposals")
    _, differing = as_proposed(recipe, proposed)
    if differing:
        say(f"warning: {differing}")
    proposals = Proposals.open(proposed)
    source = open_source(images or proposals.image_set)
    ids = [image]
    if not storage.is_s3(source.root) and Path(image).resolve().is_relative_to(Path(source.root).resolve()):
        ids.append(Path(image).resolve().relative_to(Path(source.root).resolve()).as_posix())
    for image_id in ids:
        number = bisect_left(range(len(proposals)), image_id, key=proposals.id)
        if number < len(proposals) and proposals.id(number) == image_id:
            pixels = ViewDataset(recipe, proposals, source).image(number)
            return PicturedImage(image_id, pixels, proposals.boxes(number), number)
    raise InputError(
        f"{image}: not among the {len(proposals)} images of {uri}; name one as it is there, such as "
        f"{proposals.id(0)}, or leave --proposals out"
    )
