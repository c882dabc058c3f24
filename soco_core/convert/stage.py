"""Stage `convert`: the pretrained network as weights that detectors load."""

from __future__ import annotations

from typing import Any

from soco_core.artifacts.result import ResultDirectory, locate, open_result
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.tracking import Tracker, TrackingContext

CONTRACT = 2


def convert(
    recipe: Recipe, *, pretrained: str, output: str, tracking: TrackingContext | None = None
) -> ResultDirectory:
    """Export a pretraining result for torchvision, detectron2 and mmdetection (4.2: all but projection and prediction).

    The result holds ``canonical.safetensors``; for each target ``<target>.pth`` and, of a pretraining with an FPN,
    ``<target>-dense.pth`` (for RetinaNet and FCOS), beside each its ``.coverage.json`` and ``.card.md``;
    ``detectron2.pkl``; and ``coverage.md``.

    Args:
        recipe: its section `model` must be that of the pretraining.
        pretrained: result of `pretrain`, a directory or an S3 URI.
        output: root of all results.
        tracking: where to track, or None.

    Raises:
        InputError: the result is not one of `pretrain`, or a key would be lost.
    """
    source = open_result(pretrained, stage="pretrain")
    result = locate(output, "convert", CONTRACT, recipe, ("model",), {"pretrained": source.fingerprint})

    def compute(result: ResultDirectory, tracker: Tracker) -> dict[str, Any]:
        from soco_core.artifacts.weights import CANONICAL, PRETRAINED, load_canonical, save_canonical
        from soco_core.convert.card import model_card
        from soco_core.convert.export import check_complete, export, exports_of, split_pretrained
        from soco_core.convert.files import write_export
        from soco_core.convert.page import coverage_page
        from soco_core.storage import write_text

        file = source.path / PRETRAINED
        pretrained_tensors = load_canonical(file)
        canonical, left_out = split_pretrained(pretrained_tensors, str(file))
        check_complete(pretrained_tensors, recipe.model, str(file))
        save_canonical(
            result.path / CANONICAL,
            canonical,
            {"backbone": recipe.model.backbone, "pretrained": source.fingerprint},
        )
        summary: dict[str, Any] = {"keys": len(canonical) + len(left_out)}
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
