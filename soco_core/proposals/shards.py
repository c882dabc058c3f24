"""The work cut into shards: contiguous ranges of the sorted ids, each resumable, locked on its own.

A finished shard is ``shards/<index>-of-<count>.parquet``. While one is under way, each finished image is
a line of the journal beside it, so that a killed shard goes on without doing an image twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from soco_core import storage
from soco_core.artifacts.lock import Lease, local_lock, s3_lock
from soco_core.artifacts.proposals import ProposalRow, write_rows
from soco_core.artifacts.result import DONE, JOURNAL_SUFFIX, ResultDirectory, is_behind
from soco_core.engine.interrupt import InterruptGuard
from soco_core.engine.progress import Progress
from soco_core.proposals.plan import SHARDS
from soco_core.proposals.workers import Workers

PUBLISH_SECONDS = 60.0
"""How often the journal goes to S3; another machine redoes at most this much of a shard that died."""


@dataclass(frozen=True)
class Shard:
    """One shard of a result's work."""

    result: ResultDirectory
    index: int
    """From 0."""
    count: int
    images: range
    """The numbers of its images, in the order of the ids."""

    @property
    def name(self) -> str:
        """Name of its files, without a suffix."""
        return f"{self.index:05d}-of-{self.count:05d}"

    @property
    def table(self) -> Path:
        """Where its rows lie when it is finished."""
        return self.result.path / SHARDS / f"{self.name}.parquet"

    @property
    def journal(self) -> Path:
        """Where its rows lie while it is under way."""
        return self.result.path / SHARDS / f"{self.name}{JOURNAL_SUFFIX}"

    def fetch(self) -> None:
        """Bring here what was published of the shard, unless this machine has more of it; call it under the lock."""
        table, journal = (storage.join(self.result.uri, SHARDS, path.name) for path in (self.table, self.journal))
        if not storage.is_s3(table) or self.table.exists():
            return
        if storage.exists(table):
            storage.download(table, self.table)
            return
        published = storage.describe(journal)
        if is_behind(self.journal, published and published[0]):
            storage.download(journal, self.journal)

    def images_done(self) -> int:
        """Return how many of its images need no more work, as far as this machine knows."""
        return len(self.images) if self.table.exists() else len(_read_journal(self.journal)[0])

    def is_merged(self) -> bool:
        """Tell whether somebody has made the result whole by now, so that the shard's files are wanted no more."""
        return storage.exists(storage.join(self.result.uri, DONE))

    @contextmanager
    def locked(self) -> Iterator[Lease | None]:
        """Keep a second writer out, and yield what does so on S3; raises ResultLockedError if there is one."""
        uri = storage.join(self.result.uri, SHARDS, f".{self.name}.lock")
        own = self.result.path / SHARDS / f".{self.name}"
        with local_lock(own / "lock", f"shard {self.name} of {self.result.uri}"):
            if storage.is_s3(uri):
                with s3_lock(uri, own) as lease:
                    yield lease
            else:
                yield None


def cut(result: ResultDirectory, images: int, count: int) -> list[Shard]:
    """Cut a set of so many images into `count` contiguous shards whose sizes differ by at most one."""
    bounds = [images * index // count for index in range(count + 1)]
    return [Shard(result, index, count, range(bounds[index], bounds[index + 1])) for index in range(count)]


def run_shard(
    shard: Shard, ids: Sequence[str], tools: Callable[[], tuple[Workers, Progress]], guard: InterruptGuard
) -> bool:
    """Finish a shard, going on from its journal.

    Args:
        shard: the shard.
        ids: its images.
        tools: returns what proposes and what counts the images; called only once it is certain that there is work.
        guard: says when to stop.

    Returns:
        Whether there was anything to do.

    Raises:
        ResultLockedError: another process works on it.
        InterruptedStageError: stopped by a signal; the journal is kept.
    """
    with shard.locked() as lease:
        shard.fetch()
        if shard.is_merged():
            return False
        finished = shard.table.exists()
        if not finished:
            with Journal(shard.journal) as journal:
                workers, progress = tools()
                published = time.monotonic()
                for row in workers.rows([image_id for image_id in ids if image_id not in journal.rows]):
                    journal.add(row)
                    progress.advance()
                    if guard.signal is not None or time.monotonic() - published > PUBLISH_SECONDS:
                        _publish(shard.result, lease, shard.journal)
                        published = time.monotonic()
                    guard.stop_if_asked(f"{len(journal.rows)} of {len(ids)} images of shard {shard.name} are kept")
                write_rows(shard.table, [journal.rows[image_id] for image_id in ids])
        # Also if it was finished here before: it may have been killed just then.
        _publish(shard.result, lease, shard.table)
        shard.result.unpublish(shard.journal, *([shard.table] if shard.is_merged() else []))
        return not finished


def _publish(result: ResultDirectory, lease: Lease | None, path: Path) -> None:
    if lease is not None:
        lease.check()
    result.publish(path)


class Journal:
    """The rows of a shard that is under way, one line of JSON each.

    Args:
        path: the file; what an interrupted attempt wrote is read, and a line that it left unfinished cut off.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows, whole = _read_journal(path)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def __enter__(self) -> Self:
        return self

    def add(self, row: ProposalRow) -> None:
        """Append a row; it outlives this process from here on."""
        self._file.write(json.dumps({**vars(row), "boxes": row.boxes.tolist()}).encode() + b"\n")
        self._file.flush()
        self.rows[row.id] = row

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _read_journal(path: Path) -> tuple[dict[str, ProposalRow], int]:
    """Return the rows and the length in bytes of the whole lines that hold them."""
    rows: dict[str, ProposalRow] = {}
    whole = 0
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                try:
                    values: dict[str, Any] = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n"):
                    break
                boxes = np.array(values.pop("boxes"), dtype=np.float32).reshape(-1, 4)
                row = ProposalRow(**values, boxes=boxes)
                rows[row.id] = row
                whole += len(line)
    return rows, whole
