"""Every named setting, the 22 of Tables 4 and 5 among them, through the real stage: it builds, trains, is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soco_core.artifacts.metrics import read_metrics
from soco_core.artifacts.result import ResultDirectory, open_result
from soco_core.artifacts.weights import load_canonical
from soco_core.config import ModelConfig, Recipe
from soco_core.engine.checkpoints import load_checkpoint
from soco_core.engine.setup import seed_everything
from soco_core.models.soco import SoCo
from soco_core.pretrain import figures
from soco_core.pretrain.stage import pretrain
from soco_core.proposals import merge
from soco_core.proposals.stage import propose
from soco_core.recipes import load_recipe, named_recipes
from tests.scenes import write_scenes

Tiny = Callable[[str], list[str]]
Propose = Callable[[Recipe], ResultDirectory]

DEFAULT = "soco-fpn-100ep"
ABLATIONS = [name for name in named_recipes() if name.startswith("ablation-")]
OTHERS = [
    "authors-c4-100ep",
    "authors-fpn-100ep",
    "authors-fpn-400ep",
    "authors-star-400ep",
    "soco-c4-100ep",
    "soco-star-400ep",
]
SAME = {
    "soco-fpn-400ep": DEFAULT,
    "soco-c4-400ep": "soco-c4-100ep",
    "authors-c4-400ep": "authors-c4-100ep",
}
"""They have more epochs, of which two are left here."""
SETTINGS = [DEFAULT, *ABLATIONS, *OTHERS]
IMAGES = 16

VIEWS = {"soco-star-400ep": 4, "authors-star-400ep": 4} | {
    name: 2 for name in SETTINGS if load_recipe(name).views.third_view == "none"
}
"""Three in all others."""
SMALL_SIZE = {96: 33, 112: 38, 128: 43, 160: 54, 192: 65}
ROI_SIZE = {7: 2, 14: 5}
BATCH_SIZE = {512: 2, 1024: 4, 2048: 8, 4096: 16}
"""Of the tiny recipes, worked out by hand: views of 76 instead of 224 pixels, a 256th of the batch."""
PEAK = {2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0}
"""Learning rate: as with the full batch."""
CANCELLED = ("projector.0.bias", "projector.3.bias", "predictor.0.bias")
"""Biases that the next batch norm takes away again: their gradient is 0."""


def fields(recipe: Recipe) -> dict[str, Any]:
    """All fields but the name, by path."""
    values = recipe.model_dump(mode="json")
    return {
        f"{section}.{field}": value
        for section, parts in values.items()
        if isinstance(parts, dict)
        for field, value in parts.items()
    } | {"seed": values["seed"]}


def changes(recipe: Recipe, default: Recipe) -> dict[str, Any]:
    before = fields(default)
    return {path: value for path, value in fields(recipe).items() if value != before[path]}


def shrunk(path: str, value: Any) -> Any:
    known = {"views.small_size": SMALL_SIZE, "model.roi_size": ROI_SIZE, "pretrain.batch_size": BATCH_SIZE}.get(path)
    return value if known is None else known[value]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings") / "images"
    write_scenes(folder, IMAGES, (110, 90), (42, 40))
    return folder


@pytest.fixture(scope="module")
def proposals(images: Path) -> Propose:
    """What a recipe's own engine proposes; recipes that agree in it share one result."""
    output = str(images.parent / "runs")
    return lambda recipe: propose(recipe, images=str(images), output=output)


@pytest.fixture(scope="module", autouse=True)
def _unpictured() -> Iterator[None]:
    """Without pictures, which take half of the time and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for module, names in (
            (figures, ("draw_first_views", "draw_curves")),
            (merge, ("draw_contact_sheet", "draw_histograms")),
        ):
            for name in names:
                patch.setattr(module, name, lambda *_: None)
        yield


@pytest.mark.parametrize("name", SETTINGS)
def test_it_builds_trains_two_steps_and_stores_its_recipe(
    name: str, tiny_overrides: Tiny, proposals: Propose, tmp_path: Path
) -> None:
    recipe = load_recipe(name, tiny_overrides(name))
    proposed = proposals(recipe)
    result = pretrain(recipe, proposals=proposed.uri, output=str(tmp_path))

    assert open_result(result.uri, stage="pretrain").summary["steps"] == 2
    assert result.summary["batch_size"] == result.summary["images"] == recipe.pretrain.batch_size
    assert_recipe_is_stored(result, recipe, name, tiny_overrides)
    entries = read_metrics(result.path / "metrics.jsonl")
    assert_steps_are_the_settings(entries, recipe, VIEWS.get(name, 3))
    empty = {level for level in range(4) if all(entry.get(f"boxes_P{level + 2}") == 0 for entry in entries)}
    assert_everything_moved(result, recipe, empty, VIEWS.get(name, 3))


def assert_recipe_is_stored(result: ResultDirectory, recipe: Recipe, name: str, tiny_overrides: Tiny) -> None:
    """Whole, and with the row's fields: what sets the named recipe apart from the default, and nothing else."""
    stored = load_recipe(str(result.path / "config.yaml"))
    assert stored == recipe
    assert stored.name == name
    determined_by = json.loads((result.path / "done.json").read_text())["determined_by"]
    assert determined_by["recipe"] == stored.part("seed", "views", "model", "pretrain")
    row = changes(load_recipe(name), load_recipe(DEFAULT))
    expected = {path: shrunk(path, value) for path, value in row.items()}
    if "pretrain.batch_size" in expected:
        expected["images.subset"] = str(expected["pretrain.batch_size"])
    expected.pop("pretrain.epochs", None)  # 100 or 400: two here
    assert changes(stored, load_recipe(DEFAULT, tiny_overrides(DEFAULT))) == expected


