"""`soco views` on a file and on an image of a set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soco_core import view_command
from soco_core.artifacts.proposals import Proposals
from soco_core.artifacts.result import open_result
from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe
from soco_core.view_command import draw_image
from soco_core.views.draw import PicturedImage
from tests.scenes import draw_scenes

Drawn = list[tuple[PicturedImage, Recipe, int]]
COUNT = 3


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("demo", ["runtime.search_workers=0", "seed=6"])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "images"
    for number, image in enumerate(draw_scenes(COUNT)):
        path = folder / f"class {number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


@pytest.fixture(scope="module")
def proposals(recipe: Recipe, images: Path) -> str:
    return propose(recipe, images=str(images), output=str(images.parent / "runs")).uri


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What was given to be drawn."""
    seen: Drawn = []

    def keep(path: str, images: list[PicturedImage], recipe: Recipe, epoch: int) -> None:
        seen.extend((image, recipe, epoch) for image in images)

    monkeypatch.setattr(view_command, "draw_views", keep)
    return seen


@pytest.mark.parametrize("fields", ["engine=opencv", "engine=exact", "engine=exact,keep_duplicates=true"])
def test_a_file_is_searched_as_its_set_would_be(images: Path, drawn: Drawn, fields: str) -> None:
    """Boxes that several regions share (of `exact`) are one proposal here too, unless they are kept."""
    sets = [f"proposals.{field}" for field in fields.split(",")]
    recipe = load_recipe("demo", ["runtime.search_workers=0", "seed=6", *sets])
    made = propose(recipe, images=str(images), output=str(images.parent / "runs"))
    known = Proposals.open(open_result(made.uri, stage="proposals"))
    for number in range(COUNT):
        draw_image(recipe, image=str(images / known.id(number)), output="x.png")
        image = drawn[number][0]
        np.testing.assert_array_equal(image.proposals, known.boxes(number))
        assert (image.name, image.number) == (Path(known.id(number)).name, 0)
        assert image.pixels.shape == (120, 150, 3)
    repeated = [len(image.proposals) - len(np.unique(image.proposals, axis=0)) for image, _, _ in drawn]
    assert any(repeated) == ("keep_duplicates" in fields)


@pytest.mark.parametrize("by_path", [False, True])
def test_an_image_of_a_set_gets_its_number(
    recipe: Recipe, images: Path, proposals: str, drawn: Drawn, by_path: bool
) -> None:
    """Seed, epoch and number are those of a pretraining."""
    name = str(images / "class 1" / "1.png") if by_path else "class 1/1.png"
    draw_image(recipe, image=name, output="x.png", proposals=proposals, epoch=7)
    image, used, epoch = drawn[0]
    assert (image.name, image.number, used.seed, epoch) == ("class 1/1.png", 2, 6, 7)
    np.testing.assert_array_equal(image.pixels, np.asarray(Image.open(images / "class 1" / "1.png")))


def test_the_engines_that_need_a_name_get_it(images: Path, drawn: Drawn, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"0": [[10, 20, 60, 60]], "1": [[30, 30, 70, 70]]}')
    recipe = load_recipe("demo", ["proposals.engine=import", f"proposals.boxes_file={boxes}"])
    draw_image(recipe, image=str(images / "class 1" / "1.png"), output="x.png")
    assert drawn[0][0].proposals.tolist() == [[30, 30, 100, 100]]


@pytest.mark.parametrize(
    ("image", "with_proposals", "names"),
    [
        ("nowhere.png", False, "nowhere.png"),
        ("class 0/9.png", True, "class 0/9.png: not among the 3 images"),
        ("class 0/0.png", False, "class 0/0.png"),
    ],
)
def test_an_image_that_is_not_there(
    recipe: Recipe, proposals: str, image: str, with_proposals: bool, names: str
) -> None:
    with pytest.raises(InputError, match=names):
        draw_image(recipe, image=image, output="x.png", proposals=proposals if with_proposals else None)


def test_a_file_that_is_no_image(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"text\.jpg: .*give an image file"):
        draw_image(recipe, image=str(tmp_path / "text.jpg"), output="x.png")


@pytest.mark.parametrize("output", ["", ".", "taken", "file/x.png", "/proc/x.png"])
def test_an_output_that_cannot_be_written(
    recipe: Recipe, images: Path, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--output .*: (not a file|cannot be written \(.+\)); name ") as caught:
        draw_image(recipe, image=str(images / "class 0" / "0.png"), output=output)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "taken"]
    with pytest.raises(InputError, match=r"^--output x\.jpg: the picture is a PNG; give it a name that ends in \.png$"):
        draw_image(recipe, image=str(images / "class 0" / "0.png"), output="x.jpg")


def test_images_without_proposals_are_refused(recipe: Recipe, images: Path) -> None:
    with pytest.raises(InputError, match=r"--images .* give both or neither"):
        draw_image(recipe, image=str(images / "class 0" / "0.png"), output="x.png", images=str(images))


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (3, 2)])
@pytest.mark.parametrize("name", ["demo", "authors-fpn-100ep"])
def test_a_tiny_image_has_views(size: tuple[int, int], name: str, tmp_path: Path) -> None:
    Image.new("RGB", size, (200, 30, 60)).save(tmp_path / "tiny.png")
    draw_image(load_recipe(name), image=str(tmp_path / "tiny.png"), output=str(tmp_path / "views.png"))
    assert Image.open(tmp_path / "views.png").width > 500


def test_the_command_line(images: Path, proposals: str, tmp_path: Path) -> None:
    """The command draws what the function does: the same picture for the same seed and epoch, else another."""
    image = str(images / "class 0" / "0.png")
    code = "from soco_core.cli import main; main()"
    options = ["--seed", "3", "--recipe", "demo", "--proposals", proposals, "--set", "views.third_view=none"]
    command = [sys.executable, "-c", code, "views", image, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert (done.stdout, done.stderr) == ("views.png\n", "")
    recipe = load_recipe("demo", ["seed=3", "views.third_view=none"])
    for epoch in (0, 1):
        draw_image(recipe, image=image, output=str(tmp_path / f"{epoch}.png"), proposals=proposals, epoch=epoch)
    drawn, same, other = ((tmp_path / name).read_bytes() for name in ("views.png", "0.png", "1.png"))
    assert drawn == same != other
    assert Image.open(tmp_path / "views.png").width > 800
