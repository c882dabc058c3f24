"""The generated files in the repository are what the code of today compiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("kfp")
from kfp import components

from pipelines import render

FILES = render.files()
COMPONENTS = [path for path in FILES if path.name == "component.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(render.ROOT)))
def test_a_generated_file_is_up_to_date(path: Path) -> None:
    fresh = render.normal(FILES[path]())
    stored = render.normal(path.read_text()) if path.exists() else ""
    # Not compared by ==, which would print thousands of lines.
    different = next((number for number, pair in enumerate(lines(stored, fresh), 1) if pair[0] != pair[1]), None)
    assert different is None, (
        f"{path.relative_to(render.ROOT)} is not what is compiled today (line {different}); if the change is meant, "
        f"run `{render.COMMAND}` and commit it with the code"
    )


def lines(one: str, other: str) -> list[tuple[str | None, str | None]]:
    first, second = one.splitlines(), other.splitlines()
    longest = max(len(first), len(second))
    pad: list[str | None] = [None]
    return list(zip([*first, *pad * (longest - len(first))], [*second, *pad * (longest - len(second))], strict=True))


def test_nothing_else_lies_there() -> None:
    golden = set(render.GOLDEN.glob("*")) - {render.GOLDEN / "site.yaml"}
    assert golden | set(render.ROOT.glob("components/*/component.yaml")) == set(FILES)


def test_a_release_of_kfp_is_no_change() -> None:
    assert render.normal("a\nsdkVersion: kfp-2.17.0\nb") == render.normal("a\nsdkVersion: kfp-2.18.1\nb")
    assert render.normal("image: kfp-2.17.0") == "image: kfp-2.17.0"


def test_what_is_old_is_named_and_renewed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "ROOT", tmp_path)
    path = tmp_path / "golden.yaml"
    path.write_text("old")
    monkeypatch.setattr(render, "files", lambda: {path: lambda: "new"})
    assert render.main(["--check"]) == 1
    said = capsys.readouterr()
    assert "golden.yaml" in said.out
    assert "make render" in said.err
    assert path.read_text() == "old"
    assert render.main([]) == 0
    assert path.read_text() == "new"
    assert render.main(["--check"]) == 0
    assert render.main(["--chek"]) == 2


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name == "component.yaml"], ids=lambda path: path.parent.name
)
def test_others_can_load_a_component(path: Path) -> None:
    loaded = components.load_component_from_file(str(path))
    stage = path.parent.name.replace("_", "-")
    assert loaded.name == stage
    (described,) = yaml.safe_load(path.read_text())["components"].values()
    parameters = described["inputDefinitions"]["parameters"]
    assert set(parameters) == set(loaded.component_spec.inputs)
    assert all(each.get("description") for name, each in parameters.items() if not name[-1].isdigit())


def test_the_golden_pipelines_name_no_image_of_ours() -> None:
    for name in render.PIPELINES:
        spec = next(yaml.safe_load_all((render.GOLDEN / name).read_text()))
        images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
        assert images <= {render.PLACEHOLDER, f"{render.PLACEHOLDER}-cuda"}
