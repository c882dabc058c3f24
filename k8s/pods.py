"""What schemas miss in a pod: images, volumes, resources, rights, secrets in plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from k8s.problems import Finding, joined, mapping, mappings, named
from soco_core.launch.settings import SECRET_WORDS

PASSWORD_IN_URI = re.compile(r"://[^/@\s:]*:[^/@\s$]+@")
VARIABLE = re.compile(r"(?<!\$)\$\(([^)]*)\)")
IMAGE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._/:-]*?)(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def pod_findings(template: Mapping[str, Any], path: str, claims: frozenset[str] = frozenset()) -> Iterator[Finding]:
    """Yield what is wrong with a pod.

    Args:
        template: its `metadata` and `spec`.
        path: of the template within its object, with a dot at the end; empty for a pod itself.
        claims: volumes that come from a StatefulSet's `volumeClaimTemplates`.
    """
    spec = mapping(template.get("spec"))
    path = f"{path}spec"
    yield from _volumes(spec, path, claims)
    for group in ("initContainers", "containers"):
        for place, container in named(spec.get(group), f"{path}.{group}"):
            yield from _image(container, place)
            yield from _mounts(container, place, volumes=_volume_names(spec) | claims)
            yield from resource_findings(mapping(container.get("resources")), f"{place}.resources")
            yield from _environment(container, place)
            yield from _rights(container, mapping(spec.get("securityContext")), place)
            yield from _probes(container, place)
    yield from _shared_memory(spec, path)
    if not spec.get("serviceAccountName") and spec.get("automountServiceAccountToken") is not False:
        yield f"{path}.automountServiceAccountToken", "must be false: the pod asks the API for nothing"


def quantity(value: object) -> Decimal | None:
    """Return a quantity of Kubernetes (`500m`, `240Gi`, 8) as a number, or None if it is none."""
    from kubernetes.utils.quantity import parse_quantity

    try:
        number = Decimal(parse_quantity(value))
    except (ValueError, ArithmeticError, TypeError):
        return None
    return number if number >= 0 else None


def resource_findings(resources: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """Yield what is wrong with the resources of a container."""
    requests, limits = mapping(resources.get("requests")), mapping(resources.get("limits"))
    for kind, values in (("requests", requests), ("limits", limits)):
        for name, value in values.items():
            if quantity(value) is None:
                yield f"{path}.{kind}.{name}", f"{value!r} is no quantity; write one such as 500m, 8 or 240Gi"
    for name in ("cpu", "memory"):
        if name not in requests:
            yield f"{path}.requests.{name}", "missing; without it the pod lands on a node that has no room"
    if "memory" not in limits:
        yield f"{path}.limits.memory", "missing; without it the pod may take its node's memory from others"
    for name, value in requests.items():
        wanted, most = quantity(value), quantity(limits.get(name))
        if wanted is None or (name in limits and most is None):
            continue
        if "/" in name and wanted != most:
            yield f"{path}.limits.{name}", f"must equal the request ({value}), but is {limits.get(name, 'missing')}"
        elif most is not None and wanted > most:
            yield f"{path}.requests.{name}", f"{value} is more than the limit, {limits[name]}"


def image_tag(image: object) -> str | None:
    """Return an image's digest or tag; empty if it has neither, None if it is no image's name."""
    match = IMAGE.fullmatch(image) if isinstance(image, str) else None
    return (match["digest"] or match["tag"] or "") if match else None


def _image(container: Mapping[str, Any], path: str) -> Iterator[Finding]:
    image = container.get("image")
    tag = image_tag(image)
    if not image:
        yield f"{path}.image", "missing"
    elif tag is None:
        yield f"{path}.image", f"{image!r} is no image's name; write REGISTRY/NAME:TAG"
    elif tag in {"", "latest"}:
        yield f"{path}.image", f"{image!r} is another image tomorrow; give a version or a digest"


def _volume_names(spec: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(str(volume.get("name")) for volume in mappings(spec.get("volumes")))


def _volumes(spec: Mapping[str, Any], path: str, claims: frozenset[str]) -> Iterator[Finding]:
    containers = [*mappings(spec.get("initContainers")), *mappings(spec.get("containers"))]
    mounted = {mount.get("name") for container in containers for mount in mappings(container.get("volumeMounts"))}
    seen = set(claims)
    for place, volume in named(spec.get("volumes"), f"{path}.volumes"):
        name, sources = volume.get("name"), [key for key in volume if key != "name"]
        if name in seen:
            yield place, "is there twice"
        seen.add(str(name))
        if len(sources) != 1:
            yield (
                place,
                f"needs exactly one source, such as persistentVolumeClaim or emptyDir, and has {joined(sources)}",
            )
        if name not in mounted:
            yield place, "is mounted nowhere; mount it or remove it"
        memory = mapping(volume.get("emptyDir"))
        if memory.get("medium") == "Memory" and "sizeLimit" not in memory:
            yield f"{place}.emptyDir.sizeLimit", "missing; without it the files may take half of the node's memory"
        if "sizeLimit" in memory and quantity(memory["sizeLimit"]) is None:
            yield f"{place}.emptyDir.sizeLimit", f"{memory['sizeLimit']!r} is no quantity; write one such as 64Gi"


def _mounts(container: Mapping[str, Any], path: str, volumes: frozenset[str]) -> Iterator[Finding]:
    places: set[object] = set()
    for place, mount in named(container.get("volumeMounts"), f"{path}.volumeMounts"):
        if mount.get("name") not in volumes:
            yield place, f"there is no such volume; there are {joined(volumes)}"
        where = mount.get("mountPath")
        if not str(where).startswith("/"):
            yield f"{place}.mountPath", f"{where!r} must begin with /"
        if where in places:
            yield f"{place}.mountPath", f"something is mounted at {where} already"
        places.add(where)


def _environment(container: Mapping[str, Any], path: str) -> Iterator[Finding]:
    names: set[str] = set()
    for place, variable in named(container.get("env"), f"{path}.env"):
        name, value = str(variable.get("name")), variable.get("value")
        if name in names:
            yield place, "is there twice; the last one counts"
        names.add(name)
        if value and any(word in name.upper() for word in SECRET_WORDS):
            yield f"{place}.value", "looks like a secret; put it into a Secret and take it by valueFrom.secretKeyRef"
        elif PASSWORD_IN_URI.search(str(value)):
            yield f"{place}.value", "has a password in its URI; take it from a Secret"
    for key in ("command", "args"):
        for number, word in enumerate(container.get(key) or []):
            place = f"{path}.{key}[{number}]"
            if PASSWORD_IN_URI.search(str(word)):
                yield place, "has a password in its URI, for all to see; take it from a Secret by the environment"
            for name in VARIABLE.findall(str(word)):
                if name not in names:
                    yield place, f"$({name}) stands for no variable under env; there are {joined(names)}"


def _rights(container: Mapping[str, Any], pod: Mapping[str, Any], path: str) -> Iterator[Finding]:
    own = mapping(container.get("securityContext"))
    merged = {**pod, **own}
    wanted = {
        "runAsNonRoot": (merged.get("runAsNonRoot"), True),
        "allowPrivilegeEscalation": (own.get("allowPrivilegeEscalation"), False),
        "readOnlyRootFilesystem": (own.get("readOnlyRootFilesystem"), True),
        "capabilities.drop": (mapping(own.get("capabilities")).get("drop"), ["ALL"]),
        "seccompProfile.type": (mapping(merged.get("seccompProfile")).get("type"), "RuntimeDefault"),
    }
    for field, (value, right) in wanted.items():
        if value != right:
            shown = str(right).lower() if isinstance(right, bool) else right
            yield (
                f"{path}.securityContext.{field}",
                f"must be {shown}, not {'missing' if value is None else repr(value)}",
            )
    if own.get("privileged"):
        yield f"{path}.securityContext.privileged", "must not be true: the container would be root of its node"


def _probes(container: Mapping[str, Any], path: str) -> Iterator[Finding]:
    ports = {port.get("name") for port in mappings(container.get("ports"))}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        for action in ("httpGet", "tcpSocket"):
            port = mapping(mapping(container.get(probe)).get(action)).get("port")
            if isinstance(port, str) and port not in ports:
                yield f"{path}.{probe}.{action}.port", f"there is no port {port!r}; there are {joined(ports)}"


def _shared_memory(spec: Mapping[str, Any], path: str) -> Iterator[Finding]:
    """Files in memory count as the container's own, which is killed at its limit."""
    sizes = {
        str(volume.get("name")): mapping(volume.get("emptyDir")).get("sizeLimit")
        for volume in mappings(spec.get("volumes"))
        if mapping(volume.get("emptyDir")).get("medium") == "Memory"
    }
    for _, container in named(spec.get("containers"), ""):
        given = mapping(mapping(container.get("resources")).get("limits")).get("memory")
        limit = quantity(given)
        for mount in mappings(container.get("volumeMounts")):
            size = quantity(sizes.get(str(mount.get("name"))))
            if size is not None and limit is not None and size >= limit:
                place = f"{path}.volumes[{mount['name']}].emptyDir.sizeLimit"
                yield place, f"{sizes[str(mount['name'])]} must be below the container's limit of memory, {given}"
