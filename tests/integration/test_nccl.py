"""Two processes over NCCL, each its own `torchrun`'s as on two nodes, compute what one does.

They share a GPU where there is only one: NCCL refuses that on one host, so each is given a host's name of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from soco_core.artifacts.metrics import read_metrics
from soco_core.demo_data.stage import demo_data
from soco_core.recipes import parse_recipe
from tests.detection.test_processes import ONE_STEP
from tests.detection.test_stage import TINY
from tests.gpu import require_gpu
from tests.linear.conftest import TINY as TINY_LINEAR
from tests.linear.conftest import write_classes
from tests.pretrain.test_processes import FOUR_STEPS, TWENTY_STEPS, command
from tests.scenes import write_scenes
from tests.services import free_port

pytestmark = pytest.mark.gpu
BIN = Path(sys.executable).parent
EXACT = {"OMP_NUM_THREADS": "1", "NVIDIA_TF32_OVERRIDE": "0"}
ON_A_GPU = ["runtime.device=cuda", "runtime.precision=fp32"]


@pytest.fixture(scope="module", autouse=True)
def gpu() -> torch.device:
    return require_gpu()


class Nodes:
    """Two nodes of one process each; what they say goes into files of `folder`."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder = folder
        folder.mkdir()
        port = free_port()
        self.started = [self._start(node, port, arguments) for node in range(2)]

    def _start(self, node: int, port: int, arguments: list[str]) -> subprocess.Popen[bytes]:
        torchrun = [str(BIN / "torchrun"), "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1"]
        where = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        environment = {
            **os.environ,
            **EXACT,
            "CUDA_VISIBLE_DEVICES": str(node % torch.cuda.device_count()),
            "NCCL_HOSTID": f"node-{node}",
            "NCCL_SOCKET_IFNAME": "lo",
            "NCCL_DEBUG": "INFO",
            "NCCL_DEBUG_FILE": str(self.folder / f"{node}.nccl"),
        }
        with open(self.folder / f"{node}.stdout", "w") as stdout, open(self.folder / f"{node}.stderr", "w") as stderr:
            return subprocess.Popen(
                [*torchrun, *where, str(BIN / "soco"), *arguments], stdout=stdout, stderr=stderr, env=environment
            )

    def trainer(self, node: int) -> psutil.Process:
        """The process that computes."""
        children = psutil.Process(self.started[node].pid).children()
        return next(child for child in children if "RANK" in child.environ())

    def wait(self) -> list[int]:
        """Status of each."""
        return [node.wait(timeout=240) for node in self.started]

    def said(self, node: int, where: str) -> str:
        return (self.folder / f"{node}.{where}").read_text()


def both(folder: Path, arguments: list[str]) -> Path:
    """Run in two processes, over NCCL; return the result."""
    nodes = Nodes(folder, arguments)
    assert nodes.wait() == [0, 0], nodes.said(0, "stderr") + nodes.said(1, "stderr")
    assert "nranks 2" in nodes.said(0, "nccl")
    assert nodes.said(1, "stdout") == ""
    return Path(nodes.said(0, "stdout").strip())


def alone(_: Path, arguments: list[str]) -> Path:
    done = subprocess.run(
        [str(BIN / "soco"), *arguments], capture_output=True, text=True, check=False, env={**os.environ, **EXACT}
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def losses(result: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(result / "metrics.jsonl")]


@pytest.fixture(scope="module")
def proposals(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("nccl")
    write_scenes(folder / "images", 32)
    arguments = ["propose", "--recipe", "demo", "--set", "proposals.engine=exact"]
    return str(alone(folder, [*arguments, "--images", str(folder / "images"), "--output", str(folder)]))


def test_pretraining_over_twenty_steps(
    proposals: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A learning rate, or a batch norm, that followed the local batch would be far off within a few steps."""
    sets = [*TWENTY_STEPS, *ON_A_GPU]
    one, again, two = (
        losses(run(tmp_path / f"log-{name}", command(proposals, tmp_path / name, sets)))
        for name, run in (("one", alone), ("again", alone), ("two", both))
    )
    apart, noise = (np.abs(np.subtract(one, other)).max() for other in (two, again))
    record_property("shown", f"20 steps over NCCL are {apart:.1e} from one process, which is {noise:.1e} from itself")
    assert len(one) == len(two) == 20
    assert one[-1] < one[0] - 0.5
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-4)


def test_a_signal_to_one_stops_both_and_one_goes_on(proposals: str, tmp_path: Path) -> None:
    arguments = command(proposals, tmp_path, [*FOUR_STEPS, "pretrain.epochs=20", *ON_A_GPU])
    nodes = Nodes(tmp_path / "log", arguments)
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("pretrain/*/checkpoints/step-*.pt")):
        assert time.monotonic() < deadline, nodes.said(0, "stderr")
        time.sleep(0.02)
    nodes.trainer(1).send_signal(signal.SIGTERM)
    assert all(nodes.wait())
    assert "stopped by SIGTERM; the state after step" in nodes.said(0, "stderr")
    assert len(losses(alone(tmp_path, arguments))) == 80


def test_finetuning(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    data = str(demo_data(parse_recipe(TINY), output=str(tmp_path)).path)
    sets = [part for item in [*ONE_STEP, "runtime.device=cuda"] for part in ("--set", item)]
    arguments = ["finetune", "--recipe", str(tmp_path / "tiny.yaml"), *sets, "--coco", data, "--output"]
    one, two = (
        read_metrics(run(tmp_path / f"log-{name}", [*arguments, str(tmp_path / name)]) / "metrics.jsonl")[0]
        for name, run in (("one", alone), ("two", both))
    )
    assert "loss_mask" in one
    for name in (name for name in one if name.startswith("loss")):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name


def test_linear(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_LINEAR)
    images = write_classes(tmp_path / "images")
    sets = [part for item in ON_A_GPU for part in ("--set", item)]
    arguments = ["linear", "--recipe", str(tmp_path / "tiny.yaml"), *sets, "--images", images, "--init", "scratch"]
    one, two = (
        losses(run(tmp_path / f"log-{name}", [*arguments, "--output", str(tmp_path / name)]))
        for name, run in (("one", alone), ("two", both))
    )
    np.testing.assert_allclose(two, one, rtol=1e-3)
