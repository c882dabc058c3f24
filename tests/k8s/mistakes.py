"""Mistakes that people make in manifests, and what is said of each: name -> edit -> line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

JOB = "PyTorchJob/soco-pretrain"
REPLICAS = "spec.pytorchReplicaSpecs"
POD = f"{REPLICAS}.Master.template.spec"
CONTAINER = f"{POD}.containers[pytorch]"


class Mistake(NamedTuple):
    """What is done to a document, and what is said of it."""

    path: str
    """Of what is changed; entries of lists by name or number, dots in keys as `~`."""
    value: Any
    """The new value; DELETED takes it away; a function gets the old one."""
    field: str
    """The field that is named; the role counts as Master where both are wrong."""
    said: str


DELETED = object()


def renamed(name: str) -> Callable[[Any], Any]:
    return lambda old: {name if key == "Worker" else key: value for key, value in old.items()}


# Of the PyTorchJob. Without the CRD, those of the second table are caught by nothing.
IN_JOB = {
    "a wrong role": Mistake(REPLICAS, renamed("Workers"), f"{REPLICAS}.Workers", "did you mean Worker?"),
    "no master": Mistake(f"{REPLICAS}.Master", DELETED, f"{REPLICAS}.Master", "missing; it has rank 0"),
    "two masters": Mistake(f"{REPLICAS}.Master.replicas", 2, f"{REPLICAS}.Master.replicas", "must be 1, not 2"),
    "a wrong container": Mistake(f"{CONTAINER}.name", "train", f"{POD}.containers", "one must be named pytorch"),
    "no image": Mistake(f"{CONTAINER}.image", DELETED, f"{CONTAINER}.image", "missing"),
    "latest": Mistake(f"{CONTAINER}.image", "a.io/soco:latest", f"{CONTAINER}.image", "another image tomorrow"),
    "no tag": Mistake(f"{CONTAINER}.image", "a.io:5000/soco", f"{CONTAINER}.image", "another image tomorrow"),
    "an undefined volume": Mistake(
        f"{POD}.volumes[checkpoints]", DELETED, f"{CONTAINER}.volumeMounts[checkpoints]", "there is no such volume"
    ),
    "a volume without a mount": Mistake(
        f"{CONTAINER}.volumeMounts[data]", DELETED, f"{POD}.volumes[data]", "is mounted nowhere"
    ),
    "a volume without a source": Mistake(
        f"{POD}.volumes[tmp].emptyDir", DELETED, f"{POD}.volumes[tmp]", "needs exactly one source"
    ),
    "restarts that know statuses only": Mistake(
        f"{REPLICAS}.Master.restartPolicy", "ExitCode", f"{REPLICAS}.Master.restartPolicy", "must be OnFailure"
    ),
    "a misspelt restart policy": Mistake(
        f"{REPLICAS}.Worker.restartPolicy", "OnFailur", f"{REPLICAS}.Worker.restartPolicy", "must be OnFailure"
    ),
    "a restart policy of the pod": Mistake(
        f"{POD}.restartPolicy", "Never", f"{POD}.restartPolicy", "does not count; the replica's own does"
    ),
    "more requested than allowed": Mistake(
        f"{CONTAINER}.resources.requests.memory",
        "250000Mi",
        f"{CONTAINER}.resources.requests.memory",
        "250000Mi is more than the limit, 240Gi",
    ),
    "no quantity": Mistake(
        f"{CONTAINER}.resources.limits.memory", "240GB", f"{CONTAINER}.resources.limits.memory", "is no quantity"
    ),
    "no limit of memory": Mistake(
        f"{CONTAINER}.resources.limits.memory", DELETED, f"{CONTAINER}.resources.limits.memory", "missing"
    ),
    "GPUs requested and not limited": Mistake(
        f"{CONTAINER}.resources.limits.nvidia~com/gpu",
        DELETED,
        f"{CONTAINER}.resources.limits.nvidia.com/gpu",
        "must equal the request (8), but is missing",
    ),
    "other processes than GPUs": Mistake(
        "spec.nprocPerNode", "4", f"{CONTAINER}.resources.limits.nvidia.com/gpu", "8 GPUs, but spec.nprocPerNode is 4"
    ),
    "no number of processes": Mistake("spec.nprocPerNode", "eight", "spec.nprocPerNode", "must be the number"),
    "rendezvous flags": Mistake(
        f"{CONTAINER}.command", lambda old: [old[0], "--nnodes=2", *old[1:]], f"{CONTAINER}.command", "--nnodes is the"
    ),
    "rendezvous flags, older names": Mistake(
        f"{CONTAINER}.command",
        lambda old: [old[0], "--rdzv_backend", "c10d", *old[1:]],
        f"{CONTAINER}.command",
        "--rdzv_backend is the operator's affair",
    ),
    "no torchrun": Mistake(f"{CONTAINER}.command", ["soco", "pretrain"], f"{CONTAINER}.command", "must start torchrun"),
    "the operator's environment": Mistake(
        f"{CONTAINER}.env[NCCL_DEBUG].name", "PET_NNODES", f"{CONTAINER}.env[PET_NNODES]", "is set by the operator"
    ),
    "an undefined variable": Mistake(
        f"{CONTAINER}.env[PROPOSALS].name", "PROPOSAL", f"{CONTAINER}.args[5]", "$(PROPOSALS) stands for no variable"
    ),
    "a variable twice": Mistake(
        f"{CONTAINER}.env[NCCL_DEBUG].name", "PROPOSALS", f"{CONTAINER}.env[PROPOSALS]", "is there twice"
    ),
    "a secret in plain text": Mistake(
        f"{CONTAINER}.env[NCCL_DEBUG].name",
        "MLFLOW_TRACKING_PASSWORD",
        f"{CONTAINER}.env[MLFLOW_TRACKING_PASSWORD].value",
        "looks like a secret",
    ),
    "a password in a URI": Mistake(
        f"{CONTAINER}.env[NCCL_DEBUG].value",
        "http://me:mine@mlflow:5000",
        f"{CONTAINER}.env[NCCL_DEBUG].value",
        "has a password in its URI",
    ),
    "no shared memory": Mistake(
        f"{CONTAINER}.volumeMounts[shm].mountPath", "/shm", f"{CONTAINER}.volumeMounts", "nothing at /dev/shm"
    ),
    "shared memory without a limit": Mistake(
        f"{POD}.volumes[shm].emptyDir.sizeLimit", DELETED, f"{POD}.volumes[shm].emptyDir.sizeLimit", "missing"
    ),
    "more shared memory than memory": Mistake(
        f"{POD}.volumes[shm].emptyDir.sizeLimit",
        "1Ti",
        f"{POD}.volumes[shm].emptyDir.sizeLimit",
        "must be below the container's limit of memory, 240Gi",
    ),
    "no time for a checkpoint": Mistake(
        f"{POD}.terminationGracePeriodSeconds", 30, f"{POD}.terminationGracePeriodSeconds", "must be more than 30"
    ),
    "restarts without end": Mistake("spec.runPolicy.backoffLimit", DELETED, "spec.runPolicy.backoffLimit", "missing"),
    "no time limit": Mistake(
        "spec.runPolicy.activeDeadlineSeconds", DELETED, "spec.runPolicy.activeDeadlineSeconds", "missing"
    ),
    "kept for good": Mistake(
        "spec.runPolicy.ttlSecondsAfterFinished", DELETED, "spec.runPolicy.ttlSecondsAfterFinished", "missing"
    ),
    "GPUs kept by a pod that hangs": Mistake(
        "spec.runPolicy.cleanPodPolicy", "None", "spec.runPolicy.cleanPodPolicy", "must be Running or All, not None"
    ),
    "an elastic policy beside a master": Mistake(
        "spec.elasticPolicy", {"maxRestarts": 3}, "spec.elasticPolicy", "is for jobs without a Master"
    ),
    "two numbers of processes": Mistake(
        "spec.elasticPolicy",
        {"nProcPerNode": 8},
        "spec.elasticPolicy.nProcPerNode",
        "may not stand beside spec.nprocPerNode",
    ),
    "a mount at no path": Mistake(
        f"{CONTAINER}.volumeMounts[data].mountPath", "data", f"{CONTAINER}.volumeMounts[data].mountPath", "begin with /"
    ),
    "two mounts at one path": Mistake(
        f"{CONTAINER}.volumeMounts[data].mountPath",
        "/checkpoints",
        f"{CONTAINER}.volumeMounts[checkpoints].mountPath",
        "something is mounted at /checkpoints already",
    ),
    "a privileged container": Mistake(
        f"{CONTAINER}.securityContext.privileged",
        True,
        f"{CONTAINER}.securityContext.privileged",
        "must not be true",
    ),
    "a size of nothing": Mistake(
        f"{POD}.volumes[tmp].emptyDir.sizeLimit", "50 GB", f"{POD}.volumes[tmp].emptyDir.sizeLimit", "is no quantity"
    ),
    "a sidecar": Mistake(
        f"{REPLICAS}.Master.template.metadata.annotations",
        DELETED,
        f"{REPLICAS}.Master.template.metadata.annotations[sidecar.istio.io/inject]",
        'must be "false"',
    ),
    "a token in the pod": Mistake(
        f"{POD}.automountServiceAccountToken", DELETED, f"{POD}.automountServiceAccountToken", "must be false"
    ),
    "root": Mistake(
        f"{POD}.securityContext.runAsNonRoot", False, f"{CONTAINER}.securityContext.runAsNonRoot", "must be true"
    ),
    "rights that are not given up": Mistake(
        f"{CONTAINER}.securityContext.capabilities",
        DELETED,
        f"{CONTAINER}.securityContext.capabilities.drop",
        "must be ['ALL'], not missing",
    ),
    "a root file system to write to": Mistake(
        f"{CONTAINER}.securityContext.readOnlyRootFilesystem",
        DELETED,
        f"{CONTAINER}.securityContext.readOnlyRootFilesystem",
        "must be true",
    ),
    "a claim that is not there": Mistake(
        f"{POD}.volumes[data].persistentVolumeClaim.claimName",
        "soco-datas",
        f"{POD}.volumes[data].persistentVolumeClaim.claimName",
        "there is no claim soco-datas; there are soco-checkpoints, soco-data",
    ),
    "an account that is not there": Mistake(
        f"{POD}.serviceAccountName", "default-editr", f"{POD}.serviceAccountName", "there is no ServiceAccount"
    ),
    "settings that are not there": Mistake(
        f"{CONTAINER}.envFrom[0].configMapRef.name",
        "soco-setting",
        f"{CONTAINER}.envFrom[0].configMapRef.name",
        "there is no ConfigMap soco-setting",
    ),
    "another namespace": Mistake("metadata.namespace", "sooc", "metadata.namespace", "must be soco"),
    "no name of a service": Mistake("metadata.name", "2-nodes", "metadata.name", "beginning with a letter"),
    "a misspelt field of the pod": Mistake(
        f"{POD}.nodeSelectors", {"a": "b"}, f"{POD}.nodeSelectors", "unknown field (did you mean 'nodeSelector'?)"
    ),
    "a misspelt field of metadata": Mistake(
        f"{REPLICAS}.Master.template.metadata.anotations",
        {"a": "b"},
        f"{REPLICAS}.Master.template.metadata.anotations",
        "unknown field (did you mean 'annotations'?)",
    ),
    "a misspelt field of a volume": Mistake(
        f"{POD}.volumes[shm].emptyDir.sizelimit",
        "64Gi",
        f"{POD}.volumes[shm].emptyDir.sizelimit",
        "unknown field (did you mean 'sizeLimit'?)",
    ),
    "labels of the job, misspelt": Mistake(
        "metadata.label", {"a": "b"}, "metadata.label", "unknown field (did you mean 'labels'?)"
    ),
    "an annotation that is no text": Mistake(
        f"{REPLICAS}.Master.template.metadata.annotations",
        {"sidecar.istio.io/inject": False},
        f"{REPLICAS}.Master.template.metadata.annotations.sidecar.istio.io/inject",
        'must be of type string, not bool (False); write it in quotes ("...")',
    ),
}

IN_JOB_BY_CRD = {
    "processes as a number": Mistake("spec.nprocPerNode", 8, "spec.nprocPerNode", "must be of type string, not int"),
    "a misspelt field of the job": Mistake(
        "spec.nProcPerNode", "8", "spec.nProcPerNode", "unknown field (did you mean 'nprocPerNode'?)"
    ),
    "a misspelt field of the policy": Mistake(
        "spec.runPolicy.backofLimit", 3, "spec.runPolicy.backofLimit", "(did you mean 'backoffLimit'?)"
    ),
    "a policy beside the spec": Mistake("runPolicy", {}, "runPolicy", "unknown field"),
    "a time limit as text": Mistake(
        "spec.runPolicy.activeDeadlineSeconds", "10d", "spec.runPolicy.activeDeadlineSeconds", "must be of type integer"
    ),
}

# Of what an overlay renders: the object, then as above.
IN_SET = {
    "another group of the role": (
        "RoleBinding/soco-launcher",
        Mistake("roleRef.apiGroup", "rbac.authorization.k8s.io/v1", "roleRef.apiGroup", "must be rbac.authorization"),
    ),
    "a role that is not there": (
        "RoleBinding/soco-launcher",
        Mistake("roleRef.name", "launcher", "roleRef.name", "there is no Role launcher; there are soco-launcher"),
    ),
    "a subject of another namespace": (
        "RoleBinding/soco-launcher",
        Mistake("subjects[default-editor].namespace", DELETED, "subjects[default-editor].namespace", "must be soco"),
    ),
    "an unknown subject": (
        "RoleBinding/soco-launcher",
        Mistake(
            "subjects[default-editor].name", "editor", "subjects[editor].name", "there is no ServiceAccount editor"
        ),
    ),
    "all rights": (
        "Role/soco-launcher",
        Mistake("rules[0].verbs", ["*"], "rules[0].verbs", "* is everything"),
    ),
    "a selector that finds other pods": (
        "Deployment/soco-mlflow",
        Mistake(
            "spec.selector.matchLabels",
            {"app.kubernetes.io/name": "mlflow"},
            "spec.selector.matchLabels",
            "are not among",
        ),
    ),
    "a service without pods": (
        "Service/soco-postgres",
        Mistake("spec.selector", {"app": "postgres"}, "spec.selector", "no pod has the labels"),
    ),
    "a port that is not there": (
        "Service/soco-mlflow",
        Mistake(
            "spec.ports[http].targetPort", "web", "spec.ports[http].targetPort", "have no port 'web'; there are http"
        ),
    ),
    "a probe of another port": (
        "Deployment/soco-mlflow",
        Mistake(
            "spec.template.spec.containers[mlflow].livenessProbe.httpGet.port",
            "web",
            "spec.template.spec.containers[mlflow].livenessProbe.httpGet.port",
            "there is no port 'web'",
        ),
    ),
    "a policy for no pod": (
        "NetworkPolicy/soco-s3",
        Mistake("spec.podSelector.matchLabels", {"app": "s3"}, "spec.podSelector.matchLabels", "no pod has the labels"),
    ),
    "a set without its service": (
        "StatefulSet/soco-s3",
        Mistake("spec.serviceName", "s3", "spec.serviceName", "there is no Service s3"),
    ),
    "a password in the settings": (
        "ConfigMap/soco-settings",
        Mistake("data.MLFLOW_TRACKING_PASSWORD", "x", "data.MLFLOW_TRACKING_PASSWORD", "looks like a secret"),
    ),
    "a password on a command line": (
        "Deployment/soco-mlflow",
        Mistake(
            "spec.template.spec.containers[mlflow].args[3]",
            "--backend-store-uri=postgresql://soco:pw@soco-postgres/mlflow",
            "spec.template.spec.containers[mlflow].args[3]",
            "has a password in its URI",
        ),
    ),
    "another restart policy": (
        "Deployment/soco-mlflow",
        Mistake("spec.template.spec.restartPolicy", "OnFailure", "spec.template.spec.restartPolicy", "must be Always"),
    ),
    "no size": (
        "PersistentVolumeClaim/soco-data",
        Mistake(
            "spec.resources.requests.storage", "300 GB", "spec.resources.requests.storage", "'300 GB' is no quantity"
        ),
    ),
    "replicas as text": (
        "Deployment/soco-mlflow",
        Mistake("spec.replicas", "1", "spec.replicas", "must be of type integer"),
    ),
    "a kind of no version": (
        "Deployment/soco-mlflow",
        Mistake("apiVersion", "extensions/v1beta1", "kind", "knows no Deployment of extensions/v1beta1"),
    ),
}
