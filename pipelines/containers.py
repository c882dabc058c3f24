"""``--local --runner docker``: each stage in a container of its image, as on a cluster, but on this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.screen import StageProcess
from soco_core.config import Recipe
from soco_core.engine.component import IN_CONTAINER
from soco_core.engine.processes import BEAT_SECONDS, PIPELINE_BEAT
from soco_core.errors import SocoError, one_line
from soco_core.storage import is_s3, scratch_root

if TYPE_CHECKING:
    from docker import DockerClient

PASSED_ON = ("AWS_", "MLFLOW_", "SOCO_", "OMP_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""What begins so in the environment is the stages' too."""
CERTIFICATES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
SHARED_MEMORY_PART = 4
"""The part of the memory that /dev/shm may take: the loaders' workers hand images over through it. Docker's own 64 MB
hold hardly a batch."""


@dataclass(frozen=True)
class Containers:
    """How the stages' containers are run."""

    image: str
    read: tuple[str, ...]
    """Absolute paths that the stages read, on this machine and in the container."""
    written: tuple[str, ...]
    """Those that they write."""
    network: str
    """``none`` where all that a run needs is on this machine's disks, else ``host``."""

    def runner(self, beat: Path) -> Any:
        """Return kfp's runner; `beat` is the file that says whether this command lives."""
        from docker.types import DeviceRequest, Mount
        from kfp import local

        certificates = {name: value for name in CERTIFICATES if Path(value := os.environ.get(name, "")).is_file()}
        environment = {name: value for name, value in os.environ.items() if name.upper().startswith(PASSED_ON)}
        read = {path for path in (*self.read, *certificates.values()) if not _inside(path, self.written)}
        client = connect()
        gpu = "nvidia" in client.info().get("Runtimes", {})
        return local.DockerRunner(
            environment={
                **environment,
                **certificates,
                "SOCO_SCRATCH": str(scratch_root()),
                IN_CONTAINER: "1",
                PIPELINE_BEAT: str(beat),
            },
            mounts=[
                *(Mount(path, path, type="bind", read_only=True) for path in sorted(read)),
                *(Mount(path, path, type="bind") for path in sorted(self.written)),
            ],
            user=f"{os.getuid()}:{os.getgid()}",
            network_mode=self.network,
            read_only=True,
            tmpfs={"/tmp": "mode=1777"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            shm_size=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // SHARED_MEMORY_PART,
            **({"device_requests": [DeviceRequest(count=-1, capabilities=[["gpu"]])]} if gpu else {}),
        )


def prepare(image: str, recipe: Recipe, arguments: Mapping[str, Any], output: str) -> Containers:
    """Check that containers can run, and say what they see of this machine.

    Args:
        image: of the stages; it must be here, or be pulled.
        recipe: with absolute paths.
        arguments: the pipeline's parameters.
        output: root of all results; it is created.

    Raises:
        SocoError: no Docker engine answers, or the image cannot be had.
    """
    _find_image(connect(), image)
    files = [recipe.images.subset, recipe.proposals.boxes_file, *(place for _, place in recipe.datasets)]
    given = [str(value) for value in (*arguments.values(), *files) if value]
    remote = any("://" in value and not value.startswith("sqlite:") for value in given if "\n" not in value)
    written = [*([] if is_s3(output) else [Path(output)]), *([scratch_root()] if remote else [])]
    for folder in written:
        folder.mkdir(parents=True, exist_ok=True)
    read = [value for value in (*given, os.environ.get("SOCO_DATA", "")) if value.startswith("/")]
    return Containers(
        image,
        read=tuple(_outermost(path for path in read if Path(path).exists())),
        written=tuple(_outermost(str(folder.resolve()) for folder in written)),
        network="host" if remote else "none",
    )


def connect() -> DockerClient:
    """Connect to the Docker engine of DOCKER_HOST, or of this machine.

    Raises:
        SocoError: none answers.
    """
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        raise SocoError(
            f"no Docker engine answers ({one_line(error)[:200]}); start it (Debian: apt-get install docker.io; "
            "dockerd), or set DOCKER_HOST"
        ) from error
    return client


def send(process: StageProcess, at_once: bool) -> None:
    """Ask the stage in a container to stop, or (`at_once`) end it.

    The first process of a container is a shell, which hands no signal on: so the stage's own process gets it.
    """
    from docker.errors import APIError

    with suppress(APIError):
        found = connect().containers.get(process.container)
        if at_once:
            found.kill()
        else:
            found.exec_run(["sh", "-c", f"kill -TERM {process.id}"])


@contextmanager
def beating(beat: Path) -> Iterator[None]:
    """Say again and again, in a file, that this command lives: containers do not end with it."""
    ended = threading.Event()

    def work() -> None:
        count = 0
        while True:
            beat.write_text(str(count))
            count += 1
            if ended.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=work, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _find_image(client: DockerClient, image: str) -> None:
    from docker.errors import APIError, ImageNotFound

    try:
        client.images.get(image)
    except ImageNotFound:
        try:
            client.images.pull(image)
        except APIError as error:
            raise SocoError(
                f"image {image} is not on this machine, and was not pulled ({one_line(error)[:160]}); build it: python "
                f"docker/build.py --target cpu --tag {image}"
            ) from error


def _inside(path: str, roots: Iterable[str]) -> bool:
    return any(Path(path).is_relative_to(root) for root in roots)


def _outermost(paths: Iterable[str]) -> list[str]:
    """Leave out what lies in another one of the paths."""
    found: list[str] = []
    for path in sorted(set(paths), key=len):
        if not _inside(path, found):
            found.append(path)
    return found
