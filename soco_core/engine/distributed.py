"""The processes of one training, as `torchrun` starts them on any number of nodes (paper 4.1: 16 GPUs).

What goes wrong in one process, or what one wishes, is exchanged where all of them come by, so that none is left
waiting in a collective. How they begin and end together stands in :mod:`soco_core.engine.together`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeVar

from soco_core.engine.setup import choose_device
from soco_core.errors import InterruptedStageError, SocoError, one_line

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist

T = TypeVar("T")

COMPUTE, END = "compute", "end"
STOP = "stop"
"""Where in the store the signal stands that asks one process to stop."""


class OtherProcessError(Exception):
    """What another process ended with, if it was not an error that a user can act on."""


class AgreedEnd(Exception):  # noqa: N818
    """All processes end with this status, and the first one says why."""

    def __init__(self, status: int) -> None:
        self.status = status


class Wishes(NamedTuple):
    """What a process wishes that all do; 0 is no wish."""

    stop: int = 0
    """Number of the signal that asks it to stop."""
    save: int = 0
    """1: write a checkpoint now."""


NO_WISH = Wishes()


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
    store: dist.Store | None = None
    """Where a process that fails leaves its status; None if there is one process."""
    agreed: bool = False
    """Whether all processes know that this is the end, by an error or a signal: they still come by together."""
    awaited: bool = True
    """Whether the others wait for the first one's word."""
    _device: torch.device | None = None

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

    def agree(self, error: Exception | None = None, wishes: Wishes = NO_WISH) -> Wishes:
        """Exchange errors and wishes, in one collective; all processes call it at the same point.

        Args:
            error: what went wrong here.
            wishes: what this process wishes.

        Returns:
            What any process wishes. If that is to stop, an error does not count: the loader's processes may have got
            the signal too.

        Raises:
            Exception: in the first process, the error of whichever process has one.
        """
        failed = error is not None
        if self.count > 1:
            import torch
            import torch.distributed as dist

            from soco_core.engine.exchange import wait

            flags = torch.tensor([int(failed), *wishes])
            wait(dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.control, async_op=True))
            any_failed, *wished = flags.tolist()
            failed, wishes = bool(any_failed), Wishes(*wished)
        self.agreed = self.agreed or bool(failed or wishes.stop)
        if failed and not wishes.stop:
            self._fail_together(error)
        return wishes

    def ask_to_stop(self, number: int) -> None:
        """Tell all processes of a signal, also those that wait for something else than each other."""
        if self.store is not None:
            with suppress(RuntimeError):  # the store is gone with the process that kept it
                self.store.set(STOP, str(number))

    @property
    def asked_to_stop(self) -> int:
        """Number of the signal that some process was sent; 0 if there was none."""
        if self.store is not None:
            with suppress(RuntimeError):
                return int(self.store.get(STOP)) if self.store.check([STOP]) else 0
        return 0

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

    def check_same(self, value: dict[str, Any]) -> None:
        """Refuse to go on unless all processes have the same value; all processes call it at the same point.

        Args:
            value: what they must have in common, by names that a user knows; plain types.

        Raises:
            SocoError: in the first process; it names what differs, and where.
        """
        first = self.share(value)
        differing = sorted(name for name in value.keys() | first.keys() if value.get(name) != first.get(name))
        error = None
        if differing:
            name, more = differing[0], f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            error = SocoError(
                f"process {self.rank} has {name} {value.get(name)!r}{more}, and the first one {first.get(name)!r}; "
                "start all with the same command, the same soco and the same proposals"
            )
        self.agree(error)

    def share(self, value: T) -> T:
        """Return the first process's value in all of them: plain types, dicts, lists, tuples and CPU tensors."""
        if self.count == 1:
            return value
        from soco_core.engine.exchange import broadcast

        shared: T = broadcast(value, self.first, self.control)
        return shared

    def gather(self, value: T) -> list[T]:
        """Return every process's value, plain types, containers and CPU tensors, in all of them, by rank."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self.control)
        return found

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Around what the first process computes together with the others."""
        self.tell(COMPUTE)
        self.awaited = False
        yield
        self.awaited = True

    def tell(self, word: str, status: int = 0) -> None:
        """Give the others, who wait for it, the first process's word."""
        self.share((word, status))

    def _fail_together(self, error: Exception | None) -> NoReturn:
        if self.count == 1:
            assert error is not None
            raise error
        import torch.distributed as dist

        own = None if error is None else (exit_status(error), one_line(error))
        found: list[tuple[int, str] | None] = [None] * self.count
        dist.all_gather_object(found, own, group=self.control)
        rank, (status, line) = next((rank, said) for rank, said in enumerate(found) if said is not None)
        if not self.first:
            raise AgreedEnd(status)
        if error is not None:
            raise error
        raise SocoError(line) if status == exit_status(SocoError()) else OtherProcessError(f"process {rank}: {line}")


def exit_status(error: BaseException) -> int:
    """Return the exit status of an error: the command line's."""
    if isinstance(error, AgreedEnd):
        return error.status
    if isinstance(error, InterruptedStageError | KeyboardInterrupt):
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, SocoError) else 1
