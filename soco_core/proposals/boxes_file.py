"""The file of boxes that `import` reads: what identifies it, and its converted copy among the work files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from soco_core import storage
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.errors import InputError
from soco_core.proposals.boxes_stream import open_boxes

if TYPE_CHECKING:
    from soco_core.proposals.plan import Work

IMPORTED = "imported.arrow"


def boxes_file_sha256(uri: str) -> str:
    """Return the SHA-256 of the recipe's boxes_file.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    try:
        with open_boxes(uri, quiet=True) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"proposals.boxes_file {uri}: {error.strerror}; give the JSON file of the boxes") from error
    except InputError as error:
        raise InputError(f"proposals.boxes_file {error}") from error


def imported_boxes(work: Work, recipe: Recipe) -> Path:
    """Return the converted boxes_file of a result, which is made and published once, for all shards.

    Raises:
        InputError: the file is not what it should be, or changed meanwhile, or has no box of any image of the set.
    """
    from soco_core.proposals.imported import check_keys, convert_boxes_file

    given = recipe.proposals.boxes_file
    path = work.folder / IMPORTED
    uri = storage.join(work.folder_uri, IMPORTED)
    if storage.is_s3(uri) and not path.exists() and storage.exists(uri):
        storage.download(uri, path)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden until it is known to be right, in a folder of its own: several shards may begin at once.
    with TemporaryDirectory(dir=path.parent, prefix=f".{IMPORTED}.") as folder:
        converted = Path(folder, IMPORTED)
        convert_boxes_file(given, converted)
        if boxes_file_sha256(given) != work.boxes_file:
            raise InputError(
                f"proposals.boxes_file {given}: changed since it was first read; run the same command again"
            )
        ids = work.ids().to_pylist()
        without = check_keys(converted, ids)
        converted.replace(path)
    if without:
        say(
            f"proposals: {without} of {len(ids)} images have no box in {given}; such an image gets one, the whole of it"
        )
    work.result.publish(path)
    return path
