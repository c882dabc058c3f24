"""How others' PyTorch releases lay out a ResNet: which keys are the backbone's, and what the rest is.

A layout is told by the keys themselves. ``module.``, which DistributedDataParallel puts before every key, is taken off
first, and so are the dictionaries that releases wrap a state dict in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from soco_core.artifacts.weight_names import FIRST_DENSE_LEVEL, LEVELS, TARGETS, Detector, Target, to_canonical

Style = Literal["resnet", "numbered", "soco", "torchvision", "mmdetection", "detectron2"]


@dataclass(frozen=True)
class Layout:
    """One way to lay out a checkpoint."""

    name: str
    """For ``--layout``."""
    method: str | None
    """Default row of the table; None where methods share the layout."""
    prefix: str
    """What stands before the backbone's keys, without ``module.``."""
    signs: tuple[str, ...] = ()
    """Patterns of keys that tell it from others with this prefix; each must be there. ``:2`` at the end asks for that
    number of dimensions."""
    style: Style = "resnet"
    """Names behind the prefix: those of torchvision's ResNet; its children's numbers (``nn.Sequential``); the authors',
    with FPN and box head; those of torchvision's, mmdetection's and detectron2's detectors, which the prefix is a part
    of."""
    c4_method: str | None = None
    """Default row in the tables of C4 detectors, where the paper has another name there."""

    def row(self, architecture: str) -> str | None:
        """Return the default row of the table, as the paper calls it; None where methods share the layout."""
        return self.c4_method if self.c4_method and architecture == "c4" else self.method

    @property
    def target(self) -> Target | None:
        """Whose detectors' names it has; None: it has a backbone's, or the authors'."""
        return next((target for target in TARGETS if target == self.style), None)

    @property
    def first_key(self) -> str:
        """The first convolution's weight."""
        return f"{self.prefix}{ {'numbered': '0', 'detectron2': 'stem.conv1'}.get(self.style, 'conv1') }.weight"


# The first that fits is taken: what has more signs stands before what has fewer.
LAYOUTS = (
    Layout("soco", "SoCo (authors)", "encoder.", (r"neck\.lateral_convs\.", r"head\.fc1\."), "soco"),
    Layout(
        "soco-c4", "SoCo-C4 (authors)", "encoder.", (r"projector\.linear1\.weight:2", r"predictor\.linear1\."), "soco"
    ),
    Layout("pixpro", "PixPro", "encoder.", (r"projector\.linear1\.weight:4",)),
    Layout("simsiam", "SimSiam", "encoder.", (r"encoder\.fc\.0\.weight", r"predictor\.0\.weight")),
    Layout("simclr-encoder", "SimCLR", "encoder.", (r"projection\.",)),
    Layout("infomin", "InfoMin", "encoder.", (r"head\.",)),
    Layout("resim", "ReSim-FPN^T", "encoder_q.", (r"encoder_q\.fpn_",), c4_method="ReSim-FPN"),
    Layout("moco-v2", "MoCo v2", "encoder_q.", (r"encoder_q\.fc\.2\.weight",)),
    Layout("moco", "MoCo", "encoder_q.", (r"encoder_q\.fc\.weight",)),
    Layout("densecl", "DenseCL", "backbone.", (r"queue2",)),
    Layout("insloc", "InsLoc", "backbone.", (r"backbone_k\.", r"roi_head\."), "mmdetection"),
    Layout("mmdetection", None, "backbone.", (r"(neck\.lateral_convs|roi_head)\.",), "mmdetection"),
    Layout("simclr", "SimCLR", "backbone.", (r"backbone\.fc\.0\.weight",)),
    Layout("detcon-b", "DetCon_B", "network.encoder.", (r"network\.projector\.", r"predictor\."), "numbered"),
    Layout("detcon-s", "DetCon_S", "network.encoder.", (r"network\.projector\.",), "numbered"),
    Layout("byol", "BYOL", "encoder.", (r"proje",), "numbered"),
    Layout("byol-online", "BYOL", "online_network.encoder."),
    Layout("byol-online-encoder", "BYOL", "online_encoder.net."),
    Layout("swav", "SwAV", "", (r"projection_head\.", r"prototypes\.")),
    Layout("torchvision-detector", None, "backbone.body.", (), "torchvision"),
    Layout("detectron2-fpn", None, "backbone.bottom_up.", (), "detectron2"),
    Layout("detectron2-c4", None, "backbone.", (), "detectron2"),
    Layout("detectron2", "Supervised", "", (), "detectron2"),
    Layout("torchvision", "Supervised", "", (r"fc\.weight",)),
    Layout("encoder-q", None, "encoder_q."),
    Layout("encoder", None, "encoder."),
    Layout("encoder-numbered", None, "encoder.", (), "numbered"),
    Layout("backbone", None, "backbone."),
    Layout("backbone-numbered", None, "backbone.", (), "numbered"),
    Layout("vissl", None, "_feature_blocks."),
    Layout("plain", None, ""),
)

