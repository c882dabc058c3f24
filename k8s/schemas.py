"""Strict schemas: the training operator's CRD for a PyTorchJob, `kubernetes-validate` for what is Kubernetes' own."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

from k8s.problems import Document, Finding, joined, mapping

KUBERNETES = "1.29"
"""Oldest version that the manifests are for; what they use has not changed since."""
OPERATOR_GROUP = "kubeflow.org/"
ROOT = Path(__file__).resolve().parents[1]
CRD_FILE = "kubeflow.org_pytorchjobs.yaml"


def crd_path() -> Path | None:
    """Return the operator's CRD, or None if it is not here.

    It lies beside a checkout and is not part of it; SOCO_CRDS names another folder.
    """
    path = Path(os.environ.get("SOCO_CRDS") or ROOT.parent / "shared" / "crds") / CRD_FILE
    return path if path.is_file() else None


def schema_findings(document: Document) -> Iterator[Finding]:
    """Yield what a document's schema has against it; nothing if it may go to a cluster as far as that knows."""
    if document.get("apiVersion") == f"{OPERATOR_GROUP}v1" and document.get("kind") == "PyTorchJob":
        yield from _job_findings(document)
    else:
        yield from _core_findings(document)


def _job_findings(document: Document) -> Iterator[Finding]:
    said: set[str] = set()
    path = crd_path()
    if path is not None:
        import jsonschema

        validator = jsonschema.Draft202012Validator(_strict_crd(path))
        for error in sorted(validator.iter_errors(document), key=lambda each: [str(part) for part in each.path]):
            for finding in _explained(error, document):
                said.add(finding[0])
                yield finding
    # The CRD says nothing of what stands in metadata, neither the job's nor a pod's.
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document.get("metadata")}
    yield from (each for each in _core_findings(metadata) if each[0] not in said)
    roles = mapping(mapping(document.get("spec")).get("pytorchReplicaSpecs"))
    for role, replica in roles.items():
        template = mapping(mapping(replica).get("template"))
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **template}
        for field, message in _core_findings(pod):
            field = f"spec.pytorchReplicaSpecs.{role}.template.{field}".removesuffix(".")  # noqa: PLW2901
            if field not in said:
                yield field, message


def _core_findings(document: Document) -> Iterator[Finding]:
    import kubernetes_validate

    if not isinstance(document.get("apiVersion"), str) or not isinstance(document.get("kind"), str):
        yield "kind", "apiVersion and kind must be given"
        return
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield from _explained(error, document)
    except kubernetes_validate.SchemaNotFoundError:
        yield "kind", f"Kubernetes {KUBERNETES} knows no {document['kind']} of {document['apiVersion']}"


def _explained(error: Any, document: Document) -> Iterator[Finding]:
    """Say what a schema's error means, by the field that is wrong."""
    path = _path(error.absolute_path, document)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        for name in sorted(error.instance.keys() - set(known)):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else f"; there are {joined(known)}"
            yield f"{path}.{name}".removeprefix("."), f"unknown field{hint}"
    elif error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        yield f"{path}.{missing[0]}".removeprefix("."), "missing"
    elif error.validator == "type":
        wanted = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
        kinds = " or ".join(kind for kind in wanted if kind != "null")
        quote = (
            '; write it in quotes ("...")' if kinds == "string" and not isinstance(error.instance, dict | list) else ""
        )
        yield path, f"must be of type {kinds}, not {type(error.instance).__name__} ({error.instance!r}){quote}"
    else:
        yield path, error.message


def _path(keys: Iterable[str | int], document: Document) -> str:
    """Write the path of a field; entries of lists by their names."""
    path, value = "", cast(Any, document)
    for key in keys:
        value = value[key]
        path += f"[{mapping(value).get('name', key)}]" if isinstance(key, int) else f".{key}"
    return path.removeprefix(".")


@cache
def _strict_crd(path: Path) -> dict[str, Any]:
    crd = yaml.safe_load(path.read_text(encoding="utf-8"))
    version = next(each for each in crd["spec"]["versions"] if each["name"] == "v1")
    schema: dict[str, Any] = deepcopy(version["schema"]["openAPIV3Schema"])
    _make_strict(schema)
    return schema


def _make_strict(schema: dict[str, Any]) -> None:
    """Refuse what is not listed, which a cluster drops without a word."""
    if schema.pop("x-kubernetes-int-or-string", False):
        schema["type"] = ["integer", "string"]
        schema.pop("anyOf", None)
        # Quantities; the lint says in plain words what is wrong with one.
        schema.pop("pattern", None)
    properties = schema.get("properties")
    if properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for inner in [*(properties or {}).values(), schema.get("items"), schema.get("additionalProperties")]:
        if isinstance(inner, dict):
            _make_strict(inner)
