"""What holds for every component."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

FOLDERS = sorted(path.parent for path in (Path(__file__).resolve().parents[2] / "components").glob("*/component.py"))


def test_all_stages_have_one() -> None:
    names = "benchmark convert demo_data finetune import_weights linear merge_proposals plan plan_proposals pretrain"
    assert [folder.name for folder in FOLDERS] == [*names.split(), "propose", "report"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_component(folder: Path) -> None:
    tree = ast.parse((folder / "component.py").read_text())
    # On a cluster the function's source alone travels, into an image that has kfp and soco_core.
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {str(name).partition(".")[0] for name in imported} <= {"kfp", "components", *sys.stdlib_module_names}
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    assert function.name == folder.name
    readme = (folder / "README.md").read_text()
    for argument in function.args.args:
        assert f"`{argument.arg}`" in readme
