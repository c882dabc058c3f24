"""docker/build.py and what the Dockerfile is made of, on an engine and a registry of this machine."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import images
from pipelines.images import BuiltImage, default_image, read_images, record_image
from soco_core.errors import InputError, SocoError

from .conftest import BUILD, IMAGE, REPOSITORY, build

DOCKERFILE = REPOSITORY / "docker" / "Dockerfile"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(BUILD))


def test_the_dockerfile_is_as_hadolint_wants_it() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (make setup)")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_hadolint_does_not_ask() -> None:
    text = DOCKERFILE.read_text()
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", text, re.MULTILINE)
    assert stages[0] == ("${BASE_IMAGE}", "python")
    assert [name for _, name in stages[-2:]] == ["cpu", "cuda"]
    assert [parent for parent, _ in stages[-2:]] == ["stage", "stage"]
    # Compilers come to a stage of which nothing but wheels is taken.
    assert "FROM packages AS detectron2" in text
    assert "apt-get" not in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert "\nADD " not in text
    assert re.search(r'^HEALTHCHECK .*\["soco", "doctor"\]$', text, re.MULTILINE)
    assert not re.search(r"^(ARG|ENV) .*(PASSWORD|SECRET|TOKEN)", text, re.MULTILINE | re.IGNORECASE)
    code = text.index("COPY soco_core")
    assert text.index("TORCH_INDEX_URL") < text.index("executor.txt") < text.index("DETECTRON2_REQUIREMENT") < code


def test_requirements_are_divided_so_that_pytorchs_layer_rarely_changes(tmp_path: Path) -> None:
    divide = REPOSITORY / "docker" / "requirements.py"

    def run(constraints: str, name: str) -> Path:
        (tmp_path / "constraints.txt").write_text(constraints)
        command = [sys.executable, divide, REPOSITORY / "pyproject.toml", tmp_path / "constraints.txt", tmp_path / name]
        subprocess.run(command, check=True)
        return tmp_path / name

    first = run("# a remark\nsympy==1.0\nTyping_Extensions==4.0\nrich==1.0\n", "first")
    other = run("# another\nsympy==1.0\nTyping_Extensions==4.0\nrich==2.0\n", "other")
    torch = (first / "torch" / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in torch] == ["torch", "torchvision"]
    for name in ("requirements.txt", "constraints.txt"):
        assert (first / "torch" / name).read_text() == (other / "torch" / name).read_text()
    constrained = (first / "torch" / "constraints.txt").read_text()
    assert "sympy==1.0\nTyping_Extensions==4.0\n" in constrained
    assert re.search(r"^numpy==", constrained, re.MULTILINE), "soco's own pin"
    packages = (first / "packages" / "requirements.txt").read_text()
    assert all(f"\n{name}==" in packages for name in ("mlflow", "kubernetes", "pyarrow"))
    assert "kfp" not in packages
    assert "pytest" not in packages
    assert (first / "packages" / "executor.txt").read_text().startswith("kfp==")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "cpu", "--tag", "soco"], "--tag soco: write REGISTRY/soco:VERSION"),
        (["--target", "cpu", "--tag", "Soco:1"], "in lower case"),
        (["--target", "cuda", "--tag", "soco:1"], "--torch-index-url is missing"),
        (["--target", "cpu", "--tag", "soco:1", "--ca", "/no/ca.pem"], "--ca /no/ca.pem: no such file"),
        (
            ["--target", "cpu", "--tag", "soco:1", "--torch-index-url", "https://me:pw@mirror.example/simple"],
            "a password would stay in the image's history",
        ),
    ],
)
def test_misuse_is_one_line(arguments: list[str], said: str) -> None:
    done = build(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "pw" not in done.stderr.replace("password", "")


def test_no_engine_is_one_line() -> None:
    done = build("--target", "cpu", "--tag", "soco:1", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Docker engine answers (")
    assert done.stderr.count("\n") == 1


def test_layers_have_names(script: dict[str, Any]) -> None:
    history = [
        {"CreatedBy": "CMD [soco]", "Size": 0},
        {"CreatedBy": "RUN bash /pip-install.sh --built /wheels soco; # buildkit", "Size": 30},
        {"CreatedBy": "RUN bash /pip-install.sh --built /wheels detectron2 # buildkit", "Size": 0},
        {"CreatedBy": 'RUN bash /pip-install.sh ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"}', "Size": 500},
        {"CreatedBy": "/bin/sh -c apt-get install", "Size": 7},
        {"CreatedBy": "", "Size": 100},
    ]
    assert script["layers"](history) == [("base", 107), ("PyTorch", 500), ("soco", 30)]


def test_the_record_keeps_one_image_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "images.json"
    monkeypatch.setattr(images, "RECORD", record)
    assert default_image() == "soco:latest"
    record_image("cpu", BuiltImage("r/soco:1", "sha256:1"))
    record_image("cuda", BuiltImage("r/soco:1-cuda", "sha256:2", "r/soco@sha256:3"))
    record_image("cpu", BuiltImage("r/soco:2", "sha256:4"))
    assert (default_image("cpu"), default_image("cuda")) == ("r/soco:2", "r/soco@sha256:3")
    assert set(read_images()) == {"cpu", "cuda"}
    record.write_text(json.dumps({"cpu": {"name": "r/soco:1"}}))
    with pytest.raises(InputError, match=r"images\.json: damaged"):
        default_image()


def test_pushed_to_a_registry_it_is_named_by_its_digest(
    engine: Any, base_image: str, registry: str, script: Any
) -> None:
    tag = f"{registry}/soco:7"
    engine.images.get(base_image).tag(f"{registry}/soco", "7")
    try:
        digest = script["push"](engine, tag)
        assert re.fullmatch(rf"{registry}/soco@sha256:[0-9a-f]{{64}}", digest)
        assert digest in engine.images.get(tag).attrs["RepoDigests"]
    finally:
        engine.images.remove(tag)
    engine.images.pull(digest)
    engine.images.remove(digest)
    engine.images.get(base_image).tag("127.0.0.1:1/soco", "7")
    try:
        with pytest.raises(SocoError, match="not pushed"):
            script["push"](engine, "127.0.0.1:1/soco:7")
    finally:
        engine.images.remove("127.0.0.1:1/soco:7")


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("architecture", "status"), [("sm_80", 0), ("sm_10", 1)])
def test_the_cuda_image_is_not_built_for_gpus_that_pytorch_has_no_code_for(
    engine: Any, image: str, base_image: str, site: list[str], script: Any, architecture: str, status: int
) -> None:
    """With the PyTorch of pip's usual index, whose layers are those of the image `cpu`; it has no code for V100."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command")
    options = script["_parser"]().parse_args(
        [
            *("--target", "cuda", "--tag", f"{IMAGE}-cuda", "--base-image", base_image, *site),
            *("--cuda-architecture", architecture),
        ]
    )
    command = [script["find_command"](), *script["build_arguments"](options)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=script["_environment"](), capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == bool(status), done.stderr[-2000:]
    if status:
        assert f"has no code for {architecture}" in done.stderr + done.stdout
    else:  # the build itself says so only where this step does not come from the engine's cache
        said = engine.containers.run(f"{IMAGE}-cuda", ["soco", "doctor", "--built-for", architecture], remove=True)
        assert said.decode().startswith("torch has code for ")
        assert architecture in said.decode().split()
