"""All checks over documents of Kubernetes: strict schemas first, then what these miss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from k8s.jobs import job_findings
from k8s.pods import PASSWORD_IN_URI, pod_findings, quantity
from k8s.problems import Document, Finding, Problem, mapping, named, subject
from k8s.schemas import schema_findings
from k8s.together import World, templates
from soco_core.launch.settings import SECRET_WORDS

RESTARTS = {
    "Deployment": ("Always",),
    "StatefulSet": ("Always",),
    "DaemonSet": ("Always",),
    "Job": ("Never", "OnFailure"),
}


def check_documents(
    documents: Sequence[Document], source: str, beside: Sequence[Document] | None = None
) -> list[Problem]:
    """Check documents as a cluster, and who runs it, would.

    Args:
        documents: what would be applied together, as read from YAML or built by the launcher.
        source: what to call them: a file.
        beside: what is in the cluster already. Names of claims, accounts and so on must be there or among the
            documents; None if that is not known, so that any name will do.

    Returns:
        The problems, by document and field; empty if there is none. An object that its schema refuses is looked at no
        further.
    """
    world = World(documents, beside)
    problems = []
    for document in documents:
        findings = list(schema_findings(document)) or list(_lint(document, world))
        problems += [Problem(source, subject(document), *finding) for finding in dict.fromkeys(findings)]
    return problems


def _lint(document: Document, world: World) -> Iterator[Finding]:
    kind, spec = document.get("kind"), mapping(document.get("spec"))
    yield from _plain_secrets(document)
    if kind == "PyTorchJob":
        yield from job_findings(document)
    made = frozenset(
        str(mapping(claim.get("metadata")).get("name")) for claim in spec.get("volumeClaimTemplates") or []
    )
    for path, template in templates(document):
        yield from pod_findings(template, path, made)
        policy = mapping(template.get("spec")).get("restartPolicy")
        allowed = RESTARTS.get(str(kind), ())
        if allowed and (policy or "Always") not in allowed:
            yield f"{path}spec.restartPolicy", f"must be {' or '.join(allowed)} in a {kind}, not {policy or 'missing'}"
    claims: list[tuple[str, Any]] = [("spec", spec)] if kind == "PersistentVolumeClaim" else []
    claims += [
        (f"{path}.spec", each.get("spec"))
        for path, each in named(spec.get("volumeClaimTemplates"), "spec.volumeClaimTemplates")
    ]
    for path, claim in claims:
        size = mapping(mapping(mapping(claim).get("resources")).get("requests")).get("storage")
        if quantity(size) is None:
            yield f"{path}.resources.requests.storage", f"{size!r} is no quantity; write one such as 100Gi"
    yield from world.findings(document)


def _plain_secrets(document: Document) -> Iterator[Finding]:
    if document.get("kind") == "Secret":
        for field in ("data", "stringData"):
            if document.get(field):
                yield field, "a secret in a file; make it by `kubectl create secret` (k8s/README.md)"
    if document.get("kind") == "ConfigMap":
        for name, value in mapping(document.get("data")).items():
            if any(word in name.upper() for word in SECRET_WORDS) or PASSWORD_IN_URI.search(str(value)):
                yield f"data.{name}", "looks like a secret; put it into a Secret"
