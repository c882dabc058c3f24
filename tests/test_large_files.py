"""Large files to and from S3: in parts, each with a checksum, tried again, and nothing left behind."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from soco_core import storage
from soco_core.artifacts.result import locate, open_result
from soco_core.artifacts.stage import complete
from soco_core.errors import InputError
from soco_core.recipes import load_recipe

if TYPE_CHECKING:
    from conftest import FaultyStore

RECIPE = load_recipe("demo")
MIB = 1 << 20
PARTS = [5 * MIB, 5 * MIB, 2 * MIB]
"""The smallest parts that S3 takes."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", PARTS[0])


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(sum(PARTS)))
    return path


def sent() -> list[tuple[str, dict[str, Any]]]:
    """Return a list that fills with (operation, headers) of what is sent from now on."""
    found: list[tuple[str, dict[str, Any]]] = []

    def note(request: Any, event_name: str, **_: object) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        found.append((event_name.rpartition(".")[2], headers))

    storage.s3_client().meta.events.register("before-send.s3", note)
    return found


def unfinished(bucket: str) -> list[str]:
    """Keys of the objects whose parts lie in the store."""
    answer = storage.s3_client().list_multipart_uploads(Bucket=storage.split_s3(bucket)[0])
    return [entry["Key"] for entry in answer.get("Uploads", [])]


