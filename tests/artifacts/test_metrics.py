"""metrics.jsonl after interruptions."""

from __future__ import annotations

from pathlib import Path

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
