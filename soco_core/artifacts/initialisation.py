"""Where a benchmark starts from: nothing, a weights file, or the result of a conversion or an import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core.artifacts.fingerprint import file_sha256
from soco_core.artifacts.result import open_result
from soco_core.artifacts.unpickle import load_foreign
from soco_core.artifacts.weights import CANONICAL, load_canonical
from soco_core.errors import InputError
from soco_core.storage import exists, is_s3, local_copy

if TYPE_CHECKING:
    from torch import Tensor

SCRATCH = "scratch"
CONVERTED, IMPORTED = "convert", "import"
CAFFE2_KEY = "conv1_w"
MODEL_ZOO = "Detectron2 Model Zoo"
_BGR = (
    "trained on BGR images of another scale, with the stride in the first 1x1 convolution; the recipe's model has RGB "
    "images, torchvision's mean and deviation and the stride in the 3x3 convolution, and would compute something else "
    "from the same numbers"
)


@dataclass(frozen=True)
class Initialisation:
    """What a finetuning or an evaluation starts from."""

    method: str
    """Default row of the table."""
    description: str
    """For people; says ``imported`` of other methods' weights."""
    fingerprint: str
    """What determines the weights."""
    path: Path | None
    """The weights file; None for scratch."""


def find_initialisation(init: str, export: str = CANONICAL) -> Initialisation:
    """Look up ``scratch``, a weights file, or a `convert` or `import` result; both may be on a disk or on S3.

    Args:
        init: which.
        export: the file of a `convert` result that is wanted.

    Raises:
        InputError: there is no such thing.
    """
    if init == SCRATCH:
        return Initialisation("Scratch", SCRATCH, SCRATCH, None)
    stored = is_s3(init) and exists(init)
    if not stored and (is_s3(init) or Path(init).is_dir()):
        found = open_result(init)
        if found.stage == IMPORTED:
            method, file = str(found.summary["method"]), str(found.summary["file"])
            text = f"{file}, imported as {found.fingerprint}"
            return Initialisation(method, text, found.fingerprint, found.path / CANONICAL)
        if found.stage != CONVERTED:
            raise InputError(
                f"{found.uri}: a result of `{found.stage}`, but one of `{CONVERTED}` or `{IMPORTED}` is needed"
            )
        # Of imported weights that were exported too, the summary names the method.
        other = found.summary.get("method")
        text = f"{'imported' if other else 'converted'} weights {found.fingerprint}"
        return Initialisation(str(other or "SoCo"), text, found.fingerprint, found.path / export)
    path = local_copy(init) if stored else Path(init)
    if not path.is_file():
        raise InputError(
            f"--init {init}: no such file or folder; give `scratch`, a weights file (.pth, .pt, .pkl, .safetensors) or "
            "the directory of a result of `soco convert` or `soco import`"
        )
    digest = file_sha256(path)
    return Initialisation("Supervised", f"{path.name} (sha256 {digest[:12]})", digest, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict, also one that lies under ``state_dict`` or ``model``; nothing in the file is run.

    Raises:
        InputError: it cannot be read, or holds no tensors; see :func:`refuse_bgr`.
    """
    import numpy as np
    import torch

    if path.suffix == ".safetensors":
        return load_canonical(path)
    content: Any = load_foreign(path)
    refuse_bgr(path, content)
    for inner in ("state_dict", "model"):
        if isinstance(content.get(inner), dict):
            content = content[inner]
    arrays = {key: torch.tensor(value) for key, value in content.items() if isinstance(value, np.ndarray)}
    tensors = arrays | {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no tensors; a state dict is needed")
    return tensors


def refuse_bgr(path: Path, content: Mapping[Any, Any]) -> None:
    """Refuse Caffe2's ResNets (detectron2's ``MSRA/R-50.pkl``) and detectors of detectron2's model zoo.

    Args:
        path: the file, for the error.
        content: what it holds.

    Raises:
        InputError: it is one of them.
    """
    blobs = content.get("blobs", content)
    if isinstance(blobs, Mapping) and CAFFE2_KEY in blobs:
        raise InputError(
            f"{path}: a ResNet of Caffe2 (it has {CAFFE2_KEY}), {_BGR}; give detectron2's "
            "ImageNetPretrained/torchvision/R-50.pkl, or torchvision's own"
        )
    if content.get("__author__") == MODEL_ZOO:
        raise InputError(f"{path}: a detector of detectron2's model zoo, {_BGR}; give weights of a classifier")
