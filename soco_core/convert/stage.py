"""Stage `convert`: the pretrained network as weights that detectors load."""

from __future__ import annotations

from typing import Any

from soco_core.artifacts.result import ResultDirectory, locate, open_result
from soco_core.artifacts.stage import complete
from soco_core.config import Recipe
from soco_core.tracking import Tracker, TrackingContext

CONTRACT = 1


def convert(
    recipe: Recipe, *, pretrained: str, output: str, tracking: TrackingContext | None = None
) -> ResultDirectory:
    """Export a pretraining result for torchvision and detectron2 (4.2: all but projection and prediction).

    The result holds ``canonical.safetensors``, ``torchvision.pth`` (a state dict), ``detectron2.pth``
    (``{"model": state dict}``), ``<target>.coverage.json`` and ``coverage.md``.

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
        import torch

        from soco_core.artifacts.weight_names import TARGETS
        from soco_core.artifacts.weights import CANONICAL, PRETRAINED, load_canonical, save_canonical
        from soco_core.convert.export import check_complete, coverage_page, export, split_pretrained
        from soco_core.storage import atomic_file, write_text

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
        for target in TARGETS:
            tensors, coverage = export(canonical, target, recipe.model, left_out)
            with atomic_file(result.path / f"{target}.pth") as out:
                torch.save({"model": tensors} if target == "detectron2" else tensors, out)
            coverage.write(result.path / f"{target}.coverage.json")
            coverages.append(coverage)
            summary[target] = {
                "loaded": len(coverage.loaded),
                "left_out": len(coverage.left_out),
                "newly_initialised": len(coverage.newly_initialised),
            }
        write_text(result.path / "coverage.md", coverage_page(coverages))
        return summary

    return complete(result, recipe, tracking, compute)
