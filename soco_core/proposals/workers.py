"""From an image's id to its row, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from soco_core.artifacts.proposals import ProposalRow
from soco_core.config import ProposalsConfig
from soco_core.errors import SocoError
from soco_core.images import BadImageError, ImageSet
from soco_core.proposals.filters import filter_boxes
from soco_core.proposals.selective_search import needs_reduction, selective_search


def propose_image(image_set: ImageSet, image_id: str, config: ProposalsConfig) -> ProposalRow:
    """Search and filter the boxes of one image; a file that cannot be decoded gives a row with the reason."""
    try:
        image = image_set.read(image_id)
    except BadImageError as error:
        return ProposalRow(image_id, 0, 0, np.zeros((0, 4), np.float32), None, error=str(error))
    height, width = image.shape[:2]
    boxes, step = filter_boxes(selective_search(image, config), width, height, config)
    return ProposalRow(image_id, width, height, boxes, step, reduced=needs_reduction(image))


class Workers:
    """Processes that propose; they start with the first image and end with this process, even if it is killed.

    Args:
        image_set: the images.
        config: parameters of search and filter.
        count: number of processes; 0 works in this one.
    """

    def __init__(self, image_set: ImageSet, config: ProposalsConfig, count: int) -> None:
        self.image_set = image_set
        self.config = config
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count:
            # Not fork: this process may have threads (MLflow, OpenCV), which a forked child would lack.
            self._pool = ProcessPoolExecutor(
                self.count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def rows(self, ids: Sequence[str]) -> Iterator[ProposalRow]:
        """Yield the row of each image as soon as it is there, in any order.

        Raises:
            SocoError: a worker process died.
        """
        if self._pool is None:
            for image_id in ids:
                yield propose_image(self.image_set, image_id, self.config)
            return
        without_ids = replace(self.image_set, ids=())  # a million names need not travel with every task
        waiting = iter(ids)
        running: dict[Future[ProposalRow], str] = {}
        try:
            while True:
                # A short queue: what is in it when the run is interrupted has to be done again.
                for image_id in islice(waiting, 2 * self.count - len(running)):
                    running[self._pool.submit(propose_image, without_ids, image_id, self.config)] = image_id
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    row = future.result()
                    del running[future]
                    yield row
        except BrokenProcessPool as error:
            raise SocoError(
                f"a worker process died at one of {', '.join(sorted(running.values()))}; if memory ran out, lower "
                "runtime.workers; the images done so far are kept, run the same command to go on"
            ) from error


def _start() -> None:
    cv2.setNumThreads(1)
    # Ctrl-C reaches the whole process group; the parent alone decides when the workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
