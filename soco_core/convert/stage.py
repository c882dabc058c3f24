"""Stage `convert`: a pretrained network, or imported weights, as weights that detectors load."""

from __future__ import annotations

from typing import Any

from soco_core.artifacts.result import ResultDirectory, locate, open_result
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.errors import InputError
from soco_core.tracking import Tracker, TrackingContext

CONTRACT = 2
IMPORTED = "import"


def convert(
    recipe: Recipe, *, pretrained: str, output: str, tracking: TrackingContext | None = None
) -> ResultDirectory:
    """Export weights for torchvision, detectron2 and mmdetection (4.2: all but projection and prediction).

    The result holds ``canonical.safetensors``; for each target ``<target>.pth`` and, of a recipe with an FPN,
    ``<target>-dense.pth`` (for RetinaNet and FCOS), beside each its ``.coverage.json`` and ``.card.md``;
    ``detectron2.pkl``; and ``coverage.md``.

    Args:
        recipe: its section `model` must be that of the pretraining, or of the import.
        pretrained: result of `pretrain` or of `import` (another method's weights), a directory or an S3 URI.
        output: root of all results.
        tracking: where to track, or None.

    Raises:
        InputError: the result is of another stage, or a key would be lost.
    """
    source = open_result(pretrained)
    if source.stage not in {"pretrain", IMPORTED}:
        raise InputError(f"{source.uri}: a result of `{source.stage}`, but one of `pretrain` or `{IMPORTED}` is needed")
    imported = source.stage == IMPORTED
    result = locate(output, "convert", CONTRACT, recipe, ("model",), {"pretrained": source.fingerprint})

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        from soco_core.artifacts.weights import CANONICAL, PRETRAINED, load_canonical, save_weights
        from soco_core.convert.card import model_card
        from soco_core.convert.export import check_complete, export, exports_of, split_pretrained, with_counters
        from soco_core.convert.files import write_export
        from soco_core.convert.page import coverage_page
        from soco_core.storage import write_text

        file = source.path / (CANONICAL if imported else PRETRAINED)
        found = load_canonical(file)
        found = with_counters(found) if imported else found
        canonical, left_out = split_pretrained(found, str(file))
        check_complete(found, recipe.model, str(file), imported)
        save_weights(
            result.path / CANONICAL,
            canonical,
            {"backbone": recipe.model.backbone, "pretrained": source.fingerprint},
        )
        summary: dict[str, Any] = {"keys": len(canonical) + len(left_out)}
        if imported:
            summary["method"] = source.summary["method"]
        coverages = []
        for each in exports_of(recipe.model):
            tensors, coverage = export(canonical, each, recipe.model, left_out)
            write_export(result.path, each, tensors)
            coverage.write(result.path / f"{each.name}.coverage.json")
            write_text(result.path / f"{each.name}.card.md", model_card(each, coverage, recipe, source))
            coverages.append(coverage)
            summary[each.name] = {
                "loaded": len(coverage.loaded),
                "left_out": len(coverage.left_out),
                "newly_initialised": len(coverage.newly_initialised),
            }
        write_text(result.path / "coverage.md", coverage_page(coverages))
        return summary

    return complete(result, recipe, tracking, compute)
