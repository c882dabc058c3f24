"""Checks every manifest, each overlay as kustomize renders it, and the PyTorchJob that a pipeline launches.

python -m k8s.check [FILE.yaml | FOLDER ...]     without arguments: everything in k8s/

No cluster is needed. Exit status: 0 all is well, 1 something is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from k8s.documents import KUSTOMIZATION, MISSING, kustomize, read_documents, render, unrendered
from k8s.lint import check_documents
from k8s.problems import Document
from k8s.schemas import CRD_FILE, KUBERNETES, crd_path
from soco_core.errors import InputError, SocoError, one_line
from soco_core.launch.job import Launcher, Work, build_job
from soco_core.launch.settings import JobSettings

K8S = Path(__file__).resolve().parent
JOB = K8S / "pytorchjob-soco.yaml"
BASE = K8S / "base"
OVERLAYS = sorted(path.parent for path in K8S.glob(f"overlays/*/{KUSTOMIZATION}"))
LAUNCHER = "soco_core/launch"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what is named, or everything; return the exit status."""
    given = [Path(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    try:
        _say_what_is_missing()
        paths = given or [JOB, BASE, *(OVERLAYS if kustomize() else [])]
        found = [_check(path, _documents(path), beside=_beside(path)) for path in paths]
        if not given:
            found.append(_check(LAUNCHER, [launched_job()], beside=_documents(BASE)))
    except SocoError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0 if all(found) else 1


def launched_job() -> Document:
    """Return a PyTorchJob as a pipeline's step `pretrain` builds it, for two nodes of eight GPUs."""
    settings = JobSettings(
        nodes=2,
        image="registry.example.com/soco:0.1.0-cuda",
        namespace="soco",
        claims={"soco-data": "/data", "soco-checkpoints": "/checkpoints"},
        secrets=("soco-s3",),
        node_selector={"nvidia.com/gpu.product": "Tesla-V100-SXM2-32GB"},
        queue="soco",
    )
    arguments = ("--recipe", "soco-fpn-100ep", "--proposals", "/checkpoints/proposals/0123456789abcdef")
    work = Work("pretrain", "/checkpoints/pretrain/fedcba9876543210", "fedcba9876543210", arguments)
    return build_job(settings, work, launcher=Launcher("attempt", "run", "pod", "0f3a"))


def _check(path: Path | str, documents: list[Document], beside: list[Document] | None) -> bool:
    source = _shown(path)
    problems = check_documents(documents, source, beside)
    for problem in problems:
        print(problem, file=sys.stderr)
    count = f"{len(documents)} object{'s' * (len(documents) != 1)}"
    print(f"{source}: {count}, " + (f"{len(problems)} wrong" if problems else "ok"), flush=True)
    return not problems


def _documents(path: Path) -> list[Document]:
    if not path.is_dir():
        return read_documents(path)
    return unrendered(path) if kustomize() is None and path == BASE else render(path)


def _beside(path: Path) -> list[Document] | None:
    """What is there before: an overlay brings all that it names, and the job of this folder finds the base's claims."""
    if path.resolve() == JOB:
        return _documents(BASE)
    return [] if path.is_dir() else None


def _say_what_is_missing() -> None:
    """Name the checks that cannot be made here.

    Raises:
        InputError: SOCO_REQUIRE_KUSTOMIZE or SOCO_REQUIRE_CRDS is set, and it is missing.
    """
    if kustomize() is None:
        if os.environ.get("SOCO_REQUIRE_KUSTOMIZE"):
            raise InputError(f"{MISSING}, and SOCO_REQUIRE_KUSTOMIZE is set")
        print(f"note: {MISSING}: overlays are not checked, and the base as its files are", file=sys.stderr)
    path = crd_path()
    if path is None:
        text = f"the training operator's CRD ({CRD_FILE}) is not in ../shared/crds; SOCO_CRDS names its folder"
        if os.environ.get("SOCO_REQUIRE_CRDS"):
            raise InputError(f"{text}, and SOCO_REQUIRE_CRDS is set")
        print(
            f"note: {text}. The fields of a PyTorchJob outside its pods are not checked for misspelling",
            file=sys.stderr,
        )
    else:
        print(f"schemas: Kubernetes {KUBERNETES}; {path}")


def _shown(path: Path | str) -> str:
    if isinstance(path, str):
        return path
    rendered = " (kustomize)" if path.is_dir() and kustomize() else ""
    inside = path.resolve().is_relative_to(K8S.parent)
    return f"{path.resolve().relative_to(K8S.parent) if inside else path}{rendered}"


if __name__ == "__main__":
    sys.exit(main())
