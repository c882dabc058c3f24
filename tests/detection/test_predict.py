"""`soco predict` on images of one's own, with a detector that has seen a few."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soco_core.artifacts.result import ResultDirectory
from soco_core.demo_data.stage import demo_data
from soco_core.detection.predict_command import predict_images
from soco_core.detection.stage import finetune
from soco_core.errors import InputError
from soco_core.recipes import parse_recipe
from soco_core.storage import read_bytes, upload
from tests.detection.test_stage import TINY
from tests.scenes import draw_scenes

SOCO = Path(sys.executable).parent / "soco"


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> ResultDirectory:
    root = tmp_path_factory.mktemp("detector")
    recipe = parse_recipe(TINY, ["finetune.iterations=1", "finetune.warmup_iterations=0"])
    data = str(demo_data(recipe, output=str(root)).path)
    return finetune(recipe, coco=data, init="scratch", output=str(root))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two images of one name in two folders, one that is turned by its EXIF tag, and a file that is none."""
    folder = tmp_path / "pictures"
    for name, scene in zip(("a/scene", "b/scene", "turned"), draw_scenes(3, (96, 72), (30, 20)), strict=True):
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        tags = Image.Exif()
        tags[0x0112] = 6 if name == "turned" else 1
        scene.save(path, exif=tags)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_results_and_drawings(
    detector: ResultDirectory, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "bad.jpg").write_text("no image")
    file = Path(predict_images(str(detector.path), [str(pictures)], output=str(tmp_path / "out"), score=0.02))
    listed = json.loads((file.parent / "images.json").read_text())
    assert [Path(item["file_name"]).name for item in listed["images"]] == ["scene.jpg", "scene.jpg", "turned.jpg"]
    assert [(item["width"], item["height"]) for item in listed["images"]] == [(96, 72), (96, 72), (72, 96)]
    found = json.loads(file.read_text())
    assert found
    sizes = {item["id"]: (item["width"], item["height"]) for item in listed["images"]}
    for item in found:
        x, y, width, height = item["bbox"]
        limit = sizes[item["image_id"]]
        assert 0 <= x < x + width <= limit[0]
        assert 0 <= y < y + height <= limit[1]
        assert item["category_id"] in {category["id"] for category in listed["categories"]}
        assert item["segmentation"]["size"] == [limit[1], limit[0]]
    drawings = sorted(path.name for path in (file.parent / "drawings").iterdir())
    assert drawings == ["00001-scene.png", "00002-scene.png", "00003-turned.png"]
    # A drawing shows the image and, on it, the boxes of the score that was asked for.
    drawn = np.asarray(Image.open(file.parent / "drawings" / "00001-scene.png").convert("RGB"), np.int64)
    plain = Path(predict_images(str(detector.path), [str(pictures)], output=str(tmp_path / "plain"), score=1.0))
    bare = np.asarray(Image.open(plain.parent / "drawings" / "00001-scene.png").convert("RGB"), np.int64)
    scene = np.asarray(Image.open(pictures / "a" / "scene.jpg").convert("RGB"), np.int64)
    assert drawn.shape == bare.shape
    assert np.abs(bare - scene).mean() < 8
    assert np.abs(drawn - bare).max() > 50
    assert "bad.jpg: left out" in capsys.readouterr().err


