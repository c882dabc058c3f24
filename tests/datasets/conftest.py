"""Small data sets that a test may spoil: COCO, LVIS and VOC."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

WIDTH, HEIGHT = 40, 30


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 60)).save(path)


def annotation(number: int, image: int, category: int, box: list[float], **changes: Any) -> dict[str, Any]:
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [corners],
        **changes,
    }


class JsonSet:
    """A COCO or LVIS data set of two splits, two images each; ``train`` and ``val`` are written by `write`."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root = root
        self.kind = kind
        self.train = self._content(1)
        self.val = self._content(11)
        for split, first in (("train", 1), ("val", 11)):
            for number in (first, first + 1):
                picture(root / f"{split}2017" / f"{number:012}.jpg")

    def _content(self, first: int) -> dict[str, Any]:
        split = "train2017" if first == 1 else "val2017"
        images: list[dict[str, Any]] = []
        for number in (first, first + 1):
            image: dict[str, Any] = {"id": number, "width": WIDTH, "height": HEIGHT}
            if self.kind == "lvis":
                image["coco_url"] = f"http://images.cocodataset.org/{split}/{number:012}.jpg"
                image |= {"neg_category_ids": [9], "not_exhaustive_category_ids": [7] if number == first else []}
            else:
                image["file_name"] = f"{number:012}.jpg"
            images.append(image)
        annotations = [annotation(1, first, 7, [5, 6, 20, 10]), annotation(2, first + 1, 3, [0, 0, 12, 30])]
        categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 9, "name": "cow"}]
        if self.kind == "lvis":
            for item in annotations:
                del item["iscrowd"]
            for category, frequency in zip(categories, "rcf", strict=True):
                category["frequency"] = frequency
        return {"images": images, "annotations": annotations, "categories": categories}

    def file(self, split: str) -> Path:
        name = f"lvis_v1_{split}.json" if self.kind == "lvis" else f"annotations/instances_{split}2017.json"
        return self.root / name

    def write(self) -> str:
        for split, content in (("train", self.train), ("val", self.val)):
            self.file(split).parent.mkdir(parents=True, exist_ok=True)
            self.file(split).write_text(json.dumps(content))
        return str(self.root)


def voc_object(name: str = "cat", box: tuple[float, ...] = (6, 7, 25, 16), difficult: int | str | None = 0) -> str:
    sides = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    mark = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{mark}<bndbox>{sides}</bndbox></object>"


def voc_file(*objects: str, size: str = f"<width>{WIDTH}</width><height>{HEIGHT}</height>") -> str:
    return f"<annotation><size>{size}<depth>3</depth></size>{''.join(objects)}</annotation>"


class VocSet:
    """VOC2007 with trainval and test, VOC2012 with trainval."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.add("VOC2007", "trainval", "000001", voc_file(voc_object(), voc_object("dog", difficult=1)))
        self.add("VOC2007", "trainval", "000002", voc_file(voc_object("bird", (1, 1, WIDTH, HEIGHT))))
        self.add("VOC2007", "test", "000003", voc_file(voc_object("cow")))
        self.add("VOC2012", "trainval", "2008_000001", voc_file(voc_object("sofa", (6.5, 7, 25.25, 16), None)))

    def add(self, year: str, split: str, stem: str, xml: str) -> None:
        self.annotations(stem, year).parent.mkdir(parents=True, exist_ok=True)
        self.annotations(stem, year).write_text(xml)
        picture(self.root / year / "JPEGImages" / f"{stem}.jpg")
        names = self.list_file(split, year)
        names.parent.mkdir(parents=True, exist_ok=True)
        with names.open("a") as file:
            file.write(f"{stem}\n")

    def annotations(self, stem: str = "000001", year: str = "VOC2007") -> Path:
        return self.root / year / "Annotations" / f"{stem}.xml"

    def list_file(self, split: str = "trainval", year: str = "VOC2007") -> Path:
        return self.root / year / "ImageSets" / "Main" / f"{split}.txt"


@pytest.fixture
def json_set(tmp_path: Path) -> Callable[[str], JsonSet]:
    return lambda kind: JsonSet(tmp_path / kind, kind)


@pytest.fixture
def voc_set(tmp_path: Path) -> VocSet:
    return VocSet(tmp_path / "voc")
