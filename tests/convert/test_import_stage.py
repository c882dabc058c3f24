from __future__ import annotations

import json
from pathlib import Path

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


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.pth: no such file"):
        import_foreign(RECIPE, weights=str(tmp_path / "nothing.pth"), output=str(tmp_path))


def test_weights_in_a_store_are_fetched(moco: Path, tmp_path: Path, s3: str) -> None:
    storage.upload(moco, f"{s3}/moco.pth.tar")
    result = import_foreign(RECIPE, weights=f"{s3}/moco.pth.tar", output=str(tmp_path))
    assert result.fingerprint == import_foreign(RECIPE, weights=str(moco), output=str(tmp_path)).fingerprint
