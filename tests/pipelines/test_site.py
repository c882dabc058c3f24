"""A site's file of defaults, and what goes before it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("kfp")
from pipelines.cluster import Cluster, settle
from pipelines.options import parse_options
from pipelines.site import FILE, Site, load_site
from soco_core.errors import InputError, SocoError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SOCO_PIPELINE_DEFAULTS", "SOCO_IMAGE", "SOCO_OUTPUT", "KFP_NAMESPACE", "KFP_EXPERIMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pipelines.images.RECORD", tmp_path / "images.json")


def settled(folder: Path, text: str, *arguments: str) -> Cluster:
    (folder / "site.yaml").write_text(text)
    return settle(parse_options("full_benchmark", ["--defaults", str(folder / "site.yaml"), *arguments]))


def uncommented() -> str:
    """The example lines of the file in the repository, as a user would leave them."""
    lines = FILE.read_text().splitlines()
    return "\n".join(line.removeprefix("# ") for line in lines if re.match(r"# ([a-z_]+:|  +[{\w])", line))


def test_the_file_in_the_repository_says_nothing_and_its_examples_are_valid(tmp_path: Path) -> None:
    assert load_site() == Site()
    site = load_site(write(tmp_path, uncommented()))
    assert site.claims == {"soco-data": "/data", "soco-checkpoints": "/checkpoints"}
    assert (site.job.nodes, site.job.queue) == (2, "soco")
    # What it gives as the values without it.
    assert site.stages == Site().stages
    assert set(yaml.safe_load(uncommented())) == set(Site.model_fields)


def write(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hots: http://x", "hots: unknown key (did you mean 'host'?)"),
        ("stages: {gpu: {gpu: 2}}", "stages.gpu.gpu: unknown key (did you mean 'gpus'?)"),
        ("stages: {cpu: {gpus: 2}}", "gpus: 2, but these stages use none"),
        ("stages: {gpu: {memory: 8}}", "stages.gpu.memory: Input should be a valid string"),
        ("stages: {gpu: {memory: 16Gi}}", "shared_memory 16Gi is part of memory, 16Gi; make it smaller"),
        ("stages: {shards: {cpus: four}}", "four: give cores, such as 4"),
        ("claims: {soco-data: data}", "'data' is no place to mount"),
        ("claims: {Soco: /data}", "'Soco' is no name in Kubernetes"),
        ("claims: {a: /data, b: /data/}", "two claims are mounted at /data"),
        ("environment: {AWS_SECRET_ACCESS_KEY: x}", "AWS_SECRET_ACCESS_KEY looks like a secret"),
        ("job: {node: 2}", "job.node: unknown key (did you mean 'nodes'?)"),
        ("- host", "it is a mapping of sections, not a list"),
        ("host: [", "not valid YAML"),
        ("host: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_what_is_wrong_in_it_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SocoError, match=re.escape(words)) as raised:
        load_site(path)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_named_file_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCO_PIPELINE_DEFAULTS", str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match=r"--defaults: cannot read .*none\.yaml"):
        settle(parse_options("full_benchmark", []))


def test_command_line_then_environment_then_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    namespace: from-file
    experiment: from-file
    output: /from/file
    image: from/file:1
    claims: {a: /from-file, b: /b}
    environment: {X: from file, Y: y}
    image_pull_secrets: [p]
    """
    cluster = settled(tmp_path, text)
    assert (cluster.namespace, cluster.output, cluster.tasks.image) == ("from-file", "/from/file", "from/file:1")
    assert cluster.pods.claims == {"a": "/from-file", "b": "/b"}
    for name in ("KFP_NAMESPACE", "KFP_EXPERIMENT", "SOCO_OUTPUT", "SOCO_IMAGE"):
        monkeypatch.setenv(name, "from-environment")
    cluster = settled(tmp_path, text)
    assert {cluster.namespace, cluster.experiment, cluster.output, cluster.tasks.image} == {"from-environment"}
    given = ["--namespace", "n", "--experiment", "e", "--submit", "--output", "o", "--image", "i", "--claim", "a:/new"]
    cluster = settled(tmp_path, text, *given, "--env", "X=x=1", "--pull-secret", "q")
    assert (cluster.namespace, cluster.experiment, cluster.output, cluster.tasks.image) == ("n", "e", "o", "i")
    assert cluster.pods.claims == {"a": "/new", "b": "/b"}
    assert cluster.pods.environment == {"X": "x=1", "Y": "y"}
    assert cluster.pods.pull_secrets == ["q"]


