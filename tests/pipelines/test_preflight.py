"""What a run would miss is found before anything is sent: claims, secrets, images, places, data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("kfp")
from pipelines.command import main
from pipelines.full_benchmark import build_pipeline
from pipelines.registry import look_up
from tests.pipelines.fake_kubeflow import RUN, FakeKubeflow, serving

Said = Callable[..., list[str]]


@pytest.fixture
def kubeflow(bare_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubeflow]:
    with serving() as fake:
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "c", "cluster": {"server": fake.address}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "lab", "context": {"cluster": "c", "user": "u"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(text))
        yield fake


@pytest.fixture
def said(kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """Submit, and return the lines on standard error; a run was started if, and only if, none is an error."""
    # tests/pipelines/test_submit.py starts runs for real, which takes seconds each.
    started: list[str] = []
    monkeypatch.setattr("pipelines.submission.submit", lambda *_, name, **__: started.append(name) or RUN)

    def submit(*arguments: str, image: str = "soco", kind: str = "ok") -> list[str]:
        address = kubeflow.address.removeprefix("http://")
        given = ["--submit", "--host", f"{kubeflow.address}/{kind}", "--image", f"{address}/{image}:1", *arguments]
        started.clear()
        status = main(lambda *_: None, "full_benchmark", given)
        lines = [
            line.replace(address, "REGISTRY")
            for line in capsys.readouterr().err.splitlines()
            if "shortened" not in line
        ]
        errors = any(line.startswith("error: ") for line in lines)
        assert status == (2 if errors else 0)
        assert len(started) == (0 if errors else 1)
        return lines

    return submit


def test_everything_at_once_each_on_a_line_of_its_own(
    kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_kubeconfig(monkeypatch, tmp_path)
    kubeflow.objects = {"there"}
    given = ["--submit", "--host", f"{kubeflow.address}/502", "--images", "/data/i", "--coco", "/data/c"]
    claims = ["--claim", "there:/there", "--claim", "gone:/gone", "--secret", "s3:KEY", "--pull-secret", "login"]
    assert main(build_pipeline, "full_benchmark", [*given, *claims, "--service-account", "runner"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("; ")[0] for line in err.splitlines()] == [
        f"error: {kubeflow.address}/502: Kubeflow Pipelines answered 502 Bad Gateway",
        "error: output: none is given",
        "error: images /data/i: no pod sees it",
        "error: coco /data/c: no pod sees it",
        "error: image soco:latest: no registry has it",
        "error: claim gone: not in namespace kubeflow",
        "error: secret s3: not in namespace kubeflow",
        "error: secret login: not in namespace kubeflow",
        "error: service account runner: not in namespace kubeflow",
    ]
    assert not kubeflow.sent("POST", "/runs")
    secrets = [each for each in kubeflow.requests if "/secrets/" in each.path]
    assert all(each.headers["accept"].startswith("application/json;as=PartialObjectMetadata") for each in secrets)


def use_kubeconfig(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
    # Read once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(folder / "kubeconfig"))


def test_with_nothing_given_all_that_is_needed_is_said(
    bare_environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(build_pipeline, "full_benchmark", ["--submit"]) == 2
    kinds = [line.split(": ")[1].split()[0] for line in capsys.readouterr().err.splitlines()]
    assert kinds == ["endpoint", "output", "image"]


def test_what_the_cluster_does_not_tell_is_said_to_be_unchecked(
    said: Said, kubeflow: FakeKubeflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = ["--output", "/results/soco", "--claim", "results:/results", "--namespace", "team"]
    assert said(*given) == ["note: results: not checked, as no cluster is reached (no kubeconfig)"]
    use_kubeconfig(monkeypatch, tmp_path)
    assert said(*given) == [
        "error: claim results: not in namespace team; create it (k8s/base/claims.yaml), or name another one by --claim"
    ]
    kubeflow.objects.add("results")
    assert said(*given) == []
    kubeflow.forbidden.add("results")
    assert said(*given) == ["note: persistentvolumeclaim results: not checked (Kubernetes answered 403 Forbidden)"]


def test_images_in_their_registry(said: Said) -> None:
    output = ["--output", "s3://b/o"]
    assert said(*output, image="none") == [
        "error: image REGISTRY/none:1: its registry has none; push it, or give another one by --image"
    ]
    assert said(*output, image="private") == [
        "note: image REGISTRY/private:1: not checked (REGISTRY answered 401 Unauthorized)"
    ]
    assert said(*output, "--gpu-image", "localhost:1/soco:cuda") == [
        "note: image localhost:1/soco:cuda: not checked (localhost:1 cannot be reached from here)"
    ]


def test_an_image_that_the_nodes_hold_already(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    note = ["note: image soco:latest: not checked (it names no registry)"]
    assert said("--output", "s3://b/o", "--image", "soco:latest") == note


def test_a_reference_is_asked_for_as_it_is_written(kubeflow: FakeKubeflow) -> None:
    registry, digest = kubeflow.address.removeprefix("http://"), f"sha256:{'0' * 64}"
    assert look_up(f"{registry}/soco@{digest}") == ("there", "")
    assert look_up(f"{registry}/soco:v1@{digest}") == ("there", "")
    assert look_up(f"{registry}/soco") == ("there", "")
    assert look_up(f"{registry}/team/soco:1") == ("missing", "")
    asked = [each.path.removeprefix("/v2/") for each in kubeflow.requests]
    assert asked == [f"soco/manifests/{digest}"] * 2 + ["soco/manifests/latest", "team/soco/manifests/1"]
    assert look_up("team/soco:1") == (None, "it names no registry")


def test_paths_must_lie_on_claims(said: Said) -> None:
    claims = ["--claim", "data:/data", "--output", "s3://b/o"]
    data = ["--images", "/data/images", "--coco", "s3://bucket/coco"]
    files = ["--supervised", "/database/s.pth", "--compare", "moco=/data/../m.pth"]
    lines = said(*claims, *data, *files, "--set", "proposals.engine=import", "--set", "proposals.boxes_file=b.json")
    assert [line.split(";")[0] for line in lines if line.startswith("error")] == [
        "error: supervised /database/s.pth: no pod sees it",
        "error: compare MoCo: /data/../m.pth: no pod sees it".replace("MoCo:", "MoCo"),
        "error: proposals.boxes_file b.json: no pod sees it",
    ]


def test_named_data_sets_must_have_a_place(said: Said) -> None:
    common = ["--output", "s3://b/o", "--images", "s3://b/i", "--benchmarks", "coco-fpn-1x,voc-c4,linear"]
    lines = said(*common)
    assert [line.split(":")[1].strip() for line in lines] == [
        "data set coco (benchmark coco-fpn-1x)",
        "data set voc (benchmark voc-c4)",
        "data set imagenet (benchmark linear)",
    ]
    assert len(said(*common, "--set", "datasets.voc=s3://b/voc", "--linear-images", "s3://b/imagenet")) == 1
    assert said(*common, "--data", "s3://b/data") == []
    assert said(*common, "--env", "SOCO_DATA=s3://b/data") == []
    # All detectors on one data set.
    assert len(said(*common, "--coco", "s3://b/coco")) == 1
    assert len(said("--output", "s3://b/o", "--images", "s3://b/i", "--coco", "mini-coco-5")) == 1


def test_a_password_in_the_tracking_uri_goes_nowhere(said: Said) -> None:
    lines = said("--output", "s3://b/o", "--tracking-uri", "http://me:pa55@mlflow:5000")
    assert len(lines) == 1
    assert "holds a password" in lines[0]
    assert "pa55" not in lines[0]


def test_an_endpoint_of_several_users_or_of_an_old_release(said: Said, kubeflow: FakeKubeflow) -> None:
    output = ["--output", "s3://b/o"]
    assert said(*output, kind="users") == [
        "error: namespace: http://REGISTRY/users has several users; give yours by --namespace"
    ]
    assert said(*output, "--namespace", "me", kind="users") == []
    assert said(*output, kind="old") == [
        "note: http://REGISTRY/old: Kubeflow Pipelines 2.5.1, but the loop over shards and retries need 2.14 or later"
    ]
