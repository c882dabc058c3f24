"""A global batch divided among passes and processes: whole, in order, and even to an image."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soco_core.errors import SocoError
from soco_core.pretrain.data import EpochBatches, Key
from soco_core.pretrain.shares import Division, ShareOfBatches, divide


def keys(count: int) -> list[Key]:
    return [(0, number) for number in range(count)]


def test_without_a_limit_a_batch_is_cut_contiguously() -> None:
    division = divide(10, 4, None)
    assert division == Division(10, 4, 1)
    parts = [[number for _, number in division.part(keys(10), rank, 0)] for rank in range(4)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert division.images_per_process == 3
    assert division.norm_images == 10


def test_the_papers_batch_on_four_gpus_that_hold_64_images() -> None:
    division = divide(2048, 4, 64)
    assert division.passes == 8
    assert division.norm_images == 256
    assert division.summary() == {"processes": 4, "images_per_process": 64, "accumulation_steps": 8}
    assert divide(2048, 16, 128).passes == divide(2048, 16, None).passes == 1


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 20) | st.none())
def test_every_image_is_computed_once_and_no_process_holds_more_than_it_may(
    batch_size: int, processes: int, limit: int | None
) -> None:
    try:
        division = divide(batch_size, processes, limit)
    except SocoError:
        largest, least = -(-batch_size // processes), batch_size // processes
        assert least < -(-largest // (limit or largest))
        return
    passes = [
        [division.part(keys(batch_size), rank, number) for rank in range(processes)]
        for number in range(division.passes)
    ]
    assert [key for parts in passes for part in parts for key in part] == keys(batch_size)
    sizes = [len(part) for parts in passes for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) == division.images_per_process <= (limit or batch_size)
    assert max(sum(len(part) for part in parts) for parts in passes) == division.norm_images


@pytest.mark.parametrize(
    ("batch_size", "processes", "limit", "said"),
    [
        (3, 4, None, "a batch of 3 images has none for some of 4 processes; start at most 3"),
        (10, 4, 1, "3 passes of a batch of 10 images over 4 processes leave some without an image; set it to 2 or"),
    ],
)
def test_what_would_leave_a_process_idle_is_refused(
    batch_size: int, processes: int, limit: int | None, said: str
) -> None:
    with pytest.raises(SocoError, match=said):
        divide(batch_size, processes, limit)
    assert divide(10, 4, 2).passes == 2


def test_a_process_loads_its_part_of_each_pass_of_the_steps_that_are_left() -> None:
    batches = EpochBatches(9, 4, 2, seed=1, first_step=1)
    division = divide(4, 2, 1)
    whole = list(batches)
    loaded = [list(ShareOfBatches(batches, division, rank)) for rank in (0, 1)]
    assert [len(ShareOfBatches(batches, division, rank)) for rank in (0, 1)] == [6, 6]
    assert loaded[0] == [[key] for batch in whole for key in (batch[0], batch[2])]
    assert loaded[1] == [[key] for batch in whole for key in (batch[1], batch[3])]
