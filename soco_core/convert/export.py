"""From a pretrained network to weights that a detector loads, with every key accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soco_core.artifacts.weight_names import FIRST_DENSE_LEVEL, TARGETS, Detector, Target, to_target
from soco_core.artifacts.weights import Coverage
from soco_core.config import ModelConfig
from soco_core.errors import InputError

if TYPE_CHECKING:
    import torch

EXPORTED_PARTS = ("encoder", "neck", "head")
PRETRAINING_PARTS = {
    "projector": "projection network: serves the pretraining loss only, a detector has no such part (4.2)",
    "predictor": "prediction network: serves the pretraining loss only, a detector has no such part (4.2)",
}

NOT_DENSE = {
    "head": "box head: RetinaNet and FCOS have none",
    "neck": "pyramid level P2: that of RetinaNet and FCOS begins at P3",
}

_NEW = "trained from scratch: pretraining has no such part"
NEW_PARTS: dict[Target, dict[str, str]] = {
    "torchvision": {
        "rpn.head.*": f"region proposal network, {_NEW}",
        "roi_heads.box_predictor.*": f"classes and box offsets, {_NEW}",
        "roi_heads.mask_head.*": f"mask head, {_NEW}",
        "roi_heads.mask_predictor.*": f"mask predictor, {_NEW}",
    },
    "detectron2": {
        "proposal_generator.rpn_head.*": f"region proposal network, {_NEW}",
        "roi_heads.box_predictor.*": f"classes and box offsets, {_NEW}",
        "roi_heads.mask_head.*": f"mask head and predictor, {_NEW}",
    },
    "mmdetection": {
        "rpn_head.*": f"region proposal network, {_NEW}",
        "roi_head.bbox_head.fc_cls.*": f"classes, {_NEW}",
        "roi_head.bbox_head.fc_reg.*": f"box offsets, {_NEW}",
        "roi_head.mask_head.*": f"mask head and predictor, {_NEW}",
    },
}
"""Parts of a Mask R-CNN that no pretraining has weights for, as key patterns."""
NEW_DENSE_PARTS: dict[Target, dict[str, str]] = {
    "torchvision": {
        "backbone.fpn.extra_blocks.*": f"P6 and P7, {_NEW}",
        "head.*": f"classes and boxes, {_NEW}",
    },
    "detectron2": {
        "backbone.top_block.*": f"P6 and P7, {_NEW}",
        "head.*": f"classes and boxes, {_NEW}",
    },
    "mmdetection": {
        "neck.fpn_convs.3.*": f"P6, {_NEW}",
        "neck.fpn_convs.4.*": f"P7, {_NEW}",
        "bbox_head.*": f"classes and boxes, {_NEW}",
    },
}
"""The same of RetinaNet and FCOS."""


@dataclass(frozen=True)
class Export:
    """One set of names that the weights are exported under."""

    target: Target
    detector: Detector

    @property
    def name(self) -> str:
        """Name of its files: ``torchvision``, ``torchvision-dense``."""
        return f"{self.target}-dense" if self.detector == "dense" else self.target

    @property
    def new_parts(self) -> dict[str, str]:
        """Parts of the detector that no pretraining has weights for, as key patterns, each with its reason."""
        return (NEW_DENSE_PARTS if self.detector == "dense" else NEW_PARTS)[self.target]


def exports_of(model: ModelConfig) -> list[Export]:
    """Return what a pretraining is exported as: for two-stage detectors, and with an FPN for dense ones too."""
    detectors: list[Detector] = ["c4"] if model.architecture == "c4" else ["fpn", "dense"]
    return [Export(target, detector) for detector in detectors for target in TARGETS]


def split_pretrained(
    tensors: Mapping[str, torch.Tensor], source: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Separate what a detector uses from what only pretraining needs.

    Args:
        tensors: state dict of the online network, canonical names.
        source: name of the file, for the error.

    Returns:
        The tensors of encoder, neck and head, and for each other key the reason why it is left out.

    Raises:
        InputError: a key belongs to no known part.
    """
    kept: dict[str, torch.Tensor] = {}
    left_out: dict[str, str] = {}
    for key, tensor in sorted(tensors.items()):
        part = key.partition(".")[0]
        if part in EXPORTED_PARTS:
            kept[key] = tensor
        elif part in PRETRAINING_PARTS:
            left_out[key] = PRETRAINING_PARTS[part]
        else:
            raise InputError(
                f"{source}: key {key} belongs to no known part; "
                f"known are {', '.join((*EXPORTED_PARTS, *PRETRAINING_PARTS))}"
            )
    return kept, left_out


