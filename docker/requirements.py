"""Divide what soco requires into the layers of the image: requirements.py PYPROJECT CONSTRAINTS FOLDER.

Writes ``torch/`` and ``packages/``, each with requirements.txt and constraints.txt, and ``packages/executor.txt``. The
constraints of PyTorch's layer are those of its own requirements: another package's new version leaves the layer alone.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

TORCH = {"torch", "torchvision"}
OF_TORCH = {
    "filelock",
    "fsspec",
    "jinja2",
    "markupsafe",
    "mpmath",
    "networkx",
    "numpy",
    "pillow",
    "setuptools",
    "sympy",
    "typing-extensions",
}
"""What torch and torchvision require, but for the CUDA libraries, which have one version each."""
EXTRAS = ("cluster",)
"""What pods need beside the stages' own requirements."""


def main(pyproject: Path, constraints: Path, folder: Path) -> None:
    """Read both files and write the folder."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    pinned = [line for line in constraints.read_text().splitlines() if line and not line.startswith("#")]
    # Exact pins of soco's own constrain PyTorch's layer too: both layers must want the same numpy.
    of_torch = sorted({line for line in (*wanted, *pinned) if _name(line) in OF_TORCH}, key=str.lower)
    _write(folder / "torch", [line for line in wanted if _name(line) in TORCH], of_torch)
    _write(folder / "packages", wanted, pinned)
    executor = [line for line in extras["pipelines"] if _name(line) == "kfp"]
    (folder / "packages" / "executor.txt").write_text("\n".join(executor) + "\n")


def _name(line: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0]).lower()


def _write(folder: Path, requirements: list[str], constraints: list[str]) -> None:
    folder.mkdir(parents=True)
    (folder / "requirements.txt").write_text("\n".join(requirements) + "\n")
    (folder / "constraints.txt").write_text("\n".join(constraints) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
