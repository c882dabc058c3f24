"""The proposals of an image set: what `soco propose` writes and pretraining reads.

Files of a result (docs/artifacts.md): ``tables/*.parquet`` with a row for every image of the set,
``kept.arrow`` with the boxes of the images that can be decoded, laid out for memory mapping, and
``manifest.json``. All of them depend on the images and the recipe only, never on how the work was cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

from soco_core.artifacts.fingerprint import file_sha256
from soco_core.artifacts.result import ResultDirectory
from soco_core.errors import InputError
from soco_core.storage import atomic_file

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

CONTRACT = 2
MANIFEST = "manifest.json"
BOXES = "kept.arrow"
TABLES = "tables"
ROWS_PER_TABLE = 100_000

FingerprintMode = Literal["contents", "sizes"]
FilterStep = Literal["strict", "aspect_ratio", "min_side", "whole_image"]
FILTER_STEPS: tuple[FilterStep, ...] = get_args(FilterStep)


@dataclass(frozen=True, eq=False)
class ProposalRow:
    """One image of the set."""

    id: str
    """Path relative to the image set's root."""
    width: int
    """Width of the upright image in pixels; 0 for a bad file."""
    height: int
    """Height of the upright image in pixels; 0 for a bad file."""
    boxes: npt.NDArray[np.float32]
    """Kept boxes [N, 4], x1 y1 x2 y2 in pixels of the upright image, in the engine's order; [0, 4] for a bad
    file."""
    kept_by: FilterStep | None
    """The filter step that kept the boxes; None for a bad file."""
    reduced: bool = False
    """Whether the boxes were searched on a reduced copy of the image."""
    error: str | None = None
    """Why the file is bad; None for a good one."""


def write_rows(path: Path, rows: Sequence[ProposalRow]) -> None:
    """Write rows as one Parquet file (zstd), atomically."""
    import numpy as np
    import pyarrow as pa

    offsets = np.cumsum([0, *(len(row.boxes) for row in rows)], dtype=np.int64)
    flat = np.concatenate([np.zeros((0, 4), np.float32), *(row.boxes for row in rows)])
    columns = {
        "id": pa.array([row.id for row in rows], pa.large_string()),
        "width": pa.array([row.width for row in rows], pa.int32()),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "boxes": pa.LargeListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(flat.reshape(-1), 4)),
        "kept_by": pa.array([row.kept_by for row in rows], pa.string()),
        "reduced": pa.array([row.reduced for row in rows], pa.bool_()),
        "error": pa.array([row.error for row in rows], pa.string()),
    }
    _write_parquet(path, pa.table(columns))


def read_rows(path: Path) -> pa.Table:
    """Read what :func:`write_rows` wrote, as a table with the fields of :class:`ProposalRow` as columns.

    Raises:
        InputError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged ({_first_line(error)}); delete it and run the same command again") from error


def write_merged(folder: Path, rows: pa.Table, header: dict[str, Any]) -> dict[str, Any]:
    """Write the tables, the boxes for training, and last the manifest.

    For the 1.28 million images of ImageNet it takes 1 GB beside `rows` (0.4 GB), and 10 s of one core.

    Args:
        folder: the result directory.
        rows: all rows of the set in the order of their ids, with the columns of :func:`read_rows`.
        header: first entries of the manifest (image set, parameters, search).

    Returns:
        The manifest.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = []
    for number, first in enumerate(range(0, len(rows), ROWS_PER_TABLE)):
        path = folder / TABLES / f"{number:05d}.parquet"
        part = rows.slice(first, ROWS_PER_TABLE)
        _write_parquet(path, part)
        tables.append({**_described(folder, path), "rows": len(part)})

    good = rows.select(["id", "width", "height", "kept_by", "boxes"]).filter(pc.is_null(rows["error"]))
    with atomic_file(folder / BOXES) as file, pa.ipc.new_file(file, good.schema) as writer:
        # One batch, so that offsets and boxes are each one piece of memory for the reader.
        writer.write_batch(
            pa.RecordBatch.from_arrays([_one_chunk(column) for column in good.columns], good.column_names)
        )

    bad = rows.select(["id", "error"]).filter(pc.is_valid(rows["error"]))
    steps = {entry["values"]: entry["counts"] for entry in pc.value_counts(good["kept_by"]).to_pylist()}
    manifest = {
        "contract": CONTRACT,
        **header,
        "images": {"good": len(good), "bad": len(bad)},
        "kept_by": {step: steps.get(step, 0) for step in FILTER_STEPS},
        "boxes_per_image": _box_counts(good),
        "shards": tables,
        "boxes": {**_described(folder, folder / BOXES), "images": len(good)},
        "bad_images": [{"id": row["id"], "reason": row["error"]} for row in bad.to_pylist()],
        "reduced_images": rows["id"].filter(rows["reduced"]).to_pylist(),
    }
    with atomic_file(folder / MANIFEST, "w") as file:
        json.dump(manifest, file, indent=2, allow_nan=False)
        file.write("\n")
    return manifest


