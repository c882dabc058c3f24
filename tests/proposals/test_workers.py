"""The processes that propose: how they end, and what they say of an image that fails."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from soco_core.artifacts.proposals import ProposalRow
from soco_core.config import ProposalsConfig, Recipe
from soco_core.errors import InputError, SocoError
from soco_core.images import BadImageError, open_image_set
from soco_core.images.sources import ListedSource
from soco_core.proposals import workers as workers_module
from soco_core.proposals.shards import Journal
from soco_core.proposals.stage import propose
from soco_core.proposals.workers import Proposer, Search, Workers
from soco_core.recipes import parse_recipe
from tests.proposals.conftest import MakeImages, names_of


@dataclass(frozen=True)
class StubSource:
    """Reads a folder as if it lay far away; some ids fail. Worker processes import it from here."""

    folder: str
    remote: bool = True
    gone: str = ""
    bad: str = ""

    @property
    def root(self) -> str:
        return self.folder

    def read_bytes(self, image_id: str) -> bytes:
        if image_id == self.gone:
            raise InputError(f"{self.folder}/{image_id}: the store is gone; run this again once it can be read")
        if image_id == self.bad:
            raise BadImageError("cannot be opened: no such object")
        return Path(self.folder, image_id).read_bytes()


def search(source: StubSource) -> Search:
    return Search(source, ProposalsConfig(engine="random"), 10**6, 0, None)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("count", [0, 2])
def test_each_image_comes_once(remote: bool, count: int, make_images: MakeImages) -> None:
    images = make_images(19)
    ids = names_of(images)
    with Workers(search(StubSource(str(images), remote, bad=ids[3])), count) as workers:
        rows = {row.id: row for row in workers.rows(ids)}
        assert sorted(rows) == ids
        assert rows[ids[3]].error == "cannot be opened: no such object"
        assert [row.error for row in rows.values()].count(None) == 18
        assert list(workers.rows([])) == []
        assert len(list(workers.rows(ids[:1]))) == 1
    direct = {row.id: row for row in Proposer(search(StubSource(str(images)))).rows(ids[:2])}
    for name, row in direct.items():
        np.testing.assert_array_equal(rows[name].boxes, row.boxes)


@pytest.mark.parametrize(("remote", "count", "wanted"), [(False, 2, 1), (True, 2, 8), (True, 40, 1)])
def test_a_task_over_the_network_is_a_few_images(remote: bool, count: int, wanted: int) -> None:
    assert Workers(search(StubSource("", remote)), count)._task_images(100) == wanted


def test_over_the_network_the_next_image_is_read_while_one_is_searched(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(3)
    second_is_read = threading.Event()

    class WatchedSource(StubSource):
        def read_bytes(self, image_id: str) -> bytes:
            if image_id == names_of(images)[1]:
                second_is_read.set()
            return super().read_bytes(image_id)

    class WaitingEngine:
        def search(self, image_id: str, image: object) -> np.ndarray:
            assert second_is_read.wait(20), "the search of the first image waits for the second in vain"
            return np.zeros((0, 4), np.float32)

    monkeypatch.setattr(workers_module, "build_engine", lambda *_: WaitingEngine())
    assert len(list(Proposer(search(WatchedSource(str(images)))).rows(names_of(images)))) == 3


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("remote", [False, True])
def test_a_store_that_is_gone_ends_it_in_one_line(remote: bool, count: int, make_images: MakeImages) -> None:
    images = make_images(12)
    ids = names_of(images)
    with (
        Workers(search(StubSource(str(images), remote, gone=ids[9])), count) as workers,
        pytest.raises(InputError, match=r"the store is gone; run this again") as caught,
    ):
        list(workers.rows(ids))
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()


@dataclass(frozen=True)
class ListingSource(StubSource):
    """Says what a worker process is given, instead of an image."""

    def read_bytes(self, image_id: str) -> bytes:
        said = " ".join(os.environ.get(name, "none") for name in workers_module.ONE_THREAD)
        raise BadImageError(f"{said}, numpy saw {_threads_at_import}")


_threads_at_import = os.environ.get("OPENBLAS_NUM_THREADS")
"""What a library sees that is imported as this module is: before the worker process does anything."""


def test_a_worker_process_has_one_thread_for_each_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with Workers(search(ListingSource("")), 1) as workers:
        (row,) = workers.rows(["a"])
    assert row.error == "1 1 1 1, numpy saw 1"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


@dataclass(frozen=True)
class Big(Mapping[str, str | None]):
    """Identities that would not fit a worker process."""

    folder: str

    def __getitem__(self, image_id: str) -> str:
        return str(Path(self.folder, image_id).stat().st_size)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError

    def __reduce__(self) -> str:
        raise AssertionError("all identities went to a worker process")


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("count", [0, 1])
def test_a_task_carries_its_own_identities(remote: bool, count: int, make_images: MakeImages) -> None:
    images = make_images(9)
    listed = ListedSource(StubSource(str(images), remote), "sizes", Big(str(images)))
    with Workers(replace(search(StubSource("")), source=listed), count) as workers:
        assert sorted(row.id for row in workers.rows(names_of(images))) == names_of(images)


def test_a_broken_boxes_file_is_said_by_the_worker(make_images: MakeImages, tmp_path: Path) -> None:
    images = make_images(1)
    config = ProposalsConfig(engine="import", boxes_file="boxes.json")
    missing = Search(open_image_set(str(images)).source, config, 10**6, 0, tmp_path / "imported.arrow")
    with Workers(missing, 1) as workers, pytest.raises(InputError, match=r"imported\.arrow: no readable boxes"):
        list(workers.rows(names_of(images)))


@pytest.mark.parametrize(
    ("raised", "kind", "wanted"),
    [
        (MemoryError(), SocoError, r"^0/000\.png: memory ran out at this image; lower runtime\.search_workers"),
        (ValueError("odd"), RuntimeError, r"^0/000\.png: ValueError: odd$"),
        (InputError("boxes.arrow: gone"), InputError, r"^boxes\.arrow: gone$"),
    ],
)
def test_an_image_that_fails_is_named(
    raised: Exception,
    kind: type[Exception],
    wanted: str,
    make_images: MakeImages,
    tmp_path: Path,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FailingEngine:
        def search(self, image_id: str, image: object) -> None:
            raise raised

    monkeypatch.setattr(workers_module, "build_engine", lambda *_: FailingEngine())
    with pytest.raises(kind, match=wanted):
        propose(recipe, images=str(make_images(1)), output=str(tmp_path / "out"))


def test_opencv_without_memory_is_named(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(1)

    class FailingEngine:
        def search(self, image_id: str, image: object) -> None:
            error = workers_module.cv2.error("Insufficient memory")
            error.code = workers_module.cv2.Error.StsNoMem
            raise error

    monkeypatch.setattr(workers_module, "build_engine", lambda *_: FailingEngine())
    with pytest.raises(SocoError, match=r"0/000\.png: memory ran out"):
        list(Proposer(search(StubSource(str(images)))).rows(names_of(images)))


def test_a_dead_worker_is_said_and_the_work_kept(
    make_images: MakeImages, tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(30, 200, 150)

    def add(self: Journal, row: ProposalRow) -> None:
        original(self, row)
        if len(self.rows) == 2:
            multiprocessing.active_children()[0].kill()

    original = Journal.add
    monkeypatch.setattr(Journal, "add", add)
    with pytest.raises(
        SocoError, match=r"a worker process died at one of .*\.png; if memory ran out, lower runtime\.se"
    ):
        propose(parse_recipe("runtime: {search_workers: 1}"), images=str(images), output=str(tmp_path / "out"))
    monkeypatch.setattr(Journal, "add", original)
    assert propose(recipe, images=str(images), output=str(tmp_path / "out")).summary["images"] == 30


def test_asked_to_stop_a_worker_leaves_out_the_rest_of_its_task(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(8)
    stop = threading.Event()
    monkeypatch.setattr(workers_module._Process, "search", search(StubSource(str(images))), raising=False)
    monkeypatch.setattr(workers_module._Process, "stop", stop, raising=False)
    monkeypatch.setattr(workers_module._Process, "proposer", None)
    assert len(workers_module._work(names_of(images))) == 8
    stop.set()
    assert len(workers_module._work(names_of(images))) == 1


@pytest.mark.parametrize(("keep", "wanted"), [(False, [1, 2]), (True, [1, 2, 1])])
def test_a_box_of_several_regions_stands_once_unless_asked_for(
    keep: bool, wanted: list[int], make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_images(1)  # 72x54
    found = np.array([[k, 0, k + 30, 30] for k in (1, 2, 1)], np.float32)

    class TwiceFound:
        def search(self, image_id: str, image: object) -> np.ndarray:
            return found

    proposer = Proposer(Search(StubSource(str(images)), ProposalsConfig(keep_duplicates=keep), 10**6, 0, None))
    monkeypatch.setattr(proposer, "engine", TwiceFound())
    (row,) = proposer.rows(names_of(images))
    assert row.kept_by == "strict"
    assert row.boxes[:, 0].tolist() == wanted
