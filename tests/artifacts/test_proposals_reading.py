"""1.28 million images: what their proposals cost to write, and each process that reads them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.proposals_reading import IMAGES, MIB, CopiedProposals, Reading, Writing, make_result, read_at_random
from soco_core.artifacts.proposals import Proposals
from soco_core.artifacts.result import open_result

LIMIT = 100 * MIB
READS = 200_000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writing]:
    folder = tmp_path_factory.mktemp("imagenet")
    yield make_result(folder)
    shutil.rmtree(folder)  # half a gigabyte


def shown(readings: list[Reading]) -> str:
    return "; ".join(
        f"USS +{r.added_uss / MIB:.1f} MiB over {r.imported_uss / MIB:.1f}, opened in {r.open_seconds:.3f} s, "
        f"{r.reads_per_second:,.0f} reads/s"
        for r in readings
    )


def test_two_processes_that_read_at_random_share_the_boxes(written: Writing) -> None:
    readings = read_at_random(written.uri, 2, READS)
    print(shown(readings))
    for reading in readings:
        assert reading.added_uss < LIMIT, shown(readings)
        assert reading.uss < LIMIT, shown(readings)  # with the interpreter, numpy and pyarrow
        assert reading.rss > 3 * LIMIT  # it did read: the pages are there, and shared
        assert reading.open_seconds < 5, shown(readings)


def test_the_limit_tells_a_reader_that_keeps_the_boxes_to_itself(written: Writing) -> None:
    for reading in read_at_random(written.uri, 2, 1000, CopiedProposals):
        assert reading.added_uss > 3 * LIMIT


def test_the_writer_needs_little_beside_the_rows(written: Writing) -> None:
    print(f"{written.seconds:.1f} s of CPU, at most {written.peak_bytes / MIB:.0f} MiB resident")
    assert written.rows_bytes > 3 * LIMIT
    assert written.peak_bytes - written.rows_bytes < 2048 * MIB


def test_what_is_read_is_what_was_written(written: Writing) -> None:
    proposals = Proposals.open(open_result(written.uri, "proposals"))
    assert IMAGES * 0.999 < len(proposals) < IMAGES
    counts, boxes = proposals.counts(), proposals.all_boxes()
    assert counts.sum() == len(boxes)
    assert 15.9 < counts.mean() < 16.1
    last = len(proposals) - 1
    np.testing.assert_array_equal(proposals.boxes(last), boxes[-int(counts[-1]) :])
    first_id, last_id = proposals.id(0), proposals.id(last)
    ids = list(proposals.all_ids())
    assert (len(ids), ids[0], ids[-1]) == (IMAGES, first_id, last_id)
    assert first_id == "n01440764/n01440764_10000.JPEG"
    assert ids == sorted(ids)
