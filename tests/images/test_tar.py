"""Tar files that WebDataset, tarfile and tar read, the same to the byte each time."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import webdataset

from soco_core.images.tar import TarWriter, member_header, member_names


def write(path: Path, ids: list[str]) -> dict[str, tuple[int, bytes]]:
    """Write a tar; return offset and data of each id."""
    names = member_names(ids)
    places = {}
    with path.open("wb") as file:
        tar = TarWriter(file)
        for k, image_id in enumerate(ids):
            data = f"image {k}".encode() * k  # the first is empty
            header = member_header(names.get(image_id, image_id), len(data), image_id)
            foreseen = tar.size_with(header, len(data))
            places[image_id] = (tar.add(header, data), data)
        digest = tar.finish()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert foreseen == tar.size == path.stat().st_size
    return places


def test_usual_names_stay() -> None:
    assert member_names(["a.jpg", "b/a.jpg", "b.c/d.JPEG", "ü/é x.png", "__a_b.jpg"]) == {}


def test_odd_names_give_one_sample_each() -> None:
    names = {
        "a.b.jpg": "a_b.jpg",  # its extension would be b.jpg
        "dir/a.png": "dir/a_1.png",  # one sample with dir/a.jpg
        "dir/a.webp": "dir/a_2.webp",
        "k.jpg": "k_2.jpg",  # twice jpg in one sample with k.JPG; k_1 is another image
        ".hidden.jpg": "_hidden.jpg",
        "none": "none.img",
        "dir.d/none": "dir.d/none.img",
        "__meta__/a.jpg": "./__meta__/a.jpg",  # skipped by WebDataset
        "line\nfeed.jpg": "line_feed.jpg",
        "x.y.jpg": "x_y_1.jpg",
    }
    plain = ["dir/a.jpg", "k.JPG", "k_1.jpg", "x_y.jpg"]
    ids = sorted({*names, *plain})
    assert member_names(ids) == names


def test_webdataset_reads_every_image_as_one_sample(tmp_path: Path) -> None:
    ids = sorted(
        [
            *(
                "a.jpg",
                "a.png",
                "a.b.jpg",
                "A.JPG",
                "a.c.d.JPEG",
                "dir.x/a.jpg",
                "dir.x/b.tar.gz.jpg",
                "none",
                ".h.png",
            ),
            *(
                "__meta__/a.jpg",
                "__meta__/b.jpg",
                "line\nfeed.d/x.jpg",
                "ü/日本語.webp",
                "l" * 90 + "/" + "o" * 90 + ".jpg",
            ),
        ]
    )
    places = write(tmp_path / "images.tar", ids)
    samples = list(webdataset.WebDataset(str(tmp_path / "images.tar"), shardshuffle=False))
    found = []
    for sample in samples:
        (suffix,) = (key for key in sample if not key.startswith("__"))
        assert suffix in {"jpg", "jpeg", "png", "webp", "img"}
        found.append(sample[suffix])
    assert found == [data for _, data in places.values()]
    assert len({sample["__key__"] for sample in samples}) == len(ids)


def test_tarfile_and_tar_read_what_the_offsets_say(tmp_path: Path) -> None:
    ids = sorted(["a.jpg", "a.png", "ü/日本語.webp", "l" * 90 + "/" + "o" * 90 + ".jpg", "b.c.jpg"])
    path = tmp_path / "images.tar"
    places = write(path, ids)
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        for member, (image_id, (offset, data)) in zip(members, places.items(), strict=True):
            # What is not called as its image carries the id.
            assert member.pax_headers.get("comment", member.name) == image_id
            assert member.offset_data == offset
            assert whole[offset : offset + len(data)] == data
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
    listed = subprocess.run(["tar", "-tf", path], capture_output=True, check=True)
    assert listed.stderr == b""
    assert len(listed.stdout.splitlines()) == len(ids)


def test_the_bytes_are_those_of_the_standard_library() -> None:
    ours, theirs = io.BytesIO(), io.BytesIO()
    tar = TarWriter(ours)
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.PAX_FORMAT) as reference:
        for name, data in (("a/b.jpg", b"x" * 700), ("é" * 80 + ".jpg", b""), ("c.jpg", bytes(512))):
            tar.add(member_header(name, len(data), name), data)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            reference.addfile(info, io.BytesIO(data))
    tar.finish()
    # tarfile fills its last record of 10 kB with zeros.
    assert theirs.getvalue().startswith(ours.getvalue())
    assert not theirs.getvalue()[len(ours.getvalue()) :].strip(b"\0")
