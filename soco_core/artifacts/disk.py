"""What the user is told when a disk is full or may not be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soco_core.errors import InputError, InterruptedStageError, ResultLockedError, SocoError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def why_not_written(path: Path, error: OSError) -> str:
    """Say why a local path cannot be written: what is in its way, if something is."""
    above = next((place for place in path.parents if place.exists()), None)
    return f"{above} is a file" if above is not None and above.is_file() else error.strerror or str(error)


@contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Turn an error of the disk below `path` into one line that names the place and the remedy.

    Args:
        what: what is being done, such as ``proposals``; the line begins with it.
        path: the local folder that is written to.

    Raises:
        SocoError: the disk (or quota) is full.
        InputError: this user may not write there, or the file system is read-only.
    """
    try:
        yield
    except (ResultLockedError, InterruptedStageError):
        raise
    except Exception as error:
        cause: BaseException | None = error
        # torch.save and the lock hide it behind an error of their own.
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in FULL:
                raise SocoError(
                    f"{what}: no space is left for {path}; free some and run the same command again, "
                    "it goes on from what is kept"
                ) from error
            if isinstance(cause, OSError) and cause.errno in REFUSED and _concerns(cause, path):
                raise InputError(
                    f"{what}: cannot write {_place(cause, path)} ({os.strerror(cause.errno)}); make it writable for "
                    "this user, or give another --output (SOCO_SCRATCH if that is on S3)"
                ) from error
            cause = cause.__cause__ or cause.__context__
        raise


def _concerns(error: OSError, path: Path) -> bool:
    """Tell whether what was refused is `path`, or below it, or above it; an input elsewhere is another matter."""
    if not isinstance(error.filename, str | os.PathLike):
        return error.filename is None
    refused = Path(os.path.abspath(error.filename))
    whole = Path(os.path.abspath(path))
    return refused.is_relative_to(whole) or whole.is_relative_to(refused)


def _place(error: OSError, path: Path) -> str:
    """Return the file that was refused, or the folder in which it could not be made."""
    refused = Path(error.filename) if error.filename is not None else path
    return str(refused if os.path.exists(refused) else refused.parent)
