"""The image of the stages, run as on a cluster: another user, a root file system only to read, no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soco_core.demo_data.stage import demo_data
from soco_core.recipes import load_recipe
from tests.integration.test_training_killed import SMALL as SMALL_NETWORKS

from .conftest import IMAGE

pytestmark = pytest.mark.timeout(2400)  # the first build downloads 3 GB

SOCO = Path(sys.executable).with_name("soco")
SMALL = [f"demo_data.{name}" for name in ("train_images=8", "val_images=2", "unlabelled_images=1")]
TINY = [
    "--recipe=demo",
    *(f"--set={item}" for item in SMALL_NETWORKS),
    "--set=pretrain.epochs=16",
    "--set=runtime.checkpoint_steps=1000",
]
LOCKED = {"read_only": True, "tmpfs": {"/tmp": ""}, "network_mode": "none", "cap_drop": ["ALL"], "shm_size": "1g"}
USER = 10001


def run(engine: Any, image: str, *command: str, **options: Any) -> tuple[int, str]:
    container = engine.containers.create(image, list(command), **{**LOCKED, **options})
    try:
        container.start()
        status = container.wait()["StatusCode"]
        return status, container.logs().decode()
    finally:
        container.remove(force=True)


@pytest.fixture(scope="module")
def images(open_folder: Callable[[], Path]) -> Path:
    """A few rendered images, for both users to read."""
    return demo_data(load_recipe("demo", SMALL), output=str(open_folder())).path / "images"


@pytest.fixture
def results(open_folder: Callable[[], Path]) -> Path:
    """A folder that the image's user may write."""
    folder = open_folder()
    folder.chmod(0o777)
    return folder


def mounts(results: Path, *read: Path) -> dict[str, dict[str, str]]:
    """The same paths inside as outside."""
    return {
        str(results): {"bind": str(results), "mode": "rw"},
        **{str(path): {"bind": str(path), "mode": "ro"} for path in read},
    }


def test_doctor_finds_all_that_the_stages_need(engine: Any, image: str) -> None:
    status, said = run(engine, image)
    assert (status, "Every stage can run here." in said) == (0, True), said
    assert re.search(r"absent +detectron2 +for its engine; without it torchvision's", said)
    assert re.search(r"^ok +scratch", said, re.MULTILINE)


def test_its_layers_are_shown(built: str, record_property: Callable[[str, object], None]) -> None:
    sizes = {name: float(size.replace(",", "")) for name, size in re.findall(r"^(\S.*?)  +([\d,]+\.\d)$", built, re.M)}
    layers = ["base", "Python environment", "PyTorch", "packages", "soco"]
    assert list(sizes) == [*layers, IMAGE]
    assert sum(sizes[name] for name in layers) == pytest.approx(sizes[IMAGE], rel=0.01)
    assert sizes["soco"] < 10, "a change of the code costs its own layer alone"
    record_property("shown", built)


def test_user_compilers_and_secrets(engine: Any, image: str) -> None:
    # One stream: the engine does not keep the order of two.
    look = "exec 2>&1; id -u; command -v cc gcc make git; ls -A /run/secrets; touch /opt/soco/x"
    status, said = run(engine, image, "sh", "-c", look)
    user, refused = said.splitlines()  # and so no compiler, and no secret
    assert (status, user) == (1, str(USER))
    assert refused.endswith("Read-only file system")
    found = engine.images.get(image)
    assert found.attrs["Config"]["User"] == f"{USER}:{USER}"
    assert found.attrs["Config"]["Healthcheck"]["Test"] == ["CMD", "soco", "doctor"]
    assert found.labels["org.opencontainers.image.version"]
    assert "BEGIN CERTIFICATE" not in str(found.history())


def test_kfps_executor_runs_without_what_kfp_requires(engine: Any, image: str) -> None:
    status, said = run(
        engine, image, "python3", "-m", "kfp.dsl.executor_main", "--help", environment=["_KFP_RUNTIME=true"]
    )
    assert (status, "--function_to_execute" in said) == (0, True), said


def test_a_stage_gives_the_same_bytes_in_the_container_and_in_a_process(
    engine: Any, image: str, images: Path, results: Path, tmp_path: Path
) -> None:
    command = ["propose", "--recipe", "demo", "--images", str(images), "--set", "runtime.search_workers=1"]
    status, said = run(engine, image, "soco", *command, "--output", str(results), volumes=mounts(results, images))
    assert status == 0, said
    other = tmp_path / "other"
    subprocess.run([SOCO, *command, "--output", str(other)], check=True, capture_output=True)
    (inside,), (outside,) = results.glob("proposals/*"), other.glob("proposals/*")
    assert inside.name == outside.name, "the same inputs have the same fingerprint"
    assert {path.stat().st_uid for path in inside.iterdir()} == {USER}
    same = [inside / "kept.arrow", *sorted(inside.rglob("*.parquet"))]
    assert len(same) > 1
    for path in same:
        assert path.read_bytes() == (outside / path.relative_to(inside)).read_bytes(), path.name


def test_stopped_in_mid_stage_and_started_again_it_goes_on_from_its_checkpoint(
    engine: Any, image: str, images: Path, results: Path, open_folder: Callable[[], Path], tmp_path: Path
) -> None:
    proposed = subprocess.run(
        [SOCO, "propose", "--recipe", "demo", "--images", str(images), "--output", str(open_folder())],
        check=True,
        capture_output=True,
        text=True,
    )
    proposals = Path(proposed.stdout.strip())
    command = ["pretrain", *TINY, "--proposals", str(proposals)]
    container = engine.containers.create(
        image,
        ["soco", *command, "--output", str(results)],
        volumes=mounts(results, images, proposals),
        environment={"OMP_NUM_THREADS": "1"},
        **LOCKED,
    )
    try:
        container.start()
        for line in container.logs(stream=True, follow=True):
            if re.search(rb" ([2-9]|\d\d)/32 ", line):
                break
        container.stop(timeout=60)
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 130, container.logs().decode()
        stopped = container.logs().decode()
        container.start()
        assert container.wait()["StatusCode"] == 0, container.logs().decode()
        again = container.logs().decode().removeprefix(stopped)
    finally:
        container.remove(force=True)
    first = re.search(r"(\d+)/32 ", again)
    assert first is not None
    assert int(first[1]) >= 2, "it begins where it was stopped"
    undisturbed = subprocess.run(
        [SOCO, *command, "--output", str(tmp_path / "other")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    (result,) = results.glob("pretrain/*")
    weights = "pretrained.safetensors"
    assert (result / weights).read_bytes() == (Path(undisturbed.stdout.strip()) / weights).read_bytes()
