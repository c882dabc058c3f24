"""The check of packs, and the fingerprints by which a copy is compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soco_core.config import DatasetsConfig, ImagesConfig
from soco_core.datasets import check as module
from soco_core.datasets.published import Counts, Named
from soco_core.images.packing import pack
from soco_core.storage import upload
from tests.datasets.test_check import found, run
from tests.linear.conftest import write_classes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes: four images of each to train on, two of each to evaluate on."""
    return Path(write_classes(tmp_path / "imagenet"))


def packed(images: Path, output: str, **settings: str) -> str:
    return pack(ImagesConfig(**settings), images=str(images), output=output, shard_size=20_000)


def send(folder: Path, uri: str) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            upload(path, f"{uri}/{path.relative_to(folder).as_posix()}")
    return uri


def lines(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines()]


def test_a_pack_of_classes_here_and_in_a_store(folder: Path, tmp_path: Path, s3: str) -> None:
    for place in (packed(folder, str(tmp_path / "pack")), packed(folder, f"{s3}/pack")):
        done = run(place)
        assert done.exit_code == 0, done.output
        assert lines(done.stdout)[1:] == [
            "train: 12 images (12 decoded), 3 categories",
            "val: 6 images (6 decoded), 3 categories",
            "nothing wrong",
        ]
        done = run("imagenet", "--data", place)
        assert done.exit_code == 2
        for words in ("12 images instead of 1,281,167", "6 images instead of 50,000", "3 instead of 1,000"):
            assert words in done.stdout


def test_a_pack_of_the_training_images_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Named("mine", "imagenet", "labels", "", {"train": Counts(12), "val": Counts(6)}, 3)
    monkeypatch.setattr(module, "named", lambda name: mine)
    place = packed(folder / "train", str(tmp_path / "pack"))
    done = run("imagenet", "--data", place)
    assert done.exit_code == 0, done.output
    assert "train: 12 images (12 decoded), 3 categories" in done.stdout
    assert "note    train" in done.stdout
    # Nothing says that its folders are classes, unless it is asked for by that name.
    assert lines(run(place).stdout)[1:] == ["images: 12 images (12 decoded)", "nothing wrong"]


