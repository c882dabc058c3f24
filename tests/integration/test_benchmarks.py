"""Every benchmark of the paper by its name, shortened, on real images, through the command and into one report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from soco_core.artifacts.benchmark import BenchmarkResult
from soco_core.benchmarks.table import BENCHMARKS, Benchmark, named_benchmark

SOCO = Path(sys.executable).parent / "soco"
FOLDERS = {"voc0712": "voc07-mini", "lvis-v1": "lvis-mini"}
SLOW = pytest.mark.slow
SCALE = "iterations=1/20000,batch=1/8,size=1/10,width=1/4"
QUICK = ("voc-c4", "fcos-1x")
MARKS = {"torchvision": (), "detectron2": (pytest.mark.detectron2,)}
DETECTORS = [
    pytest.param(item, engine, id=f"{item.name}-{engine}", marks=marks if item.name in QUICK else (*marks, SLOW))
    for item in BENCHMARKS
    if not item.linear
    for engine, marks in MARKS.items()
]


def soco(*arguments: str) -> Path:
    done = subprocess.run(
        [SOCO, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def finetuned(benchmark: Benchmark, engine: str, shared_data: Path, output: Path) -> Path:
    data = str(shared_data / FOLDERS.get(benchmark.data, "coco-mini"))
    arguments = ["--benchmark", benchmark.name, "--data", data, "--scale", SCALE, "--recipe", "demo"]
    # Untrained detectors hardly find anything; what they do find goes all the way.
    threshold = ["--set", "finetune.score_threshold=0.001", "--set", "finetune.detections_per_image=20"]
    chosen = ["--set", f"finetune.engine={engine}"]
    return soco("finetune", *arguments, *threshold, *chosen, "--output", str(output))


@pytest.mark.parametrize(("benchmark", "engine"), DETECTORS)
def test_a_benchmark_by_its_name(benchmark: Benchmark, engine: str, shared_data: Path, tmp_path: Path) -> None:
    if engine == "detectron2":
        pytest.importorskip("detectron2")
    place = finetuned(benchmark, engine, shared_data, tmp_path)
    with safe_open(place / "model.safetensors", "pt") as weights:
        assert weights.metadata()["format"] == engine
    result = BenchmarkResult.read(place / "metrics.json")
    assert result.benchmark == benchmark.name
    assert result.shortened == SCALE
    assert set(benchmark.columns) <= set(result.metrics)
    assert all(value is None or 0 <= value <= 100 for value in result.metrics.values())
    part = {"mini-coco-5": 7, "mini-coco-10": 13, "coco-50pct": 66}.get(benchmark.name)
    if part is not None:
        assert result.train_images <= part


@pytest.mark.slow
def test_the_report_has_a_table_for_each_and_never_calls_them_equal(shared_data: Path, tmp_path: Path) -> None:
    names = ("retinanet-1x", "lvis-fpn-1x")
    runs = [finetuned(named_benchmark(name), "torchvision", shared_data, tmp_path) for name in names]
    classes = sorted(path for path in (shared_data / "imagenet-sample").iterdir() if path.is_dir())[:10]
    for split in ("train", "val"):
        for folder in classes:
            (tmp_path / "imagenet" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "imagenet" / split / folder.name).symlink_to(folder)
    sets = ["--scale", "iterations=1/50,size=2/7"]
    images = str(tmp_path / "imagenet")
    runs.append(soco("linear", "--recipe", "demo", "--data", images, *sets, "--output", str(tmp_path)))
    arguments = [part for run in runs for part in ("--benchmark", str(run))]
    report = soco("report", "--recipe", "demo", *arguments, "--output", str(tmp_path))
    results = json.loads((report / "results.json").read_text())
    tables = {table["benchmark"]: table for table in results["benchmarks"]}
    assert set(tables) == {"retinanet-1x", "lvis-fpn-1x", "linear"}
    for name, table in tables.items():
        assert not table["comparable_with_paper"]
        assert table["columns"][: len(named_benchmark(name).columns)] == list(named_benchmark(name).columns)
        assert len(table["paper"]) >= 2
    text = (report / "report.md").read_text()
    assert text.count("cannot be compared with the paper's numbers") == 3
    assert "MMDetection" in text
    assert "| paper: SoCo* (FPN) | 400 | 53.9 | 79.2 | – |" in text
