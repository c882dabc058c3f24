"""From an image's id to its row, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from soco_core.artifacts.proposals import ProposalRow
from soco_core.config import ProposalsConfig
from soco_core.errors import SocoError, one_line
from soco_core.images import BadImageError, ImageSource, decode_image
from soco_core.images.sources import ListedSource, read_each
from soco_core.proposals.engines import build_engine
from soco_core.proposals.filters import distinct_boxes, filter_boxes
from soco_core.proposals.memory import keep_freed_memory
from soco_core.proposals.reduction import needs_reduction

REMOTE_TASK_IMAGES = 8
"""Images that a worker takes at once from a source over the network: it reads ahead while it searches."""
NAMED_IMAGES = 10
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
"""What keeps libraries from starting threads; they read it when they are imported."""


@dataclass(frozen=True)
class Search:
    """All that a process needs to know to propose."""

    source: ImageSource
    config: ProposalsConfig
    max_pixels: int
    """Images of more pixels count as bad."""
    seed: int
    imported: Path | None
    """The converted boxes_file of `import`."""


class Proposer:
    """Proposes in one process."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.engine = build_engine(search.config, search.seed, search.imported)

    def rows(self, ids: Sequence[str], identities: Mapping[str, str | None] | None = None) -> Iterator[ProposalRow]:
        """Yield the row of each image in turn; a file that cannot be decoded gives a row with the reason.

        Args:
            ids: the images.
            identities: of a ListedSource that came here without, those of these images.

        Raises:
            InputError: the store or file system failed, or an image changed since it was listed.
            SocoError: memory ran out; the message names the image.
            RuntimeError: anything else went wrong; the message names the image.
        """
        source = self.search.source
        if identities is not None:
            assert isinstance(source, ListedSource)
            source = replace(source, identities=identities)
        for image_id, contents in read_each(source, ids):
            try:
                row = self._row(image_id, contents)
            except SocoError:
                raise
            except Exception as error:
                if isinstance(error, MemoryError) or getattr(error, "code", None) == cv2.Error.StsNoMem:
                    raise SocoError(
                        f"{image_id}: memory ran out at this image; lower runtime.search_workers (--workers), "
                        "proposals.max_long_side or images.max_pixels, and run the same command to go on"
                    ) from error
                # Nobody would find the image among a million.
                raise RuntimeError(f"{image_id}: {one_line(error)}") from error
            yield row

    def _row(self, image_id: str, contents: bytes | BadImageError) -> ProposalRow:
        try:
            if isinstance(contents, BadImageError):
                raise contents
            image = decode_image(contents, self.search.max_pixels)
        except BadImageError as error:
            return ProposalRow(image_id, 0, 0, np.zeros((0, 4), np.float32), None, error=str(error))
        config = self.search.config
        height, width = image.shape[:2]
        boxes, step = filter_boxes(self.engine.search(image_id, image), width, height, config)
        if not config.keep_duplicates:
            boxes = distinct_boxes(boxes)
        reduced = config.engine in {"opencv", "exact"} and needs_reduction(image, config.max_long_side)
        return ProposalRow(image_id, width, height, boxes, step, reduced)


class Workers:
    """Processes that propose; they start with the first image and end with this process, even if it is killed.

    Args:
        search: what they need to know.
        count: number of processes; 0 works in this one.
    """

    def __init__(self, search: Search, count: int) -> None:
        self.search = search
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._stop: Event | None = None
        self._own: Proposer | None = None

    def __enter__(self) -> Self:
        if self.count:
            # Not fork: this process may have threads (MLflow, OpenCV), which a forked child would lack.
            context = multiprocessing.get_context("spawn")
            self._stop = context.Event()
            search, source = self.search, self.search.source
            if isinstance(source, ListedSource):  # the identities go with the tasks, each process needs but a few
                search = replace(search, source=replace(source, identities={}))
            self._pool = ProcessPoolExecutor(
                self.count, mp_context=context, initializer=_start, initargs=(search, self._stop)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None and self._stop is not None:
            self._stop.set()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def rows(self, ids: Sequence[str]) -> Iterator[ProposalRow]:
        """Yield the row of each image as soon as it is there, in any order; raises as :meth:`Proposer.rows` does.

        Raises:
            SocoError: a worker process died.
        """
        if not ids:
            return
        if self._pool is None:
            self._own = self._own or Proposer(self.search)
            yield from self._own.rows(ids)
            return
        source = self.search.source
        step = self._task_images(len(ids))
        waiting = (ids[first : first + step] for first in range(0, len(ids), step))
        running: dict[Future[list[ProposalRow]], Sequence[str]] = {}
        finished: SimpleQueue[Future[list[ProposalRow]]] = SimpleQueue()
        try:
            while True:
                # A short queue: what is in it when the run is interrupted has to be done again.
                for task in islice(waiting, 2 * self.count - len(running)):
                    identities = source.part(task) if isinstance(source, ListedSource) else None
                    with _one_thread():  # here the pool starts its processes
                        future = self._pool.submit(_work, task, identities)
                    running[future] = task
                    future.add_done_callback(finished.put)
                if not running:
                    return
                future = finished.get()
                rows = future.result()
                del running[future]
                yield from rows
        except BrokenProcessPool as error:
            ids_running = sorted(image_id for task in running.values() for image_id in task)
            more = len(ids_running) - NAMED_IMAGES
            named = ", ".join(ids_running[:NAMED_IMAGES]) + (f" or {more} more" if more > 0 else "")
            raise SocoError(
                f"a worker process died at one of {named}; if memory ran out, lower runtime.search_workers "
                "(--workers). What is done is kept, run the same command to go on"
            ) from error

    def _task_images(self, images: int) -> int:
        """Return how many images a task has: enough to read ahead, but a few tasks for each process."""
        if not self.search.source.remote:
            return 1
        return max(1, min(REMOTE_TASK_IMAGES, images // (4 * self.count)))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start meanwhile use one thread each: `_start` comes after the import of numpy, too late."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Process:
    """What a worker process holds on to."""

    search: Search
    stop: Event
    proposer: Proposer | None = None


def _start(search: Search, stop: Event) -> None:
    _Process.search, _Process.stop = search, stop
    cv2.setNumThreads(1)  # there is a process for each core
    keep_freed_memory()
    # Ctrl-C reaches the whole process group; the parent alone decides when the workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _work(ids: Sequence[str], identities: Mapping[str, str | None] | None = None) -> list[ProposalRow]:
    """Propose in a worker process; when asked to stop, leave out the rest."""
    if _Process.proposer is None:  # not when the process starts: an error there has no way to the parent
        _Process.proposer = Proposer(_Process.search)
    rows = []
    for row in _Process.proposer.rows(ids, identities):
        rows.append(row)
        if _Process.stop.is_set():
            break
    return rows


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
