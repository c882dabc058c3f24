"""What the shards of a result share: the image set, listed and hashed once, and the plan that tells them of it.

A plan lies in the result directory, as ``shards/plan.json`` and ``shards/images.arrow``: the ids in their order and the
identity of each file (its size or SHA-256, as the fingerprint has it; null: it could not be opened), in uncompressed
Arrow, of which a shard reads its own range. It is one of the work files that the merge removes.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core import storage
from soco_core.artifacts.proposals import CONTRACT, MANIFEST
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.images import open_image_set, open_source
from soco_core.images.fingerprint import digest_of, progress_of
from soco_core.images.sources import ListedSource
from soco_core.proposals.boxes_file import boxes_file_sha256

if TYPE_CHECKING:
    import pyarrow as pa

    from soco_core.images import ImageSource

SHARDS = "shards"
PLAN = "plan.json"
IDS = "images.arrow"


class Identities(Mapping[str, str | None]):
    """The identity of each image of a list; an id is found by halving, so that a million need no dictionary.

    Args:
        read: returns the list, with the columns ``id`` (sorted) and ``identity``; called when it is first needed.
    """

    def __init__(self, read: Callable[[], pa.RecordBatch]) -> None:
        self._read = read

    @cached_property
    def _listed(self) -> pa.RecordBatch:
        return self._read()

    def __getitem__(self, image_id: str) -> str | None:
        ids, identities = self._listed.columns
        row = bisect_left(ids, image_id, key=lambda value: value.as_py())
        if row == len(ids) or ids[row].as_py() != image_id:
            raise KeyError(image_id)
        identity: str | None = identities[row].as_py()
        return identity

    def __iter__(self) -> Iterator[str]:
        return (value.as_py() for value in self._listed.column("id"))

    def __len__(self) -> int:
        return len(self._listed)


@dataclass(frozen=True)
class Work:
    """An image set, and the result that is to hold its proposals."""

    result: ResultDirectory
    images: ImageSource
    image_set: dict[str, Any]
    """What the manifest says of the set."""
    boxes_file: str
    """SHA-256 of the file that `import` reads; empty for other engines."""
    listed: pa.RecordBatch | None
    """The columns ``id`` and ``identity`` of the images in their order; None if they are those of the plan."""

    @property
    def source(self) -> ImageSource:
        """What reads the images for the search, and refuses one that is no longer what was listed."""
        return ListedSource(self.images, self.image_set["fingerprint_mode"], Identities(self.listing))

    @property
    def folder(self) -> Path:
        """Where the work files lie here."""
        return self.result.path / SHARDS

    @property
    def folder_uri(self) -> str:
        """Where other machines find them."""
        return storage.join(self.result.uri, SHARDS)

    def ids(self) -> pa.LargeStringArray:
        """Return all ids in their order; raises as :meth:`listing` does."""
        return self.listing().column("id")

    def listing(self) -> pa.RecordBatch:
        """Return the ids in their order and the identities; those of a plan are fetched once and then memory-mapped.

        Raises:
            InputError: the plan's list is missing or damaged.
        """
        import pyarrow as pa

        if self.listed is not None:
            return self.listed
        path, uri = self.folder / IDS, storage.join(self.folder_uri, IDS)
        if storage.is_s3(uri) and not path.exists():
            storage.download(uri, path)
        try:
            listed = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0).select(["id", "identity"])
        except (OSError, KeyError, pa.ArrowException) as error:
            cause = " ".join(str(error).split())
            raise InputError(f"{path}: no readable list of images ({cause}); delete it and plan again") from error
        if len(listed) != self.image_set["images"]:
            raise InputError(
                f"{path}: lists {len(listed)} images, not {self.image_set['images']}; delete it and plan again"
            )
        return listed


def list_work(recipe: Recipe, images: str, output: str) -> Work:
    """List and hash an image set, and find its result.

    Raises:
        InputError: the images, or the recipe's boxes_file, are missing or cannot be read.
    """
    import pyarrow as pa

    boxes_file = boxes_file_sha256(recipe.proposals.boxes_file) if recipe.proposals.boxes_file else ""
    found = open_image_set(images, recipe.images)
    mode, identities = recipe.images.fingerprint, list[str | None]()

    def listed() -> Iterator[tuple[str, str | None]]:
        for image_id, identity in zip(found.ids, found.identities(mode), strict=True):
            identities.append(identity)
            yield image_id, identity

    image_set: dict[str, Any] = {
        "root": found.source.root,
        "layout": found.layout,
        "splits": list(found.splits),
        "subset": found.subset,
        "fingerprint": digest_of(listed(), mode, progress_of(len(found.ids))),
        "fingerprint_mode": mode,
        "images": len(found.ids),
    }
    result = _locate(recipe, output, image_set["fingerprint"], boxes_file)
    columns = [pa.array(values, pa.large_string()) for values in (found.ids, identities)]
    listing = pa.RecordBatch.from_arrays(columns, ["id", "identity"])
    return Work(result, found.source, image_set, boxes_file, listing)


def write_plan(work: Work, recipe: Recipe, count: int) -> str:
    """Write the plan of a result that is not whole, the same bytes whoever does; return its URI."""
    import pyarrow as pa

    listing = work.listing()
    with storage.atomic_file(work.folder / IDS) as file, pa.ipc.new_file(file, listing.schema) as writer:
        writer.write_batch(listing)
    plan = {
        "contract": CONTRACT,
        "shards": count,
        "recipe": _stated(recipe),
        "image_set": work.image_set,
        "boxes_file": work.boxes_file,
    }
    storage.write_text(work.folder / PLAN, json.dumps(plan, indent=2) + "\n")
    work.result.publish(work.folder / IDS, work.folder / PLAN)
    return plan_uri(work.result)


def planned_work(recipe: Recipe, images: str, output: str, plan: str, count: int) -> Work:
    """Find the work of a plan; nothing is listed or hashed.

    If a merge has removed the plan by now, its manifest tells as much.

    Raises:
        InputError: the plan is not one of this recipe, image set, output and number of shards.
    """
    plan = plan if storage.is_s3(plan) else str(Path(plan).resolve())
    manifest = storage.join(plan.removesuffix(f"/{SHARDS}/{PLAN}"), MANIFEST)
    if storage.exists(plan):
        work = _read_plan(recipe, images, output, plan, count)
    elif plan.endswith(f"/{SHARDS}/{PLAN}") and storage.exists(manifest):
        made = _read_json(manifest)
        image_set, boxes_file = made["image_set"], made["search"].get("boxes_file_sha256", "")
        result = _locate(recipe, output, image_set["fingerprint"], boxes_file)
        work = Work(result, open_source(images), image_set, boxes_file, None)
    else:
        raise InputError(
            f"{plan}: there is no such plan; `soco propose --shards {count} --plan` makes it and prints its place"
        )
    if plan_uri(work.result) != plan:
        right = plan_uri(work.result)
        raise InputError(f"{plan}: not the plan of this recipe, image set and output, which is {right}; plan again")
    return work


def plan_uri(result: ResultDirectory) -> str:
    """Return where the plan of a result lies while it is under way."""
    return storage.join(result.uri, SHARDS, PLAN)


def work_files(result: ResultDirectory) -> Iterator[Path]:
    """Yield the files of the plan and of all shards, the plan last; locks are none."""
    files = sorted((result.path / SHARDS).glob("*"), key=lambda path: (path.name == PLAN, path.name))
    return (path for path in files if path.is_file() and not path.name.startswith("."))


def _read_plan(recipe: Recipe, images: str, output: str, uri: str, count: int) -> Work:
    plan = _read_json(uri)
    if set(plan) != {"contract", "shards", "recipe", "image_set", "boxes_file"}:
        raise InputError(f"{uri}: not a plan that `soco propose --plan` wrote; plan again")
    ours, theirs = _stated(recipe), plan["recipe"]
    different = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    if different:
        key = different[0]
        raise InputError(
            f"{uri}: made with another recipe ({key} is {theirs.get(key)!r} there, {ours.get(key)!r} here); take that "
            "recipe, or plan again with this one"
        )
    if plan["shards"] != count:
        raise InputError(f"{uri}: a plan of {plan['shards']} shards, not of {count}; give that number, or plan again")
    source, image_set = open_source(images), plan["image_set"]
    if source.root != image_set["root"]:
        raise InputError(f"{uri}: a plan of the images in {image_set['root']}, not in {source.root}; plan again")
    result = _locate(recipe, output, image_set["fingerprint"], plan["boxes_file"])
    return Work(result, source, image_set, plan["boxes_file"], None)


def _read_json(uri: str) -> dict[str, Any]:
    try:
        return dict(json.loads(storage.read_bytes(uri)))
    except (ValueError, TypeError) as error:
        raise InputError(f"{uri}: damaged ({error}); delete it and run the same command again") from error


def _stated(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe says of images and boxes, by the names of its fields."""
    sections = recipe.part("images", "proposals")
    return {f"{section}.{field}": value for section, fields in sections.items() for field, value in fields.items()}


def _locate(recipe: Recipe, output: str, images: str, boxes_file: str) -> ResultDirectory:
    if boxes_file:
        # What is in the file determines the boxes, not where it lies.
        proposals = recipe.proposals.model_copy(update={"boxes_file": boxes_file})
        recipe = recipe.model_copy(update={"proposals": proposals})
    sections = ("proposals", "seed") if recipe.proposals.engine == "random" else ("proposals",)
    inputs = {"images": images, "max_pixels": recipe.images.max_pixels}
    return locate(output, "proposals", CONTRACT, recipe, sections, inputs)
