"""The index of a pack: found by halving, mapped and not copied."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from soco_core.errors import InputError
from soco_core.images.pack_index import PackIndex, Place, Row, index_rows, write_index


def write(path: Path, ids: list[str], a_tar: int) -> list[Row]:
    rows = [(image_id, 512 * k, k, f"{k:064x}") for k, image_id in enumerate(ids)]
    parts = [rows[first : first + a_tar] for first in range(0, len(rows), a_tar)]
    write_index(path, [index_rows(part, number) for number, part in enumerate(parts)])
    return rows


def test_every_id_is_found_and_no_other(tmp_path: Path) -> None:
    rng = random.Random(0)
    # Characters of one to four bytes in UTF-8, and ids that begin alike.
    ids = sorted({"".join(rng.choices("ab/.\x7fé世\U0001f600", k=rng.randrange(1, 6))) for _ in range(500)})
    rows = write(tmp_path / "index.arrow", ids, 7)
    index = PackIndex(tmp_path / "index.arrow")
    assert index.ids() == tuple(ids)
    assert len(index) == len(ids)
    for k, (image_id, offset, size, digest) in enumerate(rows):
        for guess in (0, k, len(ids), rng.randrange(len(ids))):
            assert index.find(image_id, guess) == k
        assert index.place(k) == Place(k // 7, offset, size, bytes.fromhex(digest))
    for image_id in ("", "\0", "zz", "\U0001f601", *(f"{image_id}~" for image_id in ids)):
        assert index.find(image_id) is None


def test_what_is_no_index_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "index.arrow").write_bytes(b"ARROW1\0\0 but not really")
    for name in ("index.arrow", "none"):
        with pytest.raises(
            InputError, match=rf"^[^\n]*{name}: no readable index of a pack [^\n]*; pack the images again$"
        ):
            PackIndex(tmp_path / name)


SCRIPT = """
import random, sys
from pathlib import Path
import numpy, psutil, pyarrow
from soco_core.images.pack_index import PackIndex
before = psutil.Process().memory_full_info().uss
index = PackIndex(Path(sys.argv[1]))
rng = random.Random(0)
for _ in range(20_000):
    k = rng.randrange(len(index))
    assert index.find(f"n{k // 1280:08d}/{k:08d}.JPEG") == k
    index.place(k)
print("read", flush=True)
sys.stdin.readline()
print(psutil.Process().memory_full_info().uss - before, flush=True)
sys.stdin.readline()
"""


def test_processes_share_the_index(tmp_path: Path) -> None:
    path = tmp_path / "index.arrow"
    write(path, [f"n{k // 1280:08d}/{k:08d}.JPEG" for k in range(300_000)], 10_000)
    assert path.stat().st_size > 20e6
    command = [sys.executable, "-c", SCRIPT, path]
    readers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    private = []
    for step in range(2):  # both have read, and only then does either measure
        for reader in readers:
            assert reader.stdin is not None
            assert reader.stdout is not None
            if step:
                reader.stdin.write("\n")
                reader.stdin.flush()
            line = reader.stdout.readline()
            if step:
                private.append(int(line))
    for reader in readers:
        reader.communicate("\n")
    assert max(private) < 5e6
