"""SIGKILL at a random moment, ten times over: the result is that of an unbroken run, to the byte."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.proposals.conftest import MakeImages, start, wait_for_end_of_group

KILLS, SEARCH_KILLS = 10, 6
SHARDS = 3


def contents(output: Path) -> dict[str, bytes]:
    """All files of the only result, but for what is hidden (locks, and files that were being written)."""
    (result,) = (output / "proposals").iterdir()
    paths = (path.relative_to(result) for path in result.rglob("*") if path.is_file())
    return {
        path.as_posix(): (result / path).read_bytes()
        for path in paths
        if not any(part.startswith(".") for part in path.parts)
    }


def wait_for(happened: Callable[[], bool], running: subprocess.Popen[bytes]) -> float:
    """Wait for what a process does, or for its end; return when that was."""
    while running.poll() is None and not happened():
        time.sleep(0.01)
    return time.monotonic()


def test_killed_ten_times_over(make_images: MakeImages, tmp_path: Path) -> None:
    images = make_images(150)
    (images / "bad.png").write_bytes(b"no image")
    said = tmp_path / "said.txt"

    def propose(output: Path, workers: int) -> subprocess.Popen[bytes]:
        arguments = ["--images", images, "--output", output, "--shards", str(SHARDS), "--workers", str(workers)]
        return start(arguments, said)

    def images_done(output: Path) -> int:
        """Lines of journals; of finished shards, more than these can have."""
        found = [path.read_bytes() for path in output.rglob("*.jsonl")]
        return sum(lines.count(b"\n") for lines in found) + 1000 * len(list(output.rglob("shards/*.parquet")))

    def merge_may_begin(output: Path) -> bool:
        return len(list(output.rglob("*.parquet"))) >= SHARDS or any(output.rglob("kept.arrow"))

    output = tmp_path / "unbroken"
    running = propose(output, workers=0)
    began = wait_for(lambda: images_done(output) > 0, running)
    searched = wait_for(lambda: merge_may_begin(output), running)
    ended = wait_for(lambda: False, running)
    assert running.returncode == 0, said.read_text()
    expected = contents(output)
    assert {"done.json", "manifest.json", "kept.arrow", "tables/00000.parquet"} < set(expected)

    output = tmp_path / "killed"
    draw = random.Random(3)
    in_search = in_merge = 0
    for kill in range(KILLS):
        before = images_done(output)
        running = propose(output, workers=kill % 2)
        if kill == 0:  # while it starts
            time.sleep(draw.uniform(0, 2))
        elif kill < SEARCH_KILLS:  # all together they take about as long as the search
            wait_for(lambda before=before: images_done(output) > before or merge_may_begin(output), running)
            time.sleep(draw.uniform(0, 2 * (searched - began) / SEARCH_KILLS))
        else:
            wait_for(lambda: merge_may_begin(output), running)
            time.sleep(draw.uniform(0, 1.5 * (ended - searched)))
        running.kill()
        running.wait()
        wait_for_end_of_group(running.pid)
        in_search += any(output.rglob("*.jsonl"))
        in_merge += any(output.rglob("kept.arrow"))
        # Killed too late, it is whole: go back to the moment before its last file was written.
        for done in output.rglob("done.json"):
            done.unlink()
    assert in_search, "no kill came while images were searched"
    assert in_merge, "no kill came after the merge had begun"

    assert propose(output, workers=0).wait(timeout=120) == 0, said.read_text()
    found = contents(output)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not [*output.rglob("figures/.*"), *output.rglob("tables/.*"), *output.rglob(".kept.arrow.*")]
