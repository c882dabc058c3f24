from __future__ import annotations

import pytest

from soco_core.artifacts.benchmark import COLUMNS
from soco_core.report.paper import BENCHMARKS, paper_rows


def test_table_1_is_complete() -> None:
    # 16 methods; SwAV has no 1x numbers, PixPro no 2x numbers.
    assert len(paper_rows("coco-fpn-1x")) == 15
    assert len(paper_rows("coco-fpn-2x")) == 15
    assert not paper_rows("demo")


@pytest.mark.parametrize(
    ("benchmark", "method", "epochs", "column", "value"),
    [
        ("coco-fpn-1x", "Scratch", None, "APbb", 31.0),
        ("coco-fpn-1x", "Supervised", 90, "APmk75", 38.1),
        ("coco-fpn-1x", "SoCo", 100, "APbb", 42.3),
        ("coco-fpn-1x", "SoCo", 100, "APmk", 37.6),
        ("coco-fpn-1x", "SoCo", 400, "APbb", 43.0),
        ("coco-fpn-1x", "DetCon_B", 1000, "APbb50", None),
        ("coco-fpn-2x", "Scratch", None, "APbb", 38.4),
        ("coco-fpn-2x", "SoCo", 100, "APmk", 38.8),
        ("coco-fpn-2x", "SoCo*", 400, "APbb75", 48.9),
        ("coco-fpn-2x", "InsLoc", 400, "APmk50", 60.9),
    ],
)
def test_numbers_of_the_paper(benchmark: str, method: str, epochs: int, column: str, value: float | None) -> None:
    [row] = [row for row in paper_rows(benchmark) if (row.method, row.epochs) == (method, epochs)]
    assert row.metrics[column] == value


def test_every_number_is_a_plausible_one() -> None:
    for benchmark in BENCHMARKS:
        for row in paper_rows(benchmark):
            assert tuple(row.metrics) == COLUMNS
            ap, ap50, ap75, mask, mask50, mask75 = row.metrics.values()
            for low, middle, high in ((ap, ap75, ap50), (mask, mask75, mask50)):
                if low is not None and middle is not None and high is not None:
                    assert 25 < low < middle < high < 66
