"""Pretraining reads the same images wherever they lie: in a folder, in a pack, on S3."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from soco_core import storage
from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.proposals import Proposals
from soco_core.artifacts.result import open_result
from soco_core.config import ImagesConfig, Recipe
from soco_core.errors import InputError
from soco_core.images import image_set as image_set_module
from soco_core.images import open_source
from soco_core.images.packing import pack
from soco_core.pretrain.data import EpochBatches, ViewDataset
from soco_core.pretrain.stage import pretrain
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe
from tests.scenes import draw_scenes

if TYPE_CHECKING:
    from conftest import FaultyStore

SMALL = [
    "views.size=64",
    "views.small_size=32",
    "model.fpn_channels=16",
    "model.head_fc_size=32",
    "model.hidden_size=32",
    "model.embedding_size=16",
    "pretrain.epochs=2",
    "pretrain.batch_size=4",
    "runtime.workers=0",
    "runtime.search_workers=0",
]
COUNT, STEPS = 8, 4
WIDTH, HEIGHT = 150, 120


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("demo", SMALL)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight good images in two folders, and a bad one."""
    folder = tmp_path_factory.mktemp("set") / "images"
    for number, image in enumerate(draw_scenes(COUNT)):
        path = folder / f"class {number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    (folder / "class 1" / "bad.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def proposals(recipe: Recipe, images: Path) -> str:
    return propose(recipe, images=str(images), output=str(images.parent / "runs")).uri


