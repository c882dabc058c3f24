"""Where the backbone comes from: nothing, a weights file, or a `convert` or `import` result (paper B)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core.artifacts.fingerprint import file_sha256
from soco_core.artifacts.result import open_result
from soco_core.artifacts.unpickle import load_foreign
from soco_core.artifacts.weight_names import Detector, Target, to_canonical
from soco_core.artifacts.weights import CANONICAL, Coverage, load_canonical
from soco_core.errors import InputError
from soco_core.storage import is_s3

if TYPE_CHECKING:
    from torch import Tensor, nn

SCRATCH = "scratch"
IMPORTED, CONVERTED = "import", "convert"
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


@dataclass(frozen=True)
class Origin:
    """What an evaluation starts from."""

    method: str
    """Default row of the table."""
    description: str
    """For people."""
    fingerprint: str
    """What determines the weights."""
    path: Path | None
    """The weights file; None for scratch."""


def find_origin(init: str) -> Origin:
    """Look up ``scratch``, a weights file, or the directory or URI of a `convert` or `import` result.

    Raises:
        InputError: there is no such thing.
    """
    if init == SCRATCH:
        return Origin("Scratch", SCRATCH, SCRATCH, None)
    if is_s3(init) or Path(init).is_dir():
        found = open_result(init)
        if found.stage == IMPORTED:
            method, file = str(found.summary["method"]), str(found.summary["file"])
            text = f"{file}, imported as {found.fingerprint}"
            return Origin(method, text, found.fingerprint, found.path / CANONICAL)
        if found.stage == CONVERTED:
            return Origin("SoCo", f"converted weights {found.fingerprint}", found.fingerprint, found.path / CANONICAL)
        raise InputError(f"{found.uri}: a result of `{found.stage}`, but one of `convert` or `import` is needed")
    path = Path(init)
    if not path.is_file():
        raise InputError(
            f"--init {init}: no such file or folder; give `scratch`, a weights file (.pth, .pt, .pkl, .safetensors) or "
            "the directory of a result of `soco convert` or `soco import`"
        )
    digest = file_sha256(path)
    return Origin("Supervised", f"{path.name} (sha256 {digest[:12]})", digest, path)


def load_backbone(encoder: nn.Module, origin: Origin) -> Coverage:
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
    for key, value in _read(origin.path).items():
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


def _read(path: Path) -> dict[str, Tensor]:
    import numpy as np
    import torch

    if path.suffix == ".safetensors":
        return load_canonical(path)
    content: Any = load_foreign(path)
    for inner in ("state_dict", "model"):
        if isinstance(content.get(inner), dict):
            content = content[inner]
    arrays = {key: torch.tensor(value) for key, value in content.items() if isinstance(value, np.ndarray)}
    tensors = arrays | {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no tensors; a state dict is needed")
    return tensors
