"""metrics.jsonl after interruptions."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from soco_core.artifacts.metrics import MetricsWriter, read_metrics


def steps(path: Path) -> list[int]:
    return [entry["step"] for entry in read_metrics(path)]


def test_lines_beyond_the_checkpoint_are_cut_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path, 0) as writer:
        for step in range(7):
            writer.write(step, {"loss": -float(step)})
    with MetricsWriter(path, 5) as writer:  # five steps are done: 0..4
        assert steps(path) == [0, 1, 2, 3, 4]
        writer.write(5, {"loss": 50.0})
    assert steps(path) == [0, 1, 2, 3, 4, 5]
    assert [entry["loss"] for entry in read_metrics(path)] == [0, -1, -2, -3, -4, 50]
    assert path.read_text().endswith('{"step": 5, "loss": 50.0}\n')


def test_starting_over_drops_every_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path, 0) as writer:
        writer.write(0, {})
    with MetricsWriter(path, 0):
        assert steps(path) == []


def test_a_line_is_readable_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl", 0) as writer:
        writer.write(0, {"loss": 1.5})
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "loss": 1.5}]


def test_a_line_that_a_crash_cut_short_is_left_out_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0, "loss": 1.0}\n{"step": 1, "lo\xff')
    assert steps(path) == [0]
    with MetricsWriter(path, 2) as writer:
        writer.write(2, {})
    assert steps(path) == [0, 2]


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none") == []


class SmallDisk:
    """A file on a disk with so many bytes left; it takes what fits, as a real one does."""

    def __init__(self, file: Any, left: int) -> None:
        self.file, self.left = file, left

    def write(self, data: bytes) -> int:
        if data and not self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = data[: self.left]
        self.left -= len(taken)
        return int(self.file.write(taken))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_lines_that_a_full_disk_does_not_take_wait_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path, 0) as writer:
        writer.write(0, {"loss": 1.0})
        assert writer.keep()
        writer._file = disk = SmallDisk(writer._file, 10)  # type: ignore[assignment]
        for step in range(1, 4):
            writer.write(step, {"loss": 1.0})
            assert writer.trouble is not None
            assert writer.trouble.errno == errno.ENOSPC
            assert path.read_text() == '{"step": 0, "loss": 1.0}\n'  # no half a line
        assert not writer.keep()
        disk.left = 10_000
        assert writer.keep()
        assert writer.trouble is None
        assert steps(path) == [0, 1, 2, 3]
        writer.write(4, {})
    assert steps(path) == [0, 1, 2, 3, 4]


def test_what_waits_is_written_at_the_end_if_it_can_be(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path, 0) as writer:
        writer._file = disk = SmallDisk(writer._file, 0)  # type: ignore[assignment]
        writer.write(0, {})
        assert steps(path) == []
        disk.left = 10_000
    assert steps(path) == [0]
