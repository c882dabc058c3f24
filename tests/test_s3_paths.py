"""Options and fields that take a path take an S3 URI; stages' own files and images have tests of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from soco_core.artifacts.initialisation import find_initialisation, read_tensors
from soco_core.config import DatasetsConfig
from soco_core.convert.import_stage import weights_file
from soco_core.datasets.check import check
from soco_core.engine.component import read_recipe
from soco_core.errors import InputError, RecipeError
from soco_core.plan.inputs import check_weights
from soco_core.recipes import load_recipe
from soco_core.storage import upload, write_text


def test_a_recipe(s3: str) -> None:
    uri = f"{s3}/recipes/mine.yaml"
    with pytest.raises(RecipeError, match=rf"^cannot read recipe {uri}: the S3 store answered NoSuchKey: [^\n]*$"):
        load_recipe(uri)
    write_text(uri, "name: mine\nseed: 3\n")
    assert load_recipe(uri, ["seed=4"]).seed == 4
    # Of a pipeline's parameter a colon means YAML text, but not here.
    assert read_recipe(uri).name == "mine"
    write_text(uri, "sed: 3\n")
    with pytest.raises(RecipeError, match=rf"^{uri}: sed: unknown key"):
        load_recipe(uri)


def test_weights(s3: str, tmp_path: Path) -> None:
    save_file({"fc.bias": torch.ones(3)}, tmp_path / "r50.safetensors")
    uri = f"{s3}/weights/r50.safetensors"
    with pytest.raises(InputError, match=rf"^weights file {uri} does not exist; "):
        check_weights(uri)
    with pytest.raises(InputError, match=rf"^{uri}: not a finished result "):
        find_initialisation(uri)
    upload(tmp_path / "r50.safetensors", uri)
    check_weights(uri)
    here, there = (find_initialisation(place) for place in (str(tmp_path / "r50.safetensors"), uri))
    assert (there.method, there.description, there.fingerprint) == (here.method, here.description, here.fingerprint)
    assert there.path is not None
    assert read_tensors(there.path)["fc.bias"].tolist() == [1, 1, 1]
    assert weights_file(uri) == there.path


def test_a_folder_of_classes_without_splits(s3: str, tmp_path: Path) -> None:
    for name in ("ant/1", "bee/2"):
        Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
        upload(tmp_path / "image.png", f"{s3}/insects/{name}.png")
    report = check(f"{s3}/insects", DatasetsConfig())
    assert report.all() == []
    assert [(split.name, split.images, split.categories, split.decoded) for split in report.splits] == [
        ("images", 2, 2, 2)
    ]
