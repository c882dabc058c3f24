"""Loading a backbone alone, from whatever weights hold one (paper B)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from soco_core.artifacts.initialisation import Initialisation, read_tensors
from soco_core.artifacts.weight_names import Detector, Target, to_canonical
from soco_core.artifacts.weights import Coverage
from soco_core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

ENCODER = "encoder."
LAYOUTS: tuple[tuple[str, Target, Detector], ...] = (
    ("", "torchvision", "fpn"),
    ("backbone.body.", "torchvision", "fpn"),
    ("", "detectron2", "fpn"),
    ("", "detectron2", "c4"),
    ("backbone.bottom_up.", "detectron2", "fpn"),
)
"""What a key lacks of a detector's name, and whose detector that is: a classifier's keys are a backbone's alone."""
CLASSIFIER = "a classifier; the linear evaluation trains its own"
NOT_BACKBONE = "not of the backbone, which alone is evaluated (B)"


def load_backbone(encoder: nn.Module, origin: Initialisation) -> Coverage:
    """Load the weights of an origin into a ResNet and return what was loaded, left out and newly initialised.

    A file may hold a ResNet's state dict (torchvision's names or detectron2's, also nested under ``state_dict`` or
    ``model``, also with the prefix ``module.``), a detector's, or canonical names; all but the backbone is left out.

    Raises:
        InputError: the file cannot be read; a key of the backbone is missing or of another shape.
    """
    own = encoder.state_dict()
    coverage = Coverage("linear evaluation")
    if origin.path is None:
        coverage.newly_initialised = {f"{ENCODER}{key}": "never trained" for key in own}
        return coverage
    tensors = {}
    for key, value in read_tensors(origin.path).items():
        name = _name(key)
        if name is None or name not in own:
            coverage.left_out[key] = CLASSIFIER if key.removeprefix("module.").startswith("fc.") else NOT_BACKBONE
            continue
        if value.shape != own[name].shape:
            raise InputError(
                f"{origin.path}: {key} has shape {list(value.shape)}, the recipe's model.backbone needs "
                f"{list(own[name].shape)}; use the recipe that it was trained with"
            )
        tensors[name] = value
        coverage.loaded[key] = f"{ENCODER}{name}"
    # Frameworks count batches or do not; in evaluation the count has no meaning.
    missing = [key for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    if missing:
        raise InputError(
            f"{origin.path}: has no {missing[0]} ({len(missing)} of the backbone's keys are missing); give the weights "
            "of the recipe's model.backbone"
        )
    encoder.load_state_dict(tensors, strict=False)
    coverage.newly_initialised = {f"{ENCODER}{key}": "a counter without effect" for key in own if key not in tensors}
    return coverage


def _name(key: str) -> str | None:
    """Return a key's name in torchvision's ResNet, or None if it is not of a backbone."""
    # Weights saved under DistributedDataParallel carry its prefix.
    plain = key.removeprefix("module.")
    if plain.startswith(ENCODER):
        return plain.removeprefix(ENCODER)
    for lacking, target, detector in LAYOUTS:
        canonical = to_canonical(lacking + plain, target, 0, detector)
        if canonical is not None and canonical.startswith(ENCODER):
            return canonical.removeprefix(ENCODER)
    return None
