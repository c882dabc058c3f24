"""The whole pipeline with each stage in a container of the image: kfp.local's DockerRunner."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_pipeline import STAGES, command, results

pytest.importorskip("kfp")
pytestmark = pytest.mark.timeout(2400)  # the first build downloads 3 GB


def run(output: Path, image: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(output, "--runner", "docker", "--image", image),
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        cwd=output.parent,
    )


def started(engine: Any, image: str, since: float) -> list[dict[str, Any]]:
    """Return the starts of containers of an image since a time."""
    wanted = {"type": "container", "event": "start", "image": image}
    return list(engine.events(since=int(since), until=int(time.time()) + 1, decode=True, filters=wanted))


def test_the_pipeline_runs_in_containers_of_the_image(
    engine: Any, image: str, open_folder: Callable[[], Path], record_property: Callable[[str, object], None]
) -> None:
    output = open_folder() / "out"
    began = time.time()
    done = run(output, image)
    seconds = time.time() - began
    assert done.returncode == 0, done.stderr
    found = results(output)
    assert {stage: len(found[stage]) for stage in STAGES} == STAGES
    (report,) = found["report"]
    assert f"report: {report / 'report.html'}" in done.stdout
    # Each stage that left a result, and the plan and the shards of the proposals, had a container of its own.
    containers = started(engine, image, began)
    assert len(containers) >= sum(STAGES.values()) + 2
    assert len({event["id"] for event in containers}) == len(containers)
    record_property("shown", f"pipeline in {len(containers)} containers (DockerRunner): {seconds:.0f} s")

    again = run(output, image)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert "it/s" not in again.stderr, "nothing is computed twice"
