"""The processes of one training, as `torchrun` starts them on any number of nodes (paper 4.1: 16 GPUs).

The first process leads: it alone locks, writes and speaks. The others follow: they wait for its word, compute
with it, and end quietly with its status. What goes wrong in one process (or the wish to stop) is exchanged where
all of them come by, so that none is left waiting in a collective.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

from soco_core.console import say
from soco_core.engine.setup import choose_device
from soco_core.errors import InterruptedStageError, SocoError, one_line

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

T = TypeVar("T")

ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` (or a PyTorchJob) tells each process."""
PATIENCE = timedelta(hours=12)
"""How long processes wait for the first one, which may hash images or upload; one that died is noticed at once."""
LAST_WORDS = timedelta(seconds=10)
"""How long a process that fails after another waits for that one's status."""
CLOSED = ("Connection closed by peer", "Connection reset by peer")
"""How gloo says that a process is gone."""
COMPUTE, END = "compute", "end"


class OtherProcessError(Exception):
    """What another process ended with, if it was not an error that a user can act on."""


class _AgreedEnd(Exception):  # noqa: N818
    """All processes end with this status, and the first one says why."""

    def __init__(self, status: int) -> None:
        self.status = status


@dataclass
class Processes:
    """This process's place among those of one training; alone it is the first of one."""

    wanted_device: Literal["auto", "cpu", "cuda"]
    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Its number among the processes of its node."""
    control: dist.ProcessGroup | None = None
    """For words between processes, on the CPU; None if there is one process."""
    norm: dist.ProcessGroup | None = None
    """For batch norm on the CPU; None if there is one process, and on GPUs."""
    _store: dist.Store | None = None
    _device: torch.device | None = None
    _agreed: bool = False
    _awaited: bool = True
    """Whether the others wait for the first one's word."""

    @property
    def device(self) -> torch.device:
        """Where this process computes; torch is imported to find out.

        Raises:
            SocoError: as :func:`soco_core.engine.setup.choose_device` does.
        """
        if self._device is None:
            self._device = choose_device(self.wanted_device)
        return self._device

    @property
    def first(self) -> bool:
        """Whether this process leads."""
        return self.rank == 0

    def agree(self, error: Exception | None = None, asked: int = 0) -> int:
        """Exchange errors and the wish to stop; all processes call it at the same point.

        Args:
            error: what went wrong here.
            asked: number of the signal that this process got, or 0.

        Returns:
            The number of a signal that any process got, or 0. An error does not count then: the loader's
            processes may have got the signal too.

        Raises:
            Exception: in the first process, the error of whichever process has one.
        """
        if self.count > 1:
            import torch
            import torch.distributed as dist

            flags = torch.tensor([asked, error is not None])
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.control)
            asked, failed = flags.tolist()
            self._agreed = bool(asked or failed)
            if failed and not asked:
                self._fail_together(error)
        elif error is not None and not asked:
            raise error
        return asked

    def together(self, call: Callable[[], T]) -> T:
        """Do something in all processes that may fail in some; an error in one ends all."""
        result: list[T] = []
        error = None
        try:
            result.append(call())
        except Exception as caught:
            error = caught
        self.agree(error)
        return result[0]

    def in_turn(self, call: Callable[[], T]) -> T:
        """Do something in one process of each node first, so that the others find its copies; errors end all."""
        if self.local_rank == 0:
            result = self.together(call)
            self.agree()
            return result
        self.agree()
        return self.together(call)

    def share(self, value: T) -> T:
        """Return the first process's value in all of them: plain types, containers and CPU tensors."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around what the first process computes together with the others."""
        self._tell(COMPUTE)
        self._awaited = False
        yield
        self._awaited = True

    def _tell(self, word: str, status: int = 0) -> None:
        self.share((word, status))

    def _fail_together(self, error: Exception | None) -> NoReturn:
        import torch.distributed as dist

        own = None if error is None else (_status(error), one_line(error))
        found: list[tuple[int, str] | None] = [None] * self.count
        dist.all_gather_object(found, own, group=self.control)
        rank, (status, line) = next((rank, said) for rank, said in enumerate(found) if said is not None)
        if not self.first:
            raise _AgreedEnd(status)
        if error is not None:
            raise error
        raise SocoError(line) if status == _status(SocoError()) else OtherProcessError(f"process {rank}: {line}")

    def _lead(self, work: Callable[[Processes], T]) -> T:
        try:
            result = work(self)
        except BaseException as error:
            if self._awaited:
                self._tell(END, _status(error))
            elif isinstance(error, Exception) and not self._agreed:
                explained = _explained(error)
                status = self._claim(explained)
                if status is not None:
                    raise SystemExit(status) from error
                if explained is not error:
                    raise explained from error
            raise
        self._tell(END)
        _leave()
        return result

    def _follow(self, work: Callable[[Processes], None]) -> NoReturn:
        try:
            word, status = self.share(("", 0))
            if word == COMPUTE:
                work(self)
                word, status = self.share(("", 0))
        except (_AgreedEnd, InterruptedStageError) as end:
            if not self._agreed:
                raise SystemExit(self._last_words(end)) from None
            status = end.status if isinstance(end, _AgreedEnd) else _status(end)
        except Exception as error:
            raise SystemExit(self._last_words(error)) from None
        except BaseException as error:
            raise SystemExit(_status(error)) from None
        if status:
            self._outlive_the_first()
        else:
            _leave()
        raise SystemExit(status)

    def _last_words(self, error: Exception) -> int:
        """Say what went wrong here, unless another process was first; return the status to end with."""
        error = _explained(error)
        status = self._claim(error)
        if status is not None:
            return status
        say(f"error: process {self.rank} of {self.count}: {one_line(error)}")
        return _status(error)

    def _claim(self, error: Exception) -> int | None:
        """Return the status of the process that failed before this one, or None if this is the first to.

        What fails later mostly fails because its neighbours are gone.
        """
        assert self._store is not None
        try:
            if self._store.add("soco/failed", 1) == 1:
                self._store.set("soco/status", str(_status(error)))
                return None
            self._store.wait(["soco/status"], LAST_WORDS)
            return int(self._store.get("soco/status"))
        except RuntimeError:  # the store is gone with the process that kept it
            return _status(error)

    def _outlive_the_first(self) -> None:
        """Wait until the first process is gone: `torchrun` ends the others as soon as one has failed."""
        import torch
        import torch.distributed as dist

        with contextlib.suppress(RuntimeError):
            dist.recv(torch.zeros(1), src=0, group=self.control)


