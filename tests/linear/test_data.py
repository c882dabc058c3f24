"""The labelled images, and the crops made of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from soco_core.config import DatasetsConfig, ImagesConfig
from soco_core.errors import InputError
from soco_core.images.packing import pack
from soco_core.linear.crops import CentreCrops, Files, TrainingCrops, centre_crop, epoch_batches, load
from soco_core.linear.data import open_labelled_images
from soco_core.linear_config import LinearConfig
from soco_core.storage import upload

NOWHERE = DatasetsConfig()
MOST = 10**6
CPU = torch.device("cpu")


def test_a_folder_a_pack_and_a_bucket_hold_the_same(classes_folder: str, tmp_path: Path, s3: str) -> None:
    data = open_labelled_images(classes_folder, NOWHERE)
    assert data.train.classes == data.val.classes == ("class-0", "class-1", "class-2")
    assert (len(data.train.ids), len(data.val.ids)) == (12, 6)
    assert data.val.ids[2:4] == ("val/class-1/0.png", "val/class-1/1.png")
    assert data.val.labels == (0, 0, 1, 1, 2, 2)

    pack(ImagesConfig(), images=classes_folder, output=str(tmp_path / "pack"), shard_size=20_000)
    for path in Path(classes_folder).rglob("*.png"):
        upload(path, f"{s3}/labelled/{path.relative_to(classes_folder)}")
    for other in (
        open_labelled_images(str(tmp_path / "pack"), NOWHERE),
        open_labelled_images(f"{s3}/labelled/", NOWHERE),
    ):
        assert (other.train.ids, other.val.labels) == (data.train.ids, data.val.labels)
        assert other.fingerprint == data.fingerprint
        ours, theirs = (Files(each.train, MOST).read(7) for each in (data, other))
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))


def test_the_fingerprint_follows_names_and_sizes(classes_folder: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(classes_folder, tmp_path / "copy"))
    before = open_labelled_images(classes_folder, NOWHERE).fingerprint
    assert open_labelled_images(str(copy), NOWHERE).fingerprint == before
    (copy / "val/class-1/0.png").rename(copy / "val/class-2/9.png")
    moved = open_labelled_images(str(copy), NOWHERE).fingerprint
    (copy / "train/class-1/0.png").write_bytes(b"")
    assert len({before, moved, open_labelled_images(str(copy), NOWHERE).fingerprint}) == 3


def test_by_name(classes_folder: str, tmp_path: Path) -> None:
    found = open_labelled_images("imagenet", DatasetsConfig(imagenet=classes_folder))
    assert found == open_labelled_images(classes_folder, NOWHERE)
    with pytest.raises(InputError, match=r"coco2017: its images have no classes; give `imagenet`, or a folder of"):
        open_labelled_images("coco2017", NOWHERE)
    with pytest.raises(InputError, match="somewhere: neither a folder nor the name of a data set"):
        open_labelled_images("somewhere", NOWHERE)
    with pytest.raises(InputError, match="no such folder"):
        open_labelled_images(str(tmp_path / "nothing"), NOWHERE)


def test_what_has_no_two_splits_of_the_same_classes_is_refused(classes_folder: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(classes_folder, tmp_path / "copy"))
    (copy / "val/class-2").rename(copy / "val/class-9")
    with pytest.raises(InputError, match=r"val/class-9 has no counterpart in train \(1 of 4 classes are in one"):
        open_labelled_images(str(copy), NOWHERE)
    shutil.rmtree(copy / "val/class-9")
    with pytest.raises(InputError, match="train/class-2 has no counterpart in val"):
        open_labelled_images(str(copy), NOWHERE)
    for split in ("train", "val"):
        for name in ("class-1", "class-2"):
            shutil.rmtree(copy / split / name, ignore_errors=True)
    with pytest.raises(InputError, match="only one class, class-0"):
        open_labelled_images(str(copy), NOWHERE)
    pack(ImagesConfig(), images=str(copy / "train"), output=str(tmp_path / "pack"), shard_size=10**6)
    with pytest.raises(InputError, match=r"pack: a pack without images of train/CLASS/; pack the folder that holds"):
        open_labelled_images(str(tmp_path / "pack"), NOWHERE)
    shutil.rmtree(copy / "val")
    with pytest.raises(InputError, match="copy: no folder val; it holds a folder of images for each class"):
        open_labelled_images(str(copy), NOWHERE)


@pytest.mark.parametrize("size", [(50, 60), (60, 50), (31, 77), (256, 256), (500, 100)])
def test_evaluated_crops_are_torchvisions(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    for mode, asked in (("square", (48, 48)), ("short-side", 48)):
        config = LinearConfig(image_size=41, resize=48, resize_mode=mode)
        expected = v2.Compose([v2.Resize(asked), v2.CenterCrop(41)])(image)
        assert np.array_equal(np.asarray(centre_crop(image, config)), np.asarray(expected))


def test_training_crops_depend_on_seed_epoch_and_image_alone(classes_folder: str) -> None:
    files = Files(open_labelled_images(classes_folder, NOWHERE).train, MOST)
    config = LinearConfig(image_size=24, resize=24)
    crops = TrainingCrops(files, config, seed=5)
    first, label = crops[(3, 9)]
    assert (first.shape, first.dtype, label) == ((3, 24, 24), torch.uint8, 2)
    assert torch.equal(first, TrainingCrops(files, config, seed=5)[(3, 9)][0])
    others = [TrainingCrops(files, config, seed=6)[(3, 9)], crops[(4, 9)], crops[(3, 8)]]
    assert not any(torch.equal(first, other) for other, _ in others)


def test_training_crops_are_of_the_area_shape_and_side_that_they_should_be(tmp_path: Path) -> None:
    """A picture whose red says x and whose green says y: where a crop was taken can be read off it."""
    y, x = np.mgrid[0:200, 0:200]
    picture = np.stack([x, y, 0 * x], 2).astype(np.uint8)
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(picture).save(tmp_path / split / name / "0.png")
    files = Files(open_labelled_images(str(tmp_path), NOWHERE).train, MOST)
    crops = TrainingCrops(files, LinearConfig(image_size=50, resize=50), seed=0)
    widths, heights, flipped = [], [], []
    for epoch in range(400):
        pixels = crops[(epoch, 0)][0].float()
        across = float(pixels[0, :, -2].mean() - pixels[0, :, 1].mean()) / 47 * 50
        down = float(pixels[1, -2].mean() - pixels[1, 1].mean()) / 47 * 50
        flipped.append(across < 0)
        widths.append(abs(across))
        heights.append(down)
    areas = np.array(widths) * heights / 200**2
    shapes = np.array(widths) / heights
    assert 0.07 < areas.min() < 0.12
    assert 0.9 < areas.max() < 1.03
    assert 0.44 < areas.mean() < 0.52  # the mean of 20,000 draws of torchvision's RandomResizedCrop: 0.478
    assert 0.74 < shapes.min() < 0.8
    assert 1.25 < shapes.max() < 1.36
    assert 0.42 < np.mean(flipped) < 0.58


def test_an_epoch_has_every_usable_image_once() -> None:
    usable = np.array([1, 2, 3, 5, 8, 13, 21])
    batches = list(epoch_batches(usable, 3, range(6), 0))
    assert [[epoch for epoch, _ in batch] for batch in batches] == [[epoch] * 3 for epoch in (0, 0, 1, 1, 2, 2)]
    for epoch in range(3):
        seen = [number for batch in batches[2 * epoch : 2 * epoch + 2] for _, number in batch]
        assert len(set(seen)) == 6
        assert set(seen) < set(usable.tolist())
    assert batches[0:2] != [[(0, number) for _, number in batch] for batch in batches[2:4]]
    for first in range(1, 6):
        assert list(epoch_batches(usable, 3, range(first, 6), 0)) == batches[first:]
    assert list(epoch_batches(usable, 3, range(6), 1)) != batches


def test_workers_change_nothing(classes_folder: str) -> None:
    files = Files(open_labelled_images(classes_folder, NOWHERE).train, MOST)
    crops = TrainingCrops(files, LinearConfig(image_size=24, resize=24), seed=0)
    batches = list(epoch_batches(np.arange(12), 5, range(6), 0))
    alone, shared = (list(load(crops, batches, workers, CPU)) for workers in (0, 2))
    for ours, theirs in zip(alone, shared, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_a_bad_image_is_told_with_its_reason(classes_folder: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(classes_folder, tmp_path / "copy"))
    (copy / "train/class-1/2.png").write_bytes(b"no image")
    files = Files(open_labelled_images(str(copy), NOWHERE).train, MOST)
    config = LinearConfig(image_size=24, resize=24)
    (batch,) = load(CentreCrops(files, config), [[5, 6, 7]], 0, CPU)
    assert batch[1].tolist() == [5, 6, 7]
    assert list(batch[2]) == ["", "not an image in a known format", ""]
    assert not batch[0][1].any()
    with pytest.raises(InputError, match=r"class-1/2\.png: not an image in a known format, but it could be read when"):
        TrainingCrops(files, config, 0)[(0, 6)]
    assert CentreCrops(Files(open_labelled_images(str(copy), NOWHERE).train, 100), config)[0][2].startswith("more than")
