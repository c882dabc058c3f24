"""Stage `import`: another method's weights under canonical names, so that every row goes through the same benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core import storage
from soco_core.artifacts.fingerprint import file_sha256
from soco_core.artifacts.result import ResultDirectory, locate
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InputError
from soco_core.tracking import Tracker, TrackingContext

if TYPE_CHECKING:
    from soco_core.convert.importing import Imported

CONTRACT = 1
IMAGES_NOTE = (
    "The detector gives these weights RGB images with torchvision's mean and standard deviation, and has its stride in "
    "the 3x3 convolution. No key says what the weights were trained with; releases known to differ (Caffe2's ResNets, "
    "detectron2's model zoo) are refused."
)


def import_foreign(
    recipe: Recipe,
    *,
    weights: str,
    output: str,
    layout: str | None = None,
    name: str | None = None,
    tracking: TrackingContext | None = None,
) -> ResultDirectory:
    """Take over the backbone of another method's checkpoint (of the authors' SoCo the FPN and the box head too).

    The result holds ``canonical.safetensors``, ``coverage.json`` and ``coverage.md``; `soco finetune --init` takes it.

    Args:
        recipe: its section `model` says what the weights must be.
        weights: the file, a path or an S3 URI.
        output: root of all results.
        layout: name of a layout (:data:`soco_core.convert.layouts.LAYOUTS`); by default told from the keys.
        name: row of the table; by default the layout's method.
        tracking: where to track, or None.

    Raises:
        InputError: as :func:`soco_core.convert.importing.import_weights`, or methods share the layout and `name` is not
            given; nothing was written then.
    """
    path = weights_file(weights)
    inputs = {"weights": file_sha256(path), "layout": layout or "", "method": name or ""}
    result = locate(output, "import", CONTRACT, recipe, ("model",), inputs)
    # Read before anything is written: a file that is refused leaves no result behind.
    read = None if result.done else _read(recipe, path, weights, layout, name)

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        from soco_core.artifacts.weights import CANONICAL, save_weights
        from soco_core.convert.page import coverage_page

        assert read is not None
        imported, method = read
        coverage = imported.coverage
        header = {"backbone": recipe.model.backbone, "method": method, "layout": imported.layout.name}
        save_weights(result.path / CANONICAL, imported.tensors, header)
        coverage.write(result.path / "coverage.json")
        about = f"## Source\n\n`{path.name}`, layout `{imported.layout.name}`, method {method}. {IMAGES_NOTE}\n"
        storage.write_text(result.path / "coverage.md", f"{coverage_page([coverage])}\n{about}")
        say(
            f"import {method}: layout {imported.layout.name}; {len(coverage.loaded)} keys loaded, "
            f"{len(coverage.left_out)} left out, {len(coverage.newly_initialised)} newly initialised"
        )
        return {
            "method": method,
            "layout": imported.layout.name,
            "file": path.name,
            "loaded": len(coverage.loaded),
            "left_out": len(coverage.left_out),
            "newly_initialised": len(coverage.newly_initialised),
        }

    return complete(result, recipe, tracking, compute, label=f"import {name or path.name}")


def weights_file(weights: str) -> Path:
    """Return the local file of weights, fetched first if it is on S3.

    Raises:
        InputError: there is no such file.
    """
    path = storage.local_copy(weights) if storage.is_s3(weights) else Path(weights)
    if not path.is_file():
        problem = "not a file" if path.exists() else "no such file"
        raise InputError(
            f"{weights or path}: {problem}; give a file of weights (.pth, .pth.tar, .pt, .pkl, .safetensors)"
        )
    return path


def _read(recipe: Recipe, path: Path, weights: str, layout: str | None, name: str | None) -> tuple[Imported, str]:
    """Return the weights and the row of the table."""
    from soco_core.convert.importing import import_weights

    imported = import_weights(path, recipe.model, layout)
    method = name or imported.layout.row(recipe.model.architecture)
    if method is None:
        raise InputError(
            f"{weights}: several methods share the layout `{imported.layout.name}`; name the row of the table with "
            "--name"
        )
    return imported, method
