"""No process outlives the one that it works for: a stage its pipeline command, a loader's worker its training.

A local pipeline runs each stage as ``sh`` -> ``python``; killing the command alone would leave the
stage writing into a directory that the next run wants. So the command hands its process id to its
stages, and each of them watches it. A stage is the leader of a process group of its own: its workers
end with it, and a Ctrl-C in the terminal reaches the command alone, which asks its stages to stop.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

from soco_core.errors import InputError

PIPELINE_PID = "SOCO_PIPELINE_PID"
PIPELINE_BEAT = "SOCO_PIPELINE_BEAT"
"""Environment variable: the file that a pipeline command changes while it lives, for stages in containers, which do not
see its process."""
LAUNCHING_STEP = "SOCO_LAUNCHING_STEP"
"""Environment variable: the process that had `torchrun` start this one (soco_core/launch/here.py)."""
BEAT_SECONDS = 2.0
BEAT_PATIENCE_SECONDS = 30.0
POLL_SECONDS = 0.5
LEAVE_SECONDS = 5.0
LONGEST_TEMPORARY = 75
"""Of the 107 bytes that a socket's path may have, Python's multiprocessing adds 32 to it."""
PR_SET_PDEATHSIG = 1
"""Of Linux's ``prctl``."""


def end_with_pipeline() -> None:
    """End this process and its workers by SIGKILL when the pipeline command that started it is gone.

    Nothing happens in a process that no local pipeline started.
    """
    pid, beat = os.environ.get(PIPELINE_PID), os.environ.get(PIPELINE_BEAT)
    if pid is None and beat is None:
        return
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    wait = partial(_wait_for_silence, Path(beat)) if beat else partial(_wait_for_end, int(pid or 0))
    threading.Thread(target=_watch, args=(wait,), name="pipeline-watch", daemon=True).start()


def end_with_launcher() -> None:
    """End this process of a training and its workers by SIGKILL when `torchrun`, or the step behind it, is gone.

    `torchrun` starts each process as the leader of a session, which a signal to its own group does not reach. Nothing
    happens in a process that no step launched.
    """
    step = os.environ.get(LAUNCHING_STEP)
    if step is None:
        return
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    for pid in (int(step), os.getppid()):
        wait = partial(_wait_for_end, pid)
        threading.Thread(target=_watch, args=(wait,), name="launcher-watch", daemon=True).start()


def end_with_parent(parent: int) -> None:
    """Let the kernel end this forked worker as soon as its parent is gone, however that ends; Linux only.

    A worker has its parent's connections: while it lives, nobody hears that the parent is gone.

    Args:
        parent: process id of the parent.
    """
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before that
        os.kill(os.getpid(), signal.SIGKILL)


def start_loader_worker(parent: int, _: int) -> None:
    """Prepare a forked worker of a data loader: signals are for its parent, with which it ends.

    A signal that reaches the whole process group (a terminal's Ctrl-C, a batch system, `torchrun`) must not end the
    workers before the training has saved its state.

    Args:
        parent: process id of the parent.

    Raises:
        InputError: the temporary folder's name is so long that batches could not be sent; torch would wait for ever.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > LONGEST_TEMPORARY:
        raise InputError(
            f"TMPDIR: the temporary folder {folder} has more than {LONGEST_TEMPORARY} characters, too many for the "
            "sockets in it through which images are loaded; name a shorter one"
        )
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def stop_on_sigterm() -> None:
    """Let SIGTERM act as Ctrl-C does, so that locks, temporary files and workers are put away."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process at once, where nothing is held and a wait outside Python is deaf to it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if former is None else former)


def leave(status: int) -> NoReturn:
    """End this process, at the latest in LEAVE_SECONDS: a store may leave its threads and workers without an answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    limit = threading.Timer(LEAVE_SECONDS, os._exit, (status,))
    limit.daemon = True
    limit.start()
    sys.exit(status)


def _watch(wait: Callable[[], None]) -> None:
    try:
        wait()
    finally:
        os.killpg(0, signal.SIGKILL)


def _wait_for_silence(beat: Path) -> None:
    """Return when the file has not changed for BEAT_PATIENCE_SECONDS, by a clock that stops in a sleeping machine."""
    last, since = "", time.monotonic()
    while time.monotonic() - since < BEAT_PATIENCE_SECONDS:
        try:
            now = beat.read_text()
        except OSError:  # gone with the run's folder, or not to be read for a moment
            now = last
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(POLL_SECONDS)


def _wait_for_end(pid: int) -> None:
    if hasattr(os, "pidfd_open"):
        import select

        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError:  # a kernel or sandbox without pidfd: poll instead
            pass
        else:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll()
            return
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        except PermissionError:  # it lives, and is another user's
            pass
        time.sleep(POLL_SECONDS)
