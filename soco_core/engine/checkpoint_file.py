"""One checkpoint on disk: plain types and tensors, whole and verified before it has its name."""

from __future__ import annotations

import errno
import os
import re
import zipfile
from pathlib import Path
from typing import Any

from soco_core.errors import InputError, SocoError
from soco_core.storage import atomic_file

PASSING = {
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
}
"""What a volume or machine answers that is unwell: the file may be whole."""


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state, read it back from the disk, and only then give it its name.

    Raises:
        OSError: the disk is full, or did not keep what was written.
    """
    import torch

    with atomic_file(path) as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # read what the disk has, not what the memory still holds
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        damaged = _damaged(Path(file.name))
        if damaged is not None:
            raise OSError(errno.EIO, f"{damaged} does not read back as it was written", str(path))


def copy_to_cpu(value: Any) -> Any:
    """Return a copy of a state that training on does not change; its tensors are on the CPU."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copy_to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copy_to_cpu(item) for item in value)
    return value


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it; tensors come to the CPU.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors and plain types.
        SocoError: it cannot be read now, which says nothing of what is in it.
    """
    import torch

    try:
        # torch does not look at the checksums that it writes: a flipped bit would become a weight.
        damaged = _damaged(Path(path)) if zipfile.is_zipfile(path) else None
        if damaged is not None:
            raise InputError(f"{path}: not a readable checkpoint (its checksum of {damaged} does not fit)")
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except InputError:
        raise
    except MemoryError as error:
        raise SocoError(f"{path}: memory ran out while it was read; nothing is begun anew, give it more") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        trouble = disk_trouble(error)
        if trouble is not None and trouble.errno in PASSING:
            raise SocoError(
                f"{path}: cannot be read now ({trouble.strerror}); nothing is begun anew, run the same command once it "
                "can be"
            ) from error
        raise InputError(f"{path}: not a readable checkpoint ({_cause(error)})") from error


def disk_trouble(error: BaseException) -> OSError | None:
    """Return the error of the disk behind an error; torch.save hides it behind one of its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _damaged(path: Path) -> str | None:
    """Return the first part of the file whose checksum does not fit, or None."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _cause(error: Exception) -> str:
    refused = re.search(r"unsupported GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds {refused[1]}, which is neither a tensor nor a plain type"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if "Weights only load failed" in str(error):  # torch goes on to advise loading it without this protection
        return "cut short, or not written by torch.save"
    return next(iter(str(error).splitlines()), "") or type(error).__name__
