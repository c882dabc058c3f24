"""A real Docker engine, a base image of Debian's own packages, and the image of the stages built on it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "docker" / "build.py"
BASE = "soco-test-base:bookworm"
IMAGE = "soco-test:0"
LOCK = Path("/tmp/soco-test-image.lock")
"""Test processes side by side build the same image: one does, the others find it in the engine's cache."""


def unavailable(reason: str) -> None:
    """Skip; where an engine is known to run (CI says so), fail."""
    if os.environ.get("SOCO_REQUIRE_DOCKER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def engine() -> Any:
    """The SDK's client of a Docker engine."""
    docker = pytest.importorskip("docker")
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException:
        unavailable("no Docker engine answers (Debian: apt-get install docker.io; dockerd)")
    return client


@pytest.fixture(scope="session")
def base_image(engine: Any) -> str:
    """Debian with Python, as docker/debian-base.sh makes it: no registry of images is needed."""
    import docker

    if shutil.which("mmdebstrap") is None:
        unavailable("mmdebstrap makes the base image (apt-get install mmdebstrap)")
    with FileLock(LOCK):
        try:
            engine.images.get(BASE)
        except docker.errors.ImageNotFound:
            script = REPOSITORY / "docker" / "debian-base.sh"
            made = subprocess.run(["bash", str(script), BASE], check=False, capture_output=True, text=True)
            if made.returncode:
                unavailable(f"{script.name}: {made.stderr.strip().splitlines()[-1]}")
    return BASE


@pytest.fixture(scope="session")
def site() -> list[str]:
    """What reaches the package index from here: the CA bundle of this machine, if it has one of its own."""
    ca = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    return ["--ca", ca] if ca else []


@pytest.fixture(scope="session")
def built(base_image: str, site: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The target `cpu`, built as users build it; what the command said, and how long it took."""
    record = tmp_path_factory.mktemp("record") / "images.json"
    with FileLock(LOCK):
        began = time.monotonic()
        done = build("--target", "cpu", "--tag", IMAGE, "--base-image", base_image, *site, "--record", str(record))
        seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr[-4000:]
    return f"{done.stdout}docker/build.py: {seconds:.0f} s (what did not change comes from the engine's cache)"


@pytest.fixture(scope="session")
def image(built: str) -> str:
    """Name of the image."""
    return IMAGE


def build(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run docker/build.py."""
    return subprocess.run(
        [sys.executable, str(BUILD), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Callable[[], Path]]:
    """Make folders that every user can read; pytest's own are for one user alone."""
    made: list[Path] = []

    def make() -> Path:
        made.append(Path(tempfile.mkdtemp(prefix="soco-test-")))
        made[-1].chmod(0o755)
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A real registry of images on this machine (Debian's docker-registry)."""
    if shutil.which("docker-registry") is None:
        unavailable("there is no docker-registry (apt-get install docker-registry)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    server = subprocess.Popen(["docker-registry", "serve", str(config)], stderr=subprocess.DEVNULL)
    host, port = address.split(":")
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                break
        time.sleep(0.1)
    yield address
    server.terminate()
    server.wait(10)