CONTAINERS = (
    ("classy_state_dict", "base_model", "model", "trunk"),
    ("online_network_state_dict",),
    ("online_network",),
    ("state_dict",),
    ("model_state",),
    ("model",),
)
ARCHITECTURES: tuple[Detector, ...] = ("fpn", "c4")
LATERAL_CONVOLUTIONS: dict[Style, str] = {
    "torchvision": r"backbone\.fpn\.inner_blocks\.(\d+)\.",
    "mmdetection": r"neck\.lateral_convs\.(\d+)\.",
}
_NUMBERED = {"0": "conv1", "1": "bn1", **{str(3 + number): f"layer{number}" for number in range(1, 5)}}
_RESNET = re.compile(r"(conv1|bn1|layer[1-4]\.\d+\.(conv\d|bn\d|downsample\.[01]))\.\w+")
_BACKBONE = re.compile(r"(stem\.conv1|conv1|bn1|layer\d+|res\d+|[014567])(\.|$)")
"""What no reason excuses: a block that a plain ResNet does not have is not left out in silence."""
_MOMENTUM = "momentum copy of the network; the trained one is taken"
_HEAD = "head of the pretraining: a detector has its own, or none (4.2)"
_REASONS = (
    (re.compile(r"queue"), "queue of negatives: serves the pretraining loss only"),
    (re.compile(r"(\w+_k|target\w*|momentum\w*|teacher\w*|\w+_ema|key_encoder)\."), _MOMENTUM),
    (re.compile(r"encoder_q\.0\."), "the backbone once more, as a part of the query encoder"),
    (re.compile(r"(.*\.)?(fc\d?|classifier|last_linear)\.|stem\.fc\."), "classifier or projection behind the backbone"),
    (re.compile(r"(.*\.)?fpn_(lateral|output)\d"), "a pyramid of other parts than the recipe's FPN"),
    (
        re.compile(r"(.*\.)?(proje|pred|head|mlp|prototypes|value_transform|neck|roi_head|rpn_head|encoder_q\.1)"),
        _HEAD,
    ),
)


def unwrap(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the innermost dictionary that a release wraps its state dict in; keys that are no text are dropped."""
    inner: Mapping[Any, Any] | None = content
    while inner is not None:
        content = inner
        inner = next((found for path in CONTAINERS if (found := _descend(content, path)) is not None), None)
    return {key: value for key, value in content.items() if isinstance(key, str)}


def without_module(keys: Iterable[str]) -> dict[str, str]:
    """Map each key to the same without DistributedDataParallel's ``module.``, where all have it."""
    listed = list(keys)
    wrapped = all(key.startswith("module.") for key in listed)
    return {key: key.removeprefix("module.") if wrapped else key for key in listed}


def detect(shapes: Mapping[str, tuple[int, ...]]) -> Layout | None:
    """Return the layout of a state dict by its keys (without ``module.``) and shapes; None if there is none."""
    return next((layout for layout in LAYOUTS if _fits(layout, shapes)), None)


def _fits(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Tell whether a state dict has a layout's first convolution and all its signs."""
    return layout.first_key in shapes and all(_has(sign, shapes) for sign in layout.signs)


def prefixes(keys: Iterable[str]) -> list[str]:
    """Return the first one or two parts of the keys, each once, sorted."""
    return sorted({".".join(key.split(".")[:2]) if key.count(".") > 1 else key.split(".")[0] for key in keys})


def detectors_of(layout: Layout, keys: Iterable[str]) -> tuple[Detector, ...]:
    """Return the kinds of detector whose names the keys (without ``module.``) may have.

    torchvision and mmdetection count the levels from the lowest: that of RetinaNet and FCOS is C3. The last is always
    C5, which tells them apart.
    """
    lateral = LATERAL_CONVOLUTIONS.get(layout.style)
    numbers = [int(found[1]) for key in keys if lateral and (found := re.match(lateral, key))]
    return ("dense",) if numbers and max(numbers) == LEVELS - 1 - FIRST_DENSE_LEVEL else ARCHITECTURES


def canonical_name(
    layout: Layout, key: str, head_convs: int, detectors: tuple[Detector, ...] = ARCHITECTURES
) -> str | None:
    """Return the canonical name of a key (without ``module.``); None if it is none of backbone, FPN or box head.

    Args:
        layout: of the file.
        key: one of its keys.
        head_convs: convolutions of the box head.
        detectors: what :func:`detectors_of` says of all keys.
    """
    if layout.style == "soco" and re.match(r"(neck|head)\.", key):
        return key
    if layout.target:
        return _of_detector(layout, layout.target, key, head_convs, detectors)
    if not key.startswith(layout.prefix):
        return None
    rest = key.removeprefix(layout.prefix)
    if layout.style == "numbered":
        number, _, behind = rest.partition(".")
        rest = f"{_NUMBERED.get(number, number)}.{behind}"
    return f"encoder.{rest}" if _RESNET.fullmatch(rest) else None


def reason_to_leave_out(layout: Layout, key: str) -> str | None:
    """Return why a key without a canonical name is left out; None if it is a part of the backbone that is unknown."""
    inside = key.startswith(layout.prefix)
    if inside and _BACKBONE.match(key.removeprefix(layout.prefix)):
        return None
    for pattern, reason in _REASONS:
        if pattern.match(key):
            return reason
    return None if inside else "outside of the backbone"


def _of_detector(
    layout: Layout, target: Target, key: str, head_convs: int, detectors: tuple[Detector, ...]
) -> str | None:
    # detectron2's classifiers, which detectors start from, are the body alone.
    name = f"backbone.bottom_up.{key}" if layout.style == "detectron2" and not layout.prefix else key
    for detector in detectors:
        found = to_canonical(name, target, head_convs, detector)
        if found is not None:
            return found
    return None


def _descend(content: Mapping[Any, Any], path: tuple[str, ...]) -> Mapping[Any, Any] | None:
    for step in path:
        inner = content.get(step) if isinstance(content, Mapping) else None
        if not isinstance(inner, Mapping):
            return None
        content = inner
    return content


def _has(sign: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    pattern, _, dimensions = sign.partition(":")
    compiled = re.compile(pattern)
    return any(
        compiled.match(key) and (not dimensions or len(shape) == int(dimensions)) for key, shape in shapes.items()
    )