def test_each_part_and_each_small_object_carries_its_checksum(s3: str, large: Path, tmp_path: Path) -> None:
    requests = sent()
    storage.upload(large, f"{s3}/large", {"sha256": "abc"})
    checksums = {headers["x-amz-checksum-crc32"] for name, headers in requests if name == "UploadPart"}
    data = large.read_bytes()
    bounds = [sum(PARTS[:number]) for number in range(len(PARTS))]
    crcs = [zlib.crc32(data[first : first + size]) for first, size in zip(bounds, PARTS, strict=True)]
    assert checksums == {base64.b64encode(crc.to_bytes(4, "big")) for crc in crcs}
    assert unfinished(s3) == []
    storage.download(f"{s3}/large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    requests.clear()
    storage.write_bytes(f"{s3}/small", b"hello")
    ((name, headers),) = requests  # no further request: the store has compared it
    assert (name, headers["x-amz-checksum-crc32"]) == ("PutObject", b"NhCmhg==")


def test_a_store_that_knows_no_checksums_is_looked_at_or_told_of(
    s3: str, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    storage.s3_client.cache_clear()
    requests = sent()
    storage.write_bytes(f"{s3}/small", b"hello")
    assert [name for name, _ in requests] == ["PutObject", "HeadObject"]
    storage.upload(large, f"{s3}/large")
    assert not any("checksum" in header for _, headers in requests for header in headers)
    # Some keep the checksum among the data.
    monkeypatch.setattr(storage, "describe", lambda uri: (49, {}))
    problem = r": the S3 store kept 49 bytes of \d+; [^\n]*AWS_REQUEST_CHECKSUM_CALCULATION=when_required[^\n]*$"
    with pytest.raises(InputError, match=rf"^{s3}/small{problem}"):
        storage.write_bytes(f"{s3}/small", b"hello")
    with pytest.raises(InputError, match=rf"^{s3}/large{problem}"):
        storage.upload(large, f"{s3}/large")


def test_a_store_that_refuses_checksums_is_told_of(faulty_s3: FaultyStore) -> None:
    faulty_s3.fail("file", 501, method="PUT")
    with pytest.raises(InputError, match=r"answered NotImplemented: [^\n]*CHECKSUM_CALCULATION=when_required[^\n]*$"):
        storage.write_bytes(f"{faulty_s3.uri}/file", b"hello")


@pytest.mark.parametrize("kind", ["drop", 500, 503])
def test_a_part_that_fails_is_sent_again(
    faulty_s3: FaultyStore, large: Path, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for method in ("POST", "PUT"):
        faulty_s3.fail("large", kind, times=2, method=method)
    storage.upload(large, f"{faulty_s3.uri}/large")
    assert faulty_s3.count("large", "PUT") == len(PARTS) + 2
    assert storage.read_bytes(f"{faulty_s3.uri}/large") == large.read_bytes()
    # An answer that broke off may have begun an upload that nobody knows of.
    storage.remove_unfinished_uploads(faulty_s3.uri)
    assert unfinished(faulty_s3.uri) == []


def test_what_fails_for_good_leaves_no_parts(
    faulty_s3: FaultyStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    faulty_s3.fail("large", 500, times=-1, method="PUT")
    with pytest.raises(InputError, match=r"large: the S3 store answered InternalError"):
        storage.upload(large, f"{faulty_s3.uri}/large")
    faulty_s3.faults.clear()
    assert unfinished(faulty_s3.uri) == []
    assert not storage.exists(f"{faulty_s3.uri}/large")


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell's background job is told to ignore it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("what", ["upload", "download"])
def test_ctrl_c_leaves_no_parts_and_no_file(
    s3: str, large: Path, tmp_path: Path, what: str, ctrl_c_is_heard: None
) -> None:
    storage.upload(large, f"{s3}/there")
    folder = tmp_path / "folder"
    folder.mkdir()
    operation = {"upload": "UploadPart", "download": "GetObject"}[what]
    asked: list[int] = []

    def press(**_: object) -> None:
        asked.append(1)
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # else all might be over before anybody looks

    storage.s3_client().meta.events.register(f"before-send.s3.{operation}", press)
    copy = {
        "upload": lambda: storage.upload(large, f"{s3}/large"),
        "download": lambda: storage.download(f"{s3}/there", folder / "copy"),
    }
    with pytest.raises(KeyboardInterrupt):
        copy[what]()
    assert asked
    assert unfinished(s3) == []
    assert not storage.exists(f"{s3}/large")
    assert os.listdir(folder) == []


KILLED = """
import os, sys
from pathlib import Path
from soco_core import storage
storage.PART_BYTES = 5 << 20
from soco_core.artifacts.result import locate, writing
from soco_core.recipes import load_recipe
recipe = load_recipe("demo")
with writing(locate(sys.argv[1], "pretrain", 1, recipe, ("seed",), {}), recipe) as result:
    storage.s3_client().meta.events.register("before-send.s3.UploadPart", lambda **_: os.kill(os.getpid(), 9))
    (result.path / "weights").write_bytes(bytes(12 << 20))
    result.publish()
"""


def test_what_a_killed_stage_left_in_the_store_goes_with_its_next_attempt(s3: str, tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, s3], check=False).returncode == -signal.SIGKILL
    (left,) = unfinished(s3)
    assert left.endswith("/weights")
    storage.s3_client().create_multipart_upload(Bucket=storage.split_s3(s3)[0], Key="others")

    def compute(result: Any, tracker: Any) -> dict[str, Any]:
        (result.path / "weights").write_bytes(b"few")
        return {}

    result = complete(locate(s3, "pretrain", 1, RECIPE, ("seed",), {}), RECIPE, None, compute)
    assert unfinished(s3) == ["others"]
    assert (open_result(result.uri).path / "weights").read_bytes() == b"few"


def test_of_a_store_that_lists_the_whole_bucket_others_uploads_stay(s3: str) -> None:
    client, bucket = storage.s3_client(), storage.split_s3(s3)[0]
    for key in ("mine/weights", "mine-too/weights"):
        client.create_multipart_upload(Bucket=bucket, Key=key)

    def whole_bucket(params: dict[str, Any], **_: object) -> None:
        params.pop("Prefix", None)

    client.meta.events.register("provide-client-params.s3.ListMultipartUploads", whole_bucket)
    storage.remove_unfinished_uploads(f"{s3}/mine")
    assert unfinished(s3) == ["mine-too/weights"]


def test_a_store_that_lists_no_uploads_is_left_as_it_is(faulty_s3: FaultyStore) -> None:
    faulty_s3.fail("^$", 403, times=-1)
    storage.remove_unfinished_uploads(f"{faulty_s3.uri}/folder")
    assert faulty_s3.count("^$") == 1


def test_a_file_that_came_damaged_is_not_taken(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a large object are fetched by ranges, which no checksum of S3 covers; its SHA-256 does."""

    def compute(result: Any, tracker: Any) -> dict[str, Any]:
        (result.path / "weights").write_bytes(b"few")
        return {}

    result = complete(locate(s3, "pretrain", 1, RECIPE, ("seed",), {}), RECIPE, None, compute)
    monkeypatch.setenv("SOCO_SCRATCH", str(tmp_path / "another machine"))
    storage.write_bytes(f"{result.uri}/weights", b"two")
    with pytest.raises(InputError, match=r"/weights: missing or damaged; delete "):
        open_result(result.uri)
    storage.write_bytes(f"{result.uri}/weights", b"few")
    assert (open_result(result.uri).path / "weights").read_bytes() == b"few"


def test_a_copy_on_this_machine_is_fetched_once_and_anew_when_the_object_changed(faulty_s3: FaultyStore) -> None:
    uri = f"{faulty_s3.uri}/folder/weights.pth"
    storage.write_bytes(uri, b"first")
    path = storage.local_copy(uri)
    assert (path.read_bytes(), path.name) == (b"first", "weights.pth")
    assert storage.local_copy(uri) == path
    assert faulty_s3.count("weights") == 1
    os.utime(path, (1, 1))  # as if the object were younger
    storage.write_bytes(uri, b"other")
    assert storage.local_copy(uri).read_bytes() == b"other"
    assert os.listdir(path.parent) == ["weights.pth"]
    with pytest.raises(InputError, match=rf"^{uri}0: the S3 store answered 404: "):
        storage.local_copy(f"{uri}0")
