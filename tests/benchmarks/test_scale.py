from __future__ import annotations

from fractions import Fraction

import pytest

from soco_core.benchmarks import listing as listing_module
from soco_core.benchmarks.choose import choose_benchmark, load_benchmark, load_linear, of_benchmark
from soco_core.benchmarks.listing import listing
from soco_core.benchmarks.scale import CPU, Scale, parse_scale, shorten, with_batch
from soco_core.benchmarks.table import BENCHMARKS, find_benchmark, named_benchmark
from soco_core.config import FinetuneConfig, ModelConfig, Recipe
from soco_core.datasets.published import NAMED
from soco_core.errors import InputError, RecipeError
from soco_core.linear_config import LinearConfig
from soco_core.recipes import load_recipe

DETECTORS = [item.name for item in BENCHMARKS if not item.linear]


def test_names_and_parts() -> None:
    assert parse_scale("") == Scale()
    assert parse_scale("").whole
    assert parse_scale("iterations=1/3000,size=0.125") == Scale(iterations=Fraction(1, 3000), size=Fraction(1, 8))
    assert parse_scale(str(parse_scale(CPU))) == parse_scale(CPU)
    assert not parse_scale(CPU).whole


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tiny", "'tiny' is unknown; write cpu, or NAME=FACTOR of iterations, batch, size, width"),
        ("size=0.5,size=0.5", "'size' is given twice"),
        ("size=half", "'half' is no number"),
        ("size=1/0", "'1/0' is no number"),
        ("size=0", "size is 0, but a factor lies above 0"),
        ("width=2", "width is 2, but a factor"),
        ("size=nan", "'nan' is no number"),
        ("size=1/100", "size is at least 0.04, 32 pixels of the paper's 800"),
    ],
)
def test_what_cannot_be_a_scale(text: str, problem: str) -> None:
    with pytest.raises(InputError, match="--scale") as caught:
        parse_scale(text)
    assert problem in str(caught.value)


def test_the_numbers_of_a_shortened_schedule() -> None:
    # 1x, a thousandth of its steps, a quarter of its batch, an eighth of its sides, half of its channels.
    whole = FinetuneConfig()
    short = shorten(whole, parse_scale("iterations=1/1000,batch=1/4,size=1/8,width=1/2"))
    assert (short.iterations, short.warmup_iterations, short.precise_bn_images) == (90, 1, 3)
    assert (short.batch_size, short.learning_rate) == (4, 0.005)
    assert short.train_sizes == (80, 84, 88, 92, 96, 100)
    assert (short.test_size, short.max_size) == (100, 167)
    assert short.anchor_sizes == (4, 8, 16, 32, 64)
    assert short.canonical_box_size == 28
    assert (short.proposals_train, short.proposals_test, short.anchors_train) == (125, 125, 250)
    assert (short.roi_batch_per_image, short.rpn_batch_per_image) == (64, 32)
    assert short.mask_channels == 128
    assert short.milestones == whole.milestones
    assert short.scale == "iterations=1/1000,batch=1/4,size=1/8,width=1/2"


def test_the_whole_is_left_alone() -> None:
    assert shorten(FinetuneConfig(), Scale()) == FinetuneConfig()
    assert choose_benchmark(Recipe(), "coco-fpn-1x").finetune == FinetuneConfig()


def test_no_side_becomes_too_small_for_the_pyramid() -> None:
    short = shorten(FinetuneConfig(), parse_scale("size=0.04"))
    assert short.train_sizes == (32,)
    assert short.test_size == 32


def test_another_batch_by_the_linear_rule() -> None:
    # A quarter of the batch: a quarter of the rate, four times the steps and the warm-up.
    four = with_batch(FinetuneConfig(), 4)
    assert (four.batch_size, four.learning_rate, four.iterations, four.warmup_iterations) == (4, 0.005, 360_000, 4_000)
    assert with_batch(FinetuneConfig(), 32).iterations == 45_000
    with pytest.raises(InputError, match="--batch-size 0"):
        with_batch(FinetuneConfig(), 0)


def test_the_linear_rule_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    choose_benchmark(Recipe(), "voc-c4", batch_size=8)
    said = capsys.readouterr().err
    assert "batch 16 -> 8, by the linear rule: learning rate 0.02 -> 0.01, iterations 24,000 -> 48,000" in said
    assert "warm-up 100 -> 200" in said


@pytest.mark.parametrize("name", DETECTORS)
def test_every_benchmark_is_a_possible_recipe_whole_and_shortened(name: str) -> None:
    whole = choose_benchmark(Recipe(), name)
    assert whole.finetune.benchmark == name
    assert not whole.finetune.scale
    short = choose_benchmark(Recipe(), name, CPU)
    assert short.finetune.iterations < 130
    assert short.finetune.scale
    assert short.finetune.detector == whole.finetune.detector
    assert short.model.fpn_channels == ModelConfig().fpn_channels // 4


