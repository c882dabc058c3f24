"""Names of weights in soco, torchvision and detectron2, as a table of modules for each architecture.

Only names change: no tensor is transposed or reordered, and all three flatten a pooled feature in the
order C, H, W. A template matches a whole module path; its last component (``weight``,
``running_mean`` ...) is the same everywhere. ``{l}`` stands for a number, ``{l+1}`` for that number
plus one, and ``{n}`` for the box head's number of convolutions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Architecture = Literal["fpn", "c4"]
Target = Literal["torchvision", "detectron2"]
TARGETS: tuple[Target, ...] = ("torchvision", "detectron2")


@dataclass(frozen=True)
class ModuleNames:
    """One module (or family of modules) under its three names."""

    canonical: str
    torchvision: str
    detectron2: str


def _stage(canonical: str, torchvision: str, detectron2: str) -> tuple[ModuleNames, ...]:
    """The modules of a stage of residual blocks."""
    return tuple(
        ModuleNames(f"{canonical}.{{b}}.{ours}", f"{torchvision}.{{b}}.{ours}", f"{detectron2}.{{b}}.{theirs}")
        for ours, theirs in (
            ("conv{j}", "conv{j}"),
            ("bn{j}", "conv{j}.norm"),
            ("downsample.0", "shortcut"),
            ("downsample.1", "shortcut.norm"),
        )
    )


MODULES: dict[Architecture, tuple[ModuleNames, ...]] = {
    "fpn": (
        ModuleNames("encoder.conv1", "backbone.body.conv1", "backbone.bottom_up.stem.conv1"),
        ModuleNames("encoder.bn1", "backbone.body.bn1", "backbone.bottom_up.stem.conv1.norm"),
        *_stage("encoder.layer{l}", "backbone.body.layer{l}", "backbone.bottom_up.res{l+1}"),
        # Index i belongs to P(i+2): detectron2 counts by the level, the others from zero.
        ModuleNames("neck.lateral_convs.{i}.conv", "backbone.fpn.inner_blocks.{i}.0", "backbone.fpn_lateral{i+2}"),
        ModuleNames("neck.lateral_convs.{i}.bn", "backbone.fpn.inner_blocks.{i}.1", "backbone.fpn_lateral{i+2}.norm"),
        ModuleNames("neck.fpn_convs.{i}.conv", "backbone.fpn.layer_blocks.{i}.0", "backbone.fpn_output{i+2}"),
        ModuleNames("neck.fpn_convs.{i}.bn", "backbone.fpn.layer_blocks.{i}.1", "backbone.fpn_output{i+2}.norm"),
        ModuleNames("head.conv{i}", "roi_heads.box_head.{i-1}.0", "roi_heads.box_head.conv{i}"),
        ModuleNames("head.bn{i}", "roi_heads.box_head.{i-1}.1", "roi_heads.box_head.conv{i}.norm"),
        # torchvision's head is a Sequential: n convolutions, a Flatten, then the linear layer.
        ModuleNames("head.fc1", "roi_heads.box_head.{n+1}", "roi_heads.box_head.fc1"),
    ),
    # torchvision has no C4 detector: there the whole ResNet keeps the names that its detectors give a backbone.
    "c4": (
        ModuleNames("encoder.conv1", "backbone.body.conv1", "backbone.stem.conv1"),
        ModuleNames("encoder.bn1", "backbone.body.bn1", "backbone.stem.conv1.norm"),
        *_stage("encoder.layer1", "backbone.body.layer1", "backbone.res2"),
        *_stage("encoder.layer2", "backbone.body.layer2", "backbone.res3"),
        *_stage("encoder.layer3", "backbone.body.layer3", "backbone.res4"),
        *_stage("encoder.layer4", "backbone.body.layer4", "roi_heads.res5"),
    ),
}

_FIELD = re.compile(r"\{(\w)([+-]\d+)?\}")


def to_target(key: str, target: Target, head_convs: int, architecture: Architecture = "fpn") -> str | None:
    """Return a canonical key's name in the target, or None if the table does not know it."""
    rules = [(row.canonical, getattr(row, target)) for row in MODULES[architecture]]
    return _rename(key, rules, head_convs)


def to_canonical(key: str, target: Target, head_convs: int, architecture: Architecture = "fpn") -> str | None:
    """Return the canonical name of a target's key, or None if it has none; inverse of :func:`to_target`."""
    rules = [(getattr(row, target), row.canonical) for row in MODULES[architecture]]
    return _rename(key, rules, head_convs)


def _rename(key: str, rules: list[tuple[str, str]], head_convs: int) -> str | None:
    module, _, parameter = key.rpartition(".")
    for source, destination in rules:
        numbers = _match(source, module, head_convs)
        if numbers is not None:
            return f"{_fill(destination, numbers)}.{parameter}"
    return None


def _match(template: str, module: str, head_convs: int) -> dict[str, int] | None:
    """Return the numbers behind the template's letters, or None if the module does not match it."""
    offsets: dict[str, int] = {}
    pattern = ""
    end = 0
    for field in _FIELD.finditer(template):
        letter = field[1]
        offsets[letter] = int(field[2] or 0)
        pattern += re.escape(template[end : field.start()]) + rf"(?P<{letter}>\d+)"
        end = field.end()
    found = re.fullmatch(pattern + re.escape(template[end:]), module)
    if found is None:
        return None
    numbers = {letter: int(found[letter]) - offset for letter, offset in offsets.items()}
    if numbers.setdefault("n", head_convs) != head_convs:
        return None
    return numbers


def _fill(template: str, numbers: dict[str, int]) -> str:
    return _FIELD.sub(lambda field: str(numbers[field[1]] + int(field[2] or 0)), template)
