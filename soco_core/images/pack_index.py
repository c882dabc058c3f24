"""The index of a pack: where each image lies.

``index.arrow`` holds, sorted by id: ``id``, ``shard`` (number in the list of ``pack.json``), ``offset`` (first
byte of the image in that tar), ``size`` in bytes and ``sha256``, as one record batch. It is mapped into memory and
searched by halving, so that a process that reads a pack of a million images holds next to nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from soco_core import storage
from soco_core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

INDEX = "index.arrow"
Row = tuple[str, int, int, str]
"""Id of an image, its offset in its tar, its size, its SHA-256 in hexadecimal."""


class Place(NamedTuple):
    """Where an image lies in a pack."""

    shard: int
    offset: int
    size: int
    sha256: bytes


class PackIndex:
    """The index of a pack, mapped into memory.

    Args:
        path: the local file.

    Raises:
        InputError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        import numpy as np
        import pyarrow as pa

        try:
            with pa.memory_map(str(path)) as source:
                batch = pa.ipc.open_file(source).get_batch(0)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{path}: no readable index of a pack ({error}); pack the images again") from error
        self._ids: pa.Array = batch.column("id")
        # The buffers themselves: arrow's own way to numpy imports pandas, 30 MB in each process.
        # The characters of all ids lie one after another; `starts` says where each begins.
        _, starts, characters = self._ids.buffers()
        self._starts = np.frombuffer(starts, np.int64)
        self._characters = memoryview(characters)
        self._shards = np.frombuffer(batch.column("shard").buffers()[1], np.int32)
        self._offsets = np.frombuffer(batch.column("offset").buffers()[1], np.int64)
        self._sizes = np.frombuffer(batch.column("size").buffers()[1], np.int64)
        self._hashes = memoryview(batch.column("sha256").buffers()[1])

    def __len__(self) -> int:
        return len(self._ids)

    def ids(self) -> tuple[str, ...]:
        """Return all ids, sorted by code point."""
        return tuple(self._ids.to_pylist())

    def find(self, image_id: str, guess: int = 0) -> int | None:
        """Return the row of an image, or None; `guess` is looked at first."""
        # The bytes of UTF-8 sort as the code points do.
        wanted = image_id.encode()
        if guess < len(self) and self._id(guess) == wanted:
            return guess
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._id(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self._id(low) == wanted else None

    def place(self, row: int) -> Place:
        """Return what the index says of a row."""
        return Place(
            int(self._shards[row]),
            int(self._offsets[row]),
            int(self._sizes[row]),
            bytes(self._hashes[32 * row : 32 * row + 32]),
        )

    def _id(self, row: int) -> bytes:
        return bytes(self._characters[self._starts[row] : self._starts[row + 1]])


def index_rows(rows: Sequence[Row], shard: int) -> pa.Table:
    """Return the rows of the images of tar number `shard`."""
    import pyarrow as pa

    ids, offsets, sizes, hashes = zip(*rows, strict=True)
    return pa.table(
        {
            "id": pa.array(ids, pa.large_string()),
            "shard": pa.array([shard] * len(rows), pa.int32()),
            "offset": pa.array(offsets, pa.int64()),
            "size": pa.array(sizes, pa.int64()),
            "sha256": pa.array([bytes.fromhex(digest) for digest in hashes], pa.binary(32)),
        }
    )


def write_index(path: Path, tables: Sequence[pa.Table]) -> None:
    """Write the rows of all tars, atomically; they are in the order of their ids."""
    import pyarrow as pa

    # One batch, so that each column is one piece of memory for the reader.
    batch = pa.concat_tables(tables).combine_chunks().to_batches()[0]
    with storage.atomic_file(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