def test_schedules_of_the_paper() -> None:
    def drops(name: str) -> list[int]:
        settings = choose_benchmark(Recipe(), name).finetune
        return [round(share * settings.iterations) for share in settings.milestones]

    # 4.2, and detectron2's, MoCo's and MMDetection's configurations (shared by the authors' code).
    assert drops("coco-fpn-1x") == drops("coco-c4-1x") == [60_000, 80_000]
    assert drops("coco-fpn-2x") == [120_000, 160_000]
    assert drops("coco-fpn-4x") == [240_000, 320_000]
    assert drops("voc-c4") == [18_000, 22_000]
    assert drops("lvis-fpn-1x") == [120_000, 160_000]
    # 8 and 11 of 12 epochs of 7,330 steps.
    assert drops("retinanet-1x") == drops("fcos-1x") == [58_640, 80_630]


def test_the_table_is_whole() -> None:
    names = [item.name for item in BENCHMARKS]
    assert len(set(names)) == len(names) == 14
    assert {item.data for item in BENCHMARKS} <= {item.name for item in NAMED}
    published = {item.name: item.splits for item in NAMED}
    for item in BENCHMARKS:
        train, val = published[item.data].values()
        assert (item.train_images, item.val_images) == (train.images, val.images)


def test_names_that_are_none() -> None:
    assert find_benchmark("demo") is None
    with pytest.raises(InputError, match="coco-fpn-9x: no such benchmark; `soco benchmarks` lists them: coco-fpn-1x"):
        named_benchmark("coco-fpn-9x")
    with pytest.raises(InputError, match="linear: trains no detector; run it by `soco linear`"):
        choose_benchmark(Recipe(), "linear")


def test_the_c4_recipes_finetune_as_the_benchmark_does() -> None:
    for name in ("soco-c4-100ep", "soco-c4-400ep", "authors-c4-100ep", "authors-c4-400ep"):
        recipe = load_recipe(name)
        assert recipe.finetune == choose_benchmark(recipe, "coco-c4-1x").finetune


def test_overrides_have_the_last_word() -> None:
    # The demo's own section has too few iterations for this warm-up, and is not what it is for.
    sets = ["finetune.warmup_iterations=500", "model.fpn_channels=40", "seed=3"]
    recipe = load_benchmark("demo", sets, "coco-fpn-1x", "width=1/4", 8)
    assert (recipe.finetune.iterations, recipe.finetune.warmup_iterations) == (180_000, 500)
    assert recipe.finetune.benchmark == "coco-fpn-1x"
    assert (recipe.model.fpn_channels, recipe.model.head_fc_size) == (40, load_recipe("demo").model.head_fc_size // 4)
    assert recipe.seed == 3
    with pytest.raises(RecipeError, match="warmup_iterations"):
        load_benchmark("demo", ["finetune.warmup_iterations=90000"], "coco-fpn-1x")
    with pytest.raises(RecipeError, match=r"finetune\.iteration: unknown key"):
        load_benchmark("demo", ["finetune.iteration=9"], "coco-fpn-1x")


def test_the_listing_shows_the_best_row() -> None:
    *_, last = listing().splitlines()
    assert last.strip() == "paper: SoCo (C4), 400 epochs: top1 62.6, top5 84.6"


def test_the_listing_has_the_settings_of_the_linear_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "engine soco (`soco linear`); 100 epochs, batch 256" in listing()  # B
    monkeypatch.setattr(listing_module, "LinearConfig", lambda: LinearConfig(epochs=7, batch_size=9))
    assert "; 7 epochs, batch 9\n" in listing()


def test_a_shortened_linear_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    scale = "iterations=1/50,batch=1/8,size=2/7"
    short = load_linear("demo", ["linear.knn_neighbours=3"], scale).linear
    assert (short.epochs, short.batch_size, short.learning_rates) == (2, 32, (3.75,))
    assert (short.image_size, short.resize, short.knn_neighbours) == (64, 73, 3)
    assert short.scale == scale
    assert capsys.readouterr().err.startswith(f"linear: shortened ({scale});")
    assert of_benchmark(Recipe(), "linear", scale).linear == LinearConfig.model_validate(
        short.model_dump() | {"knn_neighbours": LinearConfig().knn_neighbours}
    )
    assert load_linear("demo", []).linear == LinearConfig()
    # What is given by --set has the last word.
    assert load_linear("demo", ["linear.epochs=7"], "iterations=1/50").linear.epochs == 7
    assert load_linear("demo", [], CPU).linear.image_size == 32


def test_a_linear_evaluation_has_no_width_to_shorten() -> None:
    assert load_linear("demo", [], CPU).linear.scale == "iterations=1/3000,batch=1/8,size=1/8"
    assert not load_linear("demo", [], "width=1").linear.scale
    for scale in ("width=1/4", "iterations=1/50,width=0.25"):
        with pytest.raises(InputError, match=r"--scale .*width is 1/4, but a linear evaluation has neither.*leave it"):
            load_linear("demo", [], scale)
