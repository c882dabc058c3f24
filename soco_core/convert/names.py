"""Names of weights in soco, torchvision and detectron2, as one table of modules.

Only names change: no tensor is transposed or reordered, and all three flatten a pooled feature in the
order C, H, W. A template matches a whole module path; its last component (``weight``,
``running_mean`` ...) is the same everywhere. ``{l}`` stands for a number, ``{l+1}`` for that number
plus one, and ``{n}`` for the box head's number of convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Target = Literal["torchvision", "detectron2"]
TARGETS: tuple[Target, ...] = ("torchvision", "detectron2")


@dataclass(frozen=True)
class ModuleNames:
    """One module (or family of modules) under its three names."""

    canonical: str
    torchvision: str
    detectron2: str


MODULES = (
    ModuleNames("encoder.conv1", "backbone.body.conv1", "backbone.bottom_up.stem.conv1"),
    ModuleNames("encoder.bn1", "backbone.body.bn1", "backbone.bottom_up.stem.conv1.norm"),
    ModuleNames(
        "encoder.layer{l}.{b}.conv{j}", "backbone.body.layer{l}.{b}.conv{j}", "backbone.bottom_up.res{l+1}.{b}.conv{j}"
    ),
    ModuleNames(
        "encoder.layer{l}.{b}.bn{j}", "backbone.body.layer{l}.{b}.bn{j}", "backbone.bottom_up.res{l+1}.{b}.conv{j}.norm"
    ),
    ModuleNames(
        "encoder.layer{l}.{b}.downsample.0",
        "backbone.body.layer{l}.{b}.downsample.0",
        "backbone.bottom_up.res{l+1}.{b}.shortcut",
    ),
    ModuleNames(
        "encoder.layer{l}.{b}.downsample.1",
        "backbone.body.layer{l}.{b}.downsample.1",
        "backbone.bottom_up.res{l+1}.{b}.shortcut.norm",
    ),
    # Index i belongs to P(i+2): detectron2 counts by the level, the others from zero.
    ModuleNames("neck.lateral_convs.{i}.conv", "backbone.fpn.inner_blocks.{i}.0", "backbone.fpn_lateral{i+2}"),
    ModuleNames("neck.lateral_convs.{i}.bn", "backbone.fpn.inner_blocks.{i}.1", "backbone.fpn_lateral{i+2}.norm"),
    ModuleNames("neck.fpn_convs.{i}.conv", "backbone.fpn.layer_blocks.{i}.0", "backbone.fpn_output{i+2}"),
    ModuleNames("neck.fpn_convs.{i}.bn", "backbone.fpn.layer_blocks.{i}.1", "backbone.fpn_output{i+2}.norm"),
    ModuleNames("head.conv{i}", "roi_heads.box_head.{i-1}.0", "roi_heads.box_head.conv{i}"),
    ModuleNames("head.bn{i}", "roi_heads.box_head.{i-1}.1", "roi_heads.box_head.conv{i}.norm"),
    # torchvision's head is a Sequential: n convolutions, a Flatten, then the linear layer.
    ModuleNames("head.fc1", "roi_heads.box_head.{n+1}", "roi_heads.box_head.fc1"),
)

_FIELD = re.compile(r"\{(\w)([+-]\d+)?\}")


def to_target(key: str, target: Target, head_convs: int) -> str | None:
    """Return a canonical key's name in the target, or None if the table does not know it."""
    return _rename(key, [(row.canonical, getattr(row, target)) for row in MODULES], head_convs)


def to_canonical(key: str, target: Target, head_convs: int) -> str | None:
    """Return the canonical name of a target's key, or None if it has none; inverse of :func:`to_target`."""
    return _rename(key, [(getattr(row, target), row.canonical) for row in MODULES], head_convs)


def count_head_convs(keys: Iterable[str]) -> int:
    """Return how many convolutions the box head has, from canonical keys."""
    return len({key for key in keys if re.fullmatch(r"head\.conv\d+\.weight", key)})


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
