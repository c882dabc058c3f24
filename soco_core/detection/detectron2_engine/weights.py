"""Initial weights into a detector with detectron2's names; soco's own names stand between a file's and the model's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from soco_core.artifacts.initialisation import Initialisation, read_tensors
from soco_core.artifacts.weight_names import Detector, to_canonical
from soco_core.artifacts.weights import Coverage
from soco_core.config import Recipe
from soco_core.detection.weights import (
    BODY,
    CLASSIFIER,
    DETECTRON2_BODIES,
    ENCODER,
    KINDS,
    NO_PLACE,
    check_backbone,
    check_tensor,
    kind_of,
)
from soco_core.errors import InputError

DETECTORS = ("backbone.", "roi_heads.", "proposal_generator.", "head.")
HEADS = ("backbone.fpn.extra_blocks.", "rpn.head.", "roi_heads.", "head.")
"""What keys of torchvision's detectors begin with that have no name of soco's."""


def load_detectron2(model: nn.Module, start: Initialisation, recipe: Recipe) -> Coverage:
    """Load the weights into one of detectron2's detectors and return what was loaded, left out and newly initialised.

    It takes what :func:`soco_core.detection.weights.load_initialisation` takes, in all of its names, and a detector
    that this engine trained.

    Raises:
        InputError: the file cannot be read; a backbone key is missing; a key is unknown or of another shape.
    """
    state = model.state_dict()
    kind = _kind(recipe)
    own = {_from_detectron2(key, _convolutions(state), (kind,)): key for key in state}
    coverage = Coverage(f"detectron2 {KINDS[kind]}")
    if start.path is not None:
        path = start.path
        tensors: dict[str, Tensor] = {}
        for key, (name, value) in _canonical_names(path, read_tensors(path)).items():
            if name is None:
                coverage.left_out[key] = CLASSIFIER
                continue
            reason = NO_PLACE.get((kind, name.partition(".")[0]))
            if name not in own and reason is not None and _is_canonical(name):
                coverage.left_out[key] = reason
                continue
            check_tensor(path, key, own.get(name, name), value, state)
            tensors[own[name]] = value
            coverage.loaded[key] = own[name]
        encoder = {name.removeprefix(ENCODER): own[name] for name in own if name.startswith(ENCODER)}
        check_backbone(path, [name for name, key in encoder.items() if key not in tensors])
        model.load_state_dict(tensors, strict=False)
    why = "trained from scratch" if start.path is None else "not part of the pretraining"
    loaded = set(coverage.loaded.values())
    coverage.newly_initialised = {key: why for key in state if key not in loaded}
    return coverage


def _kind(recipe: Recipe) -> Detector:
    if not recipe.finetune.has_pyramid:
        return "c4"
    return "fpn" if recipe.finetune.has_masks else "dense"


def _canonical_names(path: Path, tensors: dict[str, Tensor]) -> dict[str, tuple[str | None, Tensor]]:
    """Map each key of a file to soco's name and its tensor.

    A classifier's keys have None; what has no name of soco's, such as a detector's heads, keeps its own.
    """
    if f"{ENCODER}conv1.weight" in tensors:
        return {key: (key, value) for key, value in tensors.items()}
    if any(key.startswith(DETECTRON2_BODIES) for key in tensors):
        convolutions = _convolutions(tensors)
        named: dict[str, tuple[str | None, Tensor]] = {}
        for key, value in tensors.items():
            # Its classifiers, which detectors start from, are the body alone.
            whole = key if key.startswith(DETECTORS) else f"backbone.bottom_up.{key}"
            found = _from_detectron2(whole, convolutions, ("fpn", "c4"))
            named[key] = (None if key.startswith("stem.fc.") else key if found == whole else found, value)
        return named
    return _from_torchvision(path, tensors)


def _from_detectron2(key: str, convolutions: int, kinds: Iterable[Detector]) -> str:
    names = (to_canonical(key, "detectron2", convolutions, kind) for kind in kinds)
    return next((name for name in names if name is not None), key)


def _from_torchvision(path: Path, tensors: dict[str, Tensor]) -> dict[str, tuple[str | None, Tensor]]:
    whole = any(key.startswith(BODY) for key in tensors)
    kind: Detector = kind_of(tensors) if whole else "c4"
    convolutions = sum(re.fullmatch(r"roi_heads\.box_head\.\d+\.0\.weight", key) is not None for key in tensors)
    named: dict[str, tuple[str | None, Tensor]] = {}
    for key, value in tensors.items():
        # Weights saved under DistributedDataParallel carry its prefix.
        plain = key.removeprefix("module.")
        if not whole and plain.startswith("fc."):
            named[key] = (None, value)
            continue
        found = to_canonical(key if whole else BODY + plain, "torchvision", convolutions, kind)
        if whole and found is None and key.startswith(HEADS):
            raise InputError(
                f"{path}: {key} is a part of a detector that the engine torchvision trained, which detectron2 cannot "
                "take; set finetune.engine to torchvision, or give the weights of the backbone alone"
            )
        named[key] = (found or key, value)
    return named


def _convolutions(keys: Iterable[str]) -> int:
    """Count the convolutions of detectron2's box head."""
    return sum(re.fullmatch(r"roi_heads\.box_head\.conv\d+\.weight", key) is not None for key in keys)


def _is_canonical(name: str) -> bool:
    return re.match(r"neck\.|head\.(conv\d|bn\d|fc1\.)", name) is not None
