"""What can be said against options alone, and what they make of a recipe."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("kfp")
from pipelines.here import share_cores_of_shards
from pipelines.options import parse_options
from pipelines.proposals import ShardTasks, proposals_part
from pipelines.tasks import Tasks
from soco_core.errors import InputError
from soco_core.recipes import parse_recipe


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--shards -3", "--shards -3: at least 1"),
        ("--parallel-shards -1", "--parallel-shards -1: at least 0"),
        ("--shard-retries -2", "--shard-retries -2: at least 0"),
        ("--shard-retries many", "argument --shard-retries: invalid int value: 'many'"),
        *(
            (f"--shard-cpus {cpus}", f"--shard-cpus {cpus}: give cores")
            for cpus in ("0", "0.0", "0m", "four", "4cores", "1.5m")
        ),
        *(
            (f"--shard-memory {size}", f"--shard-memory {size}: give a whole number with its unit, such as 8Gi")
            for size in ("8", "8GB", "8gi", "0Gi", "1.5Gi", "Gi")
        ),
        ("--shard-memory=-8Gi", "--shard-memory -8Gi: give a whole number"),
        ("--paralel-shards 2", "unrecognized arguments: --paralel-shards 2"),
    ],
)
def test_impossible_values_are_one_line(arguments: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as raised:
        parse_options("full_benchmark", arguments.split())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("cpus", ["4", "0.5", ".5", "500m"])
@pytest.mark.parametrize("memory", ["8Gi", "900Mi", "1Ti", "8G", "900M"])
def test_values_that_kfp_takes_too(cpus: str, memory: str) -> None:
    options = parse_options("full_benchmark", ["--shard-cpus", cpus, "--shard-memory", memory])
    proposals_part(Tasks("image"), ShardTasks(cpus=options.shard_cpus, memory=options.shard_memory))


@pytest.mark.parametrize(
    ("arguments", "cores", "workers"),
    [
        ([], 8, 4),  # two shards, side by side
        (["--shards", "9"], 8, 4),  # kfp.local runs no more than two at a time
        (["--shards", "1"], 8, 8),
        (["--shards", "9", "--parallel-shards", "1"], 8, 8),
        (["--shards", "9", "--parallel-shards", "4"], 8, 4),
        ([], 3, 1),
        ([], 1, 1),
    ],
)
def test_shards_share_the_cores(
    arguments: list[str], cores: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.here.usable_cores", lambda: cores)
    options = parse_options("full_benchmark", ["--local", *arguments])
    assert share_cores_of_shards(parse_recipe(""), options).runtime.search_workers == workers


def test_a_recipe_that_says_how_many_is_left_alone() -> None:
    recipe = parse_recipe("runtime: {search_workers: 7}")
    assert share_cores_of_shards(recipe, parse_options("full_benchmark", ["--local"])) == recipe
