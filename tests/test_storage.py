"""Paths and S3 URIs: atomic writes, and one clear line for what goes wrong."""

from __future__ import annotations

import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from soco_core import storage
from soco_core.errors import InputError
from soco_core.store_errors import MissingObjectError

if TYPE_CHECKING:
    from conftest import FaultyStore


def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    storage.write_text(path, "old")

    def write() -> None:
        with storage.atomic_file(path) as file:
            file.write(b"half of the n")
            raise RuntimeError("cable")

    with pytest.raises(RuntimeError, match="cable"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    storage.write_text(path, "old")
    script = (
        "import os, signal, sys\nfrom soco_core.storage import atomic_file\n"
        "with atomic_file(sys.argv[1]) as file:\n"
        "    file.write(b'new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    storage.write_text(path, "newer")
    assert path.read_text() == "newer"


def test_the_new_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file.txt"
    with storage.atomic_file(path, "w") as file:
        file.write("é")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == "é".encode()


def test_files_have_the_mode_of_any_other_file(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    paths = [tmp_path / f"file{index}" for index in range(40)]
    # A umask that is changed to be read, and put back, would be lost when two threads do so at once.
    threads = [threading.Thread(target=storage.write_bytes, args=(path, b"x")) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (tmp_path / "later").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (*paths, tmp_path / "usual", tmp_path / "later")}
    assert len(modes) == 1


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*none: No such file or directory$"):
        storage.read_bytes(tmp_path / "none")
    with pytest.raises(InputError, match="Is a directory"):
        storage.read_bytes(tmp_path)
    storage.write_bytes(tmp_path / "binary", b"ab\xff")
    with pytest.raises(InputError, match=r"binary: not UTF-8 text .*byte 2"):
        storage.read_text(tmp_path / "binary")


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket/a/b.txt", ("bucket", "a/b.txt")),
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket/a#1?x=2 &é.png", ("bucket", "a#1?x=2 &é.png")),
    ],
)
def test_an_s3_uri_is_bucket_and_key(uri: str, parts: tuple[str, str]) -> None:
    assert storage.split_s3(uri) == parts


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "/a/b"])
def test_what_is_no_s3_uri_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match="s3://bucket/key"):
        storage.split_s3(uri)


@pytest.mark.parametrize(
    "uri", ["s3:/bucket/key", "S3://bucket/key", "gs://bucket", "http://bucket/key", "file:///a", "a+b:/c"]
)
def test_what_looks_like_a_uri_is_not_taken_for_a_folder(uri: str) -> None:
    with pytest.raises(InputError, match=r"^" + re.escape(f"{uri}: neither a path nor an S3 URI; write s3://")):
        storage.is_s3(uri)
    assert not storage.is_s3(f"./{uri}")


@pytest.mark.parametrize("path", ["a:b", "/a:/b", "n01440764/a b:c.jpg", "", "s3", "../x:/y"])
def test_a_path_with_a_colon_is_a_path(path: str) -> None:
    assert not storage.is_s3(path)
    assert not storage.is_s3(Path(path))


def test_joining() -> None:
    assert storage.join("s3://bucket/a/", "b", "c") == "s3://bucket/a/b/c"
    assert storage.join("/a/", "b", "c") == "/a/b/c"


