"""Several processes that end as one: each scenario runs in real processes, told their places as `torchrun` does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest

from soco_core.engine.distributed import Processes, Wishes
from soco_core.engine.together import run_together
from soco_core.errors import InputError, InterruptedStageError, SocoError

SCRIPT = """
import os, signal, socket, sys, threading, time
from pathlib import Path
import torch
import torch.distributed as dist
from soco_core import cli
from soco_core.config import RuntimeConfig
from soco_core.engine.distributed import Wishes
from soco_core.engine.loop import TrainingLoop
from soco_core.engine.together import run_together
from soco_core.errors import InputError, InterruptedStageError


def fails(error):
    raise error

class Counting:
    # The second batch of process 1 never comes; the first process gets a signal while it waits for that.

    name, total_steps, steps_per_epoch, images_per_step, saved_before = "count", 3, 0, 1, 0

    def batches(self, first_step):
        for step in range(first_step, self.total_steps):
            if step == 1 and RANK == 0:
                threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(60 if step == 1 and RANK == 1 else 0)
            yield step

    def step(self, step, batch):
        pass

    def measured(self):
        return iter(())

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

def compute(processes):
    if scenario == "a signal while another one's batch does not come":
        TrainingLoop(Counting(), RuntimeConfig(), processes).run()
    name = processes.in_turn(lambda: f"seen by {processes.rank}")
    assert name == f"seen by {processes.rank}"
    assert processes.agree(wishes=Wishes(save=int(RANK == 1))) == (0, 1) and not processes.agreed
    picture = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    sent = {
        "step": 3,
        "tensor": torch.arange(4.0),
        "of": {1: [picture, "x"], "empty": torch.zeros(0, 3), "one": (torch.tensor(7), torch.ones(2).bfloat16())},
        "turned": picture.transpose(1, 3)[:, ::2],
    }
    state = processes.share(sent if processes.first else None)
    assert state["step"] == 3 and state["tensor"].tolist() == [0, 1, 2, 3]
    assert state["of"][1][0].equal(picture) and state["of"][1][0].stride() == picture.stride()
    assert state["of"][1][1] == "x" and state["of"]["empty"].shape == (0, 3) and state["turned"].equal(sent["turned"])
    assert state["of"]["one"][0] == 7 and state["of"]["one"][1].equal(torch.ones(2).bfloat16())
    processes.check_same({"seed": 3})
    if scenario == "another recipe in one":
        processes.check_same({"seed": 3, "pretrain.epochs": 2 if RANK == 2 else 1})
    if scenario == "an input error in one":
        processes.together(lambda: fails(InputError("7.png: no image")) if RANK == 1 else None)
    if scenario == "a bug in one":
        processes.together(lambda: fails(KeyError("x")) if RANK == 1 else None)
    if scenario == "errors in two":
        processes.together(lambda: fails(InputError(f"{RANK}.png")) if RANK else None)
    if scenario == "a bug between the collectives" and RANK == 1:
        raise KeyError("x")
    if scenario == "one is killed" and RANK == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if scenario == "asked to stop":
        wishes = Wishes(stop=signal.SIGTERM if RANK == 1 else 0)
        asked = processes.agree(InputError("also this") if RANK == 2 else None, wishes)
        assert asked == (signal.SIGTERM, 0)
        raise InterruptedStageError("stopped by SIGTERM")
    total = torch.tensor([float(RANK)])
    dist.all_reduce(total)
    assert total == 3

def lead(processes):
    assert processes.first and processes.count == 3
    if scenario == "the first one fails before":
        raise InputError("no such folder")
    if scenario != "nothing to do":
        with processes.computing():
            compute(processes)
    if scenario == "the first one fails afterwards":
        raise InputError("no space is left")
    return "result"

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

def be(rank, port):
    global RANK
    RANK = rank
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    sys.stdout = Path(f"{number}.{rank}.out").open("w", buffering=1)
    sys.stderr = Path(f"{number}.{rank}.err").open("w", buffering=1)
    cli.app = lambda **_: print(run_together("cpu", lead, compute))
    try:
        cli.main()
    except SystemExit as end:
        time.sleep(0 if rank else 0.3)
        Path(f"{number}.{rank}.end").write_text(str(time.monotonic()))
        os._exit(end.code)

# Processes are forked, so that torch is imported once.
os.chdir(sys.argv[1])
for number, scenario in enumerate(sys.argv[2:]):
    port, children = free_port(), []
    for rank in range(3):
        children.append(os.fork())
        if children[-1] == 0:
            be(rank, port)
    for child in children:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

