"""Locks held by real other processes, and leases in a real (in-process) S3 store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from soco_core import storage
from soco_core.artifacts import lock
from soco_core.artifacts.lock import Lease, local_lock, s3_lock
from soco_core.errors import InputError, ResultLockedError

LOCAL = "with local_lock(Path(sys.argv[1]), 'it'):\n    print('held', flush=True); time.sleep(60)"
S3 = "with s3_lock(sys.argv[1], Path(sys.argv[2])):\n    print('held', flush=True); time.sleep(60)"


@contextmanager
def other_process(body: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has taken the lock; it is killed at the end."""
    script = (
        f"import sys, time\nfrom pathlib import Path\nfrom soco_core.artifacts.lock import local_lock, s3_lock\n{body}"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with other_process(LOCAL, path) as process:
        with pytest.raises(ResultLockedError, match=rf"^it is being written by process {process.pid} on \S+; wait"):
            local_lock(path, "it").__enter__()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with local_lock(path, "it"):
            assert (tmp_path / ".lock.holder").read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / ".lock.holder").exists()


def test_a_second_writer_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with local_lock(tmp_path / ".lock", "it"), pytest.raises(ResultLockedError, match=f"process {os.getpid()}"):
        local_lock(tmp_path / ".lock", "it").__enter__()
    with local_lock(tmp_path / ".lock", "it"):
        pass


def test_an_error_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), local_lock(tmp_path / ".lock", "it"):
        raise RuntimeError
    with local_lock(tmp_path / ".lock", "it"):
        pass


def test_a_forked_worker_does_not_keep_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    body = (
        "import os\nwith local_lock(Path(sys.argv[1]), 'it'):\n    worker = os.fork()\n"
        "    if worker: print('held', flush=True); print(worker, flush=True)\n    time.sleep(60)"
    )
    with other_process(body, tmp_path / ".lock") as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            os.kill(worker, 0)  # it lives
            with local_lock(tmp_path / ".lock", "it"):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^it: cannot be written \(/.* is a file\); give another --output$"):
        local_lock(tmp_path / "file" / ".lock", "it").__enter__()


def test_on_s3_a_second_process_is_refused_and_told_by_whom(s3: str, tmp_path: Path) -> None:
    uri = f"{s3}/stage/name/.lock"
    with other_process(S3, uri, tmp_path) as process:
        (tmp_path / "elsewhere").mkdir()
        with pytest.raises(
            ResultLockedError, match=rf"^{s3}/stage/name is being written by process {process.pid} on \S+; wait"
        ):
            s3_lock(uri, tmp_path / "elsewhere").__enter__()


def test_on_s3_the_lock_is_free_after_its_block(s3: str, tmp_path: Path) -> None:
    for _ in range(2):
        with s3_lock(f"{s3}/.lock", tmp_path) as lease:
            assert json.loads(storage.read_bytes(f"{s3}/.lock"))["token"] == lease.token
            lease.check()
        assert not storage.exists(f"{s3}/.lock")


def test_a_store_that_does_not_answer_does_not_hold_up_the_end(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "S3_RELEASE_SECONDS", 0.2)
    answer = threading.Event()
    with s3_lock(f"{s3}/.lock", tmp_path):
        monkeypatch.setattr(Lease, "_read", lambda _: answer.wait(60) and None)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    answer.set()


def test_the_lease_of_a_dead_process_in_the_same_folder_is_not_waited_for(s3: str, tmp_path: Path) -> None:
    with other_process(S3, f"{s3}/.lock", tmp_path) as process:
        process.kill()
    with s3_lock(f"{s3}/.lock", tmp_path):
        pass


def test_a_stale_lease_is_taken_over(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with other_process(S3, f"{s3}/.lock", tmp_path) as process:
        process.kill()
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ResultLockedError, match=f"process {process.pid}"):
        s3_lock(f"{s3}/.lock", tmp_path / "elsewhere").__enter__()
    # A busy machine may take seconds to get here, so a lease is short only now; a store counts whole seconds.
    monkeypatch.setattr(lock, "S3_LEASE_SECONDS", 1.0)
    time.sleep(2.5)
    with s3_lock(f"{s3}/.lock", tmp_path / "elsewhere"):
        pass


def test_of_two_that_find_a_stale_lease_one_gets_it(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "S3_LEASE_SECONDS", 0.0)
    uri = f"{s3}/.lock"
    storage.write_text(uri, json.dumps({"token": "stale", "holder": "process 1 on there"}))
    (tmp_path / "slow").mkdir()
    original = Lease._read

    with ExitStack() as fast:

        def read(self: Lease) -> object:
            found = original(self)
            monkeypatch.setattr(Lease, "_read", original)
            fast.enter_context(s3_lock(uri, tmp_path))  # between the slow one's look and its move
            return found

        monkeypatch.setattr(Lease, "_read", read)
        with pytest.raises(ResultLockedError, match="another process holds or held the lock just now"):
            s3_lock(uri, tmp_path / "slow").__enter__()


def test_a_lease_that_is_renewed_is_not_stale(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "S3_LEASE_SECONDS", 2.0)
    monkeypatch.setattr(lock, "S3_RENEWAL_SECONDS", 0.3)
    (tmp_path / "elsewhere").mkdir()
    with s3_lock(f"{s3}/.lock", tmp_path):
        time.sleep(3)
        with pytest.raises(ResultLockedError, match="is being written by"):
            s3_lock(f"{s3}/.lock", tmp_path / "elsewhere").__enter__()


def test_a_holder_that_lost_its_lease_is_told_and_leaves_the_new_one(s3: str, tmp_path: Path) -> None:
    uri = f"{s3}/result/.lock"
    with s3_lock(uri, tmp_path) as lease:
        storage.write_text(uri, json.dumps({"token": "another", "holder": "process 1 on there"}))
        for _ in range(2):
            with pytest.raises(ResultLockedError, match=rf"^{s3}/result: another process took the lock"):
                lease.check()
    assert json.loads(storage.read_bytes(uri))["token"] == "another"


def test_a_lease_that_somebody_deleted_is_lost(s3: str, tmp_path: Path) -> None:
    with s3_lock(f"{s3}/.lock", tmp_path) as lease:
        storage.delete(f"{s3}/.lock")
        with pytest.raises(ResultLockedError):
            lease.check()


def test_a_renewal_whose_answer_was_lost_counts(s3: str, tmp_path: Path) -> None:
    with s3_lock(f"{s3}/.lock", tmp_path) as lease:
        lease._put(IfMatch=lease._etag)
        storage.write_text(f"{s3}/.lock", json.dumps({"token": lease.token, "holder": "the same, renewed"}))
        lease.check()
        lease.check()


def test_a_missing_bucket_is_one_line(s3: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^s3://no-such-bucket/\.lock: the S3 store answered NoSuchBucket: [^\n]*$"):
        s3_lock("s3://no-such-bucket/.lock", tmp_path).__enter__()
