"""A cluster of the tests' own, and a work that a job is to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from soco_core.launch import JobSettings, Waits, Work
from tests.launch.fake_kubernetes import FakeKubernetes

WAITS = Waits(turn=1, first_retry=0.02, longest_retry=0.1, unanswered=1, patience=5, request=2, quiet_log=5, stop=2)
SETTINGS = JobSettings(nodes=2, image="registry.example/soco:cuda", claims={"results": "/results"})
WORK = Work("pretrain", "/results/pretrain/0123456789abcdef", "0123456789abcdef", ("--output", "/results"))


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """The server; the client finds it by its kubeconfig."""
    fake = FakeKubernetes()
    config = tmp_path / "kubeconfig"
    config.write_text(fake.kubeconfig())
    monkeypatch.setenv("KUBECONFIG", str(config))
    for name in ("KUBERNETES_SERVICE_HOST", "KFP_POD_NAME", "POD_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield fake
    fake.close()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """What was said since the last call, line by line."""

    def read() -> list[str]:
        return capsys.readouterr().err.splitlines()

    return read
