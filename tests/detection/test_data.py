from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from soco_core.datasets.split import trainable_images
from soco_core.detection.coco import open_coco
from soco_core.detection.data import (
    TrainingImages,
    evaluation_batches,
    read_image,
    resized_size,
    training_batches,
)
from soco_core.detection.sampling import image_batches
from soco_core.engine.distributed import Processes
from soco_core.errors import InputError
from soco_core.recipes import parse_recipe

ALONE = Processes("cpu")


def recipe(sizes: str = "[60]", batch: int = 2, seed: int = 0, workers: int = 0):
    return parse_recipe(
        f"{{seed: {seed}, finetune: {{train_sizes: {sizes}, test_size: 60, max_size: 100, batch_size: {batch}}}, "
        f"runtime: {{workers: {workers}}}}}"
    )


@pytest.mark.parametrize(
    ("size", "short", "longest", "wanted"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((300, 900), 800, 1333, (444, 1333)),
        ((500, 500), 640, 1333, (640, 640)),
        ((1, 3000), 800, 1333, (1, 1333)),
        ((3000, 1), 800, 1333, (1333, 1)),
    ],
)
def test_sizes_as_detectron2_s_resize_shortest_edge(size, short, longest, wanted):
    assert resized_size(*size, short, longest) == wanted


def draws(flip: bool):
    """A step in which the first image is, or is not, flipped."""
    return next(step for step in range(50) if _flips(np.random.default_rng((0, step, 1))) == flip)


def _flips(generator) -> bool:
    generator.choice((60,))
    return bool(generator.random() < 0.5)


def test_boxes_and_polygons_follow_resize_and_flip(coco_folder):
    split = open_coco(coco_folder.write()).train
    images = TrainingImages(split, recipe())
    image, target = images[(0, draws(False), 0)]
    assert tuple(image.shape) == (3, 60, 80)  # 40x30 becomes 80x60
    assert target["boxes"].tolist() == [[10, 12, 50, 32]]
    assert target["labels"].tolist() == [2]  # category 7 is the second
    assert target["masks"][0][0].tolist() == [10, 12, 50, 12, 50, 32, 10, 32]
    _, flipped = images[(0, draws(True), 0)]
    assert flipped["boxes"].tolist() == [[30, 12, 70, 32]]
    assert flipped["masks"][0][0].tolist() == [70, 12, 30, 12, 30, 32, 70, 32]


def test_pixels_and_bitmaps_flip_together(coco_folder):
    half = np.zeros((30, 40), dtype=bool)
    half[:, :10] = True
    counts = [0, 300, 900]
    coco_folder.train["annotations"][0].update(bbox=[0, 0, 10, 30], segmentation={"size": [30, 40], "counts": counts})
    place = coco_folder.write()
    Image.fromarray((half * 255).astype(np.uint8)).convert("RGB").save(coco_folder.root / "images" / "1.png")
    images = TrainingImages(open_coco(place).train, recipe())
    for flip in (False, True):
        image, target = images[(0, draws(flip), 0)]
        bright = (image[0] > 127).numpy()
        assert (bright == target["masks"][0].astype(bool)).mean() > 0.97
        assert bright[:, 0 if not flip else -1].all()


@pytest.mark.parametrize("detector", ["faster-rcnn-c4", "retinanet", "fcos"])
def test_detectors_without_masks_get_none_and_need_none(coco_folder, detector):
    whole = open_coco(coco_folder.write()).train
    bare = replace(
        whole, annotations=[{k: v for k, v in item.items() if k != "segmentation"} for item in whole.annotations]
    )
    empty = replace(whole, annotations=[{**item, "segmentation": []} for item in whole.annotations])
    settings = recipe().finetune.model_copy(update={"detector": detector})
    chosen = recipe().model_copy(update={"finetune": settings})
    for split in (whole, bare, empty):
        _, target = TrainingImages(split, chosen)[(0, draws(True), 0)]
        assert target["boxes"].tolist() == [[30, 12, 70, 32]]
        assert target["labels"].tolist() == [2]
        assert "masks" not in target
    assert "masks" in TrainingImages(whole, recipe())[(0, draws(True), 0)][1]


def test_an_overhanging_box_is_clipped(coco_folder):
    coco_folder.train["annotations"][0]["bbox"] = [20, -0.5, 20.75, 31]
    _, target = TrainingImages(open_coco(coco_folder.write()).train, recipe())[(0, draws(False), 0)]
    assert target["boxes"].tolist() == [[40, 0, 80, 60]]


def test_a_file_of_another_size_or_unreadable_is_named(coco_folder):
    place = coco_folder.write()
    Image.new("L", (41, 30)).save(coco_folder.root / "images" / "1.png")
    split = open_coco(place).train
    said = r"1\.png: is 41x30 pixels, but instances_train\.json says 40x30; correct its width and height; .* EXIF first"
    with pytest.raises(InputError, match=said):
        read_image(split, split.images[0])
    (coco_folder.root / "images" / "1.png").write_bytes(b"no image")
    with pytest.raises(
        InputError, match=r"1\.png: cannot be read \(not an image in a known format\); restore the file"
    ):
        read_image(split, split.images[0])


