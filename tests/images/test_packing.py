"""`soco pack`: what it writes reads back the same, from a disk and from S3, whatever stops it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
import webdataset

from soco_core import storage
from soco_core.config import ImagesConfig
from soco_core.errors import InputError, InterruptedStageError, ResultLockedError, SocoError
from soco_core.images import BadImageError, ImageSource, open_image_set, open_source
from soco_core.images.packing import pack, parse_size
from soco_core.images.sources import read_each
from soco_core.images.tar import TarWriter

if TYPE_CHECKING:
    from conftest import FaultyStore

SOCO = Path(sys.executable).with_name("soco")
SHARD = 30_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 files of up to 8 kB; what is in them does not matter to a pack. One is empty, one is larger than a tar."""
    root = tmp_path / "set"
    rng = random.Random(0)
    for k in range(40):
        path = root / f"n{k % 3}" / f"{k:02d} é.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(8000)))
    (root / "empty.jpg").touch()
    (root / "large.png").write_bytes(rng.randbytes(2 * SHARD))
    (root / "a.b.jpg").write_bytes(b"two dots")
    return root


def make(images: Path | str, output: Path | str, shard_size: int = SHARD, **config: Any) -> str:
    return pack(ImagesConfig(**config), images=str(images), output=str(output), shard_size=shard_size)


def files_of(uri: str | Path) -> dict[str, bytes]:
    """Return what a finished pack consists of."""
    if storage.is_s3(uri):
        return {name: storage.read_bytes(f"{uri}/{name}") for name, _ in storage.list_objects(str(uri))}
    paths = [path for path in Path(uri).rglob("*") if path.is_file()]
    return {path.relative_to(uri).as_posix(): path.read_bytes() for path in paths if path.name != ".lock"}


def assert_same(uri: str, folder: Path) -> None:
    """Check that a pack holds the ids, files and fingerprints of a folder."""
    packed, loose = open_image_set(uri), open_image_set(str(folder))
    assert packed.layout == "pack"
    assert packed.ids == loose.ids
    for image_id in loose.ids:
        assert packed.source.read_bytes(image_id) == (folder / image_id).read_bytes()
    for mode in ("contents", "sizes"):
        assert packed.fingerprint(mode) == loose.fingerprint(mode)


