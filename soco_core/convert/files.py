"""The files of the exports, each in the form that its framework reads."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from soco_core.storage import atomic_file

if TYPE_CHECKING:
    import torch

    from soco_core.convert.export import Export

PROTOCOL = 2
# NumPy 2 names its own builder by a module that NumPy 1 lacks; both read the older name.
_BUILDER = b"cnumpy._core.multiarray\n_reconstruct\n"
_OLDER_BUILDER = b"cnumpy.core.multiarray\n_reconstruct\n"


def file_names(export: Export) -> list[str]:
    """Names of an export's files; of detectron2 the pickle of the authors' workflow too."""
    names = [f"{export.name}.pth"]
    return [*names, f"{export.name}.pkl"] if export.target == "detectron2" and export.detector != "dense" else names


def write_export(folder: Path, export: Export, tensors: dict[str, torch.Tensor]) -> None:
    """Write the files of :func:`file_names`, atomically.

    torchvision gets a state dict, detectron2 ``{"model": state dict}``, mmdetection ``{"state_dict": state dict}``.
    """
    import torch

    inside = {"torchvision": None, "detectron2": "model", "mmdetection": "state_dict"}[export.target]
    for name in file_names(export):
        with atomic_file(folder / name) as file:
            if name.endswith(".pkl"):
                file.write(detectron2_pickle(tensors))
            else:
                torch.save(tensors if inside is None else {inside: tensors}, file)


def detectron2_pickle(tensors: dict[str, torch.Tensor]) -> bytes:
    """Return detectron2's own format: NumPy arrays, an author, and that names are to be matched by their ends.

    Without an author detectron2 takes a pickle for Caffe2's. Protocol 2, and no name that NumPy 1 does not know.
    """
    arrays = {key: value.detach().cpu().contiguous().numpy() for key, value in tensors.items()}
    data = pickle.dumps({"model": arrays, "__author__": "soco", "matching_heuristics": True}, PROTOCOL)
    # The name stands once, before the first array's bytes; further arrays refer to it.
    return data.replace(_BUILDER, _OLDER_BUILDER, 1)
