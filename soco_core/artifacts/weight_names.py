"""Names of weights in soco, torchvision, detectron2 and mmdetection, as a table of modules for each kind of detector.

Only names change: no tensor is transposed or reordered, and all flatten a pooled feature in the
order C, H, W. A template matches a whole module path; its last component (``weight``,
``running_mean`` ...) is the same everywhere. ``{l}`` stands for a number, ``{l+1}`` for that number
plus one, and ``{n}`` for the box head's number of convolutions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Detector = Literal["fpn", "c4", "dense"]
"""``fpn``: two stages, P2 to P5; ``c4``: two stages on C4; ``dense``: RetinaNet and FCOS, with a pyramid from C3."""
Target = Literal["torchvision", "detectron2", "mmdetection"]
TARGETS: tuple[Target, ...] = ("torchvision", "detectron2", "mmdetection")
FIRST_DENSE_LEVEL = 1
"""Index of the first pyramid level of a dense detector, C3."""
LEVELS = 4


@dataclass(frozen=True)
class ModuleNames:
    """One module (or family of modules) under its four names."""

    canonical: str
    torchvision: str
    detectron2: str
    mmdetection: str


def _stage(canonical: str, torchvision: str, detectron2: str, mmdetection: str) -> tuple[ModuleNames, ...]:
    """The modules of a stage of residual blocks."""
    return tuple(
        ModuleNames(
            f"{canonical}.{{b}}.{ours}",
            f"{torchvision}.{{b}}.{ours}",
            f"{detectron2}.{{b}}.{theirs}",
            f"{mmdetection}.{{b}}.{ours}",
        )
        for ours, theirs in (
            ("conv{j}", "conv{j}"),
            ("bn{j}", "conv{j}.norm"),
            ("downsample.0", "shortcut"),
            ("downsample.1", "shortcut.norm"),
        )
    )


def _stem(detectron2: str) -> tuple[ModuleNames, ...]:
    return (
        ModuleNames("encoder.conv1", "backbone.body.conv1", f"{detectron2}.conv1", "backbone.conv1"),
        ModuleNames("encoder.bn1", "backbone.body.bn1", f"{detectron2}.conv1.norm", "backbone.bn1"),
    )


def _pyramid(first: int) -> tuple[ModuleNames, ...]:
    """The modules of an FPN whose lowest level is that of index `first`.

    Index i belongs to P(i+2). detectron2 counts by the level; torchvision and mmdetection count from the first
    level, and mmdetection gives the numbers behind the last one to P6 and P7. So the numbers stand here one by one: a
    template would take P6 for a level that soco has.
    """
    return tuple(
        names
        for i in range(first, LEVELS)
        for names in (
            ModuleNames(
                f"neck.{ours}.{i}.{part}",
                f"backbone.fpn.{torchvision}.{i - first}.{number}",
                f"backbone.{detectron2}{i + 2}{norm}",
                f"neck.{ours}.{i - first}.{part}",
            )
            for ours, torchvision, detectron2 in (
                ("lateral_convs", "inner_blocks", "fpn_lateral"),
                ("fpn_convs", "layer_blocks", "fpn_output"),
            )
            for part, number, norm in (("conv", 0, ""), ("bn", 1, ".norm"))
        )
    )


_RESNET = (
    *_stem("backbone.bottom_up.stem"),
    *_stage("encoder.layer{l}", "backbone.body.layer{l}", "backbone.bottom_up.res{l+1}", "backbone.layer{l}"),
)

MODULES: dict[Detector, tuple[ModuleNames, ...]] = {
    "fpn": (
        *_RESNET,
        *_pyramid(0),
        ModuleNames(
            "head.conv{i}",
            "roi_heads.box_head.{i-1}.0",
            "roi_heads.box_head.conv{i}",
            "roi_head.bbox_head.shared_convs.{i-1}.conv",
        ),
        ModuleNames(
            "head.bn{i}",
            "roi_heads.box_head.{i-1}.1",
            "roi_heads.box_head.conv{i}.norm",
            "roi_head.bbox_head.shared_convs.{i-1}.bn",
        ),
        # torchvision's head is a Sequential: n convolutions, a Flatten, then the linear layer.
        ModuleNames(
            "head.fc1", "roi_heads.box_head.{n+1}", "roi_heads.box_head.fc1", "roi_head.bbox_head.shared_fcs.0"
        ),
    ),
    # torchvision has no C4 detector: there the whole ResNet keeps the names that its detectors give a backbone.
    "c4": (
        *_stem("backbone.stem"),
        *_stage("encoder.layer1", "backbone.body.layer1", "backbone.res2", "backbone.layer1"),
        *_stage("encoder.layer2", "backbone.body.layer2", "backbone.res3", "backbone.layer2"),
        *_stage("encoder.layer3", "backbone.body.layer3", "backbone.res4", "backbone.layer3"),
        *_stage("encoder.layer4", "backbone.body.layer4", "roi_heads.res5", "roi_head.shared_head.layer4"),
    ),
    "dense": (*_RESNET, *_pyramid(FIRST_DENSE_LEVEL)),
}

_FIELD = re.compile(r"\{(\w)([+-]\d+)?\}")


def to_target(key: str, target: Target, head_convs: int, detector: Detector = "fpn") -> str | None:
    """Return a canonical key's name in the target, or None if the table does not know it."""
    rules = [(row.canonical, getattr(row, target)) for row in MODULES[detector]]
    return _rename(key, rules, head_convs)


def to_canonical(key: str, target: Target, head_convs: int, detector: Detector = "fpn") -> str | None:
    """Return the canonical name of a target's key, or None if it has none; inverse of :func:`to_target`."""
    rules = [(getattr(row, target), row.canonical) for row in MODULES[detector]]
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
