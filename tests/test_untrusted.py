"""Files from elsewhere, through the real `soco`: one line on standard error, status 2, and nothing of them is run."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from soco_core import storage
from soco_core.engine.checkpoint_file import load_checkpoint
from soco_core.errors import InputError

SOCO = Path(sys.executable).parent / "soco"
SIDE = 60_000


@dataclass
class Ended:
    """What a command left."""

    status: int
    output: str
    said: list[str]
    largest: int
    """Most memory that it had, in bytes."""


def soco(*arguments: str | Path) -> Ended:
    """Run a command, with as little else on the screen as there can be."""
    measured = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:])\n"
        "print('largest', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n"
        "sys.exit(done.returncode)"
    )
    command = [sys.executable, "-c", measured, str(SOCO), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    *said, largest = done.stderr.splitlines()
    return Ended(done.returncode, done.stdout, said, int(largest.split()[1]) * 1024)


def refusal(*arguments: str | Path) -> str:
    ended = soco(*arguments)
    assert (ended.status, ended.output) == (2, ""), ended.said
    errors = [line for line in ended.said if line.startswith("error: ")]
    assert errors == ended.said[-1:], ended.said
    assert not any("Traceback" in line for line in ended.said)
    return errors[0].removeprefix("error: ")


class Command:
    """Pickles as a command that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco"), 64, 64)


def write_coco(root: Path, width: int, height: int) -> Path:
    """Write a data set of one image a split; the image itself is 64 x 64."""
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    Image.new("RGB", (64, 64), (90, 120, 60)).save(root / "images" / "1.png")
    box = [4, 4, 40, 40]
    corners = [4, 4, 44, 4, 44, 44, 4, 44]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 1600, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": width, "height": height}],
        "annotations": [{**annotation, "segmentation": [corners]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("kind", ["pkl", "zip", "old"])
def test_a_pickle_that_would_run_a_command(tmp_path: Path, coco: Path, kind: str) -> None:
    marker, path = tmp_path / "owned", tmp_path / f"weights.{'pkl' if kind == 'pkl' else 'pth'}"
    content = {"model": {"conv1.weight": Command(marker)}}
    if kind == "pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    line = refusal("finetune", "--recipe", "demo", "--coco", coco, "--init", path, "--output", tmp_path / "runs")
    assert line.startswith(f"{path}: names posix.system, which weights have no need of; nothing of the file was run; ")
    assert not marker.exists()
    if kind == "pkl":  # the test would see it
        pickle.loads(path.read_bytes())
        assert marker.exists()


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_that_would_run_a_command(tmp_path: Path, old: bool) -> None:
    marker, path = tmp_path / "owned", tmp_path / "step-00000001.pt"
    torch.save({"step": 1, "model": Command(marker)}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def laughs(times: int) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, times)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("name: !!python/object/apply:os.system ['touch MARKER']", "could not determine a constructor for the tag"),
        ("!!python/object/new:os.system ['touch MARKER']", "could not determine a constructor for the tag"),
        ("name: !!python/name:os.system", "could not determine a constructor for the tag"),
        (laughs(12), "the alias *a0 is not taken in a recipe, write its value out"),
        ("seed: &a [*a]", "the alias *a is not taken in a recipe"),
        ("seed: " + 20_000 * "[", "not valid YAML: "),
    ],
)
def test_a_recipe(tmp_path: Path, text: str, cause: str) -> None:
    marker, path = tmp_path / "owned", tmp_path / "recipe.yaml"
    path.write_text(text.replace("MARKER", str(marker)))
    line = refusal("recipe", path)
    assert line.startswith(f"{path}: not valid YAML: ")
    assert cause in line
    assert not marker.exists()