def check_complete(
    tensors: Mapping[str, torch.Tensor], model: ModelConfig, source: str, imported: bool = False
) -> None:
    """Refuse weights that lack a key of the online network, have one too many, or one of another shape.

    Args:
        tensors: canonical names.
        model: what the weights were pretrained as.
        source: name of the file, for the error.
        imported: another method's: beside the backbone only those parts are asked for, and of an FPN those levels,
            that there are.

    Raises:
        InputError: one line with the first such key.
    """
    import torch

    from soco_core.models.soco import OnlineNetwork

    with torch.device("meta"):
        network = OnlineNetwork(model)
    pieces = {"encoder", *map(_piece, tensors)}
    expected = {
        key: list(tensor.shape) for key, tensor in network.state_dict().items() if not imported or _piece(key) in pieces
    }
    found = {key: list(tensor.shape) for key, tensor in tensors.items()}
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    misshaped = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
    if missing:
        problem = f"{len(missing)} keys of the model are missing, the first is {missing[0]}"
    elif unknown:
        problem = f"{len(unknown)} keys are not the model's, the first is {unknown[0]}"
    elif misshaped:
        key = misshaped[0]
        problem = f"{key} has shape {found[key]}, the recipe's model has {expected[key]}"
    else:
        return
    raise InputError(f"{source}: {problem}; convert with the recipe that it was pretrained with")


def _piece(key: str) -> str:
    """Return the part of the network that a canonical key belongs to; of an FPN, the convolution of a level."""
    parts = key.split(".")
    return ".".join(parts[:3]) if parts[0] == "neck" else parts[0]


def with_counters(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add the counters of batch norms (``num_batches_tracked``) that a file of another program lacks, at 0."""
    import torch

    norms = [key.removesuffix("running_var") for key in tensors if key.endswith(".running_var")]
    counters = {f"{norm}num_batches_tracked": torch.zeros((), dtype=torch.int64) for norm in norms}
    return {**counters, **tensors}


def export(
    canonical: Mapping[str, torch.Tensor], as_what: Export, model: ModelConfig, left_out: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], Coverage]:
    """Rename canonical weights for a target and account for every key.

    Args:
        canonical: encoder, neck and head under canonical names.
        as_what: target and kind of detector.
        model: what the weights were pretrained as.
        left_out: key -> reason for what :func:`split_pretrained` left out.

    Raises:
        InputError: a key has no name in the target, or two have the same.
    """
    coverage = Coverage(as_what.name, left_out=dict(left_out), newly_initialised=dict(as_what.new_parts))
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in canonical.items():
        reason = without_place(as_what.detector, key)
        if reason is not None:
            coverage.left_out[key] = reason
            continue
        name = to_target(key, as_what.target, model.head_convs, as_what.detector)
        if name is None or name in renamed:
            raise InputError(
                f"{key}: {'no' if name is None else 'not a unique'} name in {as_what.name}; the export would lose it"
            )
        renamed[name] = tensor
        coverage.loaded[key] = name
    for pattern in _missing_parts(renamed, as_what, model):
        coverage.newly_initialised[pattern] = "trained from scratch: this pretraining had no such part"
    return renamed, coverage


def without_place(detector: Detector, key: str) -> str | None:
    """Return why a detector has no place for a canonical key; None if it has one."""
    if detector != "dense":
        return None
    part, _, rest = key.partition(".")
    below = part == "neck" and int(rest.split(".")[1]) < FIRST_DENSE_LEVEL
    return NOT_DENSE[part] if part == "head" or below else None


def _missing_parts(loaded: Iterable[str], as_what: Export, model: ModelConfig) -> list[str]:
    """Parts of the detector that other settings pretrain and this one did not, as the shortest key patterns.

    A detector with an FPN has all of the FPN and, in two stages, a box head; torchvision has no C4 detector.
    """
    import torch

    from soco_core.models.soco import ObjectEncoder

    detector: Detector = "fpn" if as_what.target == "torchvision" and as_what.detector == "c4" else as_what.detector
    sizes = {"backbone": model.backbone, "fpn_channels": model.fpn_channels, "head_convs": model.head_convs}
    with torch.device("meta"):
        whole = ObjectEncoder(
            ModelConfig.model_validate({"architecture": "c4" if detector == "c4" else "fpn", **sizes})
        )
    kept, _ = split_pretrained(whole.state_dict(), as_what.name)
    names = [to_target(key, as_what.target, model.head_convs, detector) for key in kept]
    taken = {*loaded, *as_what.new_parts}
    patterns: list[str] = []
    for name in names:
        if name is not None and name not in taken and not any(name.startswith(p[:-1]) for p in patterns):
            parts = name.split(".")
            prefixes = (".".join([*parts[:depth], ""]) for depth in range(1, len(parts)))
            free = next(prefix for prefix in prefixes if not any(key.startswith(prefix) for key in taken))
            patterns.append(f"{free}*")
    return patterns
