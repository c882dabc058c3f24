"""Splits and predictions for the evaluator, and what other libraries say of them."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from soco_core.datasets.split import Format, LabelledSplit, polygons

Prediction = dict[str, Any]
COCO_NUMBERS = (
    *("AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge"),
    *("AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge"),
)


def make_split(
    objects: list[tuple[int, int, list[float]]],
    images: int = 2,
    categories: int = 3,
    kind: Format = "coco",
    size: tuple[int, int] = (120, 100),
    **lists: dict[int, list[int]],
) -> LabelledSplit:
    """A split from (image id, category id, box); ids are 10, 20 .. and 1, 2 .., frequencies r, c, f in turn.

    `lists` holds for LVIS the categories by image id: ``neg`` and ``not_exhaustive``.
    """
    width, height = size
    records = [{"id": 10 * n, "file_name": f"{n}.jpg", "width": width, "height": height} for n in range(1, images + 1)]
    if kind == "lvis":
        for record in records:
            for name in ("neg", "not_exhaustive"):
                record[f"{name}_category_ids"] = lists.get(name, {}).get(record["id"], [])
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "difficult": 0,
            "segmentation": [corners(box)],
        }
        for number, (image, category, box) in enumerate(objects, 1)
    ]
    names = [{"id": n, "name": f"class{n}", "frequency": "rcf"[(n - 1) % 3]} for n in range(1, categories + 1)]
    return LabelledSplit(kind, "truth.json", "", records, annotations, names, "", (1,) * images)


def corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def detection(image: int, category: int, box: list[float], score: float, size: tuple[int, int] = (120, 100)) -> Any:
    """A prediction whose mask is its box."""
    mask = rle.frPyObjects([corners(box)], size[1], size[0])[0]
    return {"image_id": image, "category_id": category, "bbox": box, "score": score, "segmentation": mask}


def canonical(predictions: list[Prediction]) -> list[Prediction]:
    """The order that the evaluator promises."""
    return sorted(predictions, key=lambda p: (p["image_id"], -p["score"], p["category_id"], p["bbox"]))


def noised(split: LabelledSplit, seed: int, distinct_scores: bool = False) -> list[Prediction]:
    """Predictions from the truth: shifted, missed, doubled, of another class, and some out of nowhere.

    Corners lie on eighths of a pixel. Scores are random; distinct ones differ in their first three decimals within a
    category.
    """
    generator = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in split.images}
    ids = [category["id"] for category in split.categories]
    present = sorted({item["category_id"] for item in split.annotations})
    found: list[Prediction] = []

    def add(image: int, category: int, box: np.ndarray, bitmap: np.ndarray) -> None:
        height, width = sizes[image]
        low = np.clip(box[:2], 0, [width - 2, height - 2])
        high = np.clip(box[:2] + box[2:], low + 1, [width, height])
        low, high = np.round(low * 8) / 8, np.round(high * 8) / 8
        mask = rle.encode(np.asfortranarray(bitmap))
        found.append(
            {
                "image_id": image,
                "category_id": category,
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "score": float(generator.random()),
                "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()},
            }
        )

    for item in split.annotations:
        height, width = sizes[item["image_id"]]
        bitmap = _bitmap(item, height, width)
        for _ in range(generator.choice([0, 1, 1, 1, 2])):
            box = np.array(item["bbox"], dtype=float)
            spread = generator.choice([0.0, 0.04, 0.12])
            box += generator.normal(0, spread, 4) * np.tile(np.maximum(box[2:], 4), 2)
            shift = np.round(generator.normal(0, spread, 2) * np.maximum(box[2:], 4)).astype(int)
            category = item["category_id"]
            if generator.random() < 0.15:
                category = int(generator.choice(present))
            add(item["image_id"], category, box, np.roll(bitmap, (shift[1], shift[0]), (0, 1)))
    for image, (height, width) in sizes.items():
        for _ in range(generator.integers(0, 4)):
            box = generator.random(4) * np.tile([width / 2, height / 2], 2)
            bitmap = np.zeros((height, width), dtype=np.uint8)
            bitmap[int(box[1]) : int(box[1] + box[3]) + 2, int(box[0]) : int(box[0] + box[2]) + 2] = 1
            add(image, int(generator.choice(present if generator.random() < 0.7 else ids)), box, bitmap)
    if distinct_scores:
        for category in ids:
            mine = [item for item in found if item["category_id"] == category]
            for item, score in zip(mine, generator.permutation(1000), strict=False):
                item["score"] = float(score) / 1000
            assert len(mine) <= 1000
    return [found[place] for place in generator.permutation(len(found))]


def _bitmap(item: dict[str, Any], height: int, width: int) -> np.ndarray:
    mask = item.get("segmentation")
    if mask is None:
        return np.zeros((height, width), dtype=np.uint8)
    if isinstance(mask, list):
        return rle.decode(rle.merge(rle.frPyObjects(polygons(item), height, width)))
    return rle.decode(rle.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask)


def by_pycocotools(split: LabelledSplit, predictions: list[Prediction], kind: str) -> COCOeval:
    """What pycocotools makes of predictions; `kind` is bbox or segm."""
    items = [{key: value for key, value in item.items() if kind == "bbox" or key != "bbox"} for item in predictions]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(split.as_coco())
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(items)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def percent(values: Any) -> list[float | None]:
    """pycocotools' and lvis's numbers as the evaluator writes them."""
    return [None if value < 0 else 100 * float(value) for value in values]


def assert_equal(ours: list[float | None], theirs: list[float | None]) -> None:
    assert [value is None for value in ours] == [value is None for value in theirs]
    np.testing.assert_allclose(
        [value for value in ours if value is not None], [value for value in theirs if value is not None], atol=1e-6
    )
