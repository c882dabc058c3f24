"""What is generated and kept in the repository: ``components/<stage>/component.yaml`` and ``pipelines/golden/*.yaml``.

python -m pipelines.render            write all of it anew
python -m pipelines.render --check    say what is not as it would be written
"""

from __future__ import annotations

import importlib
import io
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.command import main as compile_pipeline
from soco_core.engine.component import EXIT_BUG, EXIT_INPUT
from soco_core.storage import write_text

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).with_name("golden")
COMMAND = "make render"
SDK = re.compile(r"^sdkVersion: kfp-.*$", re.MULTILINE)
PLACEHOLDER = "registry.example.org/soco:0.1.0"


@dataclass(frozen=True)
class Golden:
    """A pipeline as a command line compiles it."""

    script: str
    evaluates: bool
    arguments: tuple[str, ...]


ON_A_CLUSTER = (
    "--defaults",
    str(GOLDEN / "site.yaml"),
    "--recipe",
    "soco-fpn-100ep",
    "--images",
    "/data/imagenet/train",
)
PIPELINES = {
    "full_benchmark-demo.yaml": Golden(
        "full_benchmark", True, ("--defaults", "/dev/null", "--image", PLACEHOLDER, "--output", "s3://soco/results")
    ),
    "full_benchmark.yaml": Golden(
        "full_benchmark",
        True,
        (
            *ON_A_CLUSTER,
            *("--benchmarks", "coco-fpn-1x,linear", "--shards", "128", "--parallel-shards", "32"),
            *("--supervised", "/data/weights/resnet50.pth", "--compare", "moco-v2=/data/weights/moco_v2_800ep.pth.tar"),
        ),
    ),
    "pretrain_only.yaml": Golden("pretrain_only", False, ON_A_CLUSTER),
}


def files() -> dict[Path, Callable[[], str]]:
    """Return each file that is generated, and what writes its text."""
    found: dict[Path, Callable[[], str]] = {}
    for path in sorted(ROOT.glob("components/*/component.py")):
        found[path.with_suffix(".yaml")] = lambda stage=path.parent.name: _component(stage)  # type: ignore[misc]
    for name, golden in PIPELINES.items():
        found[GOLDEN / name] = lambda golden=golden: _pipeline(golden)  # type: ignore[misc]
    return found


def normal(text: str) -> str:
    """Return a text without what only says which release of kfp wrote it."""
    return SDK.sub("sdkVersion: kfp", text)


def main(arguments: list[str]) -> int:
    """Write the files, or compare them; return the exit status."""
    if arguments not in ([], ["--check"]):
        print("error: give nothing, or --check", file=sys.stderr)
        return EXIT_INPUT
    stale = []
    for path, write in files().items():
        text = write()
        if path.exists() and normal(path.read_text(encoding="utf-8")) == normal(text):
            continue
        stale.append(path)
        if not arguments:
            write_text(path, text)
        print(f"{'is not as it would be written' if arguments else 'written'}: {path.relative_to(ROOT)}")
    if stale and arguments:
        print(
            f"error: {len(stale)} generated files are old; run `{COMMAND}` and look at the difference", file=sys.stderr
        )
        return EXIT_BUG
    return 0


def _component(stage: str) -> str:
    component: Any = getattr(importlib.import_module(f"components.{stage}.component"), stage)
    return _compiled(lambda path: _compile_component(component, path))


def _compile_component(component: Any, path: str) -> None:
    from kfp import compiler

    compiler.Compiler().compile(component, path)


def _pipeline(golden: Golden) -> str:
    build = importlib.import_module(f"pipelines.{golden.script}").build_pipeline

    def write(path: str) -> None:
        arguments = [*golden.arguments, "--yaml", path, "--debug"]
        compile_pipeline(build, golden.script, arguments, evaluates=golden.evaluates)

    return _compiled(write)


def _compiled(write: Callable[[str], None]) -> str:
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        path = Path(folder, "compiled.yaml")
        write(str(path))
        return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
