"""From a pretrained network to weights that a detector loads, with every key accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from soco_core.artifacts.weight_names import TARGETS, Target, to_target
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
}
"""Parts of a Mask R-CNN that no pretraining has weights for, as key patterns."""


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


def check_complete(tensors: Mapping[str, torch.Tensor], model: ModelConfig, source: str) -> None:
    """Refuse weights that lack a key of the online network, have one too many, or one of another shape.

    Raises:
        InputError: one line with the first such key.
    """
    import torch

    from soco_core.models.soco import OnlineNetwork

    with torch.device("meta"):
        network = OnlineNetwork(model)
    expected = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
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


def export(
    canonical: Mapping[str, torch.Tensor], target: Target, model: ModelConfig, left_out: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], Coverage]:
    """Rename canonical weights for a target and account for every key.

    Args:
        canonical: encoder, neck and head under canonical names.
        target: format of the export.
        model: what the weights were pretrained as.
        left_out: key -> reason for what :func:`split_pretrained` left out.

    Raises:
        InputError: a key has no name in the target, or two have the same.
    """
    coverage = Coverage(target, left_out=dict(left_out), newly_initialised=dict(NEW_PARTS[target]))
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in canonical.items():
        name = to_target(key, target, model.head_convs, model.architecture)
        if name is None or name in renamed:
            raise InputError(
                f"{key}: {'no' if name is None else 'not a unique'} name in {target}; the export would lose it"
            )
        renamed[name] = tensor
        coverage.loaded[key] = name
    for pattern in _missing_parts(renamed, target, model):
        coverage.newly_initialised[pattern] = "trained from scratch: this pretraining had no such part"
    return renamed, coverage


def _missing_parts(loaded: Iterable[str], target: Target, model: ModelConfig) -> list[str]:
    """Parts of the detector that other settings pretrain and this one did not, as the shortest key patterns.

    A detector with an FPN has all of the FPN and a box head; of C4 detectors only detectron2 has one.
    """
    import torch

    from soco_core.models.soco import ObjectEncoder

    architecture = model.architecture if target == "detectron2" else "fpn"
    sizes = {"backbone": model.backbone, "fpn_channels": model.fpn_channels, "head_convs": model.head_convs}
    with torch.device("meta"):
        whole = ObjectEncoder(ModelConfig.model_validate({"architecture": architecture, **sizes}))
    kept, _ = split_pretrained(whole.state_dict(), target)
    names = [to_target(key, target, model.head_convs, architecture) for key in kept]
    taken = {*loaded, *NEW_PARTS[target]}
    patterns: list[str] = []
    for name in names:
        if name is not None and name not in taken and not any(name.startswith(p[:-1]) for p in patterns):
            parts = name.split(".")
            prefixes = (".".join([*parts[:depth], ""]) for depth in range(1, len(parts)))
            free = next(prefix for prefix in prefixes if not any(key.startswith(prefix) for key in taken))
            patterns.append(f"{free}*")
    return patterns


def coverage_page(coverages: list[Coverage]) -> str:
    """Return the coverage of all targets as one Markdown page: which key becomes which, and what does not."""
    by_target = {coverage.target: coverage for coverage in coverages}
    targets = [target for target in TARGETS if target in by_target]
    first = by_target[targets[0]]
    lines = ["# What became of every key", ""]
    lines += ["| | " + " | ".join(targets) + " |", "|---|" + "---:|" * len(targets)]
    for label, field in (
        ("loaded", "loaded"),
        ("left out, with the reason", "left_out"),
        ("parts of the detector that start from scratch", "newly_initialised"),
    ):
        lines.append(f"| {label} | " + " | ".join(str(len(getattr(by_target[t], field))) for t in targets) + " |")
    for target in targets:
        lines += ["", f"## Starting from scratch in {target}", ""]
        lines += [f"- `{key}`: {reason}" for key, reason in by_target[target].newly_initialised.items()]
    lines += ["", "## Left out", ""]
    lines += [f"- `{key}`: {reason}" for key, reason in first.left_out.items()] or ["Nothing."]
    lines += ["", "## Loaded", "", "| canonical | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
    for key in first.loaded:
        lines.append(f"| `{key}` | " + " | ".join(f"`{by_target[t].loaded[key]}`" for t in targets) + " |")
    return "\n".join(lines) + "\n"