COUNT = 3
SCENARIOS = {
    "all goes well": (0, ""),
    "nothing to do": (0, ""),
    "the first one fails before": (2, "error: no such folder\n"),
    "the first one fails afterwards": (2, "error: no space is left\n"),
    "an input error in one": (2, "error: 7.png: no image\n"),
    "another recipe in one": (
        2,
        "error: process 2 has pretrain.epochs 2, and the first one 1; start all with the same command, the same soco "
        "and the same proposals\n",
    ),
    "errors in two": (2, "error: 1.png\n"),
    "a bug in one": (1, "error: OtherProcessError: process 1: KeyError: 'x' (--debug shows the traceback)\n"),
    "asked to stop": (130, "stopped by SIGTERM\n"),
    "a signal while another one's batch does not come": (
        130,
        "stopped by SIGTERM; the state after step 1 of 3 is saved. Run the same command to go on\n",
    ),
}
"""Status of all processes, and what the first one says."""
UNFORESEEN = ("a bug between the collectives", "one is killed")


class Ended(NamedTuple):
    status: int
    said: str
    printed: str
    at: str
    """When, in seconds of a clock; empty for a process that was killed."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Ended]]:
    """How the processes of each scenario ended."""
    folder = tmp_path_factory.mktemp("scenarios")
    (folder / "script.py").write_text(SCRIPT)
    names = (*SCENARIOS, *UNFORESEEN)
    command = [sys.executable, str(folder / "script.py"), str(folder), *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    statuses = [int(line) for line in done.stdout.split()]

    def read(number: int, rank: int) -> Ended:
        paths = [folder / f"{number}.{rank}.{name}" for name in ("err", "out", "end")]
        texts = [path.read_text() if path.exists() else "" for path in paths]
        return Ended(statuses[number * COUNT + rank], *texts)

    return {name: [read(number, rank) for rank in range(COUNT)] for number, name in enumerate(names)}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_end_with_one_status_and_the_first_one_speaks(scenario: str, ended: dict[str, list[Ended]]) -> None:
    processes = ended[scenario]
    status, said = SCENARIOS[scenario]
    assert [process.status for process in processes] == [status] * COUNT, processes
    assert [process.said for process in processes] == [said, "", ""]
    assert [process.printed for process in processes] == ["" if status else "result\n", "", ""]
    # `torchrun` ends all processes when one has failed: the first one must have had its say by then.
    assert not status or min(processes, key=lambda process: float(process.at)) is processes[0]


def test_a_bug_where_nobody_looks_is_said_by_its_own_process_and_ends_all(ended: dict[str, list[Ended]]) -> None:
    processes = ended["a bug between the collectives"]
    assert [process.status for process in processes] == [1] * COUNT, processes
    assert [process.said for process in processes] == ["", "error: process 1 of 3: KeyError: 'x'\n", ""]


def test_a_killed_process_ends_all_with_one_line(ended: dict[str, list[Ended]]) -> None:
    processes = ended["one is killed"]
    assert [process.status for process in processes] == [2, -signal.SIGKILL, 2], processes
    lines = [line for process in processes for line in process.said.splitlines()]
    assert len(lines) == 1
    assert re.fullmatch(r"error: (process 2 of 3: )?another process is gone .* run the same command again.*", lines[0])


def test_alone_there_is_one_process_and_its_errors_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def lead(processes: Processes) -> str:
        assert processes.first
        assert processes.count == 1
        assert processes.device.type == "cpu"
        assert processes.share("kept") == "kept"
        assert processes.in_turn(lambda: 3) == 3
        assert processes.agree() == (0, 0)
        assert processes.agree(wishes=Wishes(save=1)) == (0, 1)
        assert not processes.agreed
        assert processes.agree(wishes=Wishes(signal.SIGINT)) == (signal.SIGINT, 0)
        with processes.computing(), pytest.raises(InputError, match="gone"):
            processes.agree(InputError("gone"))
        return "result"

    def follow(processes: Processes) -> None:
        raise AssertionError("there is nobody to follow")

    assert run_together("cpu", lead, follow) == "result"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE is 2 .* MASTER_ADDR is not set; start by torchrun"),
    ],
)
def test_half_an_environment_is_refused_and_not_taken_for_none(
    environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SocoError, match=words):
        run_together("cpu", lambda _: None, lambda _: None)


def test_an_error_alone_is_raised_as_it_is() -> None:
    def lead(_: Processes) -> None:
        raise InterruptedStageError("stopped")

    with pytest.raises(InterruptedStageError):
        run_together("cpu", lead, lambda _: None)
