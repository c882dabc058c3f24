"""From finished shards to the result that pretraining reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2

from soco_core.artifacts.proposals import BOXES, MANIFEST, intact_manifest, read_rows, write_merged
from soco_core.artifacts.result import ResultDirectory
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InputError
from soco_core.images import ImageSet
from soco_core.proposals.figures import draw_contact_sheet, draw_histograms
from soco_core.proposals.selective_search import MAX_LONG_SIDE
from soco_core.proposals.shards import SHARDS, Shard, cut

if TYPE_CHECKING:
    import pyarrow as pa

NAMED_BAD_IMAGES = 10


def merge(result: ResultDirectory, recipe: Recipe, image_set: ImageSet, count: int) -> dict[str, Any]:
    """Merge `count` finished shards, unless an earlier attempt did, and draw the pictures.

    The work files of all shards are removed once the merged files stand.

    Returns:
        The summary for ``done.json``.

    Raises:
        InputError: a shard is missing or damaged, or no image can be decoded.
    """
    folder = result.path
    manifest = intact_manifest(folder)
    if manifest is None:
        rows = _all_rows(cut(result, image_set.ids, count), image_set)
        if rows["error"].null_count == 0:
            first = f"{image_set.ids[0]}: {rows['error'][0].as_py()}"
            raise InputError(f"none of the {len(rows)} images in {image_set.root} can be decoded (the first, {first})")
        manifest = write_merged(folder, rows, _header(result, recipe, image_set))
    tables = [folder / entry["file"] for entry in manifest["shards"]]
    result.publish(*tables, folder / BOXES, folder / MANIFEST)
    result.unpublish(*(path for path in sorted((folder / SHARDS).glob("*")) if path.suffix in {".parquet", ".jsonl"}))
    draw_contact_sheet(folder / "figures" / "proposals.png", folder, image_set)
    draw_histograms(folder / "figures" / "proposals_histogram.png", folder)
    _name_bad_images(manifest)
    return {
        "images": manifest["images"]["good"],
        "bad_images": manifest["images"]["bad"],
        "boxes_per_image": manifest["boxes_per_image"]["mean"],
        "kept_by": manifest["kept_by"],
    }


def _all_rows(shards: list[Shard], image_set: ImageSet) -> pa.Table:
    import pyarrow as pa

    missing = [f"{shard.index + 1}/{shard.count}" for shard in shards if not shard.table.exists()]
    if missing:
        raise InputError(
            f"{shards[0].result.uri}: not finished: shard {_shortened(missing)}; run `soco propose --shard "
            f"{missing[0]}` and so on with the same images, recipe and output, then merge again"
        )
    tables = []
    for shard in shards:
        table = read_rows(shard.table)
        if table["id"].to_pylist() != list(shard.ids):
            raise InputError(f"{shard.table}: does not hold the images of its shard; delete it and run the shard again")
        tables.append(table)
    return pa.concat_tables(tables)


def _header(result: ResultDirectory, recipe: Recipe, image_set: ImageSet) -> dict[str, Any]:
    return {
        "image_set": {
            "root": image_set.root,
            "fingerprint": result.determined_by["inputs"]["images"],
            "fingerprint_mode": recipe.images.fingerprint,
            "images": len(image_set.ids),
        },
        "parameters": recipe.proposals.model_dump(mode="json"),
        "search": {"opencv": cv2.__version__, "max_long_side": MAX_LONG_SIDE},
    }


def _name_bad_images(manifest: dict[str, Any]) -> None:
    bad = [f"{entry['id']} ({entry['reason']})" for entry in manifest["bad_images"]]
    if bad:
        total = manifest["image_set"]["images"]
        say(
            f"proposals: {len(bad)} of {total} images could not be decoded: {_shortened(bad)}; "
            f"{MANIFEST} names each with its reason"
        )


def _shortened(names: list[str]) -> str:
    more = len(names) - NAMED_BAD_IMAGES
    return ", ".join(names[:NAMED_BAD_IMAGES]) + (f" and {more} more" if more > 0 else "")
