from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from soco_core.artifacts.result import open_result
from soco_core.benchmarks.choose import choose_benchmark
from soco_core.benchmarks.table import BENCHMARKS, Benchmark, named_benchmark
from soco_core.config import ModelConfig, Recipe
from soco_core.errors import InputError
from soco_core.linear_config import LinearConfig
from soco_core.recipes import load_recipe
from soco_core.report.runs import Run, read_runs
from soco_core.report.tables import build_tables, shown

if TYPE_CHECKING:
    from conftest import Results

Numbers = dict[str, tuple[float | None, ...]]


def read(*uris: str, **others: Any) -> list[Run]:
    given = {"pretrained": None, "proposals": None, **others}
    return read_runs([open_result(uri) for uri in uris], **given)


def whats(run: Run) -> set[str]:
    return {difference.what for difference in run.differences}


def test_runs_with_the_papers_setting_are_comparable(results: Results, numbers: Numbers) -> None:
    proposals = results.proposals()
    pretrained = open_result(results.pretrain(proposals))
    uris = [results.finetune(method, values) for method, values in numbers.items()]
    runs = read(*uris, pretrained=pretrained, proposals=proposals)
    assert [run.result.method for run in runs] == ["Scratch", "Supervised", "SoCo"]
    assert not any(run.shortened for run in runs)
    [table] = build_tables(runs)
    assert table.comparable
    assert not table.difference_groups


@pytest.mark.parametrize(
    ("fields", "sizes", "what"),
    [
        ({"iterations": 1000, "warmup_iterations": 10}, {}, {"iterations", "finetune.warmup_iterations"}),
        ({"batch_size": 4}, {}, {"batch size"}),
        ({"train_sizes": (128,)}, {}, {"finetune.train_sizes"}),
        ({}, {"train_images": 131}, {"training images"}),
        ({}, {"train_images": 118_287}, set()),
        ({}, {"val_images": 33}, {"evaluated images"}),
        ({"benchmark": "coco-fpn-2x"}, {}, {"iterations"}),
        ({"benchmark": "coco-fpn-2x", "iterations": 180_000}, {}, set()),
    ],
)
def test_whatever_is_not_the_papers_marks_a_run_as_shortened(
    results: Results, changed: Callable[..., Recipe], fields: dict[str, Any], sizes: dict[str, int], what: set[str]
) -> None:
    [run] = read(results.finetune("Scratch", (1.0,) * 6, changed(**fields), **sizes))
    assert whats(run) == what
    assert run.shortened == bool(what)


def test_another_backbone_and_a_short_pretraining_are_named(results: Results, demo: Recipe, numbers: Numbers) -> None:
    proposals = results.proposals(demo)
    pretrained = open_result(results.pretrain(proposals, demo, images=400))
    scratch, soco = read(
        results.finetune("Scratch", numbers["Scratch"], demo),
        results.finetune("SoCo", numbers["SoCo"], demo),
        pretrained=pretrained,
        proposals=proposals,
    )
    assert {"model.backbone", "model.fpn_channels", "iterations"} <= whats(scratch)
    assert whats(soco) - whats(scratch) == {
        "pretraining images", "pretraining epochs", "pretrain.batch_size", "pretrain.base_learning_rate",
        "pretrain.warmup_epochs", "views.size", "views.small_size", "views.blur_max_sigma",
    }  # fmt: skip
    assert scratch.shortened


def test_a_soco_row_without_its_pretraining_is_not_taken_for_the_papers(results: Results, numbers: Numbers) -> None:
    [run] = read(results.finetune("SoCo", numbers["SoCo"]))
    assert whats(run) == {"pretraining"}