def test_the_file_of_weights_will_do_and_is_found_by_the_command(
    detector: ResultDirectory, pictures: Path, tmp_path: Path
) -> None:
    weights = str(detector.path / "model.safetensors")
    image = str(pictures / "a" / "scene.jpg")
    done = subprocess.run(
        [SOCO, "predict", weights, image, "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip())
    assert file == tmp_path / "out" / "predictions.json"
    again = Path(predict_images(str(detector.path), [image], output=str(tmp_path / "again")))
    assert file.read_bytes() == again.read_bytes()


def test_weights_images_and_results_in_a_store(
    detector: ResultDirectory, pictures: Path, tmp_path: Path, s3: str
) -> None:
    here = Path(predict_images(str(detector.path), [str(pictures)], output=str(tmp_path / "out"), score=0.02))
    for folder, place in ((detector.path, "run"), (pictures, "pictures")):
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                upload(path, f"{s3}/{place}/{path.relative_to(folder).as_posix()}")
    # A prefix, and an image of it once more.
    images = [f"{s3}/pictures", f"{s3}/pictures/a/scene.jpg"]
    file = predict_images(f"{s3}/run/model.safetensors", images, output=f"{s3}/out", score=0.02)
    assert file == f"{s3}/out/predictions.json"
    assert read_bytes(file) == here.read_bytes()
    listed = json.loads(read_bytes(f"{s3}/out/images.json"))["images"]
    assert [item["file_name"] for item in listed] == [
        f"{s3}/pictures/{name}.jpg" for name in ("a/scene", "b/scene", "turned")
    ]
    for drawing in (here.parent / "drawings").iterdir():
        assert read_bytes(f"{s3}/out/drawings/{drawing.name}") == drawing.read_bytes()
    with pytest.raises(InputError, match=rf"^{s3}/none\.jpg: the S3 store answered NoSuchKey"):
        predict_images(f"{s3}/run", [f"{s3}/none.jpg"], output=f"{s3}/out")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"images": ["nowhere.jpg"]}, "nowhere.jpg: no such file or folder"),
        ({"images": ["{pictures}/notes.txt"]}, "no image that can be decoded"),
        ({"weights": "{pictures}"}, "not a finished result"),
        ({"score": 1.5}, "--score 1.5: a score lies between 0 and 1"),
        ({"output": "{pictures}/notes.txt"}, "--output"),
    ],
)
def test_what_cannot_be_predicted(
    change: dict[str, object], problem: str, detector: ResultDirectory, pictures: Path, tmp_path: Path
) -> None:
    given: dict[str, object] = {
        "weights": str(detector.path),
        "images": ["{pictures}/turned.jpg"],
        "output": str(tmp_path / "out"),
        "score": 0.5,
    } | change
    filled = {
        key: [item.format(pictures=pictures) for item in value]
        if isinstance(value, list)
        else value.format(pictures=pictures)
        if isinstance(value, str)
        else value
        for key, value in given.items()
    }
    with pytest.raises(InputError, match=r".") as caught:
        predict_images(filled.pop("weights"), filled.pop("images"), **filled)  # type: ignore[arg-type]
    assert problem in str(caught.value)


def test_each_image_once_and_none_that_was_drawn_before(
    detector: ResultDirectory, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in several ways, and with the results below the folder that is looked through."""
    (pictures / ".hidden").mkdir()
    Image.new("RGB", (64, 48)).save(pictures / ".hidden" / "h.jpg")
    monkeypatch.chdir(pictures)
    places = [".", "a/scene.jpg", "./a/scene.jpg", str(pictures / "a"), "b/../a/scene.jpg"]
    for _ in range(2):
        file = Path(predict_images(str(detector.path), places, output="predictions"))
        names = [image["file_name"] for image in json.loads((file.parent / "images.json").read_text())["images"]]
        assert names == [str(pictures / name) for name in ("a/scene.jpg", "b/scene.jpg", "turned.jpg")]


@pytest.mark.parametrize("name", ["$_$", "\\frac{", "名" * 60, "x" * 240])
def test_any_name_is_drawn(name: str, detector: ResultDirectory, pictures: Path, tmp_path: Path) -> None:
    named = (pictures / "turned.jpg").rename(pictures / f"{name}.jpg")
    file = Path(predict_images(str(detector.path), [str(named)], output=str(tmp_path / "out"), score=0.0))
    (drawing,) = (file.parent / "drawings").iterdir()
    assert drawing.name.startswith(f"00001-{name[:30]}")
    assert Image.open(drawing).size == (72, 96)


def test_an_output_that_cannot_be_written_is_said_before_the_work(
    detector: ResultDirectory, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soco_core.detection.evaluate.predict", None)
    taken = pictures / "notes.txt"
    with pytest.raises(InputError, match=rf"^--output {taken}: cannot be written \({taken} is a file\); name another"):
        predict_images(str(detector.path), [str(pictures)], output=str(taken))
