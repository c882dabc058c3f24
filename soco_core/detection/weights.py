"""Loading initial weights into a detector of torchvision's names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from soco_core.artifacts.initialisation import Initialisation, read_tensors
from soco_core.artifacts.weight_names import Detector, to_canonical, to_target
from soco_core.artifacts.weights import Coverage
from soco_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

BODY = "backbone.body."
ENCODER = "encoder."
CLASSIFIER = "the classifier of the supervised pretraining; a detector has its own"
NO_PLACE: dict[tuple[Detector, str], str] = {
    ("c4", "neck"): "FPN: a C4 detector has none",
    ("c4", "head"): "box head: that of a C4 detector is the fifth residual block",
    ("dense", "neck"): "pyramid level P2: that of RetinaNet and FCOS begins at P3",
    ("dense", "head"): "box head: RetinaNet and FCOS have none",
}
"""Why a detector leaves out what another kind of detector was pretrained for."""
KINDS: dict[Detector, str] = {"fpn": "Mask R-CNN", "c4": "C4", "dense": "RetinaNet or FCOS"}
DETECTRON2_BODIES = ("backbone.bottom_up.", "backbone.stem.", "stem.")
"""What keys of detectron2's detectors begin with: with an FPN, C4, and its classifiers."""


def load_initialisation(model: nn.Module, start: Initialisation) -> Coverage:
    """Load the weights into a detector and return what was loaded, left out and newly initialised.

    A file may hold a torchvision ResNet's state dict (``conv1.weight`` ...; its classifier is left out) or a
    detector's (``backbone.body.conv1.weight`` ...), both under detectron2's names too. The whole backbone must be
    there. What was pretrained for another kind of detector is left out: C4 takes the backbone alone, RetinaNet and FCOS
    also P3..P5 of the FPN.

    Raises:
        InputError: the file cannot be read; a backbone key is missing; a key is unknown or of another shape.
    """
    own = model.state_dict()
    kind = kind_of(own)
    coverage = Coverage(f"torchvision {KINDS[kind]}")
    if start.path is not None:
        tensors = {}
        for key, (name, value) in _placed(_detector_names(read_tensors(start.path)), kind, coverage).items():
            check_tensor(start.path, key, name, value, own)
            tensors[name] = value
            coverage.loaded[key] = name
        check_backbone(
            start.path, [key.removeprefix(BODY) for key in own if key.startswith(BODY) and key not in tensors]
        )
        model.load_state_dict(tensors, strict=False)
    reason = "trained from scratch" if start.path is None else "not part of the pretraining"
    coverage.newly_initialised = {key: reason for key in own if key not in coverage.loaded.values()}
    return coverage


def kind_of(keys: Iterable[str]) -> Detector:
    """Return the kind of detector that has these keys, under torchvision's names."""
    keys = set(keys)
    if not any(key.startswith("backbone.fpn.") for key in keys):
        return "c4"
    # A pyramid from P3 has a level less.
    return "fpn" if "backbone.fpn.inner_blocks.3.0.weight" in keys else "dense"


def _placed(
    named: dict[str, tuple[str | None, Tensor]], kind: Detector, coverage: Coverage
) -> dict[str, tuple[str, Tensor]]:
    """Rename a file's keys for this kind of detector; what it has no place for goes to the coverage."""
    names = {name for name, _ in named.values() if name is not None}
    convolutions = sum(re.fullmatch(r"roi_heads\.box_head\.\d+\.0\.weight", name) is not None for name in names)
    source = kind_of(names)
    placed: dict[str, tuple[str, Tensor]] = {}
    for key, (name, value) in named.items():
        if name is None:
            coverage.left_out[key] = CLASSIFIER
            continue
        canonical = None if kind == source else to_canonical(name, "torchvision", convolutions, source)
        moved = name if canonical is None else to_target(canonical, "torchvision", convolutions, kind)
        if canonical is not None and moved is None:
            coverage.left_out[key] = NO_PLACE[kind, canonical.partition(".")[0]]
        elif moved is not None:
            placed[key] = (moved, value)
    return placed


def check_tensor(path: Path, key: str, name: str, value: Tensor, own: dict[str, Tensor]) -> None:
    """Refuse a tensor of a file that the detector has no place for.

    Args:
        path: the file.
        key: the tensor's name in the file.
        name: its name in the detector.
        value: the tensor.
        own: the detector's state.

    Raises:
        InputError: the detector has no such key, or one of another shape.
    """
    if name not in own:
        raise InputError(
            f"{path}: {key} is not a key of the recipe's detector; give the weights of its model.backbone, a convert "
            "result of the same recipe, or what `soco import` makes of another method's checkpoint"
        )
    if value.shape != own[name].shape:
        raise InputError(
            f"{path}: {key} has shape {list(value.shape)}, the recipe's model needs {list(own[name].shape)}; "
            "use the recipe that it was trained with"
        )


def check_backbone(path: Path, absent: list[str]) -> None:
    """Refuse a file that lacks keys of the backbone, under torchvision's or soco's names; counters may be absent.

    Raises:
        InputError: one is absent.
    """
    missing = [key for key in absent if not key.endswith("num_batches_tracked")]
    if missing:
        raise InputError(
            f"{path}: has no {missing[0]} ({len(missing)} of the backbone's keys are missing); "
            "give the weights of the recipe's model.backbone"
        )


def _detector_names(tensors: dict[str, Tensor]) -> dict[str, tuple[str | None, Tensor]]:
    """Map each key of a file to the detector's name (None for a classifier's keys) and its tensor."""
    if f"{ENCODER}conv1.weight" in tensors:  # canonical names
        convolutions = sum(re.fullmatch(r"head\.conv\d+\.weight", key) is not None for key in tensors)
        return {key: (to_target(key, "torchvision", convolutions) or key, value) for key, value in tensors.items()}
    if any(key.startswith(DETECTRON2_BODIES) for key in tensors):
        convolutions = sum(re.fullmatch(r"roi_heads\.box_head\.conv\d+\.weight", key) is not None for key in tensors)
        return {key: (_from_detectron2(key, convolutions), value) for key, value in tensors.items()}
    whole = any(key.startswith(BODY) for key in tensors)
    named: dict[str, tuple[str | None, Tensor]] = {}
    for key, value in tensors.items():
        # Weights saved under DistributedDataParallel carry its prefix.
        plain = key.removeprefix("module.")
        if whole:
            named[key] = (key, value)
        else:
            named[key] = (None if plain.startswith("fc.") else BODY + plain, value)
    return named


def _from_detectron2(key: str, convolutions: int) -> str | None:
    """Return torchvision's name of a key of detectron2, None for a classifier's; an unknown key stays as it is."""
    if key.startswith("stem.fc."):
        return None
    # Its classifiers, which detectors start from, are the body alone.
    name = key if key.startswith(("backbone.", "roi_heads.", "proposal_generator.")) else f"backbone.bottom_up.{key}"
    for architecture in ("fpn", "c4"):
        canonical = to_canonical(name, "detectron2", convolutions, architecture)
        if canonical is not None:
            return to_target(canonical, "torchvision", convolutions, architecture) or key
    return key
