"""Submitting through kfp's own client, to a server that answers as Kubeflow Pipelines does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("kfp")
from pipelines import endpoint, submit
from pipelines.access import Access, EndpointError, find_access
from pipelines.command import main
from pipelines.full_benchmark import build_pipeline
from pipelines.options import parse_options
from soco_core.recipes import load_recipe, parse_recipe
from tests.pipelines.fake_kubeflow import PAGE, RUN, TOKEN, FakeKubeflow, serving

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def kubeflow(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubeflow]:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.05)
    with serving() as fake:
        yield fake


def image(kubeflow: FakeKubeflow, name: str = "soco") -> str:
    return f"{kubeflow.address.removeprefix('http://')}/{name}:1"


def arguments(kubeflow: FakeKubeflow, kind: str, *more: str) -> list[str]:
    given = ["--submit", "--host", f"{kubeflow.address}/{kind}", "--output", "s3://bucket/out"]
    return [*given, "--image", image(kubeflow), *more]


def test_a_run_is_submitted_with_all_that_was_asked_for(
    kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--namespace", "team-a", "--experiment", "tries", "--service-account", "runner", "--set", "seed=3"]
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "ok", *more)) == 0
    out, err = capsys.readouterr()
    assert out == f"run: {RUN}\nsubmitted: {kubeflow.address}/ok/#/runs/details/{RUN}\n"
    assert err == "note: runner: not checked, as no cluster is reached (no kubeconfig)\n"
    (sent,) = kubeflow.sent("POST", "/runs")
    assert (sent.body["display_name"], sent.body["experiment_id"]) == ("demo", "e1")
    assert sent.body["service_account"] == "runner"
    given = sent.body["runtime_config"]["parameters"]
    assert parse_recipe(given.pop("recipe")) == load_recipe("demo", ["seed=3"])
    assert given == {"output": "s3://bucket/out", "shards": 2}
    spec = sent.body["pipeline_spec"]
    assert {executor["container"]["image"] for executor in executors(spec)} == {image(kubeflow)}
    (experiment,) = kubeflow.sent("POST", "/experiments")
    assert (experiment.body["display_name"], experiment.body["namespace"]) == ("tries", "team-a")


def executors(spec: dict[str, object]) -> list[dict[str, dict[str, object]]]:
    inner = spec.get("pipeline_spec", spec)
    return list(inner["deploymentSpec"]["executors"].values())  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("401", "answered 401 Unauthorized; log in first: give --token FILE or --cookies FILE"),
        ("502", "answered 502 Bad Gateway; is it the right one?"),
        ("page", "a page instead of JSON (a login page?)"),
        ("moved", "answered 302 Found and sends to /login/dex (a login page?)"),
        ("slow", "cannot be reached (timed out)"),
        ("trickle", "no answer within 4 s"),
    ],
)
def test_an_endpoint_that_is_none_gets_nothing(
    kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str], kind: str, words: str
) -> None:
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, kind)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {kubeflow.address}/{kind}: ")
    assert words in err
    assert [each.path for each in kubeflow.requests if kind in each.path] == [f"/{kind}{endpoint.HEALTH_PATH}"]


def test_nobody_there(kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--host", "http://localhost:1"]
    assert main(build_pipeline, "full_benchmark", [*arguments(kubeflow, "ok"), *more]) == 2
    assert re.fullmatch(r"error: http://localhost:1: cannot be reached \(.*refused\); .*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("forgetful", "the run was not accepted (the answer names no run; a login page?)"),
        ("refuses", "the run was not accepted (400 Invalid input error: no such service account)"),
        ("stuck", "no answer within 2 s; check the address and the network; look into the UI whether"),
    ],
)
def test_what_is_healthy_and_starts_no_run(
    kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    monkeypatch.setattr(submit, "DEADLINE_SECONDS", 2.0 if kind == "stuck" else 60.0)
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, kind)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert words in err


def test_the_token_lets_one_in_and_is_shown_nowhere(
    kubeflow: FakeKubeflow,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "cookies").write_text("authservice_session=c00kie")
    files = ["--token", str(tmp_path / "token"), "--cookies", str(tmp_path / "cookies")]
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "locked", *files)) == 0
    for request in kubeflow.requests:
        if request.path.startswith("/locked"):
            assert request.headers["authorization"] == f"Bearer {TOKEN}"
            assert request.headers["cookie"] == "authservice_session=c00kie"
    monkeypatch.setenv("KFP_TOKEN", TOKEN)
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "locked")) == 0
    monkeypatch.setenv("KFP_TOKEN", "expired-token")
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "locked")) == 2
    said = capsys.readouterr()
    assert "the token or the cookies are not taken (expired?)" in said.err
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "locked", "--token", TOKEN)) == 2
    more = capsys.readouterr()
    assert "--token: there is no such file" in more.err
    assert not any(secret in said.out + said.err + more.err for secret in (TOKEN, "c00kie", "expired-token"))
    # The registry is no part of the endpoint.
    assert all("authorization" not in each.headers for each in kubeflow.requests if each.path.startswith("/v2"))


def test_which_endpoint(monkeypatch: pytest.MonkeyPatch, bare_environment: None) -> None:
    def found(host: str = "", *arguments: str) -> Access:
        return find_access(parse_options("full_benchmark", ["--submit", *arguments]), host)

    with pytest.raises(EndpointError, match="give --host"):
        found()
    assert found("from-file:8080/").address == "http://from-file:8080"
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "third")
    assert found("from-file").address == "http://third"
    monkeypatch.setenv("KFP_ENDPOINT", "https://second/pipeline/")
    assert found().address == "https://second/pipeline"
    assert found("", "--host", "http://first/").address == "http://first"
    # Who names a context means its cluster, not the endpoint of another one.
    assert found("from-file", "--context", "lab") == Access("", "lab")
    assert found("", "--context", "lab", "--host", "first") == Access("http://first", "lab")
    for wrong in ("ftp://x", "http://me:pa55@x"):
        with pytest.raises(EndpointError, match="endpoint") as raised:
            found("", "--host", wrong)
        assert "pa55" not in str(raised.value)


def test_what_is_secret_is_not_in_the_text_of_an_access() -> None:
    assert not re.search("s3cret|c00kie", repr(Access("http://x", token="s3cret", cookies="c00kie")))


@pytest.mark.parametrize(
    ("states", "status", "shown"),
    [
        (["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"], 0, ["PENDING", "RUNNING", "SUCCEEDED"]),
        (["RUNNING", 502, 502, "SUCCEEDED"], 0, ["RUNNING", "SUCCEEDED"]),
        (["RUNNING", "FAILED"], 1, ["RUNNING", "FAILED"]),
        (["RUNNING", "CANCELING", "CANCELED"], 1, ["RUNNING", "CANCELING", "CANCELED"]),
    ],
)
def test_waiting_ends_with_the_run(
    kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str], states: list[object], status: int, shown: list[str]
) -> None:
    kubeflow.states = [*states]
    kubeflow.tasks = [
        {"display_name": "pretrain", "state": "FAILED", "error": {"code": 2, "message": "the loss is\nnot finite"}},
        {"display_name": "plan", "state": "SUCCEEDED"},
    ]
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "ok", "--wait")) == status
    err = capsys.readouterr().err
    assert re.findall(r"^\d\d:\d\d:\d\d (\w+)$", err, re.MULTILINE) == shown
    assert ("error: pretrain: the loss is not finite\n" in err) == (status == 1)
    assert err.count("no answer (502 Bad Gateway); asked again") == (502 in states)


def test_a_run_that_is_watched_no_more_is_said_to_go_on(
    kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.states = ["RUNNING", 401]
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "ok", "--wait")) == 2
    assert f"answered 401; the run goes on: {kubeflow.address}/ok/#/runs/details/{RUN}" in capsys.readouterr().err
    kubeflow.states = [404]
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "ok", "--wait")) == 2
    assert f"there is no run {RUN} any more" in capsys.readouterr().err
    monkeypatch.setattr(submit, "LONGEST_SILENCE_SECONDS", 0.2)
    kubeflow.states = ["RUNNING", 503]
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "ok", "--wait")) == 2
    assert "no answer for 0 s (503 Service Unavailable); the run goes on" in capsys.readouterr().err


def test_a_page_in_place_of_the_run_is_no_state(
    kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeKubeflow, "run", lambda self: {"login": PAGE.decode()})
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "ok", "--wait")) == 2
    assert "answered with something else than the run (a login page?); the run goes on" in capsys.readouterr().err


def test_ctrl_c_leaves_the_run_alone(kubeflow: FakeKubeflow) -> None:
    kubeflow.states = ["RUNNING"]
    # Where tests run in the background, children ignore SIGINT.
    script = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += "runpy.run_path('pipelines/full_benchmark.py', run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments(kubeflow, "ok", "--wait")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    end = time.monotonic() + 100
    while not kubeflow.sent("GET", f"/runs/{RUN}"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert f"left alone, and goes on: {kubeflow.address}/ok/#/runs/details/{RUN}" in err
    assert "Traceback" not in err
    assert f"run: {RUN}" in out


def test_without_an_address_the_cluster_is_the_way(
    kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(kubeflow, tmp_path)))
    # Read once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    given = ["--submit", "--context", "lab", "--output", "s3://b/o", "--image", image(kubeflow), "--wait"]
    assert main(build_pipeline, "full_benchmark", given) == 0
    out = capsys.readouterr().out
    assert f"http://localhost:8080/#/runs/details/{RUN} (after: kubectl --context lab -n kubeflow port-forward" in out
    (sent,) = kubeflow.sent("POST", "/runs")
    # kfp writes the second slash.
    assert sent.path.startswith("/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy//apis/v2beta1/runs")
    assert main(build_pipeline, "full_benchmark", [*given, "--context", "other"]) == 2
    assert "error: --context other: " in capsys.readouterr().err


def write_kubeconfig(kubeflow: FakeKubeflow, folder: Path) -> Path:
    text = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "c", "cluster": {"server": kubeflow.address}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "lab", "context": {"cluster": "c", "user": "u"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(text))
    return path


def test_the_package_is_that_of_the_command_without_submit(
    kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    more = ["--benchmarks", "voc-c4,linear", "--data", "s3://bucket/data", "--images", "s3://bucket/images"]
    assert main(build_pipeline, "full_benchmark", arguments(kubeflow, "ok", *more)) == 0
    (sent,) = kubeflow.sent("POST", "/runs")
    path = tmp_path / "p.yaml"
    compiled = ["--yaml", str(path), "--image", image(kubeflow), *more]
    assert main(build_pipeline, "full_benchmark", compiled) == 0
    spec, platform = yaml.safe_load_all(path.read_text())
    inner = sent.body["pipeline_spec"]
    assert inner["platform_spec"] == platform
    for each in (inner["pipeline_spec"], spec):
        for task in each["root"]["dag"]["tasks"].values():
            task.pop("cachingOptions", None)  # the client switches KFP's cache off once more
    assert inner["pipeline_spec"]["root"]["dag"] == spec["root"]["dag"]
    given = sent.body["runtime_config"]["parameters"]
    assert json.loads(json.dumps(parse_recipe(given["recipe"]).datasets.model_dump()))["voc"] == "s3://bucket/data/voc"
