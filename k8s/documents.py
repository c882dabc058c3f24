"""Reading manifests: files as they are, and folders as kustomize renders them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from k8s.problems import WITHOUT_NAMESPACE, Document
from soco_core.errors import InputError

KUSTOMIZATION = "kustomization.yaml"
MISSING = "neither kustomize (5 or later) nor kubectl (1.27 or later) is installed"


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which the last one would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_documents(path: Path) -> list[Document]:
    """Read all documents of a YAML file.

    Raises:
        InputError: it cannot be read, or is no YAML of objects.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_documents(text, str(path))


def parse_documents(text: str, source: str) -> list[Document]:
    """Parse YAML documents.

    Args:
        text: of any number of documents; empty ones do not count.
        source: what to call it in an error.

    Raises:
        InputError: it is no YAML, or a document is no mapping.
    """
    try:
        found = [each for each in yaml.load_all(text, Loader=_Loader) if each is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    for number, document in enumerate(found, 1):
        if not isinstance(document, dict):
            raise InputError(f"{source}: document {number} is {type(document).__name__}; it must be an object")
    return found


def kustomize() -> list[str] | None:
    """Return the command that renders a folder, or None if this machine has none."""
    for name, command in (("kustomize", ["build"]), ("kubectl", ["kustomize"])):
        found = shutil.which(name)
        if found:
            return [found, *command]
    return None


def render(folder: Path) -> list[Document]:
    """Return what kustomize makes of a folder.

    Raises:
        InputError: kustomize is missing, or refuses the folder.
    """
    command = kustomize()
    if command is None:
        raise InputError(f"{folder}: {MISSING}")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise InputError(f"{folder}: kustomize refuses it: {lines[-1]}")
    # Warnings are of fields that the next version drops.
    if "deprecated" in done.stderr:
        raise InputError(f"{folder}: kustomize: {done.stderr.strip().splitlines()[0]}")
    return parse_documents(done.stdout, str(folder))


def unrendered(folder: Path) -> list[Document]:
    """Return the objects in a folder's own files, with the folder's namespace, where nothing can render them.

    Raises:
        InputError: a file cannot be read.
    """
    kustomization = read_documents(folder / KUSTOMIZATION)[0]
    files = [folder / name for name in kustomization.get("resources", []) if name.endswith(".yaml")]
    documents = [document for file in files for document in read_documents(file)]
    for document in documents:
        if document.get("kind") not in WITHOUT_NAMESPACE and "namespace" in kustomization:
            document.setdefault("metadata", {}).setdefault("namespace", kustomization["namespace"])
    return documents
