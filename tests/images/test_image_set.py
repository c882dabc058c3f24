"""Which images a set has, in every layout, from a disk and from S3."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from soco_core import storage
from soco_core.config import ImagesConfig
from soco_core.errors import InputError
from soco_core.images import BadImageError, decode_image, open_image_set

Upload = Callable[[Path], str]


def write(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(
        path, path.suffix[1:].replace("JPG", "jpeg").replace("jpg", "jpeg")
    )


def write_all(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        write(root / name, number)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = write_all(tmp_path / "set", "b.png", "a/z.JPG", "a/b/c.webp", "B.bmp", ".hidden.png", ".cache/x.png")
    (root / "labels.txt").write_text("no image")
    return root


@pytest.fixture
def upload(s3: str) -> Upload:
    """Copy a folder to S3, and return its URI."""

    def copy(root: Path) -> str:
        for path in root.rglob("*"):
            if path.is_file():
                storage.write_bytes(f"{s3}/some/{root.name}/{path.relative_to(root).as_posix()}", path.read_bytes())
        return f"{s3}/some/{root.name}"

    return copy


def refusal(root: Path | str, **config: object) -> str:
    """Return the one line that opening a set ends with."""
    with pytest.raises(InputError) as caught:
        open_image_set(str(root), ImagesConfig(**config))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ids_are_sorted_posix_paths_without_hidden_and_other_files(folder: Path) -> None:
    image_set = open_image_set(str(folder))
    assert image_set.ids == ("B.bmp", "a/b/c.webp", "a/z.JPG", "b.png")
    assert image_set.source.root == str(folder.resolve())
    assert not image_set.source.remote
    assert (image_set.layout, image_set.splits, image_set.subset) == ("folder", (), "")
    assert decode_image(image_set.source.read_bytes("a/z.JPG")).shape == (4, 6, 3)


def test_s3_has_the_same_ids_and_fingerprints_as_the_folder(folder: Path, upload: Upload) -> None:
    here = open_image_set(str(folder))
    there = open_image_set(upload(folder) + "/")
    assert there.ids == here.ids
    assert there.source.root.endswith("/some/set")
    assert there.source.remote
    for mode in ("contents", "sizes"):
        assert there.fingerprint(mode) == here.fingerprint(mode)


def test_fingerprints_keep_their_value(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    (tmp_path / "b.png").write_bytes(b"")
    image_set = open_image_set(str(tmp_path))
    # SHA-256 of "contents", then for each file a line feed, its id, a zero byte, its SHA-256 ("sizes": its size).
    assert image_set.fingerprint("contents") == "1108dc3be37fded0"
    assert image_set.fingerprint("sizes") == "c614a637ff4b36c7"


def test_fingerprint_depends_on_names_and_contents_but_not_on_the_place(folder: Path, tmp_path: Path) -> None:
    def both(root: Path) -> tuple[str, str]:
        image_set = open_image_set(str(root))
        return image_set.fingerprint("contents"), image_set.fingerprint("sizes")

    first = both(folder)
    assert first[0] != first[1]
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert both(moved) == first

    Image.new("RGB", (6, 4), (9, 9, 9)).save(moved / "B.bmp")  # bmp: other contents, same size
    assert both(moved)[0] != first[0]
    assert both(moved)[1] == first[1]

    shutil.copy(folder / "B.bmp", moved / "B.bmp")
    (moved / "b.png").rename(moved / "c.png")
    assert both(moved)[0] != first[0]
    assert both(moved)[1] != first[1]


def test_what_is_no_image_set_is_said_in_one_line(tmp_path: Path, s3: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("")
    (tmp_path / "file.png").write_text("")
    for name, wanted in (("absent", "does not exist"), ("file.png", "is a file"), ("empty", "holds no image")):
        said = refusal(tmp_path / name)
        assert wanted in said
        assert name in said
    assert "holds no image" in refusal(f"{s3}/nothing")
    assert "NoSuchBucket" in refusal("s3://no-such-bucket/images")


def test_linked_folders_are_followed_but_not_in_a_circle(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "n.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "round").symlink_to(folder)
    assert open_image_set(str(folder)).ids == ("B.bmp", "a/b/c.webp", "a/z.JPG", "b.png", "linked/n.png")


def test_a_broken_link_is_a_bad_image_and_a_pipe_is_none(folder: Path) -> None:
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "topipe.jpg").symlink_to(folder / "pipe.jpg")
    image_set = open_image_set(str(folder))
    assert {"gone.jpg", "self.jpg"} < set(image_set.ids)
    assert not {"pipe.jpg", "topipe.jpg"} & set(image_set.ids)
    broken = image_set.fingerprint("contents")
    for name in ("gone.jpg", "self.jpg"):
        with pytest.raises(BadImageError, match="cannot be opened"):
            image_set.source.read_bytes(name)
    write(folder / "nowhere.jpg")
    repaired = open_image_set(str(folder))
    assert repaired.fingerprint("contents") != broken
    assert repaired.source.read_bytes("gone.jpg") == repaired.source.read_bytes("nowhere.jpg")


def test_a_name_that_is_not_utf8_is_refused(folder: Path) -> None:
    try:
        (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "not UTF-8" in refusal(folder)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = write_all(
        tmp_path / "coco",
        *("train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg", "images/unlabeled2017/4.jpg", "images/5.jpg", "6.jpg"),
    )
    annotations = root / "annotations"
    annotations.mkdir()
    for name, files in (
        ("instances_mini", ["5.jpg"]),
        ("image_info_rest", ["6.jpg"]),
        ("instances_lost", ["5.jpg", "7.jpg"]),
    ):
        content = {"info": {}, "images": [{"id": k, "file_name": file} for k, file in enumerate(files)]}
        (annotations / f"{name}.json").write_text(json.dumps(content))
    (annotations / "instances_none.json").write_text('{"images": []}')
    (annotations / "instances_out.json").write_text('{"images": [{"file_name": "../6.jpg"}]}')
    (annotations / "instances_lvis.json").write_text('{"images": [{"coco_url": "http://a/6.jpg"}]}')
    (annotations / "instances_cut.json").write_text('{"images": [{"file_name": "6.jp')
    (annotations / "captions_train2017.json").write_text("{}")
    return root


@pytest.mark.parametrize("on_s3", [False, True])
def test_coco(coco: Path, on_s3: bool, upload: Upload, capsys: pytest.CaptureFixture[str]) -> None:
    root = upload(coco) if on_s3 else str(coco)
    image_set = open_image_set(root)
    assert image_set.ids == ("images/unlabeled2017/4.jpg", "train2017/1.jpg", "train2017/2.jpg")
    assert (image_set.layout, image_set.splits) == ("coco", ("train2017", "unlabeled2017"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "COCO's layout: 3 images of train2017 + unlabeled2017" in said
    assert "--set images.layout=folder" in said
    for splits, ids in (
        (("val2017", "train2017"), ("train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg")),
        (("mini", "rest"), ("6.jpg", "images/5.jpg")),
    ):
        chosen = open_image_set(root, ImagesConfig(layout="coco", splits=splits))
        assert chosen.ids == ids
        assert chosen.splits == splits
    assert capsys.readouterr().err == ""  # the layout was asked for
    assert len(open_image_set(root, ImagesConfig(layout="folder")).ids) == 6
    for split, words in (
        ("nowhere", "no split nowhere of COCO"),
        ("none", "the split none holds no image"),
        ("lost", "images/7.jpg is missing (1 of 2 are)"),
        ("out", "../6.jpg' is not the name of a file below"),
        ("lvis", "images[0] has no file_name"),
        ("cut", "instances_cut.json: not JSON"),
    ):
        assert words in refusal(root, splits=(split,))


def test_coco_without_a_split_to_train_on(coco: Path) -> None:
    shutil.rmtree(coco / "train2017")
    shutil.rmtree(coco / "images" / "unlabeled2017")
    said = refusal(coco)
    assert "mini" in said
    assert "images.splits" in said
    assert "images.layout=folder" in said


def test_imagenets_folders_are_not_cocos(tmp_path: Path) -> None:
    root = write_all(tmp_path / "imagenet", "train/n01/a.jpg", "val/n01/b.jpg")
    assert open_image_set(str(root)).layout == "folder"
    assert open_image_set(str(root)).ids == ("train/n01/a.jpg", "val/n01/b.jpg")
    assert open_image_set(str(root), ImagesConfig(layout="coco")).ids == ("train/n01/a.jpg",)
    assert "are of COCO or VOC" in refusal(root, splits=("train",))


def write_voc(root: Path, first: int, **lists: str) -> None:
    write_all(root / "JPEGImages", *(f"{number:06d}.jpg" for number in range(first, first + 4)))
    for split, text in lists.items():
        path = root / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("on_s3", [False, True])
@pytest.mark.parametrize("above", ["", "VOCdevkit/"])
def test_voc(tmp_path: Path, above: str, on_s3: bool, upload: Upload, capsys: pytest.CaptureFixture[str]) -> None:
    local = tmp_path / "voc"
    write_voc(local / above / "VOC2007", 0, trainval="000000\n000001 \n\n", test="000002\n", empty="\n")
    write_voc(local / above / "VOC2012", 4, trainval="000005\r\n", broken="000004\n000009\n")
    root = upload(local) if on_s3 else str(local)
    image_set = open_image_set(root)
    wanted = [f"{above}VOC{year}.jpg" for year in ("2007/JPEGImages/000000", "2007/JPEGImages/000001")]
    assert image_set.ids == (*wanted, f"{above}VOC2012/JPEGImages/000005.jpg")
    assert (image_set.layout, image_set.splits) == ("voc", ("trainval",))
    assert "VOC's layout: 3 images of trainval" in capsys.readouterr().err
    # Only 2007 has a public test set.
    only_there = open_image_set(root, ImagesConfig(splits=("test",)))
    assert only_there.ids == (f"{above}VOC2007/JPEGImages/000002.jpg",)
    assert "JPEGImages/000009.jpg is missing (1 of 2 are)" in refusal(root, splits=("broken",))
    assert "no split train of VOC" in refusal(root, splits=("train",))
    assert "the split empty holds no image" in refusal(root, splits=("empty",))
    one_year = f"{root}/{above}VOC2012"
    assert open_image_set(one_year).ids == ("JPEGImages/000005.jpg",)


def test_a_layout_that_is_not_there_is_said_in_one_line(folder: Path) -> None:
    assert "none of COCO's splits" in refusal(folder, layout="coco")
    assert "not VOC's layout" in refusal(folder, layout="voc")
    assert "no pack.json" in refusal(folder, layout="pack")


def test_the_development_sets(shared_data: Path) -> None:
    coco = open_image_set(str(shared_data / "coco-mini"))
    assert (coco.layout, coco.splits, len(coco.ids)) == ("coco", ("train",), 131)
    both = open_image_set(str(shared_data / "coco-mini"), ImagesConfig(splits=("train", "val")))
    assert len(both.ids) == 164
    voc = open_image_set(str(shared_data / "voc07-mini"))
    assert (voc.layout, voc.splits, len(voc.ids)) == ("voc", ("trainval",), 224)
