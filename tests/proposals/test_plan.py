"""A plan: the image set is listed and hashed once, and no other recipe, set, output or number of shards may use it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pytest

from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.images import open_image_set
from soco_core.proposals import plan as plan_module
from soco_core.proposals.stage import merge_shards, plan_shards, propose, propose_shard
from soco_core.recipes import parse_recipe
from tests.proposals.conftest import MakeImages, files, names_of, start


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the image set was listed or hashed again")


def test_shards_with_a_plan_list_and_hash_nothing(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(7)
    arguments = {"images": str(images), "output": str(tmp_path / "out"), "count": 3}
    plan = plan_shards(recipe, **arguments)
    content = json.loads(Path(plan).read_text())
    assert (content["contract"], content["shards"]) == (2, 3)
    assert (content["image_set"]["images"], content["image_set"]["root"]) == (7, str(images))
    with pa.memory_map(str(Path(plan).with_name("images.arrow"))) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table["id"].to_pylist() == names_of(images)
    hashes = [hashlib.sha256((images / name).read_bytes()).hexdigest() for name in names_of(images)]
    assert table["identity"].to_pylist() == hashes
    assert content["image_set"]["fingerprint"] == open_image_set(str(images)).fingerprint("contents")

    written = [Path(plan).read_bytes(), Path(plan).with_name("images.arrow").read_bytes()]
    assert plan_shards(recipe, **arguments) == plan
    assert [Path(plan).read_bytes(), Path(plan).with_name("images.arrow").read_bytes()] == written

    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "open_image_set", refuse)
        for index in range(3):
            propose_shard(recipe, **arguments, index=index, plan=plan)
        merged = merge_shards(recipe, **arguments, plan=plan)
        assert not Path(plan).exists()
        # Of the whole result, all that is left of the plan is its place.
        assert propose_shard(recipe, **arguments, index=0, plan=plan) == merged.uri
        assert merge_shards(recipe, **arguments, plan=plan).uri == merged.uri
    assert plan_shards(recipe, **arguments) == plan
    assert not Path(plan).exists()
    assert files(merged) == files(propose(recipe, images=str(images), output=str(tmp_path / "whole")))


def test_a_plan_of_imported_boxes_holds_them(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(4)
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({name: [[1, 1, 30, 30]] for name in names_of(images)}))
    recipe = parse_recipe(f"{{runtime: {{search_workers: 0}}, proposals: {{engine: import, boxes_file: {boxes}}}}}")
    arguments = {"images": str(images), "output": str(tmp_path / "out"), "count": 2}
    plan = plan_shards(recipe, **arguments)
    boxes.unlink()
    for index in range(2):
        propose_shard(recipe, **arguments, index=index, plan=plan)
    assert merge_shards(recipe, **arguments, plan=plan).summary["boxes_per_image"] == 1


def test_a_plan_of_something_else_is_refused_in_one_line(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe
) -> None:
    images = make_images(3)
    output = tmp_path / "out"
    plan = plan_shards(recipe, images=str(images), output=str(output), count=2)
    other = make_images(3).rename(tmp_path / "other")
    make_images(3)

    def error(text: str = "", **changed: object) -> str:
        changed_recipe = parse_recipe(f"{{{text}}}")
        given = {"images": str(images), "output": str(output), "index": 0, "count": 2, "plan": plan, **changed}
        with pytest.raises(InputError) as caught:
            propose_shard(changed_recipe, **given)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "made with another recipe (proposals.scale is 500 there, 400 here)" in error("proposals: {scale: 400}")
    assert "(images.subset is '' there, '2' here)" in error("images: {subset: '2'}")
    assert "a plan of 2 shards, not of 3;" in error(count=3)
    assert f"a plan of the images in {images}, not in {other};" in error(images=str(other))
    assert "not the plan of this recipe, image set and output, which is" in error(output=str(tmp_path / "elsewhere"))
    assert "there is no such plan; `soco propose --shards 2 --plan` makes it" in error(plan=str(tmp_path / "plan.json"))
    copy = tmp_path / "copy.json"
    copy.write_bytes(Path(plan).read_bytes())
    assert "not the plan of this recipe" in error(plan=str(copy))
    copy.write_text("{}")
    assert "not a plan that `soco propose --plan` wrote" in error(plan=str(copy))
    copy.write_text("[1")
    assert "damaged" in error(plan=str(copy))
    one = pa.array(["0/000.png"], pa.large_string())
    fewer = pa.record_batch([one, one], ["id", "identity"])
    for listed, wanted in ((fewer, "lists 1 images, not 3"), (fewer.select(["id"]), "no readable list of images")):
        with pa.ipc.new_file(str(Path(plan).with_name("images.arrow")), listed.schema) as writer:
            writer.write_batch(listed)
        assert wanted in error()
    Path(plan).with_name("images.arrow").write_bytes(b"")
    assert "no readable list of images" in error()
    Path(plan).with_name("images.arrow").unlink()
    assert "no readable list of images" in error()


@pytest.mark.parametrize("mode", ["sizes", "contents"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_changed_since_the_plan_is_refused(
    mode: str, workers: int, make_images: MakeImages, tmp_path: Path
) -> None:
    images = make_images(4)
    (images / "0" / "link.png").symlink_to("nowhere")
    recipe = parse_recipe(
        f"{{runtime: {{search_workers: {workers}}}, images: {{fingerprint: {mode}}}, proposals: {{engine: random}}}}"
    )
    arguments = {"images": str(images), "output": str(tmp_path / "out"), "count": 1}
    plan = plan_shards(recipe, **arguments)
    victim = images / "2" / "002.png"
    whole = victim.read_bytes()
    for changed in (whole + b" ", None):
        victim.unlink()
        if changed is not None:
            victim.write_bytes(changed)
        with pytest.raises(InputError, match=r"2/002\.png changed since it was listed .*plan again first") as caught:
            propose_shard(recipe, **arguments, index=0, plan=plan)
        assert "\n" not in str(caught.value)
        victim.write_bytes(whole)
    propose_shard(recipe, **arguments, index=0, plan=plan)
    victim.unlink()  # all that it costs now is its picture
    summary = merge_shards(recipe, **arguments, plan=plan).summary
    assert summary["images"] == 4  # the link leads nowhere, now as then


def test_a_plan_of_another_seed_is_refused_where_the_seed_counts(make_images: MakeImages, tmp_path: Path) -> None:
    images = make_images(2)
    drawn = [parse_recipe(f"{{seed: {seed}, proposals: {{engine: random}}}}") for seed in (0, 1)]
    arguments = {"images": str(images), "output": str(tmp_path / "out"), "count": 1}
    plan = plan_shards(drawn[0], **arguments)
    with pytest.raises(InputError, match="not the plan of this recipe"):
        propose_shard(drawn[1], **arguments, index=0, plan=plan)


def test_the_commands(make_images: MakeImages, tmp_path: Path, recipe: Recipe) -> None:
    images = make_images(3)
    common = ["--images", images, "--output", tmp_path / "out", "--workers", "0"]

    def run(*arguments: str) -> tuple[int, list[str]]:
        code = start([*common, *arguments], tmp_path / "said.txt").wait(timeout=60)
        return code, (tmp_path / "said.txt").read_text().splitlines()

    code, said = run("--shards", "2", "--plan")
    assert code == 0
    (plan,) = said
    assert json.loads(Path(plan).read_text())["shards"] == 2
    for shard in ("1/2", "2/2"):
        assert run("--shard", shard, "--plan-from", plan)[0] == 0
    code, said = run("--shards", "2", "--merge", "--plan-from", plan)
    assert code == 0
    assert said[-1] == str(Path(plan).parents[1])
    assert files(propose(recipe, images=str(images), output=str(tmp_path / "out"))).keys() > {"kept.arrow"}

    for wrong, wanted in {
        ("--shard", "1/2", "--plan"): "error: --shard I/N stands alone",
        ("--shards", "2", "--plan", "--merge"): "error: --plan comes before",
        ("--plan-from", plan): "error: --plan-from is for --shard I/N and --merge",
        ("--shards", "2", "--merge", "--plan-from", "nowhere"): "nowhere: there is no such plan",
    }.items():
        code, said = run(*wrong)
        assert code == 2
        assert len(said) == 1
        assert wanted in said[0]
