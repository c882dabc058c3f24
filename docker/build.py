"""Build the image of the stages, show how large its layers are, and record it for the pipelines.

python docker/build.py --target cpu --tag REGISTRY/soco:VERSION [--push]

The Docker SDK looks at the engine, measures and pushes. The build itself is done by `docker build`: the SDK speaks
only to Docker's former builder, which knows no build secrets and no caches.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.containers import connect
from pipelines.images import RECORD, BuiltImage, record_image
from soco_core import __version__
from soco_core.errors import InputError, SocoError, one_line

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("cpu", "cuda")
TAG = re.compile(r"[a-z0-9]+(?:[._:/-]+[a-z0-9]+)*:\w[\w.-]{0,127}")
LAYERS = {
    "python3 -m venv": "Python environment",
    "$TORCH_INDEX_URL": "PyTorch",
    "executor.txt": "packages",
    "/wheels detectron2": "detectron2",
    "/wheels soco": "soco",
}
"""What stands in the command of a layer -> what the layer is."""
PUSH_NOTE_SECONDS = 5.0
EXIT_INPUT, EXIT_STOPPED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, show and record an image; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        client = connect()
        build(options)
        image = client.images.get(options.tag)
        show_layers(image, options.tag)
        digest = push(client, options.tag) if options.push else ""
        built = BuiltImage(options.tag, str(image.id), digest)
        record = record_image(options.target, built, options.record)
    except SocoError as error:
        if options.debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print("stopped; the layers that are done are kept by Docker's cache", file=sys.stderr)
        return EXIT_STOPPED
    if not options.detectron2:
        print("engines: torchvision alone (no --detectron2)")
    print(f"image: {built.reference}{'' if digest else ' (not pushed: pipelines name the tag, not a digest)'}")
    print(f"recorded in {record}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("--target", choices=TARGETS, required=True, help="cpu, or cuda: for V100")
    add("--tag", required=True, metavar="REGISTRY/soco:VERSION", help="name of the image")
    add("--push", action="store_true", help="push it, and record its digest; log in by `docker login` before")
    add("--base-image", metavar="IMAGE", help="instead of the Dockerfile's: a mirror of it, say")
    add("--torch-index-url", default="", metavar="URL", help="PyTorch's index for the target: its cu126 one for V100")
    add("--detectron2", default="", metavar="REQUIREMENT", help="pip requirement of detectron2, for its engine")
    add("--cuda-architecture", metavar="sm_NN", help="what the cluster's GPUs are (default: sm_70, V100)")
    add("--ca", type=Path, metavar="FILE", help="the site's CA bundle (PEM), as a build secret")
    add("--pip-config", type=Path, metavar="FILE", help="a pip.conf with the site's index, as a build secret")
    add("--network", metavar="NAME", help="Docker network of the build, such as host")
    add("--record", type=Path, default=RECORD, metavar="FILE", help=f"where the pipelines read it (default: {RECORD})")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _check(options: argparse.Namespace) -> None:
    if not TAG.fullmatch(options.tag):
        raise InputError(f"--tag {options.tag}: write REGISTRY/soco:VERSION, the name in lower case")
    if options.target == "cuda" and not options.torch_index_url:
        raise InputError(
            "--torch-index-url is missing: give PyTorch's own index for CUDA 12.6 (its page 'Get started' names it). "
            "The build of pip's usual index has no code for V100"
        )
    for name in ("torch_index_url", "detectron2"):
        if re.search(r"://[^/\s]*@", getattr(options, name)):
            raise InputError(
                f"--{name.replace('_', '-')}: an address with a password would stay in the image's history; put it "
                "into a pip.conf, and give --pip-config FILE"
            )
    for name in ("ca", "pip_config"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            raise InputError(f"--{name.replace('_', '-')} {path}: no such file")


def build(options: argparse.Namespace) -> None:
    """Build the image by `docker build`, which shows its progress.

    Raises:
        SocoError: no `docker` command can, or the build failed.
    """
    command = [find_command(), *build_arguments(options)]
    print(shlex.join(command), file=sys.stderr)
    status = subprocess.run(command, cwd=ROOT, env=_environment(), check=False).returncode
    if status:
        raise SocoError(f"the build ended with status {status}; what failed is shown above. What is done is kept")


def build_arguments(options: argparse.Namespace) -> list[str]:
    """Return the arguments of the `docker` command."""
    values = {
        "BASE_IMAGE": options.base_image,
        "TORCH_INDEX_URL": options.torch_index_url,
        "DETECTRON2_REQUIREMENT": options.detectron2,
        "CUDA_ARCHITECTURE": options.cuda_architecture if options.target == "cuda" else None,
        "VERSION": __version__,
        "REVISION": _git("rev-parse", "HEAD") + ("-changed" if _git("status", "--porcelain") else ""),
        "CREATED": _git("log", "-1", "--format=%cI"),
    }
    arguments = ["build", "--file", "docker/Dockerfile", "--target", options.target, "--tag", options.tag]
    for name, value in values.items():
        arguments += ["--build-arg", f"{name}={value}"] if value else []
    for name, path in {"ca": options.ca, "pip": options.pip_config}.items():
        arguments += ["--secret", f"id={name},src={path.resolve()}"] if path else []
    arguments += ["--network", options.network] if options.network else []
    return [*arguments, *([] if sys.stderr.isatty() else ["--progress", "plain"]), "."]


def find_command() -> str:
    """Return the first `docker` on PATH that can build with BuildKit.

    Raises:
        SocoError: there is none.
    """
    folders = os.environ.get("PATH", "").split(os.pathsep)
    commands = [found for folder in folders if folder and (found := shutil.which("docker", path=folder))]
    for command in commands:
        said = subprocess.run(
            [command, "build", "--help"], env=_environment(), capture_output=True, text=True, check=False
        )
        if said.returncode == 0 and "--secret" in said.stdout:
            return command
    if commands:
        raise SocoError(f"{commands[0]} cannot build with BuildKit; install its plugin docker-buildx")
    raise SocoError("there is no `docker` command; install it (Debian: apt-get install docker.io)")


def _environment() -> dict[str, str]:
    # Both the command and the SDK are to use the same engine, whatever builder or context is chosen elsewhere.
    host = {"DOCKER_HOST": "unix:///var/run/docker.sock"}
    return {**host, **os.environ, "DOCKER_BUILDKIT": "1", "BUILDX_BUILDER": "default"}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def show_layers(image: Image, tag: str) -> None:
    """Print what the image consists of, the base first."""
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "MB", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, size in layers(image.history()):
        table.add_row(name, f"{size / 1e6:,.1f}")
    table.add_row(tag, f"{image.attrs['Size'] / 1e6:,.1f}", style="bold")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def layers(history: Iterable[dict[str, Any]]) -> list[tuple[str, int]]:
    """Name the layers of an image.

    Args:
        history: as the engine gives it, the newest first.

    Returns:
        Name and size in bytes, the base (all of its own layers) first; layers without files are left out.
    """
    own: list[tuple[str, int]] = []
    base = 0
    for step in history:
        name = next((name for text, name in LAYERS.items() if text in step["CreatedBy"]), "")
        if name:
            own.append((name, step["Size"]))
        else:
            base += step["Size"]
    return [("base", base), *((name, size) for name, size in reversed(own) if size)]


def push(client: DockerClient, tag: str) -> str:
    """Push an image, with progress; return its digest, ``REPOSITORY@sha256:...``.

    Raises:
        SocoError: the registry refuses, or gives no digest.
    """
    from docker.errors import APIError

    repository, _, version = tag.rpartition(":")
    sent: dict[str, int] = {}
    said = time.monotonic()
    try:
        for line in client.images.push(repository, tag=version, stream=True, decode=True):
            if "error" in line:
                raise SocoError(f"{tag}: not pushed ({line['error']}); log in with `docker login`, or name another")
            sent[line.get("id", "")] = (line.get("progressDetail") or {}).get("current", 0)
            if time.monotonic() - said > PUSH_NOTE_SECONDS:
                said = time.monotonic()
                print(f"pushing {tag}: {sum(sent.values()) / 1e6:,.0f} MB", file=sys.stderr)
            if digest := (line.get("aux") or {}).get("Digest"):
                return f"{repository}@{digest}"
    except APIError as error:
        raise SocoError(f"{tag}: not pushed ({one_line(error)[:200]})") from error
    raise SocoError(f"{tag}: the registry gave no digest; push it again")


if __name__ == "__main__":
    sys.exit(main())
