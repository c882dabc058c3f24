from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


class CocoFolder:
    """A tiny data set that a test may spoil before it writes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train = self._content(1)
        self.val = self._content(11)
        (root / "images").mkdir(parents=True)
        (root / "annotations").mkdir()

    @staticmethod
    def square(number: int, image: int, category: int, box: list[float], **changes: Any) -> dict[str, Any]:
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

    @classmethod
    def _content(cls, first: int) -> dict[str, Any]:
        return {
            "images": [
                {"id": first, "file_name": f"{first}.png", "width": 40, "height": 30},
                {"id": first + 1, "file_name": f"{first + 1}.png", "width": 30, "height": 40},
            ],
            "annotations": [
                cls.square(1, first, 7, [5, 6, 20, 10]),
                cls.square(2, first + 1, 3, [0, 0, 12, 30]),
            ],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        }

    def write(self) -> str:
        for split, content in (("train", self.train), ("val", self.val)):
            (self.root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
            for image in content["images"]:
                path = self.root / "images" / image["file_name"]
                if not path.exists():
                    Image.new("RGB", (image["width"], image["height"]), (90, 120, 60)).save(path)
        return str(self.root)


@pytest.fixture(params=["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)])
def engine(request: pytest.FixtureRequest) -> str:
    """Each of the two engines; detectron2 where it is installed."""
    if request.param == "detectron2":
        pytest.importorskip("detectron2")
    return str(request.param)


@pytest.fixture
def coco_folder(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path / "coco")
