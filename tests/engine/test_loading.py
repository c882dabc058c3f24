"""Waiting for batches: from a source that delivers, hangs, fails, or whose processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from functools import partial
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from soco_core.engine import loading
from soco_core.engine.loading import Loading, killed_loaders
from soco_core.engine.processes import LONGEST_TEMPORARY, start_loader_worker
from soco_core.errors import InputError, SocoError

CPU = torch.device("cpu")


def never() -> bool:
    return False


def test_batches_come_in_order_each_when_it_is_asked_for_and_the_source_is_closed() -> None:
    events: list[Any] = []

    def source() -> Generator[int, None, None]:
        try:
            for number in range(3):
                events.append(number)
                yield number
        finally:
            events.append("closed")

    with Loading(source(), CPU) as batches:
        time.sleep(0.05)
        assert events == []
        assert batches.next(never) == 0
        assert batches.next(never) == 1
        time.sleep(0.05)
        assert events == [0, 1]
    assert events == [0, 1, "closed"]


@pytest.mark.parametrize("error", [InputError("7.png: no image"), KeyboardInterrupt()])
def test_what_the_source_raises_is_raised(error: BaseException) -> None:
    def source() -> Generator[int, None, None]:
        yield 0
        raise error

    with Loading(source(), CPU) as batches:
        assert batches.next(never) == 0
        with pytest.raises(type(error)) as raised:
            batches.next(never)
        assert raised.value is error


def test_a_source_that_hangs_is_left_when_asked_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "CLOSE_SECONDS", 0.2)
    answer = threading.Event()

    def source() -> Generator[int, None, None]:
        yield 0
        answer.wait(30)

    began = time.monotonic()
    with Loading(source(), CPU) as batches:
        assert batches.next(lambda: True) == 0  # what is there is taken
        assert batches.next(lambda: time.monotonic() - began > 1) is None
    assert 1 < time.monotonic() - began < 5
    answer.set()


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU that the thread is given is there")
def test_a_thread_that_cannot_have_its_gpu_says_so_instead_of_never_answering() -> None:
    def source() -> Generator[int, None, None]:
        yield 1

    with Loading(source(), torch.device("cuda", 0)) as batches, pytest.raises((RuntimeError, AssertionError)):
        batches.next(never)


class Deadly(Dataset[torch.Tensor]):
    """Its process is killed by the third image, as by a kernel without memory."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> torch.Tensor:
        if number == 2:
            time.sleep(1.0)  # both batches before it are taken, and this one is waited for
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(number)


@pytest.mark.parametrize("loaded_here_before", [False, True])
def test_a_killed_process_of_the_loader_is_one_line_with_the_remedy(
    loaded_here_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch then listens in the main thread for processes that end."""
    if loaded_here_before:
        list(DataLoader(range(2), num_workers=1))  # type: ignore[arg-type]
    else:
        monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    loader = DataLoader(Deadly(), batch_size=1, num_workers=1, worker_init_fn=partial(start_loader_worker, os.getpid()))

    def source() -> Generator[torch.Tensor, None, None]:
        yield from loader

    def load_all(batches: Loading[torch.Tensor]) -> None:
        for _ in range(8):
            batches.next(never)

    with Loading(source(), CPU) as batches, pytest.raises(SocoError) as error:
        load_all(batches)
    assert "was killed" in str(error.value)
    assert "runtime.workers" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", "(pid 12)"),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "(pid 12, 13)"),
        (
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            "It is out of shared memory (/dev/shm)",
        ),
    ],
)
def test_each_way_of_torch_to_say_it(said: str, named: str) -> None:
    with pytest.raises(SocoError) as error, killed_loaders():
        raise RuntimeError(said)
    assert named in str(error.value)


def test_a_process_that_was_gone_before_its_batch_was_fetched() -> None:
    listener = Listener()
    address = listener.address
    listener.close()
    with pytest.raises(SocoError, match="a process that loads images was killed"), killed_loaders():
        Client(address)


@pytest.mark.parametrize("met_in", ["traceback.extract_tb", "time.sleep"])
def test_the_signal_with_torchs_word_may_come_while_the_first_sign_is_looked_at(
    met_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")

    monkeypatch.setattr(f"soco_core.engine.loading.{met_in}", interrupted)
    listener = Listener()
    address = listener.address
    listener.close()
    with pytest.raises(SocoError, match=r"\(pid 12\) was killed"), killed_loaders():
        Client(address)


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), killed_loaders():
        raise RuntimeError("shapes differ")
    with pytest.raises(FileNotFoundError), killed_loaders():
        os.stat("/nowhere/at/all")


ONE_BATCH = """
import os
from functools import partial
import torch
from torch.utils.data import DataLoader
from soco_core.engine.processes import start_loader_worker
from soco_core.errors import one_line
try:
    print(*DataLoader([torch.ones(1)], num_workers=1, worker_init_fn=partial(start_loader_worker, os.getpid())))
except Exception as error:
    print(one_line(error))
"""


def test_a_temporary_folder_in_which_no_batch_can_be_sent_is_named() -> None:
    with tempfile.TemporaryDirectory(prefix="soco-") as root:
        said = []
        for length in (LONGEST_TEMPORARY, LONGEST_TEMPORARY + 1):
            folder = Path(root, "x" * (length - len(root) - 1))
            folder.mkdir()
            done = subprocess.run(
                [sys.executable, "-c", ONE_BATCH],
                env={**os.environ, "TMPDIR": str(folder)},
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
            )
            said.append(done.stdout.strip())
    assert said[0] == "tensor([[1.]])"
    assert said[1].startswith(f"TMPDIR: the temporary folder {folder} has more than {LONGEST_TEMPORARY} characters, ")