@pytest.fixture(scope="module")
def losses(recipe: Recipe, proposals: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The metrics of each step when the images are read where the proposals were made."""
    result = pretrain(recipe, proposals=proposals, output=str(tmp_path_factory.mktemp("folder")))
    entries = read_metrics(result.path / "metrics.jsonl")
    assert len(entries) == STEPS
    return entries


def upload(folder: Path, uri: str) -> str:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.upload(path, storage.join(uri, path.relative_to(folder).as_posix()))
    return uri


@pytest.mark.parametrize("place", ["{folder}/pack", "{bucket}/pack"])
def test_the_losses_are_the_same_from_a_pack(
    place: str, recipe: Recipe, images: Path, proposals: str, losses: list[dict[str, Any]], tmp_path: Path, s3: str
) -> None:
    target = place.format(folder=tmp_path, bucket=s3)
    there = pack(ImagesConfig(), images=str(images), output=target, shard_size=100_000)
    assert len(open_source(there).shards) > 1  # type: ignore[attr-defined]
    result = pretrain(recipe, proposals=proposals, images=there, output=str(tmp_path / "out"))
    assert read_metrics(result.path / "metrics.jsonl") == losses


def test_images_that_were_searched_on_s3_are_read_there_by_the_loaders_processes(
    recipe: Recipe, images: Path, losses: list[dict[str, Any]], tmp_path: Path, s3: str
) -> None:
    there = upload(images, f"{s3}/images")
    found = propose(recipe, images=there, output=f"{s3}/results")
    sets = [part for item in [*SMALL, "runtime.workers=2"] for part in ("--set", item)]
    soco = Path(sys.executable).with_name("soco")
    command = [str(soco), "pretrain", "--recipe", "demo", *sets, "--proposals", found.uri, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_metrics(Path(done.stdout.strip()) / "metrics.jsonl") == losses


def test_the_losses_are_the_same_from_s3_with_one_request_an_image_and_no_listing(
    recipe: Recipe, images: Path, proposals: str, losses: list[dict[str, Any]], tmp_path: Path, faulty_s3: FaultyStore
) -> None:
    there = upload(images, f"{faulty_s3.uri}/set of images")
    faulty_s3.requests.clear()
    faulty_s3.fail("05.png$", "drop")
    faulty_s3.fail("06.png$", 500)
    result = pretrain(recipe, proposals=proposals, images=there, output=str(tmp_path))
    assert read_metrics(result.path / "metrics.jsonl") == losses
    assert faulty_s3.count("^$") == 0
    # Each image is hashed once and read in each of two epochs; four are drawn before; two requests failed.
    assert faulty_s3.count("png$") == COUNT * 3 + 4 + 2
    assert faulty_s3.count("jpg$") == 1


def test_a_folder_that_is_gone_is_given_by_images(recipe: Recipe, images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "set")
    found = propose(recipe, images=str(tmp_path / "set"), output=str(tmp_path / "runs"))
    (tmp_path / "set").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"image folder \S+/set, .* does not exist; give .* --images$"):
        pretrain(recipe, proposals=found.uri, output=str(tmp_path / "out"))


def test_a_folder_that_moved_is_not_listed_and_may_hold_more(
    recipe: Recipe,
    images: Path,
    proposals: str,
    losses: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(images, tmp_path / "set")
    (tmp_path / "set" / "one more.png").write_bytes((images / "class 0" / "00.png").read_bytes())

    def refuse(*_: object) -> None:
        raise AssertionError("the folder was listed")

    monkeypatch.setattr(image_set_module, "open_tree", refuse)
    result = pretrain(recipe, proposals=proposals, images=str(tmp_path / "set"), output=str(tmp_path / "out"))
    assert read_metrics(result.path / "metrics.jsonl") == losses


def other_contents(folder: Path) -> None:
    data = bytearray((folder / "class 1" / "bad.jpg").read_bytes())
    data[0] ^= 1
    (folder / "class 1" / "bad.jpg").write_bytes(bytes(data))


def another_name(folder: Path) -> None:
    (folder / "class 0" / "00.png").rename(folder / "class 0" / "0.png")


@pytest.mark.parametrize("change", [other_contents, another_name])
def test_a_change_in_any_file_of_the_set_is_noticed(
    change: Callable[[Path], None], recipe: Recipe, images: Path, proposals: str, tmp_path: Path
) -> None:
    """In a bad one too: the fingerprint is that of all images."""
    shutil.copytree(images, tmp_path / "set")
    change(tmp_path / "set")
    with pytest.raises(InputError, match="not the images that the proposals") as caught:
        pretrain(recipe, proposals=proposals, images=str(tmp_path / "set"), output=str(tmp_path / "out"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "said"),
    [("nowhere", "nowhere does not exist"), ("{bucket}/nowhere", "not the images that the proposals")],
)
def test_a_place_without_the_images_is_said(
    place: str, said: str, recipe: Recipe, proposals: str, tmp_path: Path, s3: str
) -> None:
    with pytest.raises(InputError, match=said):
        pretrain(recipe, proposals=proposals, images=place.format(bucket=s3), output=str(tmp_path))


def test_an_image_that_vanished_from_s3_is_said_in_one_line(
    recipe: Recipe, images: Path, tmp_path: Path, s3: str
) -> None:
    there = upload(images, f"{s3}/images")
    found = propose(recipe, images=there, output=str(tmp_path))
    storage.delete(f"{there}/class 0/02.png")
    with pytest.raises(
        InputError, match=r"images/class 0/02\.png: cannot be opened: .* name its new place with"
    ) as error:
        pretrain(recipe, proposals=found.uri, output=str(tmp_path))
    assert str(error.value).startswith("s3://")
    assert "\n" not in str(error.value)


def limited(recipe: Recipe, max_pixels: int) -> Recipe:
    return recipe.model_copy(update={"images": ImagesConfig(max_pixels=max_pixels)})


def test_a_limit_below_that_of_the_search_refuses_no_image_but_one_that_grew(
    recipe: Recipe, proposals: str, tmp_path: Path
) -> None:
    boxes = Proposals.open(open_result(proposals))
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "same.png")
    Image.new("RGB", (WIDTH + 1, HEIGHT)).save(tmp_path / "grown.png")
    dataset = ViewDataset(limited(recipe, 10), boxes, open_source(str(tmp_path)))
    boxes.id = lambda _: "same.png"  # type: ignore[method-assign]
    assert len(dataset[0, 0]) == 3
    boxes.id = lambda _: "grown.png"  # type: ignore[method-assign]
    with pytest.raises(InputError, match=f"more than the limit of {WIDTH * HEIGHT} pixels, but it could be read when"):
        dataset[0, 0]
    dataset = ViewDataset(recipe, boxes, open_source(str(tmp_path)))
    with pytest.raises(InputError, match=f"{WIDTH + 1}x{HEIGHT} pixels, but {WIDTH}x{HEIGHT} when"):
        dataset[0, 0]


def test_what_goes_to_a_loaders_process_is_small(recipe: Recipe, images: Path, proposals: str) -> None:
    dataset = ViewDataset(recipe, Proposals.open(open_result(proposals)), open_source(str(images)))
    data = pickle.dumps(dataset)
    assert len(data) < 10_000
    assert b"00.png" not in data
    again: ViewDataset = pickle.loads(data)
    assert [view.image.shape for view in again[0, 3]] == [view.image.shape for view in dataset[0, 3]]


def test_batches_are_each_image_once_an_epoch_and_go_on_where_they_stopped() -> None:
    whole = list(EpochBatches(7, 3, 2, seed=5, first_step=0))
    assert [len(batch) for batch in whole] == [3, 3, 3, 3]
    for epoch in (0, 1):
        batches = whole[2 * epoch : 2 * epoch + 2]
        assert {key[0] for batch in batches for key in batch} == {epoch}
        numbers = [number for batch in batches for _, number in batch]
        assert numbers == np.random.default_rng([5, epoch]).permutation(7)[:6].tolist()
        assert all(type(number) is int for number in numbers)
    for first in range(5):
        assert list(EpochBatches(7, 3, 2, seed=5, first_step=first)) == whole[first:]
