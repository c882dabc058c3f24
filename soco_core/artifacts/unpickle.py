"""Weights that others publish, read without running code from them.

A pickle is a program: it names functions and calls them. torch's own protection (``weights_only``) comes first; what
that does not take, NumPy's values and the protocols of other programs, goes through
:class:`soco_core.artifacts.restricted.RestrictedUnpickler`.
"""

from __future__ import annotations

import pickle
import re
import tarfile
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import IO, Any

from soco_core.artifacts.restricted import RefusedError, RestrictedUnpickler
from soco_core.errors import InputError

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""What torch.save begins a file of its old format with."""
_REMEDY = (
    "nothing of the file was run; if you trust its author, load it where it was written and save its state dict alone, "
    "as .safetensors"
)


def load_foreign(path: str | Path) -> dict[Any, Any]:
    """Read weights that another program wrote; nothing in the file is run.

    Takes what ``torch.save`` writes (zip files, and its old format), with NumPy values and an ``argparse.Namespace``
    in it if need be, and plain pickles of any protocol, those of Python 2 too, such as detectron2's ``.pkl``.

    Returns:
        The mapping that the file holds, as it is: tensors on the CPU, NumPy arrays as NumPy arrays.

    Raises:
        InputError: the file is missing, damaged, holds no mapping, names what is not admitted, or declares more than
            it holds. One line with the file, what was refused and the remedy.
    """
    path = Path(path)
    try:
        content = _load_zip(path) if zipfile.is_zipfile(path) else _load_pickle(path)
    except RefusedError as error:
        raise InputError(f"{path}: {error}; {_REMEDY}") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise InputError(
            f"{path}: not readable as PyTorch weights ({_cause(error)}); give another file, or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a state dict; give a file of weights")
    return content


class RestrictedPickle:
    """What torch.load uses of the module ``pickle``, for its argument `pickle_module`."""

    Unpickler = RestrictedUnpickler
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> Any:
        """Read one pickle."""
        return RestrictedUnpickler(file).load()


def _load_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    # torch.save compresses nothing, and no two entries share their bytes.
    declared, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if declared > size:
        raise RefusedError(f"declares {declared} bytes in a file of {size}")
    if any(entry.filename.rpartition("/")[2] == "constants.pkl" for entry in entries):
        raise RefusedError("holds a TorchScript program, not weights")  # torch.load would run it
    return _load_torch(path)


def _load_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        if tarfile.is_tarfile(file):
            raise RefusedError("is a tar file, not weights")  # torch.load would unpack it
        file.seek(0)
        first = RestrictedUnpickler(file).load()
    # torch's old format is several pickles, the first of which is a number, and then the storages.
    return _load_torch(path) if type(first) is int and first == TORCH_MAGIC else first


def _load_torch(path: Path) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of protocols that it may not know
        try:
            with torch.serialization.safe_globals([Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # Without weights_only torch unpickles by the module that it is given: the restricted one.
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=RestrictedPickle)


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # torch goes on to advise loading it without this protection.
    line = re.split(r"\.\s|\n", str(error).strip())[0]
    return " ".join(line.split())[:200] or type(error).__name__