def assert_steps_are_the_settings(entries: list[dict[str, Any]], recipe: Recipe, views: int) -> None:
    """Losses within their bounds, and the fields at work."""
    assert [entry["step"] for entry in entries] == [0, 1]
    terms = {f"loss_{way}" for j in range(2, views + 1) for way in (f"1_to_{j}", f"{j}_to_1")}
    for entry in entries:
        assert {key for key in entry if key.startswith("loss_")} == terms
        assert all(np.isfinite(entry[key]) and -2 <= entry[key] <= 2 for key in terms)
        assert -4 * (views - 1) <= entry["loss"] <= 4 * (views - 1)
        assert entry["loss"] == pytest.approx(sum(entry[key] for key in terms), abs=1e-4)
        assert entry["embedding_std"] > 0
        assert entry["gradient_norm"] > 0
        assert any(key.startswith("boxes_") for key in entry) is (
            recipe.model.scale_aware and recipe.model.architecture == "fpn"
        )
    peak = PEAK[recipe.pretrain.batch_size]
    assert [entry["learning_rate"] for entry in entries] == pytest.approx([0.01 * peak, peak])
    start = recipe.pretrain.ema_start
    assert [entry["ema"] for entry in entries] == pytest.approx([start, (1 + start) / 2])


@cache
def initial(seed: int, config: ModelConfig) -> SoCo:
    """The networks as the trainer makes them."""
    seed_everything(seed)
    return SoCo(config)


def assert_everything_moved(result: ResultDirectory, recipe: Recipe, empty: set[int], views: int) -> None:
    """The online network's tensors, and the target's, which follow what the first step made of them.

    No gradient reaches the batch norms of a level in `empty`, to which no box belonged; its lateral one also serves
    the finer levels. Convolutions decay all the same.
    """
    before = initial(recipe.seed, recipe.model)
    trained = load_canonical(result.path / "pretrained.safetensors")
    assert trained.keys() == before.online.state_dict().keys()
    stuck = {key for key, value in before.online.named_parameters() if torch.equal(value, trained[key])}
    unreached = [f"fpn_convs.{level}" for level in empty]
    unreached += [f"lateral_convs.{level}" for level in empty if empty.issuperset(range(level))]
    assert stuck <= {*CANCELLED, *(f"neck.{part}.bn.{key}" for part in unreached for key in ("weight", "bias"))}
    assert all(value.isfinite().all() for value in trained.values())

    latest = (result.path / "checkpoints" / "latest").read_text().strip()
    networks = load_checkpoint(result.path / "checkpoints" / latest)["networks"]
    for key, value in trained.items():
        assert torch.equal(value, networks[f"online.{key}"])
    for key, value in before.target.named_parameters():
        # One-dimensional tensors start at 0 or 1, and what is behind a scale of 0 has no gradient in the first step.
        assert value.ndim <= 1 or not torch.equal(value, networks[f"target.{key}"]), key
        assert not torch.equal(networks[f"target.{key}"], trained[key]) or key in stuck, key
    # Both take the batch's statistics: each view passes the backbone on its own, in both steps.
    for network, start in (("online", before.online), ("target", before.target)):
        norm = start.encoder.bn1
        assert networks[f"{network}.encoder.bn1.num_batches_tracked"] == 2 * views
        assert not torch.equal(networks[f"{network}.encoder.bn1.running_mean"], norm.running_mean)


def test_no_named_recipe_is_left_out(tiny_overrides: Tiny) -> None:
    assert {*SETTINGS, *SAME, "demo"} == set(named_recipes())
    for name, same in SAME.items():
        assert fields(load_recipe(name, tiny_overrides(name))) == fields(load_recipe(same, tiny_overrides(same)))


def test_the_22_settings_are_distinct(tiny_overrides: Tiny) -> None:
    names = [DEFAULT, *ABLATIONS]
    assert len(names) == 22
    for shrink in (lambda _: [], tiny_overrides):
        settings = [json.dumps(fields(load_recipe(name, shrink(name)))) for name in names]
        assert len(set(settings)) == 22
