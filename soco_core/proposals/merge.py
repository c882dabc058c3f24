"""From finished shards to the result that pretraining reads."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from shutil import rmtree
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from soco_core.artifacts.proposals import (
    BOXES,
    MANIFEST,
    TABLES,
    Proposals,
    intact_manifest,
    read_rows,
    write_merged,
)
from soco_core.artifacts.result import JOURNAL_SUFFIX
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InputError
from soco_core.proposals.figures import draw_contact_sheet, draw_histograms
from soco_core.proposals.plan import SHARDS, Work, work_files
from soco_core.proposals.shards import cut

NAMED = 10
LIBRARIES = {
    "opencv": ("cv2", "numpy", "PIL"),
    "exact": ("skimage", "scipy", "numba", "numpy", "PIL", "cv2"),
    "random": ("numpy",),
    "import": (),
}
"""What has a say in the boxes of an engine: the search itself, decoding, and reducing large images."""


def merge(work: Work, recipe: Recipe, count: int) -> dict[str, Any]:
    """Merge `count` finished shards, unless an earlier attempt did, and draw the pictures.

    The work files of all shards, and the plan, are removed once the merged files stand.

    Returns:
        The summary for ``done.json``.

    Raises:
        InputError: a shard is missing or damaged, or no image can be decoded.
    """
    result, folder = work.result, work.result.path
    manifest = intact_manifest(folder)
    if manifest is None:
        rows = _all_rows(work, count)
        if rows["error"].null_count == 0:
            first = f"{rows['id'][0].as_py()}: {rows['error'][0].as_py()}"
            raise InputError(
                f"none of the {len(rows)} images in {work.image_set['root']} can be decoded (the first, {first})"
            )
        manifest = write_merged(folder, rows, _header(work, recipe))
        del rows
    tables = [folder / entry["file"] for entry in manifest["shards"]]
    result.publish(*tables, folder / BOXES, folder / MANIFEST)
    result.unpublish(*work_files(result))
    _remove_leftovers(folder)
    proposals = Proposals(folder)
    draw_contact_sheet(folder / "figures" / "proposals.png", proposals, work.images, recipe)
    draw_histograms(folder / "figures" / "proposals_histogram.png", proposals, recipe.proposals)
    _name_bad_images(manifest)
    return {
        "images": manifest["images"]["good"],
        "bad_images": manifest["images"]["bad"],
        "reduced_images": len(manifest["reduced_images"]),
        "boxes_per_image": manifest["boxes_per_image"]["mean"],
        "kept_by": manifest["kept_by"],
    }


def _all_rows(work: Work, count: int) -> pa.Table:
    """Return the rows of all images of the set, in their order, each once."""
    ids = work.ids()
    shards = cut(work.result, len(ids), count)
    missing = [f"{shard.index + 1}/{shard.count}" for shard in shards if not shard.table.exists()]
    if missing:
        raise InputError(
            f"{work.result.uri}: not finished: shard {_shortened(missing)}; run `soco propose --shard "
            f"{missing[0]}` and so on with the same images, recipe and output, then merge again{_others(work, count)}"
        )
    tables = []
    for shard in shards:
        table = read_rows(shard.table)
        wanted = ids[shard.images.start : shard.images.stop]
        if not pa.chunked_array([wanted]).equals(table["id"]):
            raise InputError(
                f"{shard.table}: does not hold the images of its shard ({_difference(wanted, table['id'])}); "
                f"delete it and run `soco propose --shard {shard.index + 1}/{shard.count}` again"
            )
        tables.append(table)
    return pa.concat_tables(tables)


def _others(work: Work, count: int) -> str:
    """Say which shards of another number there are: perhaps it is those that were meant."""
    said = []
    for state, suffix in (("finished", ".parquet"), ("begun", JOURNAL_SUFFIX)):
        found = {int(path.stem.partition("-of-")[2]) for path in work.folder.glob(f"[0-9]*-of-*[0-9]{suffix}")}
        said += [f"{state} shards of {other}" for other in sorted(found - {count})]
    return f" (there are {_shortened(said)})" if said else ""


def _difference(wanted: pa.Array, found: pa.ChunkedArray) -> str:
    """Say how the ids of a shard differ from those it should have."""
    twice = pc.value_counts(found)
    for what, ids in (
        ("is missing", wanted.filter(pc.invert(pc.is_in(wanted, found.combine_chunks())))),
        ("does not belong there", found.filter(pc.invert(pc.is_in(found, wanted)))),
        ("is there twice", twice.field("values").filter(pc.greater(twice.field("counts"), 1))),
    ):
        if len(ids):
            return f"{_shortened(ids[: NAMED + 1].to_pylist(), len(ids))} {what}"
    return "they are in another order"


def _remove_leftovers(folder: Path) -> None:
    """Remove the locks of the shards, and what killed attempts were writing: it may be large.

    A shard that still runs, of another number, say, loses its lock; it ends when it finds the result whole.
    """
    for path in (
        *folder.glob(f".{BOXES}.*"),
        *(path for name in (TABLES, "figures", SHARDS) for path in folder.glob(f"{name}/.*")),
    ):
        if path.is_dir():
            rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _header(work: Work, recipe: Recipe) -> dict[str, Any]:
    search: dict[str, Any] = {"engine": recipe.proposals.engine}
    search["versions"] = {name: import_module(name).__version__ for name in LIBRARIES[recipe.proposals.engine]}
    if recipe.proposals.engine == "random":
        search["seed"] = recipe.seed
    if work.boxes_file:
        search |= {"boxes_file": recipe.proposals.boxes_file, "boxes_file_sha256": work.boxes_file}
    return {
        "image_set": work.image_set,
        "parameters": recipe.proposals.model_dump(mode="json"),
        "search": search,
    }


def _name_bad_images(manifest: dict[str, Any]) -> None:
    entries = manifest["bad_images"]
    if entries:
        bad = [f"{entry['id']} ({entry['reason']})" for entry in entries[:NAMED]]
        total = manifest["image_set"]["images"]
        say(
            f"proposals: {len(entries)} of {total} images could not be decoded: {_shortened(bad, len(entries))}; "
            f"{MANIFEST} names each with its reason"
        )


def _shortened(names: list[str], total: int | None = None) -> str:
    more = (len(names) if total is None else total) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