def test_stages_that_train_have_the_image_for_gpus(tmp_path: Path) -> None:
    def images(text: str, *arguments: str) -> tuple[str, str]:
        tasks = settled(tmp_path, text, *arguments).tasks
        return tasks.image, tasks.gpu_image

    assert images("") == ("soco:latest", "")
    assert images("{image: a, gpu_image: b}") == ("a", "b")
    assert images("{image: a, gpu_image: b}", "--image", "c") == ("c", "")
    assert images("{image: a}", "--gpu-image", "d") == ("a", "d")
    built = {target: {"tag": f"r/soco:{target}", "id": "sha256:0"} for target in ("cpu", "cuda")}
    (tmp_path / "images.json").write_text(json.dumps(built))
    assert images("") == ("r/soco:cpu", "r/soco:cuda")
    assert images("", "--image", "c") == ("c", "")


def test_the_job_has_what_all_stages_have(tmp_path: Path) -> None:
    text = """
    image: i
    gpu_image: g
    claims: {data: /data}
    secrets: {s3: {AWS_ACCESS_KEY_ID: AWS_ACCESS_KEY_ID}}
    environment: {X: all, Y: all}
    image_pull_secrets: [p]
    job: {gpus_per_node: 4, queue: q, env: {X: job, NCCL_DEBUG: INFO}}
    """
    assert settled(tmp_path, text).job == ""
    assert json.loads(settled(tmp_path, text, "--nodes", "2").job) == {
        "nodes": 2,
        "gpus_per_node": 4,
        "image": "g",
        "claims": {"data": "/data"},
        "secrets": ["s3"],
        "image_pull_secrets": ["p"],
        "queue": "q",
        "env": {"X": "job", "Y": "all", "NCCL_DEBUG": "INFO"},
    }
    more = json.loads(settled(tmp_path, text, "--nodes", "3", "--gpus-per-node", "1", "--env", "X=line").job)
    assert (more["nodes"], more["gpus_per_node"], more["env"]["X"]) == (3, 1, "line")
    with pytest.raises(SocoError, match=r"the PyTorchJob: .*mounted at '/tmp'"):
        settled(tmp_path, text, "--nodes", "1", "--claim", "data:/tmp")
    with pytest.raises(InputError, match="--secret k=V: the pods of a PyTorchJob get a secret's keys under their own"):
        settled(tmp_path, text, "--nodes", "1", "--secret", "s3:k=V")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--claim data", "--claim data: write NAME:PATH"),
        ("--claim Data:/data", "--claim Data:/data: 'Data' is no name in Kubernetes"),
        ("--claim data:rel", "--claim data:rel: 'rel' is no place to mount"),
        ("--claim d:/a --claim d:/b", "d:/b: d is given twice"),
        ("--secret s3", "--secret s3: write NAME:KEY"),
        ("--secret s3:a,", "--secret s3:a,: write NAME:KEY"),
        ("--secret s3:a=B-C", "'B-C' is no name of an environment variable"),
        ("--env secretvalue", "--env: write NAME=VALUE"),
        ("--env MY_TOKEN=abc", "--env MY_TOKEN looks like a secret"),
        ("--nodes -1", "--nodes -1: at least 0"),
        ("--nodes 0 --gpus-per-node 8", "--nodes 0 asks for none"),
        ("--local --nodes 0", "--nodes is of pods on a cluster, and --local runs here"),
        ("--local --claim a:/b", "--claim is of pods on a cluster"),
        ("--local --wait", "--wait goes with --submit"),
        ("--token file", "--token goes with --submit"),
        ("--benchmarks coco-fpn-1x,nope", "--benchmarks nope: no such benchmark"),
        ("--benchmarks linear,linear", "linear is named twice"),
        ("--scale cpu", "--scale goes with --benchmarks"),
        ("--benchmarks linear --coco c", "--coco goes with --images"),
    ],
)
def test_what_is_wrong_with_an_option_is_one_line(arguments: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as raised:
        parse_options("full_benchmark", arguments.split())
    assert not any(secret in str(raised.value) for secret in ("abc", "secretvalue"))


@pytest.mark.parametrize("option", ["--coco c", "--benchmarks linear", "--supervised f", "--compare a=b"])
def test_pretraining_alone_has_no_benchmarks(option: str) -> None:
    with pytest.raises(InputError, match=r"--\w+: pretrain_only\.py trains no detector; leave it out, or use"):
        parse_options("pretrain_only", [*option.split(), "--images", "i"], evaluates=False)
    assert parse_options("pretrain_only", ["--images", "i"], evaluates=False).images == "i"
