"""The pipeline command as users start it; in `local` its stages are fakes that cost nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "pipelines" / "full_benchmark.py"
FAKES = Path(__file__).parent / "fake_stages"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start the command with fake stages, tracked nowhere that costs time, in a process group of its own."""
    pytest.importorskip("kfp")

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), "--local", "--output", str(tmp_path / "out"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": f"{FAKES}:{REPOSITORY}", "TMPDIR": str(tmp_path), **environment},
        )

    return begin


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's says which cluster to use, or what a site gives."""
    for name in [name for name in os.environ if name.startswith(("KFP_", "KF_", "SOCO_", "KUBE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # kfp's client looks for its own settings there
    monkeypatch.setattr("pipelines.images.RECORD", tmp_path / "images.json")
    (tmp_path / "site.yaml").write_text("")
    monkeypatch.setenv("SOCO_PIPELINE_DEFAULTS", str(tmp_path / "site.yaml"))
