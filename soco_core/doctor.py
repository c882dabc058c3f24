"""`soco doctor`: what this machine can run, what is missing, and the remedy for each."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from soco_core.engine.setup import usable_cores
from soco_core.errors import SocoError
from soco_core.storage import scratch_root

INSTALL = "pip install ."
GIB = 1 << 30
LEAST_SHARED_GIB = 1
PACKAGES = {
    # distribution: (module, what it is for, needed for the stages, remedy)
    "torch": ("torch", "pretraining and finetuning", True, INSTALL),
    "torchvision": ("torchvision", "detectors and image operations", True, INSTALL),
    "opencv-contrib-python-headless": ("cv2", "selective search", True, INSTALL),
    "pyarrow": ("pyarrow", "proposal files", True, INSTALL),
    "faster-coco-eval": ("faster_coco_eval", "evaluation", True, INSTALL),
    "mlflow": ("mlflow", "tracking", True, INSTALL),
    "kfp": ("kfp", "pipelines: compile, --local, --submit", False, "pip install '.[pipelines]'"),
    "detectron2": ("detectron2", "its engine; without it torchvision's", False, "build it from its public repository"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    needed: bool
    """Whether the stages cannot run without it."""
    detail: str
    remedy: str = ""
    """What to do if it is not ok."""


def examine() -> list[Finding]:
    """Look at the interpreter, the packages, and the machine."""
    return [
        _python(),
        *map(_package, PACKAGES),
        _selective_search(),
        _device(),
        _memory(),
        _shared_memory(),
        _disk(),
        _scratch(),
    ]


def show(findings: list[Finding]) -> None:
    """Print the findings as a table, then whether the stages can run."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "what", "found", "remedy", box=None, pad_edge=False)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[red]missing[/]" if finding.needed else "[yellow]absent[/]"
        table.add_row(mark, finding.name, finding.detail, "" if finding.ok else finding.remedy)
    # A pipe has no width of its own, and a wrapped table is hard to search.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    lacking = [finding.name for finding in findings if finding.needed and not finding.ok]
    console.print(f"Cannot run every stage: {', '.join(lacking)}." if lacking else "Every stage can run here.")


def _python() -> Finding:
    version = platform.python_version()
    ok = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return Finding("Python", ok, True, f"{version}, {sys.executable}", "install Python 3.11 or 3.12")


def _package(distribution: str) -> Finding:
    module, purpose, needed, remedy = PACKAGES[distribution]
    found = importlib.util.find_spec(module) is not None
    version = ""
    if found:
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            version = "another distribution of it"
    return Finding(distribution, found, needed, f"{version} for {purpose}" if found else f"for {purpose}", remedy)


def _selective_search() -> Finding:
    """Opencv-python, or its plain contrib build, may have been installed over the one that is needed."""
    remedy = "pip uninstall every opencv-* package, then " + INSTALL
    try:
        import cv2
    except ImportError as error:
        return Finding("OpenCV ximgproc", False, True, str(error).splitlines()[0], remedy)
    ok = hasattr(cv2, "ximgproc") and hasattr(cv2.ximgproc, "segmentation")
    return Finding("OpenCV ximgproc", ok, True, f"cv2 {cv2.__version__}", remedy)


def _device() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("GPU", False, False, str(error).splitlines()[0], INSTALL)
    if not torch.cuda.is_available():
        cores = usable_cores()
        return Finding(
            "GPU", False, False, f"none; training runs on {cores} CPU cores", "the demo needs none; ImageNet does"
        )
    major, minor = torch.cuda.get_device_capability()
    architecture = f"sm_{major}{minor}"
    name = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()} ({architecture})"
    built = runs_on(major, minor, torch.cuda.get_arch_list())
    return Finding("GPU", built, False, name, f"install a torch build for {architecture} (V100: the cu126 wheels)")


def check_built_for(architecture: str) -> str:
    """Check that PyTorch has code for a GPU architecture; no GPU is needed.

    Args:
        architecture: such as ``sm_70`` (V100).

    Returns:
        All architectures that it has code for.

    Raises:
        SocoError: it has none for this one, or `architecture` is not written so.
    """
    import torch

    match = re.fullmatch(r"sm_(\d+)(\d)", architecture)
    if match is None:
        raise SocoError(f"--built-for {architecture}: write it as sm_70")
    # torch.cuda.get_arch_list() is empty where there is no GPU, as where an image is built.
    flags = torch._C._cuda_getArchFlags() if torch.backends.cuda.is_built() else None
    built = (flags or "").split()
    if not runs_on(int(match[1]), int(match[2]), built):
        raise SocoError(
            f"torch {torch.__version__} has no code for {architecture} but for {' '.join(built) or 'no GPU'}; "
            "install it from a PyTorch index that has (V100, sm_70: cu126, up to torch 2.14)"
        )
    return " ".join(built)


def runs_on(major: int, minor: int, built_for: list[str]) -> bool:
    """Tell whether a torch build runs on a GPU: code for sm_86 runs on sm_89, but not on sm_90 or sm_80."""
    found = (re.fullmatch(r"sm_(\d+)(\d)[a-z]?", name) for name in built_for)
    return any(match and int(match[1]) == major and int(match[2]) <= minor for match in found)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Finding("memory", total >= 4, False, f"{total:.0f} GiB", "the demo wants 4 GiB")


def _shared_memory(place: Path = Path("/dev/shm")) -> Finding:
    """The loaders' workers hand images over through it; a container has 64 MB of it unless it is told otherwise."""
    if not place.is_dir():
        return Finding("shared memory", True, False, "not limited by itself")
    size = shutil.disk_usage(place).total / GIB
    remedy = "docker run --shm-size 8g; on a cluster a volume in memory at /dev/shm (or runtime.workers=0)"
    return Finding("shared memory", size >= LEAST_SHARED_GIB, False, f"{size:.2g} GiB at {place}", remedy)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    return Finding("disk here", free >= 2, False, f"{free:.0f} GiB free", "free 2 GiB for the demo's results")


def _scratch() -> Finding:
    folder = scratch_root()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    ok = there.is_dir() and os.access(there, os.W_OK)
    return Finding(
        "scratch for s3:// results", ok, False, str(folder), "set SOCO_SCRATCH to a directory that can be written"
    )
