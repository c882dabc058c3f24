"""Several processes that begin and end as one.

The first process leads: it alone locks, writes and speaks. The others follow: they wait for its word, compute with
it, and end quietly with its status.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar

from soco_core import __version__
from soco_core.config import Recipe
from soco_core.console import say
from soco_core.engine.distributed import COMPUTE, END, AgreedEnd, Processes, exit_status
from soco_core.engine.processes import ended_by_sigterm
from soco_core.errors import InterruptedStageError, SocoError, one_line

T = TypeVar("T")

ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` (or a PyTorchJob) tells each process."""
OWN_AFFAIRS = {"runtime.device", "runtime.workers", "runtime.search_workers"}
"""Fields in which machines may differ."""
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
"""How often `torchrun` has started this group again."""
PATIENCE = timedelta(hours=12)
"""How long processes wait for the first one, which may hash images or upload; one that died is noticed at once."""
LAST_WORDS = timedelta(seconds=10)
"""How long a process that fails after another waits for that one's status."""
CLOSED = ("Connection closed by peer", "Connection reset by peer")
"""How gloo says that a process is gone."""


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
    if _alone():
        return lead(Processes(device))
    with ended_by_sigterm():
        processes = _join(device)
    if not processes.first:
        _follow(processes, follow)
    return _lead(processes, lead)


def in_common(recipe: Recipe, sections: Iterable[str], **others: Any) -> dict[str, Any]:
    """Return what all processes must have in common, by names that a user knows (:meth:`Processes.check_same`).

    Args:
        recipe: its `runtime` counts too, but for a machine's own affairs.
        sections: those that determine the result.
        others: more of it, such as fingerprints of the inputs; underscores in the names become spaces.
    """
    values = recipe.part(*sections, "runtime")
    fields = {
        f"{section}.{field}" if field else section: value
        for section, part in values.items()
        for field, value in (part.items() if isinstance(part, dict) else [("", part)])
    }
    shared = {name: value for name, value in fields.items() if name not in OWN_AFFAIRS}
    return {**shared, **{name.replace("_", " "): value for name, value in others.items()}, "soco": __version__}


def _alone() -> bool:
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 1:
        raise SocoError(f"WORLD_SIZE is {count!r} in the environment, and must be a number of processes; unset it")
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if missing and int(count) > 1:
        raise SocoError(
            f"WORLD_SIZE is {count} in the environment, but {missing[0]} is not set; start by torchrun, or unset it"
        )
    return int(count) == 1


def _join(wanted: Literal["auto", "cpu", "cuda"]) -> Processes:
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    found, rank, count = next(iter(rendezvous("env://")))
    # The store may be that of an earlier attempt, which left its words there.
    store = dist.PrefixStore(f"soco/{os.environ.get(ATTEMPT, '0')}", found)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    processes = Processes(wanted, rank, count, local_rank, store=store)
    try:
        device = processes.device
        store.set(f"device/{rank}", device.type)
        others = {store.get(f"device/{other}").decode() for other in range(count)}
        if len(others) > 1:
            raise SocoError(
                "runtime.device: some processes have a usable GPU and others have none; start them where all have one "
                "(`soco doctor` says why not), or set it to cpu"
            )
    except SocoError as error:
        store.set(f"device/{rank}", "none")
        status = _claim(processes, error)
        if status is None:
            raise
        raise SystemExit(status) from None
    if device.type == "cuda":
        dist.init_process_group("nccl", store=store, rank=rank, world_size=count, device_id=device)
    else:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count)
        processes.norm = dist.new_group(backend="gloo")
    processes.control = dist.new_group(backend="gloo", timeout=PATIENCE)
    return processes


def _lead(processes: Processes, work: Callable[[Processes], T]) -> T:
    try:
        result = work(processes)
    except BaseException as error:
        if processes.awaited:
            with suppress(RuntimeError):  # a process is gone: its end must not hide this one's cause
                processes.tell(END, exit_status(error))
        elif isinstance(error, Exception) and not processes.agreed:
            explained = _explained(error)
            status = _claim(processes, explained)
            if status is not None:
                raise SystemExit(status) from error
            if explained is not error:
                raise explained from error
        raise
    processes.tell(END)
    _leave()
    return result


def _follow(processes: Processes, work: Callable[[Processes], None]) -> NoReturn:
    try:
        word, status = processes.share(("", 0))
        if word == COMPUTE:
            work(processes)
            word, status = processes.share(("", 0))
    except (AgreedEnd, InterruptedStageError) as end:
        if not processes.agreed:
            raise SystemExit(_last_words(processes, end)) from None
        status = exit_status(end)
    except Exception as error:
        raise SystemExit(_last_words(processes, error)) from None
    except BaseException as error:
        raise SystemExit(exit_status(error)) from None
    if status:
        _outlive_the_first(processes)
    else:
        _leave()
    raise SystemExit(status)


def _last_words(processes: Processes, error: Exception) -> int:
    """Say what went wrong here, unless another process was first; return the status to end with."""
    error = _explained(error)
    status = _claim(processes, error)
    if status is not None:
        return status
    say(f"error: process {processes.rank} of {processes.count}: {one_line(error)}")
    return exit_status(error)


def _claim(processes: Processes, error: Exception) -> int | None:
    """Return the status of the process that failed before this one, or None if this is the first to.

    What fails later mostly fails because its neighbours are gone.
    """
    store = processes.store
    assert store is not None
    try:
        if store.add("failed", 1) == 1:
            store.set("status", str(exit_status(error)))
            return None
        store.wait(["status"], LAST_WORDS)
        return int(store.get("status"))
    except RuntimeError:  # the store is gone with the process that kept it
        return exit_status(error)


def _outlive_the_first(processes: Processes) -> None:
    """Wait until the first process is gone: `torchrun` ends the others as soon as one has failed."""
    import torch
    import torch.distributed as dist

    with suppress(RuntimeError):
        dist.recv(torch.zeros(1), src=0, group=processes.control)


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
