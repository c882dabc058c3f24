from __future__ import annotations

import json

from pycocotools.coco import COCO

from soco_core.demo_data.stage import demo_data
from soco_core.detection.coco import open_coco
from soco_core.recipes import parse_recipe


def small(train: int = 4, seed: int = 0):
    return parse_recipe(
        f"{{seed: {seed}, demo_data: {{train_images: {train}, val_images: 2, unlabelled_images: 3, image_size: 96}}}}"
    )


def contents(result):
    return {
        path.relative_to(result.path).as_posix(): path.read_bytes()
        for path in sorted(result.path.rglob("*"))
        if path.suffix == ".jpg" or path.name.startswith("instances")
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first = contents(demo_data(small(), output=str(tmp_path / "a")))
    assert len(first) == 4 + 2 + 3 + 2
    assert contents(demo_data(small(), output=str(tmp_path / "b"))) == first
    assert contents(demo_data(small(seed=1), output=str(tmp_path / "c"))) != first


def test_more_images_leave_the_others_as_they_are(tmp_path):
    few = contents(demo_data(small(), output=str(tmp_path)))
    many = contents(demo_data(small(train=6), output=str(tmp_path)))
    for name, data in few.items():
        if name != "annotations/instances_train.json":
            assert many[name] == data


def test_pycocotools_and_the_detection_stage_read_the_result(tmp_path):
    result = demo_data(small(), output=str(tmp_path))
    data = open_coco(str(result.path))
    assert len(data.train.images) == 4
    assert result.summary["train_objects"] == len(data.train.annotations)
    api = COCO(str(result.path / "annotations" / "instances_train.json"))
    for item in api.anns.values():
        mask = api.annToMask(item)
        assert abs(int(mask.sum()) - item["area"]) <= 0.12 * item["area"] + 8


def test_a_second_run_computes_nothing(tmp_path, capsys):
    first = demo_data(small(), output=str(tmp_path))
    before = (first.path / "done.json").stat().st_mtime_ns
    again = demo_data(small(), output=str(tmp_path))
    assert again.path == first.path
    assert (first.path / "done.json").stat().st_mtime_ns == before
    assert "already done" in capsys.readouterr().err
    assert json.loads((first.path / "done.json").read_text())["stage"] == "demo_data"
