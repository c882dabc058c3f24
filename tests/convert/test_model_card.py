"""The card of each export, and its lines: torchvision's run as they stand, the others' where those are installed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from soco_core.artifacts.result import ResultDirectory, locate, writing
from soco_core.config import ModelConfig, Recipe
from soco_core.convert.card import source_commit
from soco_core.convert.stage import convert

Network = Callable[[ModelConfig], dict[str, torch.Tensor]]
Models = Callable[[str], ModelConfig]
SUMMARY = {"images": 1234567, "steps": 4321, "batch_size": 2048, "first_loss": -0.5, "final_loss": -7.25}


@pytest.fixture
def converted(
    tmp_path: Path, network: Network, model_of: Models, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ResultDirectory]:
    def make(kind: str) -> ResultDirectory:
        recipe = Recipe(name="a-recipe", model=model_of(kind), seed=7)
        inputs = {"proposals": "0123456789abcdef"}
        source = locate(str(tmp_path), "pretrain", 2, recipe, ("seed", "model", "pretrain"), inputs)
        with writing(source, recipe):
            save_file(network(recipe.model), source.path / "pretrained.safetensors")
            source.finish(SUMMARY)
        result = convert(recipe, pretrained=source.uri, output=str(tmp_path))
        monkeypatch.chdir(result.path)
        return result

    return make


def blocks(card: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)


def run(card: Path) -> torch.nn.Module:
    """Run the card's lines in the folder of its files; return the detector that they load."""
    build, load = blocks(card)
    assert len(load.splitlines()) == 3
    names: dict[str, object] = {}
    exec(build, names)
    exec(load, names)
    assert isinstance(names["model"], torch.nn.Module)
    return names["model"]


def loaded_as(target: str) -> Iterator[tuple[str, str]]:
    yield "fpn", target
    yield "fpn", f"{target}-dense"
    yield "without FPN", target


@pytest.mark.parametrize(("kind", "name"), [*loaded_as("torchvision"), ("c4", "torchvision")])
def test_torchvisions_lines_load_every_tensor(
    kind: str, name: str, converted: Callable[[str], ResultDirectory]
) -> None:
    state = run(converted(kind).path / f"{name}.card.md").state_dict()
    file = torch.load(f"{name}.pth", weights_only=True)
    prefix = "backbone.body." if kind == "c4" else ""
    assert all(torch.equal(state[key.removeprefix(prefix)], value) for key, value in file.items())


@pytest.mark.detectron2
@pytest.mark.parametrize(("kind", "name"), [*loaded_as("detectron2")])
def test_detectron2s_lines_load_every_tensor(kind: str, name: str, converted: Callable[[str], ResultDirectory]) -> None:
    pytest.importorskip("detectron2")
    state = run(converted(kind).path / f"{name}.card.md").state_dict()
    file = torch.load(f"{name}.pth", weights_only=True)["model"]
    assert all(torch.equal(state[key], value) for key, value in file.items())


def test_a_card_says_where_the_weights_come_from(converted: Callable[[str], ResultDirectory]) -> None:
    result = converted("fpn")
    cards = sorted(path.name for path in result.path.glob("*.card.md"))
    assert cards == sorted(
        f"{target}{dense}.card.md"
        for target in ("torchvision", "detectron2", "mmdetection")
        for dense in ("", "-dense")
    )
    text = (result.path / "detectron2.card.md").read_text(encoding="utf-8")
    assert text.startswith("# `detectron2.pth`, `detectron2.pkl`\n")
    for row in (
        "| recipe | `a-recipe` |",
        "| data | 1,234,567 images without labels |",
        "| proposals | `0123456789abcdef` |",
        "| steps | 4,321 |",
        "| seed | 7 |",
    ):
        assert row in text
    # There are no proposals beside the pretraining.
    assert "| images |" not in text
    assert "-7.2500 at the last" in text
    assert "Apache License 2.0" in text
    assert "ImageNet" in text
    assert f"commit {'unknown' if source_commit() is None else f'`{source_commit()}`'} |" in text
    assert os.sep + "tmp" not in text


def test_a_card_names_the_images_behind_the_proposals(
    converted: Callable[[str], ResultDirectory], tmp_path: Path
) -> None:
    made = tmp_path / "proposals" / "0123456789abcdef"
    made.mkdir(parents=True)
    images = {"root": "/data/somewhere/imagenet", "layout": "folder", "splits": ["train"], "subset": "10%"}
    images |= {"fingerprint": "fedcba9876543210", "fingerprint_mode": "sizes"}
    (made / "manifest.json").write_text(json.dumps({"image_set": images}))
    done = {"stage": "proposals", "fingerprint": made.name, "determined_by": {}, "summary": {}, "files": {}}
    (made / "done.json").write_text(json.dumps(done))
    text = (converted("fpn").path / "torchvision.card.md").read_text(encoding="utf-8")
    assert "| images | `imagenet` (folder, train, 10%); `fedcba9876543210` by their sizes |" in text
    assert "/data" not in text


def test_the_lines_of_every_card_are_python_and_name_their_file(converted: Callable[[str], ResultDirectory]) -> None:
    for card in sorted(converted("fpn").path.glob("*.card.md")):
        build, load = blocks(card)
        compile(build + load, card.name, "exec")
        assert f'"{card.name.removesuffix(".card.md")}.pth"' in load
        assert len(load.splitlines()) == 3
