"""Recipes: the paper's values, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from soco_core.config import Recipe
from soco_core.errors import RecipeError
from soco_core.recipes import load_recipe, named_recipes, parse_recipe

# Copied by hand from the paper (section or table behind each) and, where it is silent, the authors' code.
PAPER = {
    "proposals.scale": 500,  # A.1
    "proposals.sigma": 0.9,
    "proposals.min_size": 10,
    "proposals.max_aspect_ratio": 3.0,  # 3.2: 1/3 <= w/h <= 3
    "proposals.min_relative_size": 0.3,  # 3.2: 0.3 <= sqrt(wh)/sqrt(WH) <= 0.8
    "proposals.max_relative_size": 0.8,
    "proposals.min_side": 0,
    "views.size": 224,  # 3.2
    "views.small_size": 112,  # Table 5a
    "views.crop_min_scale": 0.5,
    "views.crop_max_scale": 1.0,
    "views.proposals_per_image": 4,  # Table 5c
    "views.jitter_probability": 0.5,
    "views.jitter_range": 0.1,
    "views.flip_probability": 0.5,
    "views.colour_jitter_probability": 0.8,  # BYOL
    "views.brightness": 0.4,
    "views.contrast": 0.4,
    "views.saturation": 0.2,
    "views.hue": 0.1,
    "views.grayscale_probability": 0.2,
    "views.blur_probability_first": 1.0,
    "views.blur_probability_others": 0.1,
    "views.solarise_probability_first": 0.0,
    "views.solarise_probability_others": 0.2,
    "model.backbone": "resnet50",
    "model.head_fc_size": 1024,
    "model.roi_size": 7,
    "model.hidden_size": 4096,  # 4.1
    "model.embedding_size": 256,
    "model.level_limits": (48, 96, 192),  # 3.3
    "pretrain.epochs": 100,
    "pretrain.batch_size": 2048,
    "pretrain.base_learning_rate": 1.0,
    "pretrain.warmup_epochs": 10.0,
    "pretrain.warmup_start_factor": 0.01,
    "pretrain.final_learning_rate": 1e-6,
    "pretrain.weight_decay": 1e-5,
    "pretrain.momentum": 0.9,
    "pretrain.trust_coefficient": 1e-3,
    "pretrain.ema_start": 0.99,  # Table 5d
    "finetune.iterations": 90_000,  # 4.2, COCO 1x
    "finetune.batch_size": 16,
    "finetune.learning_rate": 0.02,
    "finetune.weight_decay": 2.5e-5,
    "finetune.warmup_iterations": 1000,
    "finetune.milestones": (2 / 3, 8 / 9),
    "finetune.train_sizes": (640, 672, 704, 736, 768, 800),
    "finetune.test_size": 800,
    "finetune.max_size": 1333,
}


def value_at(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("path", PAPER)
def test_the_defaults_are_the_papers(path: str) -> None:
    assert value_at(Recipe(), path) == PAPER[path]


def test_the_papers_recipes_differ_from_the_defaults_by_their_epochs_only() -> None:
    for name, epochs in {"soco-fpn-100ep": 100, "soco-fpn-400ep": 400}.items():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.pretrain.epochs == epochs
        same = recipe.model_copy(
            update={
                "name": "unnamed",
                "images": Recipe().images,
                "pretrain": recipe.pretrain.model_copy(update={"epochs": 100}),
            }
        )
        assert same == Recipe()


@pytest.mark.parametrize("name", named_recipes())
def test_a_resolved_recipe_reads_back_unchanged(name: str) -> None:
    recipe = load_recipe(name)
    text = recipe.to_yaml()
    assert parse_recipe(text) == recipe
    assert set(yaml.safe_load(text)) == set(Recipe.model_fields)


def test_a_recipe_file_states_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\npretrain:\n  epochs: 20\n  weight_decay: 1e-4\n", encoding="utf-8")
    recipe = load_recipe(str(path), ["pretrain.epochs=30"])
    assert (recipe.name, recipe.pretrain.epochs, recipe.pretrain.weight_decay) == ("mine", 30, 1e-4)
    assert recipe.pretrain.batch_size == 2048


@pytest.mark.parametrize(
    "switches",
    [
        "{}",
        "{architecture: c4}",
        "{use_head: false}",
        "{scale_aware: false, single_level: P2}",
        "{use_fpn: false, use_head: false, scale_aware: false, backbone_level: C4}",
    ],
)
def test_what_a_switch_leaves_unread_may_be_stated_at_its_default(switches: str) -> None:
    recipe = parse_recipe(f"model: {switches}")
    assert parse_recipe(recipe.to_yaml()) == recipe


def test_an_empty_file_is_the_papers_recipe() -> None:
    assert parse_recipe("# nothing\n") == Recipe()


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("pretrain.epochs=200", "pretrain.epochs", 200),
        ("pretrain.base_learning_rate=1e-3", "pretrain.base_learning_rate", 0.001),
        ("pretrain.base_learning_rate=2", "pretrain.base_learning_rate", 2.0),
        ("pretrain.weight_decay=1E-6", "pretrain.weight_decay", 1e-6),
        ("model.level_limits=[10, 20, 30]", "model.level_limits", (10, 20, 30)),
        ("finetune.train_sizes=[480]", "finetune.train_sizes", (480,)),
        ("finetune.milestones=[1e-1, 0.5]", "finetune.milestones", (0.1, 0.5)),
        ("finetune.benchmark=mini-coco", "finetune.benchmark", "mini-coco"),
    ],
)
def test_set_overrides_any_field(override: str, path: str, value: Any) -> None:
    recipe = parse_recipe("seed: 3\npretrain:\n  momentum: 0.8\n", [override])
    assert value_at(recipe, path) == value
    assert recipe.pretrain.momentum == 0.8


def test_the_last_override_wins_and_keeps_the_rest() -> None:
    recipe = parse_recipe("pretrain:\n  epochs: 50\n  batch_size: 64", ["pretrain.epochs=60", "pretrain.epochs=70"])
    assert (recipe.pretrain.epochs, recipe.pretrain.batch_size) == (70, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pretrain:\n  epoch: 5", "recipe: pretrain.epoch: unknown key (did you mean 'epochs'?)"),
        ("pretrian:\n  epochs: 5", "recipe: pretrian: unknown key (did you mean 'pretrain'?)"),
        ("xyzzy: 1", "recipe: xyzzy: unknown key"),
        ("pretrain:\n  epochs: ten", "pretrain.epochs: Input should be a valid integer (got 'ten')"),
        ("pretrain:\n  epochs: '5'", "pretrain.epochs: Input should be a valid integer (got '5')"),
        ("pretrain:\n  epochs: 5.5", "pretrain.epochs: Input should be a valid integer (got 5.5)"),
        ("pretrain:\n  epochs: true", "pretrain.epochs: Input should be a valid integer (got True)"),
        ("pretrain:\n  epochs: 0", "pretrain.epochs: Input should be greater than 0 (got 0)"),
        ("pretrain:\n  base_learning_rate: .inf", "pretrain.base_learning_rate: Input should be a finite number"),
        ("pretrain:", "pretrain: a section, not a value; write pretrain.FIELD=VALUE"),
        ("views: 3", "views: a section, not a value; write views.FIELD=VALUE"),
        ("views:\n  jitter_probability: 1.5", "views.jitter_probability: Input should be less than or equal to 1"),
        ("model:\n  backbone: resnet51", "model.backbone: Input should be 'resnet18', 'resnet34'"),
        ("model:\n  level_limits: [1, 2]", "model.level_limits.2: missing"),
        ("model:\n  level_limits: [96, 48, 192]", "model: level_limits [96, 48, 192] must increase"),
        ("pretrain:\n  epochs: 10", "pretrain: warmup_epochs (10.0) must be below epochs (10)"),
        ("model:\n  single_level: P3", "model: single_level is read with an FPN and without scale_aware"),
        (
            "model: {use_fpn: false, use_head: false, scale_aware: false, single_level: P3}",
            "model: single_level is read with an FPN and without scale_aware",
        ),
        ("model:\n  backbone_level: C4", "model: backbone_level is read without FPN: set"),
        (
            "model: {use_head: false, head_levels: all}",
            "model: head_levels `all` goes with architecture `fpn`, use_head and scale_aware",
        ),
        ("views:\n  small_size: 256", "views: small_size (256) must not exceed size (224)"),
        ("views:\n  crop_max_scale: 0.4", "views: crop_min_scale (0.5) must not exceed crop_max_scale (0.4)"),
        ("proposals:\n  max_relative_size: 0.2", "proposals: min_relative_size (0.3) must be below max_relative_size"),
        ("finetune:\n  iterations: 1000", "finetune: warmup_iterations (1000) must be below iterations (1000)"),
        ("finetune:\n  milestones: [0.9, 0.5]", "finetune: milestones [0.9, 0.5] must increase"),
        ("finetune:\n  test_size: 2000", "finetune: max_size (1333) is below a short side (2000)"),
        ("finetune:\n  train_sizes: []", "finetune.train_sizes: Tuple should have at least 1 item"),
        ("name: Caps", "name: String should match pattern"),
        ("- a\n- b", "a recipe is a mapping of sections, not a list"),
        ("[]", "a recipe is a mapping of sections, not a list"),
        ("1: 2", "recipe: 1: Keys should be strings"),
        ("a: [", "not valid YAML"),
        ("seed: 1\nviews: {size: 96}\nseed: 2", "not valid YAML: the key 'seed' is given twice"),
        ("views:\n  size: 96\n  size: 128", "not valid YAML: the key 'size' is given twice"),
        ("name: 2026-02-30", "not valid YAML"),
        ("name: !!python/object/apply:os.system ['touch owned']", "not valid YAML: could not determine a constructor"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line_with_its_path(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("pretrain:\n  epochs: -1\nviews:\n  sise: 200")
    assert "views.sise: unknown key (did you mean 'size'?)" in str(caught.value)
    assert "pretrain.epochs: Input should be greater than 0 (got -1)" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.epochs", "write it as section.field=value"),
        ("name=a=b", "name: String should match pattern '^[a-z0-9][a-z0-9._-]*$' (got 'a=b')"),
        ("=3", "write it as section.field=value"),
        ("pretrain..epochs=3", "write it as section.field=value"),
        ("seed.inner=3", "seed is a value, not a section"),
        ("pretrain.epochs=[", "is not a valid YAML value"),
        ("name=2026-02-30", "is not a valid YAML value"),
        ("pretrain.epoch=3", "pretrain.epoch: unknown key (did you mean 'epochs'?)"),
        ("pretrain.epochs=", "pretrain.epochs: Input should be a valid integer (got None)"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("seed: 1", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_named_with_a_near_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'dmo': .*`soco recipes`.*did you mean 'demo'"):
        load_recipe("dmo")
    with pytest.raises(RecipeError, match=r"cannot read recipe .*none\.yaml"):
        load_recipe(str(tmp_path / "none.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(RecipeError, match=r"cannot read recipe .*latin\.yaml"):
        load_recipe(str(tmp_path / "latin.yaml"))


def test_a_part_is_plain_and_complete() -> None:
    recipe = parse_recipe("seed: 4")
    images = {"layout": "auto", "splits": [], "subset": "", "max_pixels": 89_478_485, "fingerprint": "contents"}
    assert recipe.part("seed", "images") == {"seed": 4, "images": images}
    assert recipe.part("model")["model"]["level_limits"] == [48, 96, 192]
    with pytest.raises(KeyError):
        recipe.part("modle")


def test_every_field_says_what_it_is() -> None:
    silent = [
        f"{name}.{inner}"
        for name, section in Recipe.model_fields.items()
        if isinstance(section.annotation, type) and hasattr(section.annotation, "model_fields")
        for inner, field in section.annotation.model_fields.items()
        if not field.description
    ]
    assert silent == []