def test_gain_over_scratch(results: Results, numbers: Numbers) -> None:
    runs = read(*(results.finetune(method, values) for method, values in numbers.items()))
    [table] = build_tables(runs)
    assert [gain.label for gain in table.gains] == ["Supervised − Scratch", "SoCo − Scratch"]
    assert table.gains[1].metrics == pytest.approx(
        {"APbb": 11.2, "APbb50": 13.0, "APbb75": 13.3, "APmk": 9.3, "APmk50": 12.5, "APmk75": 10.1}
    )
    assert "SoCo − Scratch: +11.2 points" in table.headline
    assert table.headline.endswith("Trained on 117,266 images for 90,000 iterations, evaluated on 5,000.")
    assert any("single run with seed 0" in note for note in table.notes)


def test_gains_of_several_seeds_are_shown_one_by_one_and_as_their_mean(
    results: Results, changed: Callable[..., Recipe]
) -> None:
    uris = []
    for seed, (scratch, soco) in enumerate([(10.0, 11.0), (10.0, 14.0), (12.0, 11.0)]):
        uris += [results.finetune("Scratch", (scratch,) * 6, changed(seed))]
        uris += [results.finetune("SoCo", (soco,) * 6, changed(seed))]
    [table] = build_tables(read(*uris))
    assert [(gain.label, gain.metrics["APbb"]) for gain in table.gains] == [
        ("SoCo − Scratch, seed 0", 1.0),
        ("SoCo − Scratch, seed 1", 4.0),
        ("SoCo − Scratch, seed 2", -1.0),
        ("SoCo − Scratch, mean of 3 seeds", pytest.approx(4 / 3)),
    ]
    assert "SoCo − Scratch (mean of 3 seeds): +1.3 points." in table.headline
    assert not any("single run" in note for note in table.notes)
    # None of these rows names its pretraining, and one method stands for its three seeds.
    assert [(group.runs, len(group.differences)) for group in table.difference_groups] == [("SoCo", 1)]


def test_no_gain_between_runs_that_differ_in_more_than_their_weights(results: Results, numbers: Numbers) -> None:
    scratch = results.finetune("Scratch", numbers["Scratch"])
    soco = results.finetune("SoCo", numbers["SoCo"], coco="another data set")
    [table] = build_tables(read(scratch, soco))
    assert not table.gains
    assert any("differ in more than their initial weights" in note for note in table.notes)


def test_no_gain_without_a_run_from_scratch(results: Results, numbers: Numbers) -> None:
    [table] = build_tables(read(results.finetune("SoCo", numbers["SoCo"])))
    assert not table.gains
    assert any("No run from scratch" in note for note in table.notes)


def test_a_missing_metric_has_no_gain(results: Results, numbers: Numbers) -> None:
    uris = [results.finetune("Scratch", numbers["Scratch"]), results.finetune("SoCo", (None, *numbers["SoCo"][1:]))]
    [table] = build_tables(read(*uris))
    assert table.gains[0].metrics["APbb"] is None
    assert table.gains[0].metrics["APbb50"] == pytest.approx(13.0)


def test_two_results_for_one_row_are_refused(results: Results, changed: Callable[..., Recipe]) -> None:
    first = results.finetune("Scratch", (1.0,) * 6)
    second = results.finetune("Scratch", (2.0,) * 6, changed(learning_rate=0.01))
    assert len(read(first, first)) == 1
    with pytest.raises(InputError, match="Scratch with seed 0 on coco-fpn-1x, as is"):
        read(first, second)


def test_benchmarks_get_a_table_each(results: Results, demo: Recipe) -> None:
    runs = read(
        results.finetune("Scratch", (1.0,) * 6, demo),
        results.finetune("Scratch", (2.0,) * 6),
        results.finetune("SoCo", (3.0,) * 6, demo),
    )
    tables = build_tables(runs)
    assert [(table.benchmark, len(table.runs)) for table in tables] == [("coco-fpn-1x", 1), ("demo", 2)]
    assert tables[0].paper_rows
    assert not tables[1].paper_rows
    assert any("not a benchmark of the paper" in note for note in tables[1].notes)


