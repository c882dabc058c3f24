"""Other methods' weights as rows of their own: `--compare NAME=FILE`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.models import resnet18

pytest.importorskip("kfp")
from components.benchmark.component import benchmark
from pipelines.command import main
from pipelines.compare import MOST, Comparison, check_comparisons, parameters, read_comparisons
from pipelines.full_benchmark import build_pipeline
from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.recipes import parse_recipe
from soco_core.storage import write_bytes


def test_a_layout_names_its_method_and_any_other_name_is_the_row() -> None:
    given = ["moco-v2=/w/a=b.pth", "resim=r.pth", "DetCo=s3://bucket/d.pth", "SoCo* (authors)=x"]
    assert read_comparisons(given, Recipe()) == [
        Comparison("MoCo v2", "moco-v2", "/w/a=b.pth"),
        Comparison("ReSim-FPN^T", "resim", "r.pth"),
        Comparison("DetCo", "", "s3://bucket/d.pth"),
        Comparison("SoCo* (authors)", "", "x"),
    ]
    c4 = parse_recipe("finetune: {detector: faster-rcnn-c4}")
    assert read_comparisons(["resim=r.pth"], c4)[0].row == "ReSim-FPN"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["moco.pth"], "write NAME=FILE"),
        (["=moco.pth"], "write NAME=FILE"),
        (["MoCo="], "write NAME=FILE"),
        (["plain=x.pth"], "several methods share the layout plain; give the row's name"),
        (["a]b=x.pth"], "a row's name has letters"),
        (["a\nb=x.pth"], "a row's name has letters"),
        (["SoCo=x.pth"], "there is a row 'SoCo' already"),
        (["moco=x.pth", "MoCo=y.pth"], "there is a row 'MoCo' already"),
        ([f"row {number}=x" for number in range(MOST + 1)], f"with {MOST} methods at most"),
    ],
)
def test_what_is_no_row_is_one_line(given: list[str], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        read_comparisons(given, Recipe())


def test_a_table_has_a_parameter_for_each() -> None:
    most = [Comparison(f"row {number}", "", "x") for number in range(MOST)]
    assert parameters(most).keys() <= benchmark.component_spec.inputs.keys()
    assert f"compare_{MOST + 1}" not in benchmark.component_spec.inputs


def test_each_is_imported_and_finetuned_as_its_row(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    arguments = ["--yaml", str(path), "--compare", "moco-v2=/w/m.pth", "--compare", "DetCo=/w/d.pth"]
    assert main(build_pipeline, "full_benchmark", arguments) == 0
    spec = next(yaml.safe_load_all(path.read_text()))
    found = spec["root"]["dag"]["tasks"]
    given = {name: task["inputs"]["parameters"] for name, task in found.items()}
    for task, row, layout, parameter in (
        ("import-weights", "MoCo v2", "moco-v2", "compare_1"),
        ("import-weights-2", "DetCo", "", "compare_2"),
    ):
        assert found[task]["dependentTasks"] == ["plan"]  # it fails before anything takes hours
        assert given[task]["method"]["runtimeValue"]["constant"] == row
        assert given[task]["layout"]["runtimeValue"]["constant"] == layout
        assert given[task]["weights"] == {"componentInputParameter": parameter}
        (tuned,) = (
            name
            for name in found
            if name.startswith("finetune") and given[name]["method"]["runtimeValue"]["constant"] == row
        )
        assert given[tuned]["init"]["taskOutputParameter"]["producerTask"] == task
        assert given["benchmark"][parameter]["taskOutputParameter"]["producerTask"] == tuned
    defaults = spec["root"]["inputDefinitions"]["parameters"]
    assert [defaults[name]["defaultValue"] for name in ("compare_1", "compare_2")] == ["/w/m.pth", "/w/d.pth"]
    # A cluster does not fill in the outputs of tasks inside a list reliably.
    constants = [
        value["runtimeValue"]["constant"]
        for task in given.values()
        for value in task.values()
        if "runtimeValue" in value
    ]
    assert not any("inputs.parameters" in json.dumps(constant) for constant in constants)


def test_a_local_run_has_its_row(start, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    resnet = {f"encoder_q.{key}": value for key, value in resnet18().state_dict().items() if key[:3] != "fc."}
    torch.save(resnet, tmp_path / "m.pth")
    process = start("--compare", "moco-v2=m.pth", "--compare", f"ReSim-FPN^T={tmp_path}/m.pth", FAKE_UNTRACKED="1")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    rows = [line.split(" | ")[0] for line in out.splitlines() if line.endswith(" 12.5 |")]
    assert rows == ["| Scratch", "| MoCo v2", "| ReSim-FPN^T", "| SoCo"]
    results = [json.loads(path.read_text()) for path in tmp_path.glob("out/import/*/done.json")]
    assert {result["determined_by"]["inputs"]["weights"] for result in results} == {str(tmp_path / "m.pth")}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "m.pth: no such file; give a file of weights"),
        (b"PK no weights", "m.pth: not readable as PyTorch weights"),
        ({"encoder_q.conv1.weight": torch.zeros(64, 3, 7, 7)}, "m.pth: has no bn1.weight (99 of the backbone's keys"),
    ],
)
def test_a_file_that_cannot_be_taken_ends_the_command_before_anything_runs(
    content: Any,
    words: str,
    start,  # type: ignore[no-untyped-def]
    tmp_path: Path,
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "m.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "m.pth")
    process = start("--compare", "DetCo=m.pth")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not (tmp_path / "out").exists()


def test_weights_in_a_store_are_looked_up(s3: str) -> None:
    found = Comparison("DetCo", "", f"{s3}/d.pth")
    with pytest.raises(InputError, match=r"d\.pth: no such object"):
        check_comparisons([found], Recipe())
    write_bytes(f"{s3}/d.pth", b"not looked into")
    assert check_comparisons([found], Recipe()) == [found]
