"""Which way things may look: pipelines -> components -> soco_core, and inside it downwards only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "soco_core"

FLOORS = (
    {
        "benchmarks",
        "config",
        "config_fields",
        "console",
        "errors",
        "finetune_config",
        "linear_config",
        "plotting",
        "recipes",
        "storage",
        "store_errors",
        "tracking",
    },
    {"artifacts"},
    {"engine", "launch", "models", "views", "images", "datasets", "evaluation"},
    {"plan", "demo_data", "proposals", "pretrain", "convert", "detection", "linear", "report"},
    {"cli", "commands", "doctor", "view_command"},
)
STAGES = FLOORS[3]
HEAVY = {
    *("torch", "torchvision", "cv2", "mlflow", "kfp", "matplotlib", "pyarrow", "boto3", "pycocotools", "safetensors"),
    *("numba", "skimage", "ijson"),
}
LIGHT = sorted(
    {
        CORE / f"{name}.py"
        for name in (
            *("cli", "config", "config_fields", "console", "errors", "finetune_config", "linear_config"),
            *("plotting", "recipes/__init__", "storage", "store_errors", "tracking/__init__"),
        )
    }
    | set(CORE.glob("*/*stage.py"))
    | set((CORE / "artifacts").glob("*.py"))
    | set((CORE / "benchmarks").glob("*.py"))
    | set((CORE / "commands").glob("*.py"))
    | set((CORE / "datasets").glob("*.py"))
)


def imports(path: Path, everywhere: bool) -> Iterator[str]:
    """Yield the absolute module names that a file imports, those in functions too if `everywhere`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            # `from soco_core import storage` imports a module of soco_core.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if name in rooms:
            return number
    pytest.fail(f"soco_core/{name} has no floor: give it one here and in the plan of the house")


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("path", python_files(CORE), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_looks_downwards_only(path: Path) -> None:
    for name in imports(path, everywhere=True):
        top, _, rest = name.partition(".")
        assert top not in {"kfp", "components", "pipelines"}, f"{path} imports {name}"
        below = rest.split(".")[0]
        if top != "soco_core" or path == CORE / "__init__.py" or below == "__version__" or not rest:
            continue
        assert floor(below) <= floor(room(path)), f"{path} looks up to {name}"
        same = below == room(path)
        assert same or not {below, room(path)} <= STAGES, f"{path}: one stage imports another, {name}"


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_every_command_imports_names_nothing_heavy(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path, everywhere=False)} & HEAVY


def test_what_every_command_imports_brings_nothing_heavy() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in LIGHT
        if path.name != "proposals.py"  # read by numpy and pyarrow, and only by those who compute
    ]
    script = f"import sys, {', '.join(modules)}\nprint(*sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "\n"


@pytest.mark.parametrize("path", python_files(ROOT / "components"), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_component_stands_alone(path: Path) -> None:
    """KFP stores a component's source; at its top only kfp and the standard library may stand."""
    assert not any(name.split(".")[0] == "pipelines" for name in imports(path, everywhere=True))
    if path.name == "component.py":
        top = {name.split(".")[0] for name in imports(path, everywhere=False)}
        assert top <= {"kfp", "components", *sys.stdlib_module_names}  # components: the name of the image
