"""The first stage: its checks, its identity, and the parent run."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from soco_core.benchmarks.choose import choose_benchmark
from soco_core.config import ImagesConfig, ProposalsConfig, Recipe
from soco_core.errors import InputError
from soco_core.plan.inputs import check_boxes_file, look_at_images, named_coco, with_absolute_files
from soco_core.plan.stage import PARENT_RUN, Plan, end_run, plan
from soco_core.recipes import parse_recipe
from soco_core.storage import write_bytes

RECIPE = Recipe(name="tiny")


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    for name in ("images/a.jpg", "coco/annotations/instances_train.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.touch()
    return {"images": str(tmp_path / "images"), "coco": str(tmp_path / "coco")}


def run(inputs: dict[str, str], tmp_path: Path, recipe: Recipe = RECIPE) -> Plan:
    return plan(recipe, **inputs, output=str(tmp_path / "out"), tracking_uri=f"sqlite:///{tmp_path}/m.db")


def test_counts_images(inputs: dict[str, str], tmp_path: Path) -> None:
    assert run(inputs, tmp_path).result.summary["pretraining_images"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": "missing"}, "image folder missing does not exist"),
        ({"coco": "missing"}, "COCO folder missing does not exist"),
        ({"supervised": "missing.pth"}, "weights file missing.pth does not exist"),
    ],
)
def test_refuses_missing_inputs(inputs: dict[str, str], tmp_path: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run({**inputs, **change}, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_data_set_by_name(inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOCO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    named = {**inputs, "coco": "mini-coco-5"}
    with pytest.raises(InputError, match=r"nobody says where coco lies; .*datasets\.coco"):
        run(named, tmp_path)
    with pytest.raises(InputError, match=r"COCO folder \S+/nowhere does not exist"):
        run(named, tmp_path, parse_recipe("datasets: {coco: nowhere}"))
    assert not (tmp_path / "out").exists()
    settled = run(named, tmp_path, parse_recipe("datasets: {coco: coco, image_ids: ids.txt}"))
    assert settled.result.summary["coco"] == "mini-coco-5"
    # Other stages work in other folders.
    assert settled.recipe.datasets.coco == str(tmp_path / "coco")
    assert settled.recipe.datasets.image_ids == str(tmp_path / "ids.txt")
    # Another list of images is another plan; where data sets lie that nobody asked for is not.
    assert run(named, tmp_path, parse_recipe("datasets: {coco: coco}")).result.uri != settled.result.uri
    assert (
        run(inputs, tmp_path, parse_recipe("datasets: {coco: coco}")).result.uri
        == run(inputs, tmp_path, parse_recipe("")).result.uri
    )
    # A folder called like it does not take its place unless it is meant.
    (tmp_path / "mini-coco-5").mkdir()
    assert run(named, tmp_path, parse_recipe("datasets: {coco: coco}")).result.summary["coco"] == "mini-coco-5"
    assert named_coco("./mini-coco-5") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: four\nmodel: {architecture: c4}", "finetune.detector: .* recipe four"),
        (
            "model: {use_fpn: false, use_head: false, scale_aware: false, backbone_level: C4}",
            "model.backbone_level: .* set it to C5",
        ),
    ],
)
def test_refuses_what_no_detector_can_take_before_anything_is_computed(
    inputs: dict[str, str], tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run(inputs, tmp_path, parse_recipe(text))
    assert not (tmp_path / "out").exists()


def test_counts_the_images_of_the_recipes_subset(inputs: dict[str, str], tmp_path: Path) -> None:
    for name in ("b.jpg", "c.jpg"):
        Path(inputs["images"], name).touch()
    assert run(inputs, tmp_path, parse_recipe("images: {subset: '2'}")).result.summary["pretraining_images"] == 2


def test_files_of_the_recipe_travel_by_absolute_paths(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("a.jpg\n")
    Path("boxes.json").write_text("{}")
    recipe = parse_recipe("{images: {subset: ids.txt}, proposals: {engine: import, boxes_file: boxes.json}}")
    settled = run(inputs, tmp_path, recipe).recipe
    assert settled.images.subset == str(tmp_path / "ids.txt")
    assert settled.proposals.boxes_file == str(tmp_path / "boxes.json")


@pytest.mark.parametrize("subset", ["", "coco-size", "10%", "0.5%", "5000", "s3://bucket/ids.txt"])
def test_other_subsets_and_uris_are_no_local_files(subset: str) -> None:
    images = ImagesConfig(subset=subset)
    proposals = ProposalsConfig(engine="import", boxes_file="s3://bucket/boxes.json")
    recipe = Recipe(images=images, proposals=proposals)
    assert with_absolute_files(recipe) == recipe


def test_refuses_a_missing_boxes_file(inputs: dict[str, str], tmp_path: Path) -> None:
    recipe = parse_recipe("proposals: {engine: import, boxes_file: nowhere.json}")
    with pytest.raises(InputError, match=r"proposals\.boxes_file: \S+nowhere\.json does not exist"):
        run(inputs, tmp_path, recipe)


def test_inputs_on_s3(s3: str, inputs: dict[str, str], tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_bytes(f"{s3}/images/{name}", b"not looked into")
    proposals = ProposalsConfig(engine="import", boxes_file=f"{s3}/boxes.json")
    with pytest.raises(InputError, match=r"s3://\S+/boxes\.json does not exist"):
        check_boxes_file(Recipe(proposals=proposals))
    write_bytes(f"{s3}/boxes.json", b"{}")
    done = run({**inputs, "images": f"{s3}/images"}, tmp_path, Recipe(proposals=proposals)).result
    assert done.summary["pretraining_images"] == 2
    assert done.summary["images"] == f"{s3}/images"


def test_a_look_at_s3_costs_one_request(faulty_s3: Any) -> None:
    uri = f"{faulty_s3.uri}/images"
    with pytest.raises(InputError, match="nothing lies there"):
        look_at_images(uri, ImagesConfig())
    write_bytes(f"{uri}/a.jpg", b"not looked into")
    faulty_s3.requests.clear()
    look_at_images(uri, ImagesConfig(subset="5"))
    assert len(faulty_s3.requests) == 1


def test_same_plan_goes_on_under_the_same_parent_run(inputs: dict[str, str], tmp_path: Path) -> None:
    first = run(inputs, tmp_path)
    faster = RECIPE.model_copy(update={"runtime": RECIPE.runtime.model_copy(update={"workers": 1})})
    again = run(inputs, tmp_path, faster)
    other = run(inputs, tmp_path, RECIPE.model_copy(update={"seed": 1}))
    assert first.tracking is not None
    assert again.tracking == first.tracking
    assert again.result.uri == first.result.uri
    assert other.tracking is not None
    assert other.tracking.parent != first.tracking.parent
    assert Recipe.model_validate(first.recipe) == RECIPE
    assert (first.result.path / "config.yaml").read_text() == RECIPE.to_yaml()


def status_of(parent: str, tmp_path: Path) -> str:
    with sqlite3.connect(tmp_path / "m.db") as database:
        return str(database.execute("SELECT status FROM runs WHERE run_uuid = ?", [parent]).fetchone()[0])


def test_parent_run_follows_the_pipeline(inputs: dict[str, str], tmp_path: Path) -> None:
    settled = run(inputs, tmp_path)
    assert settled.tracking is not None
    parent = settled.tracking.parent
    assert status_of(parent, tmp_path) == "RUNNING"
    end_run(settled.result.uri, succeeded=False)
    assert status_of(parent, tmp_path) == "FAILED"
    run(inputs, tmp_path)
    assert status_of(parent, tmp_path) == "RUNNING"
    end_run(settled.result.uri, succeeded=True)
    assert status_of(parent, tmp_path) == "FINISHED"
    run(inputs, tmp_path)
    assert status_of(parent, tmp_path) == "FINISHED"


def test_unreachable_mlflow_is_tried_again(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise ConnectionError("connection\nrefused")

    with monkeypatch.context() as broken:
        broken.setattr("soco_core.plan.stage.start_pipeline_run", refused)
        settled = run(inputs, tmp_path)
    assert settled.tracking is None
    assert settled.result.done is not None
    assert "warning: the parent run in MLflow cannot be written (connection refused)" in capsys.readouterr().err
    assert not (settled.result.path / PARENT_RUN).exists()
    end_run(settled.result.uri, succeeded=True)
    assert run(inputs, tmp_path).tracking is not None


def test_an_input_that_went_since_is_noticed(inputs: dict[str, str], tmp_path: Path) -> None:
    run(inputs, tmp_path)
    Path(inputs["images"], "a.jpg").unlink()
    with pytest.raises(InputError, match="holds no image"):
        run(inputs, tmp_path)


def test_a_known_plan_costs_no_import_of_mlflow_or_torch(inputs: dict[str, str], tmp_path: Path) -> None:
    settled = run(inputs, tmp_path)
    script = (
        "import json, sys\n"
        "from soco_core.config import Recipe\n"
        "from soco_core.plan.stage import end_run, plan\n"
        "inputs, output, uri = json.loads(sys.argv[1])\n"
        "print(plan(Recipe(name='tiny'), **inputs, output=output, tracking_uri=uri).tracking.parent)\n"
        "print(sorted({'torch', 'mlflow', 'kfp', 'cv2'} & set(sys.modules)))\n"
    )
    arguments = json.dumps([inputs, str(tmp_path / "out"), f"sqlite:///{tmp_path}/m.db"])
    done = subprocess.run([sys.executable, "-c", script, arguments], capture_output=True, text=True, check=True)
    assert settled.tracking is not None
    assert done.stdout.split("\n")[:2] == [settled.tracking.parent, "[]"]


def plan_with(inputs: dict[str, str], tmp_path: Path, benchmarks: list[Recipe], **more: str) -> Plan:
    given = {**inputs, **more}
    return plan(
        RECIPE, **given, output=str(tmp_path / "out"), tracking_uri=f"sqlite:///{tmp_path}/m.db", benchmarks=benchmarks
    )


def test_other_benchmarks_are_another_plan(inputs: dict[str, str], tmp_path: Path) -> None:
    coco, voc = (choose_benchmark(RECIPE, name) for name in ("coco-fpn-1x", "voc-c4"))
    first = plan_with(inputs, tmp_path, [coco, voc], coco="")
    assert plan_with(inputs, tmp_path, [coco, voc], coco="").result.uri == first.result.uri
    others = [plan_with(inputs, tmp_path, [coco], coco=""), plan_with(inputs, tmp_path, []), run(inputs, tmp_path)]
    assert len({first.result.uri, *(each.result.uri for each in others)}) == 4
    assert first.result.summary["coco"] == ""


def test_each_benchmark_must_suit_what_is_pretrained(inputs: dict[str, str], tmp_path: Path) -> None:
    c4 = parse_recipe("{name: four, model: {architecture: c4}}")
    with pytest.raises(InputError, match=r"mask-rcnn-fpn has an FPN, and recipe four pretrains SoCo-R50-C4"):
        plan_with(inputs, tmp_path, [choose_benchmark(c4, "voc-c4"), choose_benchmark(c4, "coco-fpn-1x")])
    assert not (tmp_path / "out").exists()
    # Nothing is finetuned after a pretraining alone.
    plan(c4, **inputs, output=str(tmp_path / "out"), benchmarks=[])


def test_supervised_weights_on_s3(s3: str, inputs: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights file s3://\S+/w\.pth does not exist"):
        run({**inputs, "supervised": f"{s3}/w.pth"}, tmp_path)
    write_bytes(f"{s3}/w.pth", b"not looked into")
    assert run({**inputs, "supervised": f"{s3}/w.pth"}, tmp_path).result.summary["supervised"] == f"{s3}/w.pth"


def test_a_password_in_the_tracking_uri_is_refused(inputs: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a password") as raised:
        plan(RECIPE, **inputs, output=str(tmp_path / "out"), tracking_uri="http://me:pa55@mlflow")
    assert "pa55" not in str(raised.value)