def intact_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest if it stands and every file that it names has its checksum; else None."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = dict(json.loads(path.read_text()))
    except ValueError:
        return None
    for entry in (*manifest["shards"], manifest["boxes"]):
        file = folder / entry["file"]
        if not file.exists() or file_sha256(file) != entry["sha256"]:
            return None
    return manifest


class Proposals:
    """The kept boxes of every image that can be decoded, read through a memory map.

    However large the set is, it costs a process a few megabytes of its own: what it reads are pages of the
    file, which all processes of a machine share. It is pickled as its path: a worker of a data loader maps
    the same file. Images are numbered from 0 to ``len() - 1``.

    Args:
        folder: a local directory with ``manifest.json`` and ``kept.arrow``.

    Raises:
        InputError: a file is missing, damaged or of another version.
    """

    def __init__(self, folder: Path) -> None:
        import numpy as np
        import pyarrow as pa

        self._folder = folder
        try:
            manifest = _head(folder / MANIFEST, "contract", "image_set", "search")
            with pa.memory_map(str(folder / BOXES)) as source:
                batch = pa.ipc.open_file(source).get_batch(0)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(
                f"{folder}: no readable proposals ({_first_line(error)}); run `soco propose` again"
            ) from error
        if manifest["contract"] != CONTRACT:
            raise InputError(
                f"{folder}: proposals of contract {manifest['contract']}, but this version of soco reads contract "
                f"{CONTRACT}; run `soco propose` again"
            )
        image_set = manifest["image_set"]
        self.image_set: str = image_set["root"]
        """Root of the images when the proposals were made: a path or an S3 URI."""
        self.layout: str = image_set["layout"]
        """How they lay there: ``folder``, ``coco``, ``voc`` or ``pack``."""
        self.splits: tuple[str, ...] = tuple(image_set["splits"])
        """Splits that were taken; empty if the layout has none."""
        self.subset: str = image_set["subset"]
        """Which part was taken, as the recipe says it; empty: all images."""
        self.image_set_fingerprint: str = image_set["fingerprint"]
        self.fingerprint_mode: FingerprintMode = image_set["fingerprint_mode"]
        """What :meth:`soco_core.images.ImageSet.fingerprint` gave."""
        self.engine: str = manifest["search"]["engine"]
        """What found the boxes: ``proposals.engine`` of the recipe."""
        self._count = len(batch)
        self._ids = _Texts(batch.column("id"), "q")
        self._kept_by = _Texts(batch.column("kept_by"), "i")
        # Buffers, not `to_numpy`, which imports pandas (30 MB a process); and memoryviews, which are several times
        # as fast as arrays where a single number is asked for.
        self._widths = memoryview(batch.column("width").buffers()[1]).cast("i")
        self._heights = memoryview(batch.column("height").buffers()[1]).cast("i")
        _, offsets, _, _, boxes = batch.column("boxes").buffers()
        self._bounds = memoryview(offsets).cast("q")
        self._offsets = np.frombuffer(offsets, np.int64, self._count + 1)
        self._boxes = np.frombuffer(boxes, np.float32, 4 * self._bounds[self._count]).reshape(-1, 4)

    @classmethod
    def open(cls, result: ResultDirectory) -> Self:
        """Open the proposals of a whole result."""
        return cls(result.path)

    def __len__(self) -> int:
        return self._count

    def id(self, i: int) -> str:
        """Return the path of image `i` relative to the image set's root."""
        return self._ids[i]

    def all_ids(self) -> AllIds:
        """Return the ids of all images of the set in their order, also of those that could not be decoded."""
        return AllIds(tuple(sorted((self._folder / TABLES).glob("*.parquet"))))

    def size(self, i: int) -> tuple[int, int]:
        """Return (width, height) of the upright image `i` in pixels."""
        return self._widths[i], self._heights[i]

    def boxes(self, i: int) -> npt.NDArray[np.float32]:
        """Return a copy of image `i`'s boxes [N, 4], N >= 1: x1 y1 x2 y2 in pixels of the upright image."""
        return self._boxes[self._bounds[i] : self._bounds[i + 1]].copy()

    def counts(self) -> npt.NDArray[np.int64]:
        """Return the number of boxes of every image [images]."""
        return self._offsets[1:] - self._offsets[:-1]

    def all_boxes(self) -> npt.NDArray[np.float32]:
        """Return the boxes of all images [sum of counts, 4], image after image, read-only."""
        return self._boxes

    def kept_by(self, i: int) -> FilterStep:
        """Return the filter step that kept image `i`'s boxes."""
        return cast(FilterStep, self._kept_by[i])

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self._folder,)


