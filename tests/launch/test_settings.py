"""The parameter `job`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from soco_core.errors import InputError
from soco_core.launch import JobSettings

README = Path(__file__).resolve().parents[2] / "components" / "pretrain" / "README.md"


def test_no_text_is_no_job() -> None:
    assert JobSettings.from_json("") == JobSettings.from_json(" {} ") == JobSettings()
    assert JobSettings().nodes == 0


def test_all_of_it_goes_through_json() -> None:
    settings = JobSettings.from_json(
        '{"nodes": 2, "image": "soco", "node_selector": {"gpu": "v100"}, "claims": {"a": "/a"}, "secrets": ["s3"],'
        ' "tolerations": [{"key": "gpu", "operator": "Exists"}], "env": {"NCCL_SOCKET_IFNAME": "eth0"}}'
    )
    assert settings.claims == {"a": "/a"}
    assert settings.tolerations[0].key == "gpu"
    assert JobSettings.from_json(json.dumps(settings.model_dump(mode="json"))) == settings


@pytest.mark.parametrize(("gpus", "processes", "expected"), [(8, 0, 8), (0, 0, 1), (0, 4, 4), (8, 2, 2)])
def test_processes(gpus: int, processes: int, expected: int) -> None:
    assert JobSettings(gpus_per_node=gpus, processes_per_node=processes).processes == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{nodes: 2}", r"not JSON \(.*\); write it as {\"nodes\": 2}"),
        ("[]", "it: .*"),
        ('{"node": 2}', r"node: unknown key \(did you mean 'nodes'\?\)"),
        ('{"nodes": "2"}', r"nodes: .*integer.* \(got '2'\)"),
        ('{"nodes": -1}', r"nodes: .*greater than or equal to 0"),
        ('{"memory": "10 GB"}', r"memory: .*\(got '10 GB'\)"),
        ('{"claims": {"data": "data"}}', r"claims: data is mounted at 'data'; give another path"),
        ('{"claims": {"data": "/tmp/"}}', r"claims: data is mounted at '/tmp/'"),
        ('{"claims": {"a": "/x", "b": "/x"}}', r"claims: two are mounted at the same path"),
        ('{"env": {"AWS_SECRET_ACCESS_KEY": "x"}}', r"env: AWS_SECRET_ACCESS_KEY looks like a secret"),
        ('{"gpus_per_node": 2, "processes_per_node": 4}', r"processes_per_node is 4, more than gpus_per_node \(2\)"),
        ('{"tolerations": [{"key": "a", "opertor": "Exists"}]}', r"tolerations\.0\.opertor: unknown key"),
    ],
)
def test_a_mistake_is_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^parameter `job`: {message}") as caught:
        JobSettings.from_json(text)
    assert "\n" not in str(caught.value)


def test_a_secret_is_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        JobSettings.from_json('{"env": {"MY_TOKEN": "hunter2"}}')
    assert "hunter2" not in str(caught.value)


def test_the_readme_lists_every_field() -> None:
    rows = [line.split("|")[1] for line in README.read_text().splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(JobSettings.model_fields) <= listed
