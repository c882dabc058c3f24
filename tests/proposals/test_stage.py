"""The stage: its files, what names its result, and the files that stop nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soco_core import storage
from soco_core.artifacts.proposals import Proposals
from soco_core.artifacts.result import open_result
from soco_core.config import Recipe
from soco_core.errors import InputError, SocoError
from soco_core.proposals import shards as shards_module
from soco_core.proposals.stage import plan_shards, propose, propose_shard
from soco_core.recipes import parse_recipe
from soco_core.tracking import TrackingContext
from tests.proposals.conftest import MakeImages, files, names_of


def test_the_result_and_that_it_is_the_cache(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, counted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(5)
    result = propose(recipe, images=str(images), output=str(tmp_path / "out"))
    assert len(counted) == 5
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["contract"] == 2
    assert manifest["image_set"] == {
        "root": str(images),
        "layout": "folder",
        "splits": [],
        "subset": "",
        "fingerprint": result.determined_by["inputs"]["images"],
        "fingerprint_mode": "contents",
        "images": 5,
    }
    assert manifest["parameters"]["scale"] == 500
    assert manifest["search"]["engine"] == "opencv"
    assert manifest["search"]["versions"]["cv2"].startswith("4.")
    assert (result.summary["images"], result.summary["bad_images"], result.summary["reduced_images"]) == (5, 0, 0)
    assert sum(result.summary["kept_by"].values()) == 5
    assert sorted(files(result)) == [
        "figures/proposals.png",
        "figures/proposals_histogram.png",
        "kept.arrow",
        "manifest.json",
        "tables/00000.parquet",
    ]
    proposals = Proposals.open(open_result(result.uri, "proposals"))
    assert [proposals.id(i) for i in range(5)] == names_of(images)
    assert proposals.size(0) == (72, 54)
    assert proposals.counts().mean() == pytest.approx(result.summary["boxes_per_image"], abs=1e-4)

    capsys.readouterr()
    again = propose(recipe, images=str(images), output=str(tmp_path / "out"), shards=3)
    assert again.uri == result.uri
    assert len(counted) == 5
    assert "already done" in capsys.readouterr().err
    assert propose_shard(recipe, images=str(images), output=str(tmp_path / "out"), index=0, count=2) == result.uri
    assert len(counted) == 5


def test_what_names_the_result(make_images: MakeImages, tmp_path: Path) -> None:
    images = make_images(2)

    def uri(text: str) -> str:
        changed = parse_recipe(f"{{runtime: {{search_workers: 0}}, {text}}}")
        return propose_shard(changed, images=str(images), output=str(tmp_path / "out"), index=0, count=1)

    first = uri("seed: 0")
    assert uri("seed: 1") == first
    assert uri("images: {layout: folder}") == first
    assert uri("proposals: {scale: 400}") != first
    assert uri("images: {max_pixels: 3887}") != first
    assert uri("images: {subset: '1'}") != first
    drawn = uri("seed: 0, proposals: {engine: random}")
    assert uri("seed: 1, proposals: {engine: random}") != drawn
    Image.new("RGB", (8, 8)).save(images / "new.png")
    assert uri("seed: 0") != first


def test_the_contents_of_a_boxes_file_name_the_result_not_its_place(
    make_images: MakeImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(3)
    boxes = {"0/000.png": [[1, 2, 30, 25], [4, 4, 28, 20]], "1/001.png": [[0, 0, 40, 40]]}

    def run(file: Path, content: object, search_workers: int = 0) -> dict[str, bytes]:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
        imported = parse_recipe(
            f"{{runtime: {{search_workers: {search_workers}}}, proposals: {{engine: import, boxes_file: {file}}}}}"
        )
        results.append(propose(imported, images=str(images), output=str(tmp_path / "out"), shards=2))
        return files(results[-1])

    results: list = []
    run(tmp_path / "a.json", boxes, search_workers=1)
    said = capsys.readouterr().err
    assert f"1 of 3 images have no box in {tmp_path / 'a.json'}" in said
    run(tmp_path / "b" / "same.json", boxes)
    run(tmp_path / "a.json", boxes | {"2/002.png": [[0, 0, 40, 40]]})
    assert results[0].uri == results[1].uri != results[2].uri

    digest = hashlib.sha256(json.dumps(boxes).encode()).hexdigest()
    search = json.loads((results[0].path / "manifest.json").read_text())["search"]
    assert search == {
        "engine": "import",
        "versions": {},
        "boxes_file": str(tmp_path / "a.json"),
        "boxes_file_sha256": digest,
    }
    assert results[0].determined_by["recipe"]["proposals"]["boxes_file"] == digest
    proposals = Proposals.open(results[0])
    np.testing.assert_array_equal(proposals.boxes(0), [[1, 2, 31, 27], [4, 4, 32, 24]])
    assert [proposals.kept_by(i) for i in range(3)] == ["strict", "strict", "whole_image"]
    assert not [path for path in (results[0].path / "shards").iterdir() if not path.name.startswith(".0")]


@pytest.mark.parametrize("place", ["missing.json", "", "s3"])
def test_a_missing_boxes_file_is_one_line(place: str, make_images: MakeImages, tmp_path: Path, s3: str) -> None:
    file = f"{s3}/boxes.json" if place == "s3" else str(tmp_path / place)
    imported = parse_recipe(f"{{proposals: {{engine: import, boxes_file: {file}}}}}")
    with pytest.raises(InputError, match=r"^proposals\.boxes_file ") as caught:
        propose(imported, images=str(make_images(1)), output=str(tmp_path / "out"))
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_boxes_file_that_has_none_of_the_images_leaves_nothing(make_images: MakeImages, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text('{"other.png": [[0, 0, 9, 9]]}')
    imported = parse_recipe(f"{{proposals: {{engine: import, boxes_file: {tmp_path / 'boxes.json'}}}}}")
    with pytest.raises(InputError, match=r"boxes\.json: has no box for any of the 2 images"):
        propose(imported, images=str(make_images(2)), output=str(tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*imported*"))


def test_random_boxes_are_those_of_the_seed(make_images: MakeImages, tmp_path: Path) -> None:
    images = make_images(3)
    drawn = parse_recipe("{seed: 7, runtime: {search_workers: 0}, proposals: {engine: random, random_boxes: 2}}")
    result = propose(drawn, images=str(images), output=str(tmp_path / "out"))
    search = json.loads((result.path / "manifest.json").read_text())["search"]
    assert (search["engine"], search["seed"]) == ("random", 7)
    assert files(result) == files(propose(drawn, images=str(images), output=str(tmp_path / "again"), shards=3))


def test_bad_files_are_named_and_stop_nothing(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(3)
    Image.new("CMYK", (40, 30), (0, 80, 160, 20)).save(images / "cmyk.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    Image.fromarray(noise).save(images / "rgba.png")
    Image.fromarray(noise[..., :2].copy().view(np.uint16)[..., 0]).save(images / "sixteen.png")
    Image.fromarray(noise[..., 0]).convert("P").save(images / "palette.png", transparency=3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(images / "turned.jpg", exif=exif)
    Image.new("RGB", (1, 1)).save(images / "one.png")
    data = (images / "turned.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(data[: len(data) // 2])
    for k in range(10):
        (images / f"empty{k}.jpg").write_bytes(b"")

    result = propose(recipe, images=str(images), output=str(tmp_path / "out"), shards=2)
    assert (result.summary["images"], result.summary["bad_images"]) == (9, 11)
    said = next(line for line in capsys.readouterr().err.splitlines() if "could not be decoded" in line)
    assert said.startswith("proposals: 11 of 20 images could not be decoded: cut.jpg (image file is truncated")
    assert "empty8.jpg (empty file) and 1 more;" in said
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert [entry["id"] for entry in manifest["bad_images"]] == ["cut.jpg", *(f"empty{k}.jpg" for k in range(10))]

    proposals = Proposals.open(result)
    sizes = {proposals.id(i): proposals.size(i) for i in range(len(proposals))}
    assert sizes["turned.jpg"] == (30, 40)
    assert sizes["cmyk.jpg"] == sizes["rgba.png"] == sizes["sixteen.png"] == sizes["palette.png"] == (40, 30)
    assert sizes["one.png"] == (1, 1)
    for i in range(len(proposals)):
        assert len(proposals.boxes(i)) >= 1
        assert (proposals.boxes(i)[:, :2] >= 0).all()
        assert (proposals.boxes(i)[:, 2:] <= proposals.size(i)).all()


def test_the_limits_of_the_recipe(make_images: MakeImages, tmp_path: Path) -> None:
    images = make_images(2)
    Image.new("RGB", (100, 30)).save(images / "long.png")
    Image.new("RGB", (100, 50)).save(images / "bomb.png")
    limited = parse_recipe("{images: {max_pixels: 4000}, proposals: {max_long_side: 80}, runtime: {search_workers: 0}}")
    result = propose(limited, images=str(images), output=str(tmp_path / "out"))
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["reduced_images"] == ["long.png"]
    assert [entry["id"] for entry in manifest["bad_images"]] == ["bomb.png"]
    assert result.summary["reduced_images"] == 1


def test_a_set_without_any_good_image(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jpg").write_bytes(b"no image")
    (tmp_path / "set" / "b.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 2 images .* \(the first, a\.jpg: not an image"):
        propose(recipe, images=str(tmp_path / "set"), output=str(tmp_path / "out"))


def test_the_files_that_break_loaders(shared_data: Path, tmp_path: Path, recipe: Recipe) -> None:
    folder = shared_data / "nasty"
    result = propose(recipe, images=str(folder), output=str(tmp_path))
    manifest = json.loads((result.path / "manifest.json").read_text())
    proposals = Proposals.open(result)
    numbers = {proposals.id(i): i for i in range(len(proposals))}
    entries = json.loads((folder / "index.json").read_text())
    bad = [entry["file"] for entry in entries if entry["pil_load"] != "ok"]
    assert sorted(entry["id"] for entry in manifest["bad_images"]) == sorted(bad)
    assert all(entry["reason"] for entry in manifest["bad_images"])
    assert len(numbers) == len(entries) - len(bad)
    for entry in entries:
        if entry["file"] in bad:
            continue
        width, height = entry["size"]
        upright = (height, width) if entry["exif_orientation"] in {5, 6, 7, 8} else (width, height)
        number = numbers[entry["file"]]
        assert proposals.size(number) == upright, entry["file"]
        assert (proposals.boxes(number)[:, :2] >= 0).all()
        assert (proposals.boxes(number)[:, 2:] <= upright).all()
    assert proposals.kept_by(numbers["flat_color.jpg"]) != "strict"
    assert manifest["reduced_images"] == ["exif3_landscape.jpg", "exif8_landscape.jpg"]


def test_mlflow_shows_the_numbers_and_the_pictures(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(3)
    (images / "bad.png").write_bytes(b"")
    context = TrackingContext(f"sqlite:///{tmp_path}/mlflow.db", "")
    result = propose(recipe, images=str(images), output=str(tmp_path / "out"), tracking=context)

    from mlflow import MlflowClient

    client = MlflowClient(context.uri)
    experiment = client.get_experiment_by_name("soco")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    metrics = run.data.metrics
    assert (metrics["images"], metrics["bad_images"], metrics["reduced_images"]) == (3, 1, 0)
    assert metrics["boxes_per_image"] == result.summary["boxes_per_image"]
    assert metrics["kept_by.strict"] == result.summary["kept_by"]["strict"]
    pictures = {entry.path for entry in client.list_artifacts(run.info.run_id, "figures")}
    assert pictures == {"figures/proposals.png", "figures/proposals_histogram.png"}


@pytest.mark.parametrize(("number", "wanted"), [(errno.ENOSPC, "no space is left for"), (errno.EROFS, "cannot write")])
def test_a_disk_that_takes_nothing_is_one_line(
    number: int, wanted: str, make_images: MakeImages, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = str(make_images(2))

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    output = str(tmp_path / "out")
    for place, name, run in (
        (storage.os, "fsync", lambda: plan_shards(recipe, images=images, output=output, count=2)),
        (storage.os, "fsync", lambda: propose_shard(recipe, images=images, output=output, index=0, count=2)),
        (shards_module.Journal, "add", lambda: propose_shard(recipe, images=images, output=output, index=0, count=2)),
        (shards_module.Journal, "add", lambda: propose(recipe, images=images, output=output)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, refuse)
            with pytest.raises(SocoError, match=rf"^proposals: {wanted} {output}/proposals/[^\n]*$"):
                run()
    assert propose(recipe, images=images, output=output).summary["images"] == 2