def test_the_papers_setting_on_other_images_is_still_not_the_papers_benchmark(
    results: Results, changed: Callable[..., Recipe]
) -> None:
    [table] = build_tables(read(results.finetune("Scratch", (1.0,) * 6, changed(benchmark="birds"), train_images=9)))
    assert not table.runs[0].shortened
    assert table.paper is None
    assert not table.comparable


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(42.04, False, "42.0"), (None, False, "–"), (None, True, "–"), (1.25, True, "+1.2"), (-0.36, True, "−0.4")],
)
def test_numbers_are_written_as_in_the_paper(value: float | None, signed: bool, text: str) -> None:
    assert shown(value, signed=signed) == text


@pytest.mark.parametrize("benchmark", [item for item in BENCHMARKS if not item.linear], ids=lambda item: item.name)
@pytest.mark.parametrize("engine", ["torchvision", "detectron2"])
def test_a_whole_benchmark_is_comparable_and_a_shortened_one_is_not(
    results: Results, numbers: Numbers, benchmark: Benchmark, engine: str
) -> None:
    whole = choose_benchmark(Recipe(), benchmark.name)
    whole = whole.model_copy(update={"finetune": whole.finetune.model_copy(update={"engine": engine})})
    found = numbers["Scratch"][: len(benchmark.columns)]
    sizes = {"train_images": benchmark.train_images, "val_images": benchmark.val_images}
    [table] = build_tables(read(results.finetune("Scratch", found, whole, **sizes)))
    assert table.comparable, table.runs[0].differences
    assert table.columns == benchmark.columns
    other = whole.model_copy(update={"seed": 1})
    [table] = build_tables(read(results.finetune("Scratch", found, other, **{**sizes, "val_images": 9})))
    assert not table.comparable


def test_a_linear_evaluation_is_compared_by_its_own_section(results: Results) -> None:
    found = [results.linear(Recipe(), 1_281_167), results.linear(Recipe(linear=LinearConfig(epochs=2)), 1_281_167)]
    found.append(results.linear(Recipe(), 800))
    differences = [whats(run) for uri in found for run in read(uri)]
    assert differences == [set(), {"linear.epochs"}, {"training images"}]
    [table] = build_tables(read(found[0]))
    assert table.columns == ("top1", "top5", "knn")
    assert table.headline.startswith("Top-1 accuracy: Scratch 50.0")


@pytest.mark.parametrize(
    ("kind", "benchmark", "what"),
    [
        ("soco-c4-400ep", "coco-c4-1x", set()),
        ("soco-c4-100ep", "voc-c4", set()),
        ("soco-star-400ep", "coco-fpn-4x", set()),
        ("soco-fpn-400ep", "retinanet-1x", set()),
        # The paper's C4 rows rest on SoCo-R50-C4.
        ("soco-fpn-400ep", "coco-c4-2x", {"views.third_view", "model.architecture", "model.roi_size"}),
    ],
)
def test_each_of_the_papers_pretrainings_is_the_papers_setting(
    results: Results, kind: str, benchmark: str, what: set[str]
) -> None:
    item = named_benchmark(benchmark)
    recipe = choose_benchmark(load_recipe(kind), benchmark)
    proposals = results.proposals()
    pretrained = open_result(results.pretrain(proposals, recipe))
    sizes = {"train_images": item.train_images, "val_images": item.val_images}
    [run] = read(
        results.finetune("SoCo", (1.0,) * len(item.columns), recipe, **sizes),
        pretrained=pretrained,
        proposals=proposals,
    )
    assert whats(run) == what


def test_another_backbone_of_a_linear_evaluation_is_named(results: Results) -> None:
    small = Recipe(model=ModelConfig(backbone="resnet18"), linear=LinearConfig(knn_neighbours=5))
    [run] = read(results.linear(small, 1_281_167))
    assert whats(run) == {"model.backbone"}