def test_a_pack_holds_what_the_folder_holds(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = make(folder, tmp_path / "pack")
    assert uri == str(tmp_path / "pack")
    assert_same(uri, folder)
    content = json.loads((tmp_path / "pack" / "pack.json").read_text())
    tars = sorted((tmp_path / "pack").glob("*.tar"))
    assert [shard["file"] for shard in content["shards"]] == [path.name for path in tars]
    assert len(tars) > 4
    for shard, path in zip(content["shards"], tars, strict=True):
        data = path.read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert len(data) <= SHARD or shard["images"] == 1
    for path, following in pairwise(
        tars
    ):  # no tar could have held one image more: its header, it in whole blocks, the end
        with tarfile.open(following) as tar:
            first = tar.next()
            assert first is not None
        assert path.stat().st_size + first.offset_data + -(-first.size // 512) * 512 > SHARD
    assert sum(shard["images"] for shard in content["shards"]) == content["images"] == 43
    assert content["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    whole = open_image_set(str(folder))
    assert content["source"]["fingerprint"] == {mode: whole.fingerprint(mode) for mode in ("contents", "sizes")}
    assert content["renamed"] == 1
    assert "1 members are not called as their image" in capsys.readouterr().err
    names = [path.name for path in (tmp_path / "pack").iterdir()]
    assert sorted(names) == sorted([".lock", "index.arrow", "pack.json", *(path.name for path in tars)])


def test_other_tools_read_it(folder: Path, tmp_path: Path) -> None:
    uri = make(folder, tmp_path / "pack")
    tars = sorted(str(path) for path in Path(uri).glob("*.tar"))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    found = [value for sample in samples for key, value in sample.items() if not key.startswith("__")]
    assert found == [(folder / image_id).read_bytes() for image_id in open_image_set(uri).ids]
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                data = tar.extractfile(member)
                assert data is not None
                assert data.read() == (folder / member.pax_headers.get("comment", member.name)).read_bytes()


def test_the_source_is_small_and_works_in_other_processes(folder: Path, tmp_path: Path) -> None:
    source = open_source(make(folder, tmp_path / "pack"))
    assert source.read_bytes("large.png") == (folder / "large.png").read_bytes()
    data = pickle.dumps(source)
    assert len(data) < 1500
    (tmp_path / "source").write_bytes(data)
    script = (
        "import pickle, sys\nsource = pickle.load(open(sys.argv[1], 'rb'))\n"
        "sys.stdout.buffer.write(source.read_bytes('large.png'))"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "source"], capture_output=True, check=True)
    assert done.stdout == (folder / "large.png").read_bytes()
    child = os.fork()
    if child == 0:  # a forked worker shares the open tars
        os._exit(0 if source.read_bytes("large.png") == (folder / "large.png").read_bytes() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_only_so_many_tars_stay_open(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soco_core.images.pack_source.MOST_OPEN_FILES", 2)
    uri = make(folder, tmp_path / "pack")

    def open_tars() -> list[str]:
        links = (os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path))
        return [target for target in links if target.startswith(uri) and target.endswith(".tar")]

    source = open_source(uri)
    for _ in range(2):
        assert_same(uri, folder)
        for image_id in open_image_set(uri).ids:
            assert source.read_bytes(image_id) == (folder / image_id).read_bytes()
        assert len(open_tars()) == 2
    del source
    assert open_tars() == []


def test_what_is_not_in_the_pack_is_bad_and_what_is_damaged_is_an_error(folder: Path, tmp_path: Path) -> None:
    uri = make(folder, tmp_path / "pack")
    source = open_source(uri)
    for name in ("none.jpg", "", "~", "empty.jp", "empty.jpgg"):
        with pytest.raises(BadImageError, match="not in the pack"):
            source.read_bytes(name)
    first = tmp_path / "pack" / "images-00000.tar"
    whole = first.read_bytes()
    place = source.index.place(source.index.find("a.b.jpg"))
    assert place.shard == 0
    changed = bytearray(whole)
    changed[place.offset] ^= 1
    first.write_bytes(changed)
    with pytest.raises(InputError, match=r"images-00000\.tar: a\.b\.jpg in it is not what was packed, .*; copy it"):
        source.read_bytes("a.b.jpg")
    source = open_source(uri)
    first.write_bytes(whole[:-1])
    with pytest.raises(
        InputError, match=r"images-00000\.tar: \d+ bytes, not what pack\.json says; copy the pack again"
    ):
        source.read_bytes("a.b.jpg")
    first.unlink()
    with pytest.raises(InputError, match=r"images-00000\.tar: missing or damaged; copy the pack again"):
        source.read_bytes("a.b.jpg")
    index = tmp_path / "pack" / "index.arrow"
    data = bytearray(index.read_bytes())
    data[-200] ^= 1
    index.write_bytes(data)
    with pytest.raises(InputError, match=r"index\.arrow: missing, or not the index of its pack\.json"):
        open_source(uri)


def test_the_same_again_is_done_and_another_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = make(folder, tmp_path / "pack")
    before = files_of(uri)
    capsys.readouterr()
    assert make(folder, uri) == uri
    assert capsys.readouterr().err == "pack: already done, nothing to write\n"
    with pytest.raises(InputError, match="holds a pack of these images in tars of 30000 bytes; delete it"):
        make(folder, uri, shard_size=SHARD + 1)
    with pytest.raises(InputError, match="holds a pack of other images; delete it"):
        make(folder, uri, subset="50%")
    (folder / "a.b.jpg").write_bytes(b"two DOTS")
    with pytest.raises(InputError, match="other images"):
        make(folder, uri)
    assert make(folder, uri, fingerprint="sizes") == uri
    with pytest.raises(InputError, match=r"holds other files \(a\.b\.jpg\); give an --output of its own"):
        make(folder, folder)
    assert not (folder / ".lock").exists()
    assert files_of(uri) == before


def test_files_that_cannot_be_opened_are_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "zz.jpg").symlink_to("nowhere.jpg")
    (folder / "0.jpg").symlink_to("nowhere.jpg")
    uri = make(folder, tmp_path / "pack", shard_size=1)  # an image a tar: the last "tar" would have none
    lost = ["0.jpg", "gone.jpg", "zz.jpg"]
    content = json.loads((tmp_path / "pack" / "pack.json").read_text())
    assert content["left_out"] == [
        {"id": name, "reason": "cannot be opened: No such file or directory"} for name in lost
    ]
    assert len(content["shards"]) == len(list((tmp_path / "pack").glob("*.tar"))) == 43
    assert "pack: 3 of 46 files are left out: 0.jpg (cannot be opened: No such file" in capsys.readouterr().err
    assert open_image_set(uri).ids == tuple(name for name in open_image_set(str(folder)).ids if name not in lost)
    assert make(folder, uri, shard_size=1) == uri
    for name in open_image_set(uri).ids:
        (folder / name).unlink()
    with pytest.raises(InputError, match=r"no file can be opened \(the first, 0\.jpg: cannot be opened"):
        make(folder, tmp_path / "none")


def test_a_pack_of_a_part_knows_that_it_is_one(folder: Path, tmp_path: Path) -> None:
    config = ImagesConfig(subset="50%")
    part = open_image_set(str(folder), config)
    uri = make(folder, tmp_path / "pack", subset="50%")
    # The recipe that made the pack means the same images when it reads it, not half of them.
    again = open_image_set(uri, config)
    assert (again.ids, again.subset) == (part.ids, "50%")
    assert open_image_set(uri).subset == "50%"
    fewer = open_image_set(uri, ImagesConfig(subset="3"))
    assert fewer.ids == open_image_set(str(folder), ImagesConfig(subset="3")).ids
    assert fewer.subset == "3 of 50%"
    assert fewer.fingerprint("contents") == open_image_set(str(folder), ImagesConfig(subset="3")).fingerprint(
        "contents"
    )
    # A pack of a pack.
    assert_same(make(uri, tmp_path / "second", subset="3"), _copied(folder, fewer.ids, tmp_path / "three"))


def _copied(folder: Path, ids: tuple[str, ...], to: Path) -> Path:
    for name in ids:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, to / name)
    return to


def test_a_pack_of_splits(tmp_path: Path) -> None:
    for name in ("train2017/1.jpg", "val2017/2.jpg"):
        storage.write_bytes(tmp_path / "coco" / name, name.encode())
    uri = make(tmp_path / "coco", tmp_path / "pack", splits=("val2017",))
    for splits in ((), ("val2017",)):
        packed = open_image_set(uri, ImagesConfig(splits=splits))
        assert (packed.ids, packed.splits) == (("val2017/2.jpg",), ("val2017",))
    with pytest.raises(InputError, match=r"a pack of val2017, but images\.splits asks for train2017"):
        open_image_set(uri, ImagesConfig(splits=("train2017",)))
    with pytest.raises(InputError, match=r"images\.layout is folder, but this is a pack"):
        open_image_set(uri, ImagesConfig(layout="folder"))


def test_a_file_of_the_same_name_is_no_pack(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / "a.jpg", b"1")
    for text in ("{}", "[]", "no JSON", '{"kind": "bundle"}'):
        storage.write_text(tmp_path / "pack.json", text)
        assert open_image_set(str(tmp_path)).layout == "folder"
    storage.write_text(tmp_path / "pack.json", '{"kind": "soco-pack", "contract": 2}')
    with pytest.raises(InputError, match="a pack of version 2"):
        open_source(str(tmp_path))


def test_a_damaged_pack_file_is_one_line(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "pack" / "pack.json"
    make(folder, path.parent)
    whole = path.read_text()
    content = json.loads(whole)
    broken = [
        '{"kind": "soco-pack"}',
        '{"kind": "soco-pack", "contract": 1}',
        *(json.dumps({**content, key: None}) for key in ("contract", "source", "index", "shards")),
        json.dumps({**content, "shards": [{"file": "images-00000.tar"}]}),
        json.dumps({**content, "index": {"sha256": "0", "bytes": "1"}}),
        *(whole[:length] for length in (0, 5, 100, len(whole) - 3)),
    ]
    for text in broken:
        path.write_text(text)
        for read in (open_source, open_image_set):
            with pytest.raises(InputError, match=r"pack\.json: damaged; copy the pack again, or delete it") as caught:
                read(str(path.parent))
            assert "\n" not in str(caught.value)
    path.write_text(whole)
    assert_same(str(path.parent), folder)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Send this process a SIGINT when `count` files have been read."""

    def read(source: ImageSource, ids: tuple[str, ...]) -> Iterator[tuple[str, bytes | BadImageError]]:
        for number, item in enumerate(read_each(source, ids)):
            if number == count:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

    monkeypatch.setattr("soco_core.images.packing.read_each", read)


@pytest.mark.parametrize("on_s3", [False, True])
def test_it_stops_and_goes_on_without_writing_a_tar_twice(
    folder: Path, tmp_path: Path, s3: str, on_s3: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("0.jpg", "n1/gone.jpg"):
        (folder / name).symlink_to("nowhere.jpg")
    wanted = files_of(make(folder, tmp_path / "unbroken"))
    output = f"{s3}/pack" if on_s3 else str(tmp_path / "pack")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 20)
        with pytest.raises(InterruptedStageError, match=r"^stopped by SIGINT; \d finished tars are kept. Run the same"):
            make(folder, output)
    finished = sorted(name for name in files_of(output) if name.endswith(".tar"))
    assert len(finished) >= 2
    with pytest.raises(InputError, match="holds no image"):
        open_image_set(output)
    with pytest.raises(InputError, match="an unfinished pack of other images or of another shard size"):
        make(folder, output, shard_size=SHARD + 1)
    # A tar that was damaged since is written again, those before it are not.
    storage.write_bytes(storage.join(output, finished[-1]), b"?" * len(wanted[finished[-1]]))
    written: list[TarWriter] = []

    class Counted(TarWriter):
        def __init__(self, file: IO[bytes]) -> None:
            super().__init__(file)
            written.append(self)

    monkeypatch.setattr("soco_core.images.packing.TarWriter", Counted)
    make(folder, output)
    assert len(written) == sum(name.endswith(".tar") for name in wanted) - len(finished) + 1
    found = files_of(output)
    assert {name: data for name, data in found.items() if name != "pack.json"} == {
        name: data for name, data in wanted.items() if name != "pack.json"
    }
    for name in ("0.jpg", "n1/gone.jpg"):
        (folder / name).unlink()
    assert_same(output, folder)


def test_a_killed_pack_goes_on(folder: Path, tmp_path: Path) -> None:
    wanted = files_of(make(folder, tmp_path / "unbroken"))
    output = tmp_path / "pack"
    arguments = ["pack", "--images", folder, "--output", output, "--shard-size", "30kB"]
    script = (
        "import os, signal, sys\nimport soco_core.images.packing as packing\nread = packing.read_each\n"
        "def read_each(source, ids):\n"
        "    for number, item in enumerate(read(source, ids)):\n"
        "        if number == 12: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield item\n"
        "packing.read_each = read_each\nfrom soco_core.cli import main\nmain()"
    )
    for _ in range(2):  # each attempt gets some files further
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
    done = subprocess.run([SOCO, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == f"{output}\n"
    assert "goes on behind" in done.stderr
    assert files_of(output) == wanted


def test_the_command(folder: Path, tmp_path: Path) -> None:
    arguments = [SOCO, "pack", "--images", folder, "--output", "pack", "--set", "images.subset=5"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == f"{tmp_path / 'pack'}\n"
    assert len(open_image_set(str(tmp_path / "pack")).ids) == 5
    for size in ("1GX", "0", "-1", ""):
        done = subprocess.run([*arguments, "--shard-size", size], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "--shard-size" in done.stderr


def test_sizes() -> None:
    assert [parse_size(text) for text in ("1GB", "1.5 MB", "64MiB", "20kB", "7", "3K", "2TiB")] == [
        *(10**9, 1_500_000, 64 * 2**20, 20_000, 7, 3000, 2 * 2**40)
    ]


def test_a_second_writer_is_kept_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack").mkdir()
    monkeypatch.setattr("soco_core.artifacts.lock.PATIENCE_SECONDS", 0.1)
    script = (
        "import sys\nfrom pathlib import Path\nfrom soco_core.artifacts.lock import local_lock\n"
        "with local_lock(Path(sys.argv[1]), 'pack'):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, tmp_path / "pack" / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ResultLockedError, match="is being written by process"):
            make(folder, tmp_path / "pack")
        holder.communicate()
    make(folder, tmp_path / "pack")


def test_to_s3_and_back(folder: Path, tmp_path: Path, faulty_s3: FaultyStore) -> None:
    here = files_of(make(folder, tmp_path / "pack"))
    uri = make(folder, f"{faulty_s3.uri}/packs/mini/")
    assert uri == f"{faulty_s3.uri}/packs/mini"
    there = files_of(uri)
    assert there == here
    assert not list(Path(os.environ["SOCO_SCRATCH"]).rglob("*.tar"))
    assert_same(uri, folder)
    # A tree on S3, packed to S3.
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{faulty_s3.uri}/set/{path.relative_to(folder).as_posix()}", path.read_bytes())
    second = files_of(make(f"{faulty_s3.uri}/set", f"{faulty_s3.uri}/second"))
    assert {name: data for name, data in second.items() if name != "pack.json"} == {
        name: data for name, data in here.items() if name != "pack.json"
    }
    assert json.loads(second["pack.json"])["fingerprint"] == json.loads(here["pack.json"])["fingerprint"]


def test_an_image_of_a_pack_on_s3_is_one_request(folder: Path, faulty_s3: FaultyStore) -> None:
    uri = make(folder, f"{faulty_s3.uri}/pack")
    faulty_s3.requests.clear()
    image_set = open_image_set(uri)
    image_set.fingerprint("contents")
    # pack.json and (HEAD and GET of) the index, nothing else; the second time on this machine pack.json alone.
    assert [request.key for request in faulty_s3.requests] == ["pack/pack.json", "pack/index.arrow", "pack/index.arrow"]
    faulty_s3.requests.clear()
    source = pickle.loads(pickle.dumps(open_source(uri)))
    assert [request.key for request in faulty_s3.requests] == ["pack/pack.json"]
    for image_id in image_set.ids:
        faulty_s3.requests.clear()
        assert source.read_bytes(image_id) == (folder / image_id).read_bytes()
        requests = [request for request in faulty_s3.requests if request.range and request.method == "GET"]
        assert requests == faulty_s3.requests
        assert len(requests) == (image_id != "empty.jpg")


def test_a_store_that_stumbles(folder: Path, faulty_s3: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for method, kind in (("PUT", 500), ("PUT", "drop"), ("HEAD", 503), ("GET", 500)):
        faulty_s3.fail("pack/", kind, times=2, method=method)
    uri = make(folder, f"{faulty_s3.uri}/pack")
    for key in ("pack.json", "index", r"00000\.tar", r"00001\.tar"):
        faulty_s3.fail(key, "drop", times=2)
        faulty_s3.fail(key, 500, times=2)
    assert_same(uri, folder)
    source = open_source(uri)
    faulty_s3.fail(r"00000\.tar", 403)
    with pytest.raises(
        InputError, match=rf"^{uri}/images-00000\.tar: [^\n]*AccessDenied[^\n]*; check the credentials [^\n]*$"
    ):
        source.read_bytes("a.b.jpg")
    storage.write_bytes(f"{uri}/images-00000.tar", storage.read_bytes(f"{uri}/images-00000.tar") + b"more")
    with pytest.raises(
        InputError, match=rf"^{uri}/images-00000\.tar: \d+ bytes, not what pack\.json says; copy [^\n]*$"
    ):
        source.read_bytes("a.b.jpg")
    storage.write_bytes(f"{uri}/images-00000.tar", b"")
    with pytest.raises(InputError, match=rf"^{uri}/images-00000\.tar: [^\n]*$"):
        source.read_bytes("a.b.jpg")
    storage.delete(f"{uri}/images-00000.tar")
    with pytest.raises(InputError, match=rf"^{uri}/images-00000\.tar: missing or damaged; copy the pack again[^\n]*$"):
        source.read_bytes("a.b.jpg")
    with pytest.raises(InputError, match=r"^s3://no-such-bucket/pack[^\n]*NoSuchBucket[^\n]*$"):
        make(folder, "s3://no-such-bucket/pack")


def test_an_index_here_that_is_not_whole_is_fetched_again(folder: Path, s3: str) -> None:
    uri = make(folder, f"{s3}/pack")
    assert_same(uri, folder)
    (index,) = Path(os.environ["SOCO_SCRATCH"]).rglob("index-*.arrow")
    index.write_bytes(index.read_bytes()[:-1])
    assert_same(uri, folder)


def test_a_pack_to_s3_takes_the_disk_of_one_tar(folder: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, largest = storage.upload, 0

    def measure(path: Path, uri: str, metadata: dict[str, str] | None = None) -> None:
        nonlocal largest
        largest = max(largest, len(list(Path(os.environ["SOCO_SCRATCH"]).rglob("*.tar*"))))
        upload(path, uri, metadata)

    monkeypatch.setattr(storage, "upload", measure)
    make(folder, f"{s3}/pack")
    assert largest == 1


@pytest.mark.parametrize(("number", "wanted"), [(errno.ENOSPC, "no space is left for"), (errno.EROFS, "cannot write")])
def test_a_disk_that_takes_nothing_is_one_line(
    number: int, wanted: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(TarWriter, "finish", refuse)
        with pytest.raises(SocoError, match=rf"^pack: {wanted} {tmp_path / 'pack'}[^\n]*$"):
            pack(ImagesConfig(), images=str(folder), output=str(tmp_path / "pack"), shard_size=10**6)
    pack(ImagesConfig(), images=str(folder), output=str(tmp_path / "pack"), shard_size=10**6)
