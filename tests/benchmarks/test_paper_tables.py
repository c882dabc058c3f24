from __future__ import annotations

import hashlib
import json

import pytest

from soco_core.benchmarks.paper import paper_rows
from soco_core.benchmarks.paper_tables import NUMBERS
from soco_core.benchmarks.table import BENCHMARKS

ROWS = {
    # Table 1: 16 methods; SwAV has no 1x numbers, PixPro no 2x numbers.
    "coco-fpn-1x": 15,
    "coco-fpn-2x": 15,
    "coco-fpn-4x": 2,
    # Table 2: 13 rows; three have no 1x numbers, two no 2x numbers.
    "coco-c4-1x": 10,
    "coco-c4-2x": 11,
    "voc-c4": 16,
    "lvis-fpn-1x": 2,
    "lvis-fpn-2x": 2,
    "retinanet-1x": 2,
    "fcos-1x": 2,
    "mini-coco-5": 4,
    "mini-coco-10": 4,
    "coco-50pct": 2,
    "linear": 11,
}


def test_every_benchmark_has_all_of_its_rows() -> None:
    assert {item.name: len(paper_rows(item.name)) for item in BENCHMARKS} == ROWS
    assert set(NUMBERS) == set(ROWS)
    assert not paper_rows("demo")


def test_the_numbers_are_those_that_were_compared_with_the_paper_one_by_one() -> None:
    text = json.dumps(NUMBERS, sort_keys=True, separators=(",", ":"))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "2774646415dd75a6dc8b98a2e3b4a5f550f82a9787490fbaa44aaa11373c16b7"
    )


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
        ("coco-c4-1x", "PixPro", 400, "APmk", None),
        ("linear", "SoCo (FPN)", 100, "top1", 53.0),
        ("linear", "SwAV", 800, "top5", None),
    ],
)
def test_numbers_of_the_paper(benchmark: str, method: str, epochs: int, column: str, value: float | None) -> None:
    [row] = [row for row in paper_rows(benchmark) if (row.method, row.epochs) == (method, epochs)]
    assert row.metrics[column] == value


@pytest.mark.parametrize(
    ("benchmark", "better", "worse", "column", "gain"),
    [
        # The differences that the paper's text states (1, 4.3, 4.5), which a slip in the tables would change.
        ("coco-fpn-1x", ("SoCo*", 400), ("Supervised", 90), "APbb", 4.3),
        ("coco-fpn-1x", ("SoCo*", 400), ("Supervised", 90), "APmk", 3.0),
        ("coco-fpn-2x", ("SoCo*", 400), ("Supervised", 90), "APbb", 3.0),
        ("coco-fpn-4x", ("SoCo*", 400), ("Supervised", 90), "APbb", 2.6),
        ("coco-fpn-4x", ("SoCo*", 400), ("Supervised", 90), "APmk", 1.9),
        ("voc-c4", ("SoCo", 400), ("Supervised", 90), "APbb", 6.2),
        ("lvis-fpn-1x", ("SoCo*", 400), ("Supervised", 90), "APbb", 5.9),
        ("lvis-fpn-1x", ("SoCo*", 400), ("Supervised", 90), "APmk", 5.6),
        ("lvis-fpn-2x", ("SoCo*", 400), ("Supervised", 90), "APbb", 4.9),
        ("lvis-fpn-2x", ("SoCo*", 400), ("Supervised", 90), "APmk", 4.6),
        ("mini-coco-5", ("SoCo", 400), ("Supervised", 90), "APbb", 6.6),
        ("mini-coco-5", ("SoCo*", 400), ("Supervised", 90), "APmk", 5.5),
        ("mini-coco-10", ("SoCo", 400), ("Supervised", 90), "APmk", 3.9),
        ("mini-coco-10", ("SoCo*", 400), ("Supervised", 90), "APbb", 6.4),
    ],
)
def test_differences_that_the_text_states(
    benchmark: str, better: tuple[str, int], worse: tuple[str, int], column: str, gain: float
) -> None:
    rows = {(row.method, row.epochs): row.metrics[column] for row in paper_rows(benchmark)}
    high, low = rows[better], rows[worse]
    assert high is not None
    assert low is not None
    assert high - low == pytest.approx(gain, abs=0.01)


@pytest.mark.parametrize("benchmark", [item for item in BENCHMARKS if not item.linear], ids=lambda item: item.name)
def test_average_precision_falls_as_the_demanded_overlap_rises(benchmark) -> None:  # type: ignore[no-untyped-def]
    for row in paper_rows(benchmark.name):
        assert tuple(row.metrics) == benchmark.columns
        for kind in ("bb", "mk"):
            ap, ap50, ap75 = (row.metrics.get(f"AP{kind}{index}") for index in ("", "50", "75"))
            if ap is not None and ap50 is not None and ap75 is not None:
                assert 15 < ap < ap50 < 84
                assert 15 < ap75 < ap50
