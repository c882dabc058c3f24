"""What a training that diverged leaves: whole where that is possible, and told where it is not."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core import storage
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.config import Recipe
from soco_core.engine.divergence import dump_divergence
from soco_core.errors import InputError

if TYPE_CHECKING:
    from conftest import FaultyStore

VALUES: dict[str, Any] = {"loss": math.nan, "terms": [math.inf, 1.5]}


def found(output: Path | str) -> ResultDirectory:
    return locate(str(output), "count", 1, Recipe(), ("seed",), {})


def draw(path: Path) -> None:
    path.write_bytes(b"picture")


def unreadable(path: Path) -> None:
    raise InputError("7.png:\nno image")


def test_report_and_picture_are_written_with_words_for_what_json_has_no_number_for(tmp_path: Path) -> None:
    result = found(tmp_path)
    assert dump_divergence(result, 7, lambda: VALUES, draw) == str(result.path / "diverged" / "step-7")
    report = json.loads((result.path / "diverged" / "step-7" / "report.json").read_text())
    assert report == {"step": 7, "loss": "nan", "terms": ["inf", 1.5]}
    assert (result.path / "diverged" / "step-7" / "images.png").read_bytes() == b"picture"


def test_a_picture_that_cannot_be_drawn_costs_the_picture_alone(s3: str) -> None:
    result = found(s3)
    where = dump_divergence(result, 7, lambda: VALUES, unreadable)
    assert where == f"{result.path / 'diverged' / 'step-7'} (not whole: 7.png: no image)"
    assert {name for name, _ in storage.list_objects(result.uri)} == {"diverged/step-7/report.json"}


def test_a_store_that_is_away_does_not_keep_anything_from_this_machine(faulty_s3: FaultyStore) -> None:
    result = found(faulty_s3.uri)
    faulty_s3.fail("diverged", 403, times=-1, method="PUT")
    where = dump_divergence(result, 7, lambda: VALUES, draw)
    assert where.endswith("step-7 (on this machine only: the store cannot be written)")
    written = sorted(path.name for path in (result.path / "diverged" / "step-7").iterdir())
    assert written == ["images.png", "report.json"]


def test_a_full_disk_is_told_and_hides_no_divergence(tmp_path: Path) -> None:
    def full() -> dict[str, Any]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    where = dump_divergence(found(tmp_path), 7, full, draw)
    assert where.startswith("nowhere (not whole: ")
    assert "No space left" in where
