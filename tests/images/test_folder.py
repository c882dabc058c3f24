from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soco_core.errors import InputError
from soco_core.images import BadImageError, open_image_set


def write(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path, path.suffix[1:].replace("JPG", "jpeg"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a/z.JPG", "a/b/c.webp", "B.bmp"):
        write(tmp_path / "set" / name)
    for hidden in (".hidden.png", ".cache/x.png"):
        write(tmp_path / "set" / hidden)
    (tmp_path / "set" / "labels.txt").write_text("no image")
    return tmp_path / "set"


def test_ids_are_sorted_posix_paths_without_hidden_and_other_files(folder: Path) -> None:
    image_set = open_image_set(str(folder))
    assert image_set.ids == ("B.bmp", "a/b/c.webp", "a/z.JPG", "b.png")
    assert image_set.root == str(folder.resolve())
    assert image_set.read("a/z.JPG").shape == (4, 6, 3)


def test_fingerprint_depends_on_names_and_contents_but_not_on_the_place(folder: Path, tmp_path: Path) -> None:
    def both(root: Path) -> tuple[str, str]:
        image_set = open_image_set(str(root))
        return image_set.fingerprint("contents"), image_set.fingerprint("sizes")

    first = both(folder)
    assert first[0] != first[1]
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert both(moved) == first

    Image.new("RGB", (6, 4), (1, 1, 1)).save(moved / "B.bmp")  # bmp: other contents, same size
    assert both(moved)[0] != first[0]
    assert both(moved)[1] == first[1]

    shutil.copy(folder / "B.bmp", moved / "B.bmp")
    (moved / "b.png").rename(moved / "c.png")
    assert both(moved)[0] != first[0]
    assert both(moved)[1] != first[1]


def test_what_is_no_image_set_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("")
    (tmp_path / "file.png").write_text("")
    for name, wanted in (("absent", "does not exist"), ("file.png", "is a file"), ("empty", "holds no image")):
        with pytest.raises(InputError, match=wanted) as caught:
            open_image_set(str(tmp_path / name))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_linked_folders_are_followed_but_not_in_a_circle(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "n.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "round").symlink_to(folder)
    assert open_image_set(str(folder)).ids == ("B.bmp", "a/b/c.webp", "a/z.JPG", "b.png", "linked/n.png")


def test_a_broken_link_is_a_bad_image_and_a_pipe_is_none(folder: Path) -> None:
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    image_set = open_image_set(str(folder))
    assert "gone.jpg" in image_set.ids
    assert "pipe.jpg" not in image_set.ids
    broken = image_set.fingerprint("contents")
    with pytest.raises(BadImageError, match="cannot be opened"):
        image_set.read("gone.jpg")
    write(folder / "nowhere.jpg".replace("jpg", "png"))
    (folder / "nowhere.png").rename(folder / "nowhere.jpg")
    repaired = open_image_set(str(folder))
    assert repaired.fingerprint("contents") != broken
    assert np.array_equal(repaired.read("gone.jpg"), repaired.read("nowhere.jpg"))


def test_a_name_that_is_not_utf8_is_refused(folder: Path) -> None:
    try:
        (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(InputError, match="not UTF-8"):
        open_image_set(str(folder))
