"""Where the bytes come from: one request an image, retries, and one line for what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from soco_core import storage
from soco_core.errors import InputError
from soco_core.images import BadImageError, open_image_set, open_source, source_fingerprint
from soco_core.images.sources import ChangedImageError, FolderSource, ListedSource, S3Source, read_each

if TYPE_CHECKING:
    from conftest import FaultyStore


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between attempts."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def fill(store: FaultyStore, count: int = 3) -> dict[str, bytes]:
    """Write images (their bytes do not matter) to the store; return them by id."""
    files = {f"a/{k:02d} ü#.jpg": bytes([k]) * (1000 + k) for k in range(count)}
    for name, data in files.items():
        storage.write_bytes(f"{store.uri}/set/{name}", data)
    store.requests.clear()
    return files


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"123")
    (tmp_path / "folder.jpg").mkdir()
    source = open_source(str(tmp_path))
    assert source == FolderSource(str(tmp_path.resolve()))
    assert pickle.loads(pickle.dumps(source)).read_bytes("a.jpg") == b"123"
    for name in ("none.jpg", "folder.jpg", "a.jpg/b.jpg", "x" * 300):
        with pytest.raises(BadImageError, match=r"^cannot be opened: [A-Z]"):
            source.read_bytes(name)


def test_a_file_without_permission_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadImageError, match=r"^cannot be opened: Permission denied$"):
        FolderSource(str(tmp_path)).read_bytes("a.jpg")


def test_a_file_system_that_fails_says_nothing_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(InputError, match=r"a\.jpg: Input/output error; run this again"):
        FolderSource(str(tmp_path)).read_bytes("a.jpg")


def test_an_image_on_s3_is_one_request(faulty_s3: FaultyStore) -> None:
    files = fill(faulty_s3)
    source = open_source(f"{faulty_s3.uri}/set/")
    assert source == S3Source(f"{faulty_s3.uri}/set")
    assert len(pickle.dumps(source)) < 500
    faulty_s3.requests.clear()
    for name, data in files.items():
        assert source.read_bytes(name) == data
    assert [request.key for request in faulty_s3.requests] == [f"set/{name}" for name in files]
    assert faulty_s3.count() == 3


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["drop", 500, 503])
def test_a_dropped_connection_and_a_500_are_retried(faulty_s3: FaultyStore, kind: int) -> None:
    files = fill(faulty_s3)
    name = next(iter(files))
    faulty_s3.fail("00 ", kind, times=3)
    assert S3Source(f"{faulty_s3.uri}/set").read_bytes(name) == files[name]
    assert faulty_s3.count("00 ") == 4


@pytest.mark.usefixtures("quick")
def test_a_connection_that_always_drops_is_one_line(faulty_s3: FaultyStore) -> None:
    name = next(iter(fill(faulty_s3)))
    faulty_s3.fail("00 ", "drop", times=-1)
    with pytest.raises(InputError, match=rf"^{faulty_s3.uri}/set/[^\n]*broke off 5 times[^\n]*run this again[^\n]*$"):
        S3Source(f"{faulty_s3.uri}/set").read_bytes(name)


def test_no_such_object_is_a_bad_image_and_a_refusal_is_not(faulty_s3: FaultyStore) -> None:
    name = next(iter(fill(faulty_s3)))
    with pytest.raises(BadImageError, match=r"^cannot be opened: no such object$"):
        S3Source(f"{faulty_s3.uri}/set").read_bytes("none.jpg")
    with pytest.raises(
        InputError, match=r"^s3://no-such-bucket/a/b\.jpg: [^\n]*NoSuchBucket[^\n]*; check the bucket's"
    ):
        S3Source("s3://no-such-bucket/a").read_bytes("b.jpg")
    faulty_s3.fail("00 ", 403)
    with pytest.raises(
        InputError, match=rf"^{faulty_s3.uri}/set/[^\n]*AccessDenied[^\n]*; check the credentials [^\n]*$"
    ):
        S3Source(f"{faulty_s3.uri}/set").read_bytes(name)


def test_files_are_read_ahead_in_their_order(faulty_s3: FaultyStore) -> None:
    files = fill(faulty_s3, 40)
    source = S3Source(f"{faulty_s3.uri}/set")
    wanted = [*files, "none.jpg"]
    found = list(read_each(source, wanted))
    assert [name for name, _ in found] == wanted
    assert dict(found[:-1]) == files
    assert isinstance(found[-1][1], BadImageError)
    assert faulty_s3.count() == 41
    faulty_s3.fail("07 ", 403)
    with pytest.raises(InputError, match="07 "):
        list(read_each(source, wanted))


def test_sizes_come_from_one_listing(faulty_s3: FaultyStore, tmp_path: Path) -> None:
    files = fill(faulty_s3)
    for name, data in files.items():
        storage.write_bytes(tmp_path / name, data)
    here = open_image_set(str(tmp_path))
    there = open_image_set(f"{faulty_s3.uri}/set")
    assert there.fingerprint("sizes") == here.fingerprint("sizes")
    # Whether it is a pack, and the listing.
    assert [(request.method, request.key) for request in faulty_s3.requests] == [("GET", "set/pack.json"), ("GET", "")]
    assert source_fingerprint(there.source, there.ids, "sizes") == here.fingerprint("sizes")
    assert {request.method for request in faulty_s3.requests} == {"GET"}
    assert len(faulty_s3.requests) == 3
    assert source_fingerprint(there.source, (*there.ids, "none"), "contents") == source_fingerprint(
        here.source, iter([*here.ids, "none"]), "contents"
    )


def test_a_file_that_is_not_what_was_listed_is_refused(tmp_path: Path) -> None:
    for name in ("same", "longer", "flipped", "gone", "came"):
        (tmp_path / f"{name}.jpg").write_bytes(b"12345")
    (tmp_path / "longer.jpg").write_bytes(b"123456")
    (tmp_path / "flipped.jpg").write_bytes(b"1234x")
    (tmp_path / "gone.jpg").unlink()
    listed = {"sizes": "5", "contents": "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"}
    for mode, identity in listed.items():
        identities = {f"{name}.jpg": identity for name in ("same", "longer", "flipped", "gone")}
        source = ListedSource(FolderSource(str(tmp_path)), mode, {**identities, "came.jpg": None, "never.jpg": None})
        assert source.read_bytes("same.jpg") == b"12345"
        with pytest.raises(BadImageError, match="cannot be opened"):
            source.read_bytes("never.jpg")
        changed = {
            "longer": "5 bytes then, 6 now" if mode == "sizes" else "its SHA-256 is another",
            "gone": "cannot be opened: No such file or directory",
            "came": "it could not be opened then",
        } | ({"flipped": "its SHA-256 is another"} if mode == "contents" else {})
        for name, how in changed.items():
            with pytest.raises(ChangedImageError) as caught:
                source.read_bytes(f"{name}.jpg")
            assert str(caught.value) == (
                f"{tmp_path}/{name}.jpg changed since it was listed ({how}); run the same command again once the "
                "images stay as they are (with a plan: plan again first)"
            )


def test_a_file_that_may_not_be_read_has_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FolderSource, image_id: str) -> bytes:
        raise BadImageError("cannot be opened: Permission denied")

    monkeypatch.setattr(FolderSource, "read_bytes", refuse)
    with pytest.raises(BadImageError, match="Permission denied"):
        ListedSource(FolderSource("images"), "sizes", {"a.jpg": "5"}).read_bytes("a.jpg")
    with pytest.raises(InputError, match=r"changed since it was listed \(cannot be opened: Permission denied\)"):
        ListedSource(FolderSource("images"), "contents", {"a.jpg": "5"}).read_bytes("a.jpg")