def test_objects_are_written_read_listed_and_deleted(s3: str, tmp_path: Path) -> None:
    name = storage.join(s3, "some/folder", "a #1?.txt")
    assert not storage.exists(name)
    storage.write_text(name, "é")
    storage.write_bytes(storage.join(s3, "some/folder/sub/b"), b"12345")
    storage.write_bytes(storage.join(s3, "some/folder/sub/"), b"")
    storage.write_bytes(storage.join(s3, "some/folder2/c"), b"")
    assert storage.exists(name)
    assert storage.read_text(name) == "é"
    assert list(storage.list_objects(storage.join(s3, "some/folder"))) == [("a #1?.txt", 2), ("sub/b", 5)]
    storage.download(name, tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_text() == "é"
    storage.upload(tmp_path / "new" / "copy", storage.join(s3, "again"))
    assert storage.read_text(storage.join(s3, "again")) == "é"
    storage.delete(name)
    storage.delete(name)
    assert not storage.exists(name)


def test_what_is_missing_in_the_store_is_one_line(s3: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{s3}/none: the S3 store answered NoSuchKey: [^\n]*$"):
        storage.read_bytes(f"{s3}/none")
    with pytest.raises(InputError, match=rf"^{s3}/none: the S3 store answered 404: [^\n]*$"):
        storage.download(f"{s3}/none", tmp_path / "copy")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    for call in (
        lambda: storage.write_bytes("s3://no-such-bucket/a", b""),
        lambda: storage.upload(tmp_path / "file", "s3://no-such-bucket/a"),
        lambda: storage.read_bytes("s3://no-such-bucket/a"),
        lambda: list(storage.list_objects("s3://no-such-bucket/a")),
    ):
        with pytest.raises(InputError, match=r"^s3://no-such-bucket/a: the S3 store answered NoSuchBucket: [^\n]*$"):
            call()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://me:pa55word@127.0.0.1:1", "not an endpoint"])
def test_a_store_that_is_not_there_is_one_line(s3: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    storage.s3_client.cache_clear()
    with pytest.raises(
        InputError, match=r"^s3://bucket/a: [^\n]*check the endpoint, region and credentials[^\n]*$"
    ) as error:
        storage.exists("s3://bucket/a")
    assert "pa55word" not in str(error.value)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between attempts."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["drop", 500, 503])
def test_what_fails_for_a_moment_is_tried_again(faulty_s3: FaultyStore, kind: int, tmp_path: Path) -> None:
    uri, data = f"{faulty_s3.uri}/some/file", bytes(range(256)) * 100
    for method in ("PUT", "HEAD", "DELETE"):
        faulty_s3.fail("some/file", kind, times=2, method=method)
    storage.write_bytes(uri, data)
    assert storage.exists(uri)
    faulty_s3.fail("some/file", kind, times=3)
    assert storage.read_bytes(uri) == data
    assert faulty_s3.count("some/file") == 4
    faulty_s3.fail("some/file", kind, times=3)
    assert storage.read_range(uri, 10, 1000) == (data[10:1010], len(data))
    faulty_s3.fail("some/file", kind, times=3)
    storage.download(uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    faulty_s3.fail("^$", kind, times=3)
    assert list(storage.list_objects(f"{faulty_s3.uri}/some")) == [("file", len(data))]
    storage.delete(uri)
    assert not storage.exists(uri)


@pytest.mark.usefixtures("quick")
def test_what_fails_for_good_is_one_line(faulty_s3: FaultyStore, tmp_path: Path) -> None:
    uri = f"{faulty_s3.uri}/file"
    storage.write_bytes(uri, b"12345")
    faulty_s3.fail("file", 403, times=3)
    for call in (lambda: storage.read_bytes(uri), lambda: storage.read_range(uri, 0, 1)):
        with pytest.raises(
            InputError, match=rf"^{uri}: the S3 store answered AccessDenied: [^\n]*; check the cred[^\n]*$"
        ):
            call()
    # The answer to a HEAD has no body, and so no code but the status.
    faulty_s3.fail("file", 403, method="HEAD")
    with pytest.raises(
        InputError, match=rf"^{uri}: the S3 store answered 403: Forbidden; check the credentials[^\n]*$"
    ):
        storage.download(uri, tmp_path / "copy")
    faulty_s3.faults.clear()
    faulty_s3.fail("file", 500, times=-1)
    with pytest.raises(
        InputError, match=rf"^{uri}: the S3 store answered InternalError: [^\n]*once the store is well$"
    ):
        storage.read_bytes(uri)
    faulty_s3.faults.clear()
    faulty_s3.fail("file", "drop", times=-1)
    with pytest.raises(InputError, match=rf"^{uri}: the connection broke off 5 times[^\n]*run this again[^\n]*$"):
        storage.read_bytes(uri)
    with pytest.raises(InputError, match=rf"^{uri}: not downloaded [^\n]*run this again[^\n]*$"):
        storage.download(uri, tmp_path / "copy")
    assert os.listdir(tmp_path) == []


def test_a_range_and_the_size_of_the_whole(faulty_s3: FaultyStore) -> None:
    uri = f"{faulty_s3.uri}/file"
    storage.write_bytes(uri, b"0123456789")
    faulty_s3.requests.clear()
    assert storage.read_range(uri, 2, 3) == (b"234", 10)
    assert [request.range for request in faulty_s3.requests] == ["bytes=2-4"]
    assert storage.read_range(uri, 8, 5) == (b"89", 10)
    with pytest.raises(
        InputError, match=rf"^{uri}: the S3 store answered InvalidRange: .*; it is shorter than it should"
    ):
        storage.read_range(uri, 10, 1)
    with pytest.raises(MissingObjectError, match=rf"^{uri}0: the S3 store answered NoSuchKey: [^\n]*; check the p"):
        storage.read_range(f"{uri}0", 10, 1)


def test_what_is_kept_with_an_object(s3: str, tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "file", bytes(20_000_000))  # so large that it goes in parts
    storage.upload(tmp_path / "file", f"{s3}/file", {"sha256": "abc"})
    assert storage.describe(f"{s3}/file") == (20_000_000, {"sha256": "abc"})
    assert storage.describe(f"{s3}/none") is None


def test_waiting_leaves_the_random_numbers_of_training_alone(faulty_s3: FaultyStore) -> None:
    uri = f"{faulty_s3.uri}/file"
    storage.write_bytes(uri, b"12345")
    state = random.getstate()
    faulty_s3.fail("file", "drop")
    assert storage.read_bytes(uri) == b"12345"
    assert random.getstate() == state


def test_a_scratch_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCO_SCRATCH", "/scratch")
    assert storage.scratch_path("s3://bucket/a/b") == Path("/scratch/bucket/a/b")
    monkeypatch.delenv("SOCO_SCRATCH")
    assert storage.scratch_path("s3://bucket/a") == Path.home() / ".cache" / "soco" / "bucket" / "a"


def test_a_forked_process_gets_a_client_of_its_own(s3: str) -> None:
    client = storage.s3_client()
    child = os.fork()
    if child == 0:
        os._exit(0 if storage.s3_client() is not client else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
