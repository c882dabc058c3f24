"""The images of the stages: what docker/build.py built, recorded where the pipelines look for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from components import IMAGE
from soco_core.errors import InputError
from soco_core.storage import write_text

RECORD = Path(__file__).with_name("images.json")
"""Not in the repository: each site has its own images."""


@dataclass(frozen=True)
class BuiltImage:
    """One image that docker/build.py built."""

    tag: str
    """``REGISTRY/soco:VERSION``."""
    id: str
    """``sha256:...`` of its configuration: what the Docker engine knows it by."""
    digest: str = ""
    """``REGISTRY/soco@sha256:...``: what a cluster pulls, and nothing else than it; empty: not pushed."""

    @property
    def reference(self) -> str:
        """What names it best: the digest if there is one, else the tag."""
        return self.digest or self.tag


def default_image(target: str = "cpu", record: Path | None = None) -> str:
    """Return the image of a target that was built last: its digest, or its tag if it was not pushed.

    Args:
        target: ``cpu`` or ``cuda``.
        record: the file; by default :data:`RECORD`.

    Returns:
        A reference of an image; :data:`components.IMAGE` if none was built.

    Raises:
        InputError: the file is damaged.
    """
    built = read_images(record).get(target)
    return built.reference if built else IMAGE


def read_images(record: Path | None = None) -> dict[str, BuiltImage]:
    """Read what was built: target -> image; empty if nothing was.

    Raises:
        InputError: the file is damaged.
    """
    path = record or RECORD
    try:
        return {target: BuiltImage(**image) for target, image in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); remove it and run docker/build.py again") from error


def record_image(target: str, image: BuiltImage, record: Path | None = None) -> Path:
    """Write down the image of a target, in place of its former one; return the file.

    Raises:
        InputError: the file is damaged.
    """
    path = record or RECORD
    images = {**read_images(path), target: image}
    write_text(path, json.dumps({name: asdict(each) for name, each in sorted(images.items())}, indent=2) + "\n")
    return path
