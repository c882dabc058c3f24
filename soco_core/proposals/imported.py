"""The engine `import`: boxes that somebody else has found, read from one JSON file.

The file may be gigabytes, and each worker process needs some of it. So it is converted once, to an
uncompressed Arrow file that all processes map into memory.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from soco_core.errors import InputError
from soco_core.proposals.boxes_json import read_boxes
from soco_core.storage import atomic_file


def convert_boxes_file(source: str | Path, target: Path) -> None:
    """Convert a JSON file of boxes to the Arrow file that :class:`ImportedBoxes` reads.

    Boxes are [x, y, w, h] in pixels of the upright image, x and y the upper left corner. What the file is,
    its first keys tell:

    - the authors' format, ``{name: [[x, y, w, h], ...]}``; a name is a file's name or path, with or without suffix;
    - COCO annotations, ``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "bbox"}], ...}``, without
      the crowds;
    - COCO results, ``[{"image_id", "bbox", ...}, ...]``; an ``image_id`` is the number at the end of a file's name
      (123 for 000000123.jpg), or if it is a string, a name as above.

    It is read as a stream; in memory there are the names and the boxes as flat arrays (about 55 bytes a box).

    Args:
        source: path or S3 URI.
        target: written atomically: one record batch with ``key`` (sorted by code point) and ``boxes``, a list of
            float32 x1 y1 x2 y2 for each key.

    Raises:
        InputError: the file cannot be read, or is not one of these; names the file and the entry.
    """
    found = read_boxes(str(source))
    names = {str(key): owner for key, owner in found.keys.items()}
    keys = sorted(names)
    place_of = np.empty(len(keys), np.intc)
    place_of[[names[key] for key in keys]] = np.arange(len(keys))
    places = place_of[np.frombuffer(found.owners, np.intc)]
    corners = np.frombuffer(found.corners, np.float32).reshape(-1, 4)[np.argsort(places, kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=len(keys)))])
    boxes = pa.LargeListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(corners.reshape(-1), 4))
    batch = pa.RecordBatch.from_arrays([pa.array(keys, pa.large_string()), boxes], ["key", "boxes"])
    kind = "numbers" if isinstance(next(iter(found.keys)), int) else "names"
    schema = batch.schema.with_metadata({"source": found.source, "keys": kind})
    with atomic_file(target) as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))


class ImportedBoxes:
    """The engine that gives the boxes of a converted file, in their order there.

    Args:
        path: what :func:`convert_boxes_file` wrote.

    Raises:
        InputError: it is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as mapped:
                batch = pa.ipc.open_file(mapped).get_batch(0)
        except (OSError, pa.ArrowException) as error:
            cause = " ".join(str(error).split())
            raise InputError(
                f"{path}: no readable boxes ({cause}); delete it and run the same command again"
            ) from error
        metadata = batch.schema.metadata
        self.source = metadata[b"source"].decode()
        """The file that it was converted from."""
        self.numbered = metadata[b"keys"] == b"numbers"
        """Whether the keys are numbers of images, not names."""
        self.keys = _Keys(batch.column("key"))
        self.offsets: npt.NDArray[np.int64] = batch.column("boxes").offsets.to_numpy()
        """Where the boxes of each key begin [keys + 1]."""
        self._boxes: npt.NDArray[np.float32] = batch.column("boxes").values.flatten().to_numpy().reshape(-1, 4)

    def search(self, image_id: str, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the boxes of an image, clipped to it; those with nothing left are dropped.

        Args:
            image_id: path relative to the image set's root.
            image: uint8 RGB [H, W, 3].

        Returns:
            float32 [N, 4], x1 y1 x2 y2 in pixels; N is 0 if the file says nothing of the image.
        """
        k = self._find(image_id)
        if k is None:
            return np.zeros((0, 4), np.float32)
        height, width = image.shape[:2]
        boxes = np.clip(self._boxes[self.offsets[k] : self.offsets[k + 1]], 0, [width, height] * 2).astype(np.float32)
        return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]

    def _find(self, image_id: str) -> int | None:
        for key in _names(image_id, self.numbered):
            k = bisect_left(self.keys, key)
            if k < len(self.keys) and self.keys[k] == key:
                return k
        return None


def check_keys(imported: Path, ids: Sequence[str]) -> int:
    """Check that no two images of a set would get the same boxes, and that some image gets any.

    Args:
        imported: what :func:`convert_boxes_file` wrote.
        ids: all ids of the set.

    Returns:
        The number of images without a box in the file.

    Raises:
        InputError: one key stands for two images, or no image has a box.
    """
    boxes = ImportedBoxes(imported)
    places = {key: k for k, key in enumerate(boxes.keys)}
    counts = np.diff(boxes.offsets)
    image_of: dict[int, str] = {}
    without = 0
    for image_id in ids:
        k = next((places[key] for key in _names(image_id, boxes.numbered) if key in places), None)
        if k is None or counts[k] == 0:
            without += 1
        if k is not None and image_of.setdefault(k, image_id) != image_id:
            raise InputError(
                f"{boxes.source}: {boxes.keys[k]!r} stands for two images, {image_of[k]} and {image_id}; name each by "
                "its path relative to the image folder"
            )
    if without == len(ids):
        raise InputError(
            f"{boxes.source}: has no box for any of the {len(ids)} images; the first is {ids[0]}, and the file's first "
            f"key {boxes.keys[0]!r}"
        )
    return without


def _names(image_id: str, numbered: bool) -> Iterator[str]:
    """Yield the keys under which a file may have an image, best first."""
    stem = os.path.splitext(image_id.rpartition("/")[2])[0]
    if numbered:
        digits = re.search(r"[0-9]+$", stem)
        if digits:
            yield str(int(digits[0]))
        return
    # The whole path, then without its first folder, and so on: the file may begin further up or down the tree.
    tail = image_id
    while tail:
        yield tail
        yield os.path.splitext(tail)[0]
        tail = tail.partition("/")[2]
    # The authors cut names at the first dot when they read, at the last one when they write.
    yield stem.partition(".")[0]


class _Keys(Sequence[str]):
    """The sorted keys, read from the memory map one at a time."""

    def __init__(self, column: pa.LargeStringArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, k: Any) -> Any:
        return self._column[k].as_py()