def test_parts_and_coco_for_pretraining(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = packed(folder, str(tmp_path / "pack"))
    part = Named("part", "imagenet", "images", "", {"train": Counts(5)}, share="5")
    monkeypatch.setattr(module, "named", lambda name: part)
    assert lines(run("imagenet-subset", "--data", place).stdout)[1:] == ["train: 5 images (5 decoded)", "nothing wrong"]
    too_many = Named("part", "imagenet", "images", "", {"train": Counts(5)}, share="13")
    monkeypatch.setattr(module, "named", lambda name: too_many)
    assert "13 images, but" in run("imagenet-subset", "--data", place).stdout
    both = Named("both", "coco", "images", "", {"train": Counts(12), "val": Counts(7), "test": Counts(1)})
    monkeypatch.setattr(module, "named", lambda name: both)
    done = run("coco-train+unlabeled", "--data", place)
    assert "6 images instead of 7" in done.stdout
    assert "0 images instead of 1" in done.stdout
    assert "12 images instead" not in done.stdout


def test_a_data_set_with_annotations_is_no_pack(folder: Path, tmp_path: Path) -> None:
    place = packed(folder, str(tmp_path / "pack"))
    assert f"{place}: a pack, but voc0712 has annotations; " in str(run("voc0712", "--data", place).exception)


@pytest.mark.parametrize("where", ["here", "store"])
@pytest.mark.parametrize("what", ["missing", "cut", "changed", "index", "left out"])
def test_a_damaged_pack(folder: Path, tmp_path: Path, s3: str, where: str, what: str) -> None:
    if what == "left out":
        (folder / "val" / "class-0" / "gone.png").symlink_to("nowhere")
    place = Path(packed(folder, str(tmp_path / "pack")))
    tars = sorted(place.glob("*.tar"))
    assert len(tars) > 2
    data = tars[1].read_bytes()
    if what == "missing":
        tars[1].unlink()
        tars[2].unlink()
    elif what == "cut":
        tars[1].write_bytes(data[:-512])
    elif what == "changed":
        middle = data.index(b"IDAT") + 40
        tars[1].write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif what == "index":
        (place / "index.arrow").write_bytes(b"other")
    expected = {
        "missing": {"tar that is missing or of another size than was packed": ("error", 2)},
        "cut": {"tar that is missing or of another size than was packed": ("error", 1)},
        "changed": {"cannot be read": ("error", 1)},
        "index": {"cannot be read": ("error", 1)},
        "left out": {"file that was left out of the pack": ("warning", 1)},
    }
    assert found(str(place) if where == "here" else send(place, f"{s3}/pack")) == expected[what]


def fingerprints(place: str, *options: str) -> list[str]:
    done = run(place, *options)
    return [line.rpartition("fingerprint ")[2] for line in done.stdout.splitlines() if ", fingerprint " in line]


@pytest.mark.parametrize("mode", ["sizes", "contents"])
def test_a_copy_has_the_same_fingerprints(folder: Path, tmp_path: Path, s3: str, mode: str) -> None:
    option = ("--fingerprint", mode, "--sample", "0")
    original = fingerprints(str(folder), *option)
    assert len(set(original)) == 2
    assert all(len(name) == 16 for name in original)
    assert fingerprints(send(folder, f"{s3}/copy"), *option) == original
    assert fingerprints(packed(folder, str(tmp_path / "pack")), *option) == original
    assert fingerprints(packed(folder, f"{s3}/pack"), *option) == original
    # A folder without splits, and a pack of it, have that of the split.
    assert fingerprints(str(folder / "train"), *option) == original[:1]
    assert fingerprints(packed(folder / "train", str(tmp_path / "train-pack")), *option) == original[:1]
    path = folder / "train" / "class-1" / "0.png"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    changed = fingerprints(str(folder), *option)
    assert changed[1] == original[1]
    assert (changed[0] == original[0]) == (mode == "sizes")
    path.write_bytes(bytes(data[:-1]))
    assert fingerprints(str(folder), *option)[0] != original[0]


def test_fingerprints_of_sets_with_annotations_and_for_pretraining(json_set, voc_set, s3: str) -> None:
    coco = json_set("coco")
    coco.write()
    for root in (coco.root, voc_set.root):
        here = fingerprints(str(root), "--fingerprint", "contents")
        assert len(here) == 2
        assert fingerprints(send(root, f"{s3}/{root.name}"), "--fingerprint", "contents") == here
    copy = fingerprints(str(coco.root), "--fingerprint", "sizes")
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(coco.root / "val2017" / f"{11:012}.jpg")
    again = fingerprints(str(coco.root), "--fingerprint", "sizes")
    assert again[0] == copy[0]
    assert again[1] != copy[1]
    assert fingerprints(str(coco.root)) == []
    assert "--fingerprint hash: give sizes or contents" in str(run(str(coco.root), "--fingerprint", "hash").exception)


def test_the_fingerprint_is_that_of_the_proposals(folder: Path) -> None:
    from soco_core.images import open_image_set

    named = open_image_set(str(folder / "train")).fingerprint("sizes")
    assert fingerprints(str(folder), "--fingerprint", "sizes")[0] == named


@pytest.mark.parametrize(("said", "count"), [(None, 0), (7, 0), (["a", {"id": "b"}], 1)])
def test_whatever_is_said_of_files_that_were_left_out(folder: Path, tmp_path: Path, said: object, count: int) -> None:
    place = Path(packed(folder, str(tmp_path / "pack")))
    content = json.loads((place / "pack.json").read_text())
    content["left_out"] = said
    (place / "pack.json").write_text(json.dumps(content))
    assert len(module.check(str(place), DatasetsConfig()).all()) == count
