from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from soco_core import storage
from soco_core.artifacts.weights import load_canonical
from soco_core.config import ModelConfig, Recipe
from soco_core.convert.import_stage import import_foreign
from soco_core.errors import InputError

RECIPE = Recipe(model=ModelConfig(backbone="resnet18", fpn_channels=16, head_convs=1, head_fc_size=32, hidden_size=8))


@pytest.fixture
def moco(tmp_path: Path) -> Path:
    """MoCo v2's layout."""
    torch.manual_seed(0)
    tensors = {f"module.encoder_q.{key}": value for key, value in resnet18().state_dict().items() if key[:3] != "fc."}
    tensors["module.encoder_q.fc.2.weight"] = torch.zeros(4, 4)
    torch.save({"state_dict": tensors, "epoch": 200}, tmp_path / "moco.pth.tar")
    return tmp_path / "moco.pth.tar"


def test_the_result_holds_the_backbone_and_says_what_became_of_each_key(moco: Path, tmp_path: Path) -> None:
    result = import_foreign(RECIPE, weights=str(moco), output=str(tmp_path))
    torch.manual_seed(0)
    expected = resnet18().state_dict()
    canonical = load_canonical(result.path / "canonical.safetensors")
    assert len(canonical) == 120
    assert all(torch.equal(value, expected[key.removeprefix("encoder.")]) for key, value in canonical.items())
    coverage = json.loads((result.path / "coverage.json").read_text())
    assert coverage["loaded"]["module.encoder_q.conv1.weight"] == "encoder.conv1.weight"
    assert coverage["left_out"].keys() == {"module.encoder_q.fc.2.weight"}
    assert "neck.fpn_convs.0.conv.weight" in coverage["newly_initialised"]
    assert result.summary["method"] == "MoCo v2"
    assert result.summary["file"] == "moco.pth.tar"
    page = (result.path / "coverage.md").read_text()
    assert "layout `moco-v2`, method MoCo v2" in page
    assert "RGB" in page
    assert all(f"`{key}`" in page for part in ("loaded", "left_out", "newly_initialised") for key in coverage[part])


def test_name_and_layout_determine_the_result(moco: Path, tmp_path: Path) -> None:
    import_ = {"weights": str(moco), "output": str(tmp_path)}
    told = import_foreign(RECIPE, **import_)
    assert import_foreign(RECIPE, **import_).fingerprint == told.fingerprint
    named = import_foreign(RECIPE, name="DetCo", **import_)
    assert named.summary["method"] == "DetCo"
    assert named.fingerprint != told.fingerprint
    with pytest.raises(InputError, match=r"several methods share the layout `encoder-q`; .*--name"):
        import_foreign(RECIPE, layout="encoder-q", **import_)
    assert len(list(tmp_path.glob("import/*/done.json"))) == 2


class Program:
    """What a pickle does when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file; give a file of weights"),
        ("a folder", "not a file; give a file of weights"),
        (b"", "not readable as PyTorch weights (cut short)"),
        (b"\xff\xd8\xff\xe0 a picture", "not readable as PyTorch weights"),
        (
            pickle.dumps({"state_dict": {"conv1.weight": Program()}}),
            "which weights have no need of; nothing of the file",
        ),
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds no state dict; its keys are none; give a file"),
        ({"student.conv1.weight": torch.zeros(64, 3, 7, 7)}, "no known layout; its keys begin with student.conv1"),
    ],
    ids=["missing", "folder", "empty", "picture", "program", "list", "nothing", "prefix"],
)
def test_what_is_no_weights_is_one_line_and_nothing_is_written(
    content: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "a folder":
        path.mkdir()
    elif content is not None:
        torch.save(content, path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=re.escape(words)) as raised:
        import_foreign(RECIPE, weights=str(path), output=str(tmp_path / "out"))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_cut_short_anywhere_is_refused(moco: Path, tmp_path: Path) -> None:
    data = moco.read_bytes()
    for share in (1, 30, 60, 90, 99):
        moco.write_bytes(data[: len(data) * share // 100])
        with pytest.raises(InputError, match=r"moco\.pth\.tar: not readable as PyTorch weights"):
            import_foreign(RECIPE, weights=str(moco), output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_object_that_is_not_there_leaves_nothing_behind(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / "scratch"))
    with pytest.raises(InputError, match=r"s3://\S+/none\.pth"):
        import_foreign(RECIPE, weights=f"{s3}/none.pth", output=str(tmp_path / "out"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_weights_in_a_store_are_fetched(moco: Path, tmp_path: Path, s3: str) -> None:
    storage.upload(moco, f"{s3}/moco.pth.tar")
    result = import_foreign(RECIPE, weights=f"{s3}/moco.pth.tar", output=str(tmp_path))
    assert result.fingerprint == import_foreign(RECIPE, weights=str(moco), output=str(tmp_path)).fingerprint
