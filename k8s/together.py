"""What schemas miss between objects: names that must be there, selectors that must find something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from k8s.jobs import pods_of
from k8s.problems import WITHOUT_NAMESPACE, Document, Finding, joined, mapping, mappings, named

KUBEFLOWS_ACCOUNTS = frozenset({"default", "default-editor", "default-viewer", "pipeline-runner"})
"""Service accounts that Kubernetes and Kubeflow make."""
RBAC = "rbac.authorization.k8s.io"
WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "Job"})


def templates(document: Document) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the pods of a document, each with its path (a dot at the end)."""
    kind, spec = document.get("kind"), mapping(document.get("spec"))
    if kind == "Pod":
        yield "", document
    elif kind in WORKLOADS:
        yield "spec.template.", mapping(spec.get("template"))
    elif kind == "CronJob":
        inner = mapping(mapping(spec.get("jobTemplate")).get("spec"))
        yield "spec.jobTemplate.spec.template.", mapping(inner.get("template"))
    elif kind == "PyTorchJob":
        for role, replica in mapping(spec.get("pytorchReplicaSpecs")).items():
            yield f"spec.pytorchReplicaSpecs.{role}.template.", mapping(mapping(replica).get("template"))


class World:
    """All objects that a document may name.

    Args:
        documents: those that are checked.
        beside: those that are there already; None: anything may be.
    """

    def __init__(self, documents: Sequence[Document], beside: Sequence[Document] | None) -> None:
        self.closed = beside is not None
        self.documents = [*documents, *(beside or [])]
        self.own = documents

    def names(self, kind: str) -> set[str]:
        """Names of the objects of a kind."""
        return {_name(document) for document in self.documents if document.get("kind") == kind}

    def findings(self, document: Document) -> Iterator[Finding]:
        """Yield what one document has wrong about others."""
        yield from self._identity(document)
        yield from self._selectors(document)
        yield from self._rights(document)
        for path, template in templates(document):
            yield from self._references(document, mapping(template.get("spec")), f"{path}spec")

    def _identity(self, document: Document) -> Iterator[Finding]:
        kind, namespace = document.get("kind"), _namespace(document)
        alike = [_key(other) for other in self.own].count(_key(document))
        if alike > 1:
            yield "metadata.name", f"{alike} objects have this kind and name"
        spaces = self.names("Namespace")
        if kind not in WITHOUT_NAMESPACE and spaces and namespace not in spaces:
            shown = namespace or "missing"
            yield "metadata.namespace", f"must be {joined(spaces)}, as the Namespace is called, not {shown}"

    def _selectors(self, document: Document) -> Iterator[Finding]:
        kind, spec = document.get("kind"), mapping(document.get("spec"))
        if kind in WORKLOADS and "selector" in spec:
            labels = mapping(mapping(mapping(spec.get("template")).get("metadata")).get("labels"))
            wanted = mapping(mapping(spec.get("selector")).get("matchLabels"))
            if not _matches(wanted, labels):
                yield (
                    "spec.selector.matchLabels",
                    f"{dict(wanted)} are not among the labels of its pods, {dict(labels)}",
                )
        if kind == "Service":
            yield from self._finds(mapping(spec.get("selector")), "spec.selector")
            for place, port in named(spec.get("ports"), "spec.ports"):
                yield from self._port(spec.get("selector"), port.get("targetPort"), f"{place}.targetPort")
        if kind == "NetworkPolicy":
            chosen = mapping(spec.get("podSelector")).get("matchLabels")
            yield from self._finds(mapping(chosen), "spec.podSelector.matchLabels")
            for rule in mappings(spec.get("ingress")):
                for peer in mappings(rule.get("from")):
                    labels = mapping(mapping(peer.get("podSelector")).get("matchLabels"))
                    if "namespaceSelector" not in peer:
                        yield from self._finds(labels, "spec.ingress.from.podSelector.matchLabels")
                for port in mappings(rule.get("ports")):
                    yield from self._port(chosen, port.get("port"), "spec.ingress.ports.port")
        if kind == "StatefulSet" and self.closed and spec.get("serviceName") not in self.names("Service"):
            yield (
                "spec.serviceName",
                f"there is no Service {spec.get('serviceName')}; there are {joined(self.names('Service'))}",
            )

    def _finds(self, wanted: Mapping[str, Any], path: str) -> Iterator[Finding]:
        if wanted and not self._selected(wanted):
            yield path, f"no pod has the labels {dict(wanted)}"

    def _port(self, wanted: object, port: object, path: str) -> Iterator[Finding]:
        found = self._selected(mapping(wanted))
        known = {
            given.get("name") if isinstance(port, str) else given.get("containerPort")
            for template in found
            for container in mappings(mapping(template.get("spec")).get("containers"))
            for given in mappings(container.get("ports"))
        }
        if wanted and found and port is not None and port not in known:
            yield path, f"its pods have no port {port!r}; there are {joined(known)}"

    def _selected(self, wanted: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        pods = [template for document in self.documents for _, template in templates(document)]
        return [pod for pod in pods if _matches(wanted, mapping(mapping(pod.get("metadata")).get("labels")))]

    def _rights(self, document: Document) -> Iterator[Finding]:
        kind = document.get("kind")
        if kind in {"Role", "ClusterRole"}:
            for number, rule in enumerate(mappings(document.get("rules"))):
                for field in ("apiGroups", "resources", "verbs"):
                    if "*" in (rule.get(field) or []):
                        yield f"rules[{number}].{field}", "* is everything; name what is used"
        if kind not in {"RoleBinding", "ClusterRoleBinding"}:
            return
        role = mapping(document.get("roleRef"))
        if role.get("apiGroup") != RBAC:
            yield "roleRef.apiGroup", f"must be {RBAC}, not {role.get('apiGroup')!r}"
        known = self.names(str(role.get("kind")))
        if self.closed and role.get("kind") == "Role" and role.get("name") not in known:
            yield "roleRef.name", f"there is no Role {role.get('name')}; there are {joined(known)}"
        for place, subject in named(document.get("subjects"), "subjects"):
            if subject.get("kind") != "ServiceAccount":
                continue
            yield from self._account(subject.get("name"), f"{place}.name")
            if subject.get("namespace") != _namespace(document):
                where = _namespace(document) or "given"
                yield (
                    f"{place}.namespace",
                    f"must be {where}, as the binding's, not {subject.get('namespace', 'missing')}",
                )

    def _account(self, name: object, path: str) -> Iterator[Finding]:
        known = self.names("ServiceAccount") | KUBEFLOWS_ACCOUNTS
        if self.closed and name not in known:
            yield path, f"there is no ServiceAccount {name}; there are {joined(known)}"

    def _references(self, document: Document, spec: Mapping[str, Any], path: str) -> Iterator[Finding]:
        if "serviceAccountName" in spec:
            yield from self._account(spec["serviceAccountName"], f"{path}.serviceAccountName")
        shared = document.get("kind") == "PyTorchJob" and pods_of(document) > 1
        for place, volume in named(spec.get("volumes"), f"{path}.volumes"):
            claim = mapping(volume.get("persistentVolumeClaim"))
            if claim:
                yield from self._claim(claim, f"{place}.persistentVolumeClaim.claimName", shared)
        for group in ("initContainers", "containers"):
            for place, container in named(spec.get(group), f"{path}.{group}"):
                for number, source in enumerate(mappings(container.get("envFrom"))):
                    settings = mapping(source.get("configMapRef"))
                    wanted, known = settings.get("name"), self.names("ConfigMap")
                    if self.closed and wanted and wanted not in known:
                        where = f"{place}.envFrom[{number}].configMapRef.name"
                        yield where, f"there is no ConfigMap {wanted}; there are {joined(known)}"

    def _claim(self, wanted: Mapping[str, Any], path: str, shared: bool) -> Iterator[Finding]:
        name, claims = wanted.get("claimName"), {_name(each): each for each in self._claims()}
        if name not in claims:
            if self.closed:
                yield path, f"there is no claim {name}; there are {joined(claims)} (k8s/base/claims.yaml)"
            return
        modes = mapping(claims[str(name)].get("spec")).get("accessModes") or []
        enough = {"ReadWriteMany"} | ({"ReadOnlyMany"} if wanted.get("readOnly") else set())
        if shared and not enough & set(modes):
            yield path, f"pods on several nodes mount it, so it must be ReadWriteMany, and it is {joined(modes)}"

    def _claims(self) -> Iterator[Document]:
        return (each for each in self.documents if each.get("kind") == "PersistentVolumeClaim")


def _name(document: Document) -> str:
    return str(mapping(document.get("metadata")).get("name"))


def _namespace(document: Document) -> object:
    return mapping(document.get("metadata")).get("namespace")


def _key(document: Document) -> tuple[object, ...]:
    return document.get("apiVersion"), document.get("kind"), _namespace(document), _name(document)


def _matches(wanted: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())
