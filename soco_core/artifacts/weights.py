"""Canonical weights: safetensors with soco's own names, and the coverage report of an export.

Names (docs/artifacts.md): ``encoder.*`` (a torchvision ResNet without its classifier),
``neck.lateral_convs.i.{conv,bn}.*`` and ``neck.fpn_convs.i.{conv,bn}.*`` for P(i+2),
``head.conv{1..}``, ``head.bn{1..}``, ``head.fc1``. Weights of SoCo-C4 have ``encoder.*`` alone, its ``layer4`` being
the detector's head (res5); those of a reduced row of Table 4 have what it pretrains (docs/ablations.md).
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from soco_core.errors import InputError
from soco_core.storage import atomic_file, write_text

if TYPE_CHECKING:
    import torch

PRETRAINED = "pretrained.safetensors"
"""What `pretrain` hands on: the online network, projector and predictor included."""
CANONICAL = "canonical.safetensors"
"""What `convert` hands on: the parts that a detector takes over."""

LENGTH = struct.Struct("<Q")
"""How a file of safetensors begins: with the length of its header, which is JSON."""
METADATA = "__metadata__"
ALIGNMENT = 8
"""Tensors begin at a multiple of this many bytes; spaces fill the header up."""


@dataclass
class Coverage:
    """What became of every key: nothing is lost without a reason."""

    target: str
    """Format of the export, such as ``torchvision``."""
    loaded: dict[str, str] = field(default_factory=dict)
    """Canonical key -> key in the target."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Canonical (or pretraining) key -> why the target has no use for it."""
    newly_initialised: dict[str, str] = field(default_factory=dict)
    """Key of the target -> why no pretrained weight exists for it."""

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")


def save_weights(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write weights as safetensors, atomically; the same ones give the same bytes.

    Args:
        path: the file.
        tensors: on any device, in any layout.
        metadata: stored in the file's header.
    """
    from safetensors.torch import save

    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    content = memoryview(save(contiguous, metadata))
    (length,) = LENGTH.unpack_from(content)
    header = json.loads(bytes(content[LENGTH.size : LENGTH.size + length]))
    # The library writes several entries of the metadata in any order, another one each time.
    ordered = json.dumps(header | ({METADATA: metadata} if metadata else {}), ensure_ascii=False, separators=(",", ":"))
    encoded = ordered.encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    with atomic_file(path) as file:
        file.write(LENGTH.pack(len(encoded)))
        file.write(encoded)
        file.write(content[LENGTH.size + length :])


def load_canonical(path: str | Path) -> dict[str, torch.Tensor]:
    """Read canonical weights.

    Raises:
        InputError: the file is missing or is not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: not readable as safetensors ({error}); copy it again") from error