def run_together(
    device: Literal["auto", "cpu", "cuda"], lead: Callable[[Processes], T], follow: Callable[[Processes], None]
) -> T:
    """Do a work in all processes that `torchrun` started, or in this one alone.

    Args:
        device: the recipe's `runtime.device`; a process takes the GPU of its number on its node.
        lead: what the first process does. Whatever all compute together stands in :meth:`Processes.computing`.
        follow: what the others do at that point: the same collectives.

    Returns:
        What `lead` returns, in the first process only: the others end here, with its status.

    Raises:
        SocoError: a process has no GPU, or processes would compute on different kinds of device.
    """
    if not all(name in os.environ for name in ENVIRONMENT) or int(os.environ["WORLD_SIZE"]) == 1:
        return lead(Processes(device))
    processes = _join(device)
    if not processes.first:
        processes._follow(follow)
    return processes._lead(lead)


def _join(wanted: Literal["auto", "cpu", "cuda"]) -> Processes:
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(iter(rendezvous("env://")))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    processes = Processes(wanted, rank, count, local_rank, _store=store)
    try:
        device = processes.device
        store.set(f"soco/device/{rank}", device.type)
        others = {store.get(f"soco/device/{other}").decode() for other in range(count)}
        if len(others) > 1:
            raise SocoError(
                "runtime.device: some processes have a usable GPU and others have none; start them where all have one "
                "(`soco doctor` says why not), or set it to cpu"
            )
    except SocoError as error:
        store.set(f"soco/device/{rank}", "none")
        status = processes._claim(error)
        if status is None:
            raise
        raise SystemExit(status) from None
    kept = dist.PrefixStore("soco", store)
    if device.type == "cuda":
        dist.init_process_group("nccl", store=kept, rank=rank, world_size=count, device_id=device)
    else:
        dist.init_process_group("gloo", store=kept, rank=rank, world_size=count)
        processes.norm = dist.new_group(backend="gloo")
    processes.control = dist.new_group(backend="gloo", timeout=PATIENCE)
    return processes


def _leave() -> None:
    import torch.distributed as dist

    dist.destroy_process_group()


def _explained(error: Exception) -> Exception:
    """Say in plain words that a neighbour is gone without a word of its own."""
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in CLOSED):
        return SocoError(
            "another process is gone (was it killed for its memory?); run the same command again, it goes on from the "
            "last checkpoint"
        )
    return error


def _status(error: BaseException) -> int:
    """Return the exit status of an error: the command line's."""
    if isinstance(error, InterruptedStageError | KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, SocoError) else 1