def test_the_file_that_says_the_size_of_a_voc_image_is_its_xml(coco_folder):
    coco_folder.write()
    Image.new("L", (41, 30)).save(coco_folder.root / "images" / "1.png")
    lists = f"{coco_folder.root}/ImageSets/Main/trainval.txt"
    split = replace(open_coco(str(coco_folder.root)).train, format="voc", annotation_file=lists)
    with pytest.raises(InputError, match=r"is 41x30 pixels, but Annotations/1\.xml says 40x30"):
        read_image(split, split.images[0])


@pytest.mark.parametrize("limit", [1199, 1200])
def test_the_recipe_s_limit_of_pixels_holds_in_training_and_evaluation(coco_folder, limit):
    data = open_coco(coco_folder.write())
    limited = recipe().model_copy(update={"images": recipe().images.model_copy(update={"max_pixels": limit})})
    for read in (
        lambda: TrainingImages(data.train, limited)[(0, 0, 0)],
        lambda: next(evaluation_batches(data.val, limited, range(2))),
    ):
        if limit == 1200:
            read()
            continue
        with pytest.raises(InputError, match=r"limit of 1199 pixels\); raise images\.max_pixels, or scale"):
            read()


def test_grayscale_becomes_rgb_and_exif_is_applied(coco_folder):
    place = coco_folder.write()
    Image.new("L", (40, 30), 77).save(coco_folder.root / "images" / "1.png")
    sideways = Image.new("RGB", (40, 30), (9, 9, 9))  # upright it is 30x40, as the file says
    exif = sideways.getexif()
    exif[0x0112] = 6
    sideways.save(coco_folder.root / "images" / "2.png", exif=exif)
    split = open_coco(place).train
    assert read_image(split, split.images[0])[0, 0].tolist() == [77, 77, 77]
    assert read_image(split, split.images[1]).shape == (40, 30, 3)


def test_batches_depend_on_seed_and_step_alone(coco_folder):
    split = open_coco(coco_folder.write()).train
    whole = list(training_batches(split, recipe("[40, 50, 60]"), 0, 8, ALONE))
    rest = list(training_batches(split, recipe("[40, 50, 60]"), 5, 8, ALONE))
    other = list(training_batches(split, recipe("[40, 50, 60]", seed=1), 0, 8, ALONE))
    assert len(whole) == 8
    assert len(rest) == 3
    for (images, targets), (again, same) in zip(whole[5:], rest, strict=True):
        assert [target["image_id"] for target in targets] == [target["image_id"] for target in same]
        assert all((one == two).all() for one, two in zip(images, again, strict=True))
    assert any(
        one.shape != two.shape or (targets[0]["image_id"] != same[0]["image_id"])
        for (ones, targets), (twos, same) in zip(whole, other, strict=True)
        for one, two in zip(ones, twos, strict=True)
    )


def test_only_what_is_learnt_is_repeated(coco_folder):
    coco_folder.train["annotations"].append(coco_folder.square(3, 2, 7, [0, 0, 9, 9], segmentation=[]))
    split = open_coco(coco_folder.write()).train
    settings = recipe(batch=1).finetune.model_copy(update={"repeat_threshold": 1.0})
    for detector, masks in (("mask-rcnn-fpn", True), ("fcos", False)):
        chosen = recipe().model_copy(update={"finetune": settings.model_copy(update={"detector": detector})})
        seen = [targets[0]["image_id"] - 1 for _, targets in training_batches(split, chosen, 0, 40, ALONE)]
        orders = [[n for (n,) in islice(image_batches(split, [0, 1], 1, 0, 1.0, each), 40)] for each in (False, True)]
        assert seen == orders[masks] != orders[not masks]


def test_worker_processes_change_nothing(coco_folder):
    split = open_coco(coco_folder.write()).train
    alone = list(training_batches(split, recipe("[40, 60]"), 0, 4, ALONE))
    helped = list(training_batches(split, recipe("[40, 60]", workers=2), 0, 4, ALONE))
    for (images, targets), (again, same) in zip(alone, helped, strict=True):
        assert all((one == two).all() for one, two in zip(images, again, strict=True))
        assert [target["image_id"] for target in targets] == [target["image_id"] for target in same]


def test_landscape_and_portrait_do_not_share_a_batch_and_every_image_comes(coco_folder):
    split = open_coco(coco_folder.write()).train
    batches = list(islice(image_batches(split, [0, 1], 2, 0), 10))
    assert all(len(set(batch)) == 1 for batch in batches)
    assert {batch[0] for batch in batches} == {0, 1}


def test_images_without_anything_to_learn_are_left_out(coco_folder):
    coco_folder.train["annotations"][0]["iscrowd"] = 1
    coco_folder.train["annotations"][0]["segmentation"] = {"size": [30, 40], "counts": [0, 1200]}
    split = open_coco(coco_folder.write()).train
    assert trainable_images(split, masks=True) == [1]
    coco_folder.train["annotations"].pop()
    with pytest.raises(InputError, match="no image has an annotation to train on"):
        trainable_images(open_coco(coco_folder.write()).train, masks=False)


def test_every_evaluated_image_comes_once_in_order(coco_folder):
    split = open_coco(coco_folder.write()).val
    found = list(evaluation_batches(split, recipe(), range(2)))
    assert [position for _, position in found] == [0, 1]
    assert [tuple(image.shape) for image, _ in found] == [(3, 60, 80), (3, 80, 60)]