@dataclass(frozen=True)
class AllIds:
    """The ids in the tables of a result; each iteration reads them anew, that column only, table by table."""

    tables: tuple[Path, ...]

    def __len__(self) -> int:
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self.tables)

    def __iter__(self) -> Iterator[str]:
        import pyarrow.parquet as pq

        for path in self.tables:
            yield from pq.read_table(path, columns=["id"])["id"].to_pylist()


class _Texts:
    """The strings of an Arrow column without nulls, read in place.

    Args:
        column: the column, as it comes from a file.
        offsets: format of its offsets: ``q`` (64 bits) for large strings, ``i`` (32 bits) for others.
    """

    def __init__(self, column: pa.Array, offsets: Literal["q", "i"]) -> None:
        _, bounds, text = column.buffers()
        self._bounds = memoryview(bounds).cast(offsets)
        self._text = memoryview(text)

    def __getitem__(self, i: int) -> str:
        return str(self._text[self._bounds[i] : self._bounds[i + 1]], "utf-8")


def _head(path: Path, *keys: str) -> dict[str, Any]:
    """Read some of the first entries of a manifest only: further on it may name a million images.

    Raises:
        ValueError: an entry is missing, or it is no JSON up to there.
    """
    import ijson

    found: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            for key, value in ijson.kvitems(file, ""):
                if key in keys:
                    found[key] = value
                if len(found) == len(keys):
                    return found
    except ijson.JSONError as error:
        raise ValueError(f"{path.name}: {_first_line(error)}") from error
    raise ValueError(f"{path.name} lacks {', '.join(sorted(set(keys) - set(found)))}")


def _write_parquet(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    import pyarrow as pa

    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _described(folder: Path, path: Path) -> dict[str, Any]:
    return {
        "file": path.relative_to(folder).as_posix(),
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
    }


def _box_counts(good: pa.Table) -> dict[str, float]:
    import numpy as np
    import pyarrow.compute as pc

    counts = pc.list_value_length(good["boxes"]).to_numpy()
    return {
        "total": int(counts.sum()),
        "mean": round(float(counts.mean()), 4),
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
    }


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
