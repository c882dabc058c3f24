"""`--benchmarks`: each is unrolled into its own tasks, its own table, its own data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp")
from components.report.component import report
from pipelines.benchmarks import MOST, check_data, load, of_benchmarks, read_names
from pipelines.command import main
from pipelines.full_benchmark import build_pipeline
from soco_core.benchmarks.table import BENCHMARKS
from soco_core.errors import InputError, RecipeError
from soco_core.recipes import load_recipe

IMAGES = ("--images", "s3://b/images")


def compiled(folder: Path, *arguments: str) -> dict[str, Any]:
    path = folder / "p.yaml"
    assert main(build_pipeline, "full_benchmark", ["--yaml", str(path), *arguments]) == 0
    return dict(next(yaml.safe_load_all(path.read_text())))


def given(task: dict[str, Any]) -> dict[str, Any]:
    """Return what a task is given: a constant, the name of a parameter, or the task that makes it."""
    found = {}
    for name, value in task["inputs"]["parameters"].items():
        output = value.get("taskOutputParameter", {})
        constant = value.get("runtimeValue", {}).get("constant")
        found[name] = value.get("componentInputParameter") or output.get("producerTask") or constant
    return found


def test_each_has_its_tasks_and_its_table(bare_environment: None, tmp_path: Path) -> None:
    more = ("--benchmarks", "voc-c4,linear", "--supervised", "/s.pth", "--compare", "DetCo=/d.pth")
    spec = compiled(tmp_path, *IMAGES, *more, "--scale", "size=1/2", "--set", "finetune.max_size=999")
    tasks = {name: given(task) for name, task in spec["root"]["dag"]["tasks"].items()}
    tables = {name: task for name, task in tasks.items() if name.startswith("benchmark")}
    assert {task["name"] for task in tables.values()} == {"voc-c4", "linear"}
    for number, name in ((1, "benchmark"), (2, "benchmark-2")):
        assert tasks["report"][f"benchmark_{number}"] == name
        table = tables[name]
        rows = {slot: tasks[table[slot]] for slot in ("scratch", "supervised", "compare_1", "soco")}
        stage = "linear" if table["name"] == "linear" else "finetune"
        assert all(table[slot].startswith(stage) for slot in rows)
        assert {slot: row["method"] for slot, row in rows.items()} == {
            "scratch": "Scratch",
            "supervised": "Supervised",
            "compare_1": "DetCo",
            "soco": "SoCo",
        }
        assert {slot: row["init"] for slot, row in rows.items()} == {
            "scratch": "scratch",
            "supervised": "supervised",
            "compare_1": "import-weights",
            "soco": "convert",
        }
        for row in rows.values():
            assert (row["benchmark"], row["scale"], row["overrides"]) == (table["name"], "scale", "overrides")
            assert row["images" if stage == "linear" else "coco"] == ("linear_images" if stage == "linear" else "coco")
        assert (table["pretrained"], table["proposals"]) == ("pretrain", "propose-all")
    assert tasks["plan"]["benchmarks"] == "voc-c4,linear"
    defaults = {
        name: each["defaultValue"]
        for name, each in spec["root"]["inputDefinitions"]["parameters"].items()
        if "defaultValue" in each
    }
    assert (defaults["scale"], json.loads(defaults["overrides"])) == ("size=1/2", ["finetune.max_size=999"])
    assert (defaults["coco"], defaults["linear_images"]) == ("", "imagenet")


def test_artifacts_of_each_table(bare_environment: None, tmp_path: Path) -> None:
    spec = compiled(tmp_path, *IMAGES, "--benchmarks", "voc-c4,linear")
    for name in ("comp-benchmark", "comp-benchmark-2"):
        artifacts = spec["components"][name]["outputDefinitions"]["artifacts"]
        assert {key: value["artifactType"]["schemaTitle"] for key, value in artifacts.items()} == {
            "metrics": "system.Metrics",
            "html": "system.HTML",
            "markdown": "system.Markdown",
        }


def test_the_report_has_a_parameter_for_all_of_them() -> None:
    assert len(BENCHMARKS) <= MOST
    assert f"benchmark_{MOST}" in report.component_spec.inputs
    assert f"benchmark_{MOST + 1}" not in report.component_spec.inputs


def test_names() -> None:
    assert read_names(None) == []
    assert read_names("voc-c4, linear") == ["voc-c4", "linear"]
    assert read_names("all") == [item.name for item in BENCHMARKS]
    with pytest.raises(InputError, match=r"--benchmarks : no such benchmark"):
        read_names("")


def test_data_say_where_the_benchmarks_find_theirs() -> None:
    recipe = load("demo", ["datasets.voc=/mine"], ["voc-c4", "lvis-fpn-1x", "linear"], "/data")
    assert recipe.datasets.model_dump(exclude={"image_ids"}) == {
        "voc": "/mine",
        "lvis": "/data/lvis",
        "coco": "/data/coco",  # LVIS is of its images
        "imagenet": "/data/imagenet",
    }
    assert load("demo", [], ["voc-c4"], "s3://b/d").datasets.voc == "s3://b/d/voc"


def test_overrides_have_the_last_word_over_each_benchmark_and_must_suit_it() -> None:
    overrides = ["finetune.iterations=7000", "linear.epochs=2", "seed=3"]
    names = ["coco-fpn-1x", "voc-c4", "linear"]
    recipe = load("demo", overrides, names)
    assert recipe.finetune == load_recipe("demo").finetune  # they are the benchmarks'
    recipes = of_benchmarks(recipe, names, "iterations=1/10", overrides)
    assert [each.finetune.iterations for each in recipes.values()] == [7000, 7000, 130]
    assert recipes["voc-c4"].finetune.detector == "faster-rcnn-c4"
    assert {each.seed for each in recipes.values()} == {3}
    assert recipes["linear"].linear.epochs == 2
    with pytest.raises(RecipeError, match=r"finetune\.iteration: unknown key"):
        of_benchmarks(recipe, names, "", ["finetune.iteration=7"])
    with pytest.raises(InputError, match=r"the width is 1/4, and the pretrained weights would not fit"):
        of_benchmarks(recipe, names, "cpu")
    # Without benchmarks they are the recipe's.
    assert load("demo", overrides, []).finetune.iterations == 7000
    assert load("demo", overrides, ["linear"]).finetune.iterations == 7000


def test_data_that_is_missing_names_the_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SOCO_DATA", raising=False)
    recipe = load("demo", [], ["voc-c4"])
    with pytest.raises(InputError, match=r"benchmark voc-c4: nobody says where voc lies"):
        check_data(of_benchmarks(recipe, ["voc-c4"]), "", "imagenet")
    with pytest.raises(InputError, match=r"benchmark linear: nobody says where imagenet lies"):
        check_data(of_benchmarks(recipe, ["linear"]), "", "imagenet")
    with pytest.raises(InputError, match=r"^.*none: neither a folder nor the name of a data set"):
        check_data(of_benchmarks(recipe, ["coco-c4-1x"]), "none", "imagenet")


def test_each_data_set_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(
        "pipelines.benchmarks.open_finetuning_data", lambda coco, recipe: opened.append(recipe.finetune.benchmark)
    )
    monkeypatch.setattr("pipelines.benchmarks.open_labelled_images", lambda images, _: opened.append(images))
    names = ["coco-fpn-1x", "coco-fpn-2x", "retinanet-1x", "fcos-1x", "mini-coco-5", "linear"]
    check_data(of_benchmarks(load("demo", [], names), names), "", "/i")
    # Of coco2017, once with masks and once without.
    assert opened == ["coco-fpn-1x", "retinanet-1x", "mini-coco-5", "/i"]


def test_a_local_run_has_a_table_for_each(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "labelled" / split / name).mkdir(parents=True)
            (tmp_path / "labelled" / split / name / "a.jpg").write_bytes(b"not looked into")
    more = ("--benchmarks", "voc-c4,coco-c4-1x,linear", "--linear-images", "labelled", "--scale", "size=1/2")
    process = start(*more, FAKE_UNTRACKED="1")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    labels = {line.split("]")[0][1:] for line in err.splitlines() if line.endswith("] started")}
    rows = ("Scratch", "SoCo")
    assert {f"finetune {name} {row}" for name in ("voc-c4", "coco-c4-1x") for row in rows} <= labels
    assert {f"linear {row}" for row in rows} | {f"benchmark {n}" for n in ("voc-c4", "coco-c4-1x", "linear")} <= labels
    assert {path.parents[1].name for path in tmp_path.glob("out/*/*/metrics.json")} == {"finetune", "linear"}
    assert len(list(tmp_path.glob("out/finetune/*/done.json"))) == 4
    log = "".join(path.read_text() for path in tmp_path.glob("out/logs/*.log")).replace('"', "'")
    assert log.count("metadata={'rows': 2") == 3
