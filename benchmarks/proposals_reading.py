"""Reading the proposals of a made-up ImageNet: time to open them, reads per second, memory of each process.

    python benchmarks/proposals_reading.py --images 1281167 --reads 200000

The result goes through the writer that the merge of `soco propose` uses, and is read as pretraining reads it: a read
is an image's boxes, id and size. Private memory is USS, which counts pages that no other process maps; all readers of
a group are alive while it is measured. A reader that is alone is the only one to map the file's pages, so they count
as its own, although the system takes them back whenever memory is short.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pyarrow as pa

from soco_core.artifacts.proposals import BOXES, CONTRACT, FILTER_STEPS, Proposals, write_merged
from soco_core.artifacts.result import ResultDirectory, locate, open_result, writing
from soco_core.config import Recipe

IMAGES = 1_281_167
CLASSES = 1000
SHARDS = 32
MEAN_BOXES = 16
BAD_SHARE, REDUCED_SHARE = 0.0005, 0.05
MIB = 2**20
SPAWNED = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Writing:
    """What writing the result needed, in a process of its own."""

    uri: str
    seconds: float
    """CPU time from the rows to the whole result."""
    rows_bytes: int
    """Size of the rows, which are in memory all the while."""
    peak_bytes: int
    """Greatest resident memory, with the interpreter and the rows."""


@dataclass(frozen=True)
class Reading:
    """What one process needed to open the proposals and to read images at random."""

    open_seconds: float
    reads_per_second: float
    imported_uss: int
    """Private bytes before opening: the interpreter and what it imported."""
    uss: int
    """Private bytes after reading."""
    file_uss: int
    """Of these, pages of the file, which any other process that reads it would share."""
    rss: int
    """Resident bytes after reading, with the pages that others share."""

    @property
    def added_uss(self) -> int:
        """Private bytes that opening and reading cost."""
        return self.uss - self.imported_uss


class CopiedProposals(Proposals):
    """Holds the boxes itself, as whoever reads them from Parquet does: what the memory map is compared with."""

    @classmethod
    def open(cls, result: ResultDirectory) -> Self:
        """Open the proposals of a whole result and copy its boxes."""
        proposals = super().open(result)
        proposals._boxes = proposals._boxes.copy()
        return proposals


def make_result(output: Path, images: int = IMAGES) -> Writing:
    """Write a whole result of `propose` with made-up rows, in another process."""
    here, there = SPAWNED.Pipe()
    writer = SPAWNED.Process(target=_write, args=(there, output, images), daemon=True)
    writer.start()
    there.close()
    done: Writing = here.recv()
    writer.join()
    return done


def _write(end: Connection, output: Path, images: int) -> None:
    recipe = Recipe()
    result = locate(str(output), "proposals", CONTRACT, recipe, ("proposals",), {"images": "made up"})
    rows = made_up_rows(images)
    began = time.process_time()
    with writing(result, recipe):
        image_set = {
            "root": "/data/imagenet/train",
            "layout": "folder",
            "splits": [],
            "subset": "",
            "fingerprint": "0" * 16,
            "fingerprint_mode": "sizes",
            "images": images,
        }
        header = {
            "image_set": image_set,
            "parameters": recipe.proposals.model_dump(mode="json"),
            "search": {"engine": recipe.proposals.engine},
        }
        manifest = write_merged(result.path, rows, header)
        result.finish({"images": manifest["images"]["good"], "bad_images": manifest["images"]["bad"]})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    end.send(Writing(result.uri, time.process_time() - began, rows.nbytes, peak))


def made_up_rows(images: int) -> pa.Table:
    """Return rows with ids as ImageNet's and boxes as the strict filter keeps them, in as many pieces as shards."""
    ids = _ids(images)
    bounds = [images * shard // SHARDS for shard in range(SHARDS + 1)]
    return pa.concat_tables(
        [_rows(ids[first:end], seed) for seed, (first, end) in enumerate(itertools.pairwise(bounds))]
    )


def _ids(images: int) -> list[str]:
    per_class = -(-images // CLASSES)
    names = (divmod(number, per_class) for number in range(images))
    return [
        f"n{1_440_764 + 8_191 * label:08d}/n{1_440_764 + 8_191 * label:08d}_{10_000 + k}.JPEG" for label, k in names
    ]


def _rows(ids: list[str], seed: int) -> pa.Table:
    generator = np.random.default_rng(seed)
    bad = generator.random(len(ids)) < BAD_SHARE
    sizes = np.where(bad[:, None], 0, generator.integers(200, 501, (len(ids), 2))).astype(np.int32)
    counts = np.where(bad, 0, 1 + generator.poisson(MEAN_BOXES - 1, len(ids)))
    limits = np.repeat(sizes, counts, axis=0)
    corners = np.floor(limits * 0.5 * generator.random(limits.shape, np.float32))
    boxes = np.concatenate([corners, corners + np.floor(limits * 0.45)], axis=1).astype(np.float32)
    steps = pa.DictionaryArray.from_arrays(
        pa.array(generator.choice(len(FILTER_STEPS), len(ids), p=(0.97, 0.02, 0.005, 0.005)), pa.int32(), mask=bad),
        pa.array(FILTER_STEPS),
    )
    columns = {
        "id": pa.array(ids, pa.large_string()),
        "width": pa.array(sizes[:, 0]),
        "height": pa.array(sizes[:, 1]),
        "boxes": pa.LargeListArray.from_arrays(
            np.concatenate([[0], np.cumsum(counts)]), pa.FixedSizeListArray.from_arrays(boxes.reshape(-1), 4)
        ),
        "kept_by": steps.dictionary_decode(),
        "reduced": pa.array(~bad & (generator.random(len(ids)) < REDUCED_SHARE)),
        "error": pa.array(["image file is truncated" if is_bad else None for is_bad in bad], pa.string()),
    }
    return pa.table(columns)


def read_at_random(uri: str, processes: int, reads: int, reader: type[Proposals] = Proposals) -> list[Reading]:
    """Open a result in several processes and read images at random in all of them at the same time.

    Args:
        uri: a whole result of `propose`.
        processes: how many.
        reads: images that each of them reads: boxes, id and size.
        reader: what reads them.
    """
    with ExitStack() as stack:
        ends, workers = [], []
        for seed in range(processes):
            here, there = SPAWNED.Pipe()
            worker = SPAWNED.Process(target=_read, args=(there, uri, reads, seed, reader), daemon=True)
            worker.start()
            there.close()
            stack.callback(worker.join)
            stack.enter_context(here)  # is closed before the join, and with that the worker ends
            ends.append(here)
            workers.append(psutil.Process(worker.pid))
        _hear(ends)
        imported = [worker.memory_full_info().uss for worker in workers]
        for end in ends:
            end.send("open")
        opened = _hear(ends)
        for end in ends:
            end.send("read")
        taken = _hear(ends)
        memory = [worker.memory_full_info() for worker in workers]
        of_file = [_private_pages_of(worker, BOXES) for worker in workers]
    return [
        Reading(opening, reads / seconds, before, after.uss, pages, after.rss)
        for opening, seconds, before, after, pages in zip(opened, taken, imported, memory, of_file, strict=True)
    ]


def _hear(ends: list[Connection]) -> list[float]:
    return [end.recv() for end in ends]


def _private_pages_of(worker: psutil.Process, name: str) -> int:
    return sum(m.private_clean + m.private_dirty for m in worker.memory_maps(grouped=False) if m.path.endswith(name))


def _read(end: Connection, uri: str, reads: int, seed: int, reader: type[Proposals]) -> None:
    generator = np.random.default_rng(seed)
    end.send(0.0)
    end.recv()
    began = time.perf_counter()
    proposals = reader.open(open_result(uri, "proposals"))
    end.send(time.perf_counter() - began)
    end.recv()
    began = time.perf_counter()
    for number in generator.integers(0, len(proposals), reads).tolist():
        proposals.boxes(number)
        proposals.id(number)
        proposals.size(number)
    end.send(time.perf_counter() - began)
    end.poll(None)  # stay until the memory of all readers is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--reads", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        written = make_result(Path(folder), options.images)
        size = Path(written.uri, BOXES).stat().st_size
        print(f"{options.images:,} images, {BOXES} {size / MIB:.0f} MiB; written in {written.seconds:.1f} s of CPU,")
        print(f"at most {written.peak_bytes / MIB:.0f} MiB resident, {written.rows_bytes / MIB:.0f} of them the rows")
        print("| reader | open, s | reads/s | USS before, MiB | USS added, MiB | of it the file | RSS, MiB |")
        print("|---|---|---|---|---|---|---|")
        for processes, reader in ((1, Proposals), (2, Proposals), (2, CopiedProposals)):
            for number, r in enumerate(read_at_random(written.uri, processes, options.reads, reader), 1):
                memory = " | ".join(
                    f"{bytes_ / MIB:.1f}" for bytes_ in (r.imported_uss, r.added_uss, r.file_uss, r.rss)
                )
                name = f"{reader.__name__}, {number} of {processes}"
                print(f"| {name} | {r.open_seconds:.3f} | {r.reads_per_second:,.0f} | {memory} |")


if __name__ == "__main__":
    main()
