"""What a check says: one line that names the file, the object, the field and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
Finding = tuple[str, str]
"""A field's path within its object, and what is wrong with it."""

WITHOUT_NAMESPACE = frozenset({"Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass", "StorageClass"})


@dataclass(frozen=True)
class Problem:
    """Something that a cluster would refuse, or that would go wrong there."""

    source: str
    """The file, or what made the document."""
    subject: str
    """The object: ``PyTorchJob/soco-pretrain``."""
    field: str
    """Path of the field; containers and volumes by their names."""
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.subject}: {self.field}: {self.message}"


def subject(document: Document) -> str:
    """Name an object."""
    name = mapping(document.get("metadata")).get("name")
    return f"{document.get('kind', '(no kind)')}/{name or '(no name)'}"


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping, empty where there is none: what it should be is the schema's affair."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings of a list, likewise."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def named(value: object, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the entries of a list with their paths, by name where they have one."""
    for number, item in enumerate(mappings(value)):
        yield f"{path}[{item.get('name', number)}]", item


def joined(names: Iterable[object]) -> str:
    """Write names as in a sentence; `none` for no name."""
    return ", ".join(sorted(str(name) for name in names)) or "none"
