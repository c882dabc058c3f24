"""What is wrong is said in one line before anything runs, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kfp")
SCRIPT = Path(__file__).resolve().parents[2] / "pipelines" / "full_benchmark.py"


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "SOCO_DATA": ""},
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with images `i`, an empty folder `empty`, and a COCO data set `c` whose box lies outside."""
    for name in ("i", "empty", "c/images", "c/annotations"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("i/a.jpg", "c/images/a.jpg"):
        (tmp_path / name).write_bytes(b"not looked into")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": 7,
                "image_id": 1,
                "category_id": 1,
                "bbox": [5, 5, 20, 20],
                "area": 400,
                "iscrowd": 0,
                "segmentation": [[5, 5, 25, 5, 25, 25]],
            }
        ],
    }
    for split in ("train", "val"):
        (tmp_path / "c" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "pretrain.epoch=3"], ["pretrain.epoch", "unknown key", "did you mean 'epochs'"]),
        (["--recipe", "demmo"], ["unknown recipe 'demmo'", "did you mean 'demo'"]),
        (["--images", "i"], ["--images and --coco belong together"]),
        (["--images", "none", "--coco", "c"], ["image folder none does not exist"]),
        (["--images", "empty", "--coco", "c"], ["empty holds no image"]),
        (["--images", "i", "--coco", "none"], ["none: neither a folder nor the name of a data set"]),
        (["--images", "i", "--coco", "mini-coco-5"], ["nobody says where coco lies", "datasets.coco"]),
        (["--images", "i", "--coco", "mini-coco-5", "--set", "datasets.coco=c"], ["instances_train.json", "7"]),
        (["--images", "i", "--benchmarks", "voc-c4"], ["benchmark voc-c4: nobody says where voc lies", "--data"]),
        (["--images", "i", "--benchmarks", "voc-c4", "--data", "empty"], ["benchmark voc-c4: ", "empty/voc"]),
        (["--benchmarks", "linear"], ["benchmark linear: nobody says where imagenet lies"]),
        (["--benchmarks", "linear", "--linear-images", "empty"], ["benchmark linear: ", "empty"]),
        (["--benchmarks", "coco-c4-1x", "--set", "finetune.iteration=1"], ["finetune.iteration: unknown key"]),
        (["--compare", "moco.pth"], ["--compare moco.pth: write NAME=FILE"]),
        (["--images", "i", "--coco", "c"], ["instances_train.json", "7"]),
        (["--supervised", "no.pth"], ["weights file no.pth does not exist"]),
        (["--output", "my-python3-runs"], ["output", "contains 'python3'"]),
        (["--output", "c/annotations/instances_val.json"], ["--output", "instances_val.json is a file"]),
        (["--output", "s3:/bucket"], ["s3:/bucket: neither a path nor an S3 URI"]),
        (["--output", "/proc/none"], ["--output /proc/none: cannot be written"]),
        (["--shards", "0"], ["--shards 0", "at least 1"]),
        (["--shards", "two"], ["--shards", "invalid int value: 'two'"]),
        (["--set", "proposals.engine=import", "--set", "proposals.boxes_file=b.json"], ["b.json does not exist"]),
        (["--images", "i", "--coco", "c", "--set", "images.subset='5'"], ["images.subset 5", "has only 1"]),
        (["--host", "http://localhost:1"], ["--host goes with --submit"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_one_line_and_nothing_written(data: Path, arguments: list[str], words: list[str]) -> None:
    before = sorted(data.rglob("*"))
    done = command(data, "--local", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr
    assert sorted(data.rglob("*")) == before


def test_unwritable_yaml_is_refused(data: Path) -> None:
    done = command(data, "--yaml", "pipeline.txt")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "must end in .yaml" in done.stderr
    (data / "taken").touch()
    done = command(data, "--yaml", "taken/pipeline.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"--yaml {data / 'taken/pipeline.yaml'}: cannot be written ({data / 'taken'} is a file)" in done.stderr


def test_debug_gives_the_traceback(data: Path) -> None:
    assert "Traceback" in command(data, "--local", "--recipe", "demmo", "--debug").stderr
