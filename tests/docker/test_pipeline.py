"""The whole pipeline with each stage in a container of the image: kfp.local's DockerRunner."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_pipeline import STAGES, command, results

NAME = "soco-test:pipeline"
"""A name of its own, by which the engine's events tell these containers from those of tests beside."""

pytest.importorskip("kfp")
pytestmark = pytest.mark.timeout(2400)  # the first build downloads 3 GB


def run(output: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(output, "--runner", "docker", "--image", NAME),
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        cwd=output.parent,
    )


def started(engine: Any, since: float) -> list[dict[str, Any]]:
    """Return the starts of containers since a time."""
    wanted = {"type": "container", "event": "start", "image": NAME}
    return list(engine.events(since=int(since), until=int(time.time()) + 1, decode=True, filters=wanted))


def test_the_pipeline_runs_in_containers_of_the_image(
    engine: Any, image: str, open_folder: Callable[[], Path], record_property: Callable[[str, object], None]
) -> None:
    engine.images.get(image).tag(*NAME.split(":"))
    output = open_folder() / "out"
    began = time.time()
    done = run(output)
    seconds = time.time() - began
    assert done.returncode == 0, done.stderr
    found = results(output)
    assert {stage: len(found[stage]) for stage in STAGES} == STAGES
    (report,) = found["report"]
    assert f"report: {report / 'report.html'}" in done.stdout
    # Each stage that left a result, and the plan and the shards of the proposals, had a container of its own.
    containers = started(engine, began)
    assert len(containers) >= sum(STAGES.values()) + 2
    assert len({event["id"] for event in containers}) == len(containers)
    record_property("shown", f"pipeline in {len(containers)} containers (DockerRunner): {seconds:.0f} s")

    again = run(output)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert "it/s" not in again.stderr, "nothing is computed twice"