def test_an_override_of_a_recipe(tmp_path: Path) -> None:
    marker = tmp_path / "owned"
    refusal("recipe", "demo", "--set", f"name=!!python/object/apply:os.system ['touch {marker}']")
    assert not marker.exists()


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A PNG of 60,000 x 60,000 pixels of one bit, all white: 3.6 GB once Pillow has decoded it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = (b"\x00" + b"\xff" * (SIDE // 8)) * 1000
    pixels = b"".join(packer.compress(rows) for _ in range(SIDE // 1000)) + packer.flush()
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    assert len(data) < 4 << 20
    return data


def test_a_picture_of_3600_million_pixels_is_not_decoded_by_views(tmp_path: Path, bomb: bytes) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(bomb)
    ended = soco("views", path, "--recipe", "demo", "--output", tmp_path / "views.png")
    assert (ended.status, ended.output) == (2, "")
    assert ended.said == [f"error: {path}: more than the limit of 89478485 pixels; give an image file"]
    assert ended.largest < 2 << 30
    assert not (tmp_path / "views.png").exists()


def test_a_picture_of_3600_million_pixels_is_a_bad_image_of_a_set(tmp_path: Path, bomb: bytes) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "large.png").write_bytes(bomb)
    Image.effect_noise((80, 60), 90).save(tmp_path / "images" / "small.png")
    ended = soco("propose", "--recipe", "demo", "--images", tmp_path / "images", "--output", tmp_path / "runs")
    assert ended.status == 0, ended.said
    assert ended.largest < 2 << 30
    manifest = (Path(ended.output.strip()) / "manifest.json").read_text()
    assert "more than the limit of 89478485 pixels" in manifest
    assert not any("Traceback" in line for line in ended.said)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_of_3600_million_pixels_ends_a_finetuning(tmp_path: Path, bomb: bytes, workers: int) -> None:
    coco = write_coco(tmp_path, SIDE, SIDE)
    (coco / "images" / "1.png").write_bytes(bomb)
    arguments = ["--recipe", "demo", "--set", f"runtime.workers={workers}", "--output", tmp_path / "runs"]
    ended = soco("finetune", "--coco", coco, *arguments)
    assert (ended.status, ended.output) == (2, "")
    assert ended.said[-1].startswith(f"error: {coco / 'images' / '1.png'}: ")
    assert "more than the limit of 89478485 pixels" in ended.said[-1]
    assert not any("Traceback" in line for line in ended.said)
    assert ended.largest < 3 << 30


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A pack, and beside it a file that it must not lead to."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.effect_noise((80, 60), 90).save(tmp_path / "images" / f"{number}.png")
    ended = soco("pack", "--images", tmp_path / "images", "--output", tmp_path / "pack")
    assert ended.status == 0, ended.said
    tar = tmp_path / "pack" / "images-00000.tar"
    (tmp_path / "outside.tar").write_bytes(tar.read_bytes())
    return tmp_path / "pack"


def change_shard(pack: Path, **changes: Any) -> None:
    content = json.loads((pack / "pack.json").read_text())
    content["shards"][0] |= changes
    (pack / "pack.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["../outside.tar", "ABSOLUTE", "sub/../../outside.tar", "images-00000.tar\n", ""])
def test_a_pack_that_leads_out_of_its_folder(tmp_path: Path, pack: Path, name: str) -> None:
    change_shard(pack, file=name.replace("ABSOLUTE", str(tmp_path / "outside.tar")))
    line = refusal("propose", "--recipe", "demo", "--images", pack, "--output", tmp_path / "runs")
    assert line == f"{pack / 'pack.json'}: damaged; copy the pack again, or delete it and pack the images again"


@pytest.mark.parametrize("changed", [{"offset": 1 << 50}, {"size": 1 << 50}, {"offset": -512}, {"shard": 9}])
def test_a_pack_whose_index_declares_what_its_tars_do_not_have(
    tmp_path: Path, pack: Path, changed: dict[str, int]
) -> None:
    import pyarrow as pa

    from soco_core.artifacts.fingerprint import file_sha256

    index = pack / "index.arrow"
    table = pa.ipc.open_file(pa.BufferReader(index.read_bytes())).read_all()
    for name, value in changed.items():
        column = table.schema.get_field_index(name)
        field = table.schema.field(column)
        table = table.set_column(column, field, pa.array([value] * len(table), field.type))
    batch = table.combine_chunks().to_batches()[0]
    with pa.OSFile(str(index), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    content = json.loads((pack / "pack.json").read_text())
    content["index"] |= {"bytes": index.stat().st_size, "sha256": file_sha256(index)}
    (pack / "pack.json").write_text(json.dumps(content))
    ended = soco("propose", "--recipe", "demo", "--images", pack, "--output", tmp_path / "runs")
    assert ended.status == 2, ended.said
    assert ended.said[-1].startswith(f"error: {index}: missing or damaged; copy the pack again")
    assert ended.largest < 2 << 30


def test_a_pack_on_s3_whose_index_would_be_kept_elsewhere(tmp_path: Path, pack: Path, s3: str) -> None:
    content = json.loads((pack / "pack.json").read_text())
    content["index"]["sha256"] = "/../../../owned"
    (pack / "pack.json").write_text(json.dumps(content))
    for path in pack.iterdir():
        if path.is_file():
            storage.upload(path, f"{s3}/pack/{path.name}")
    line = refusal("propose", "--recipe", "demo", "--images", f"{s3}/pack", "--output", tmp_path / "runs")
    assert line.startswith(f"{s3}/pack/pack.json: damaged")
    assert not list(tmp_path.rglob("owned*"))


@pytest.mark.parametrize("name", ["../../../owned", "/tmp/owned-by-a-test", "a/../../owned"])
def test_a_result_on_s3_whose_files_lie_elsewhere(tmp_path: Path, s3: str, name: str) -> None:
    done = {
        "stage": "pretrain",
        "fingerprint": "f",
        "determined_by": {},
        "summary": {},
        "files": {name: {"bytes": 1, "sha256": "x"}},
    }
    storage.write_text(f"{s3}/pretrain/f/done.json", json.dumps(done))
    line = refusal("convert", "--pretrained", f"{s3}/pretrain/f", "--output", tmp_path / "runs")
    assert line.startswith(f"{s3}/pretrain/f: {name!r} is not a file name of a result")
    assert not list(tmp_path.rglob("*owned*"))
