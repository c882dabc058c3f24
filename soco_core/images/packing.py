"""`soco pack`: an image set as tar files with an index, on a disk or on S3 (docs/images.md)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soco_core import storage
from soco_core.artifacts.disk import disk_errors
from soco_core.artifacts.fingerprint import file_sha256
from soco_core.artifacts.lock import Lease, local_lock, s3_lock
from soco_core.config import ImagesConfig
from soco_core.console import say
from soco_core.engine.interrupt import InterruptGuard
from soco_core.engine.progress import Progress
from soco_core.errors import InputError
from soco_core.images.decode import BadImageError
from soco_core.images.fingerprint import digest_of
from soco_core.images.image_set import ImageSet, open_image_set
from soco_core.images.pack_index import INDEX, Row, index_rows, write_index
from soco_core.images.pack_source import CONTRACT, KIND, PACK, read_pack_file
from soco_core.images.sources import Mode, read_each
from soco_core.images.tar import TarWriter, member_header, member_names

if TYPE_CHECKING:
    import pyarrow as pa

File = tuple[str, bytes | BadImageError]
"""The id of an image, and its file or why that cannot be opened."""
PARTS = ".parts"
"""Folder of what a pack under way has finished: a file for each tar."""
PLAN = "plan.json"
NAMED_FILES = 10

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """Read a size such as ``1GB``, ``500 MB`` or ``64MiB``; return bytes.

    Raises:
        InputError: it is none, or not above 0.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < 1:
        raise InputError(f"--shard-size {text!r}: write it as 1GB, 500MB or 64MiB")
    return size


def pack(config: ImagesConfig, *, images: str, output: str, shard_size: int) -> str:
    """Write an image set as a pack, going on from what an interrupted attempt finished.

    Args:
        config: layout, splits and subset; ``fingerprint`` decides how a finished pack is compared with the images.
        images: a folder, an S3 prefix or a pack.
        output: the pack's own folder, or S3 URI.
        shard_size: largest size of a tar in bytes; an image that is larger has a tar of its own.

    Returns:
        The URI of the pack.

    Raises:
        InputError: there are no images, or `output` holds something else or cannot be written.
        ResultLockedError: another process writes there.
        InterruptedStageError: stopped by a signal; finished tars are kept.
        SocoError: the disk is full.
    """
    uri = output.rstrip("/") if storage.is_s3(output) else str(Path(output).resolve())
    image_set = open_image_set(images, config)
    if _is_done(uri, image_set, config.fingerprint, shard_size):
        return uri
    _refuse_other_files(uri)
    folder = storage.scratch_path(uri) if storage.is_s3(uri) else Path(uri)
    with disk_errors("pack", folder), _locked(uri, folder) as lease, InterruptGuard() as guard:
        if not _is_done(uri, image_set, config.fingerprint, shard_size):
            _Packing(uri, folder, image_set, shard_size, lease, guard).run()
    return uri


def _is_done(uri: str, image_set: ImageSet, mode: Mode, shard_size: int) -> bool:
    content = read_pack_file(uri)
    if content is None:
        return False
    other = None
    if content["source"]["fingerprint"][mode] != image_set.fingerprint(mode):
        other = "other images"
    elif content["shard_size"] != shard_size:
        other = f"these images in tars of {content['shard_size']} bytes"
    if other is not None:
        raise InputError(f"{uri}: holds a pack of {other}; delete it, or give another --output")
    say("pack: already done, nothing to write")
    return True


def _refuse_other_files(uri: str) -> None:
    if storage.exists(storage.join(uri, PARTS, PLAN)):
        return
    if storage.is_s3(uri):
        names: Iterable[str] = (name for name, _ in storage.list_objects(uri))
    else:
        names = sorted(path.name for path in Path(uri).iterdir()) if Path(uri).is_dir() else ()
    other = next((name for name in names if not name.startswith(".")), None)
    if other is not None:
        raise InputError(f"{uri}: holds other files ({other}); give an --output of its own")


@contextmanager
def _locked(uri: str, folder: Path) -> Iterator[Lease | None]:
    with local_lock(folder / ".lock", uri):
        if storage.is_s3(uri):
            with s3_lock(storage.join(uri, ".lock"), folder) as lease:
                yield lease
        else:
            yield None


class _Packing:
    """One attempt to write a pack, under its lock."""

    def __init__(
        self, uri: str, folder: Path, image_set: ImageSet, shard_size: int, lease: Lease | None, guard: InterruptGuard
    ) -> None:
        self.uri = uri
        self.folder = folder
        """Where files are written; those of a pack on S3 go there from here, one at a time."""
        self.image_set = image_set
        self.shard_size = shard_size
        self.lease = lease
        self.guard = guard
        self.names = member_names(image_set.ids)
        self.shards: list[dict[str, Any]] = []
        """The finished tars, as in ``pack.json``."""
        self.rows: list[pa.Table] = []
        """Their rows of the index."""
        self.left_out: dict[str, str] = {}
        """Files that cannot be opened, and why."""

    def run(self) -> None:
        """Write what is missing, and ``pack.json`` last."""
        # What killed attempts left behind.
        for name in ("images-*", f"{INDEX}.*", f"{PACK}.*", f"{PARTS[1:]}/.*"):
            for path in self.folder.glob(f".{name}{storage.TEMPORARY_SUFFIX}"):
                path.unlink()
        sizes = self.image_set.fingerprint("sizes")
        self._begin_or_resume({"contract": CONTRACT, "sizes": sizes, "shard_size": self.shard_size})
        ids = self.image_set.ids
        done = sum(map(len, self.rows)) + len(self.left_out)
        files = read_each(self.image_set.source, ids[done:])
        with Progress("pack", len(ids), done, unit="images") as progress:
            waiting = next(files, None)
            while waiting is not None:
                waiting = self._write_tar(files, waiting, progress)
        if not self.rows:
            name, reason = next(iter(self.left_out.items()))
            raise InputError(f"{self.image_set.source.root}: no file can be opened (the first, {name}: {reason})")
        content = self._content(sizes, self._write_index())
        storage.write_text(storage.join(self.uri, PACK), json.dumps(content, indent=2) + "\n")
        for number in range(len(self.shards)):
            storage.delete(self._part(number))
        storage.delete(storage.join(self.uri, PARTS, PLAN))
        if storage.is_s3(self.uri):
            storage.remove_unfinished_uploads(self.uri)
        else:
            Path(self.uri, PARTS).rmdir()
        _tell(content)

    def _begin_or_resume(self, plan: dict[str, Any]) -> None:
        where = storage.join(self.uri, PARTS, PLAN)
        if not storage.exists(where):
            storage.write_text(where, json.dumps(plan))
        elif json.loads(storage.read_text(where)) != plan:
            raise InputError(
                f"{self.uri}: holds an unfinished pack of other images or of another shard size; run that to its end, "
                "delete it, or give another --output"
            )
        while storage.exists(name := self._part(len(self.shards))):
            part = json.loads(storage.read_text(name))
            if not self._is_whole(part["shard"]):
                break
            self._add(**part)
            self.guard.stop_if_asked("the tars that were finished are kept")
        if self.shards:
            say(f"pack: goes on behind {len(self.shards)} finished tars")

    def _is_whole(self, shard: dict[str, Any]) -> bool:
        uri = storage.join(self.uri, shard["file"])
        if storage.is_s3(uri):
            found = storage.describe(uri)
            return found is not None and (found[0], found[1].get("sha256")) == (shard["bytes"], shard["sha256"])
        path = Path(uri)
        return path.is_file() and path.stat().st_size == shard["bytes"] and file_sha256(path) == shard["sha256"]

    def _write_tar(self, files: Iterator[File], first: File, progress: Progress) -> File | None:
        """Write a tar that begins with `first`; return the file that did not fit any more."""
        rows: list[Row] = []
        left_out: dict[str, str] = {}
        path = self.folder / f"images-{len(self.shards):05d}.tar"
        waiting: File | None = first
        with storage.atomic_file(path) as file:
            tar = TarWriter(file)
            while waiting is not None:
                image_id, data = waiting
                if isinstance(data, BadImageError):
                    left_out[image_id] = str(data)
                else:
                    header = member_header(self.names.get(image_id, image_id), len(data), image_id)
                    if rows and tar.size_with(header, len(data)) > self.shard_size:
                        break
                    rows.append((image_id, tar.add(header, data), len(data), hashlib.sha256(data).hexdigest()))
                progress.advance()
                self.guard.stop_if_asked(f"{len(self.shards)} finished tars are kept")
                waiting = next(files, None)
            sha256 = tar.finish()
        if rows:
            self._publish(path, sha256)
            shard = {"file": path.name, "bytes": tar.size, "sha256": sha256, "images": len(rows)}
            part = json.dumps({"shard": shard, "rows": rows, "left_out": left_out})
            storage.write_text(self._part(len(self.shards)), part)
            self._add(shard, rows, left_out)
        else:  # nothing but files that cannot be opened were left
            path.unlink()
            self.left_out |= left_out
        return waiting

    def _add(self, shard: dict[str, Any], rows: Sequence[Row], left_out: dict[str, str]) -> None:
        self.rows.append(index_rows(rows, len(self.shards)))
        self.shards.append(shard)
        self.left_out |= left_out

    def _write_index(self) -> dict[str, Any]:
        path = self.folder / INDEX
        write_index(path, self.rows)
        size, sha256 = path.stat().st_size, file_sha256(path)
        self._publish(path, sha256)
        return {"file": INDEX, "bytes": size, "sha256": sha256}

    def _content(self, sizes: str, index: dict[str, Any]) -> dict[str, Any]:
        """Return what ``pack.json`` says."""
        image_set = self.image_set
        modes: tuple[Mode, ...] = ("contents", "sizes")
        return {
            "kind": KIND,
            "contract": CONTRACT,
            "images": sum(map(len, self.rows)),
            "bytes": sum(size for table in self.rows for size in table["size"].to_pylist()),
            "fingerprint": {mode: digest_of(self._packed(mode), mode) for mode in modes},
            "source": {
                "root": image_set.source.root,
                "layout": image_set.layout,
                "splits": list(image_set.splits),
                "subset": image_set.subset,
                "images": len(image_set.ids),
                "fingerprint": {"contents": digest_of(self._identities(), "contents"), "sizes": sizes},
            },
            "shard_size": self.shard_size,
            "shards": self.shards,
            "index": index,
            "renamed": len(self.names.keys() - self.left_out.keys()),
            "left_out": [{"id": image_id, "reason": reason} for image_id, reason in self.left_out.items()],
        }

    def _packed(self, mode: Mode) -> Iterator[tuple[str, str]]:
        for table in self.rows:
            hashes, sizes = table["sha256"].to_pylist(), table["size"].to_pylist()
            identities = [digest.hex() for digest in hashes] if mode == "contents" else map(str, sizes)
            yield from zip(table["id"].to_pylist(), identities, strict=True)

    def _identities(self) -> Iterator[tuple[str, str | None]]:
        packed = self._packed("contents")
        for image_id in self.image_set.ids:
            yield (image_id, None) if image_id in self.left_out else next(packed)

    def _publish(self, path: Path, sha256: str) -> None:
        """Send a file to S3, if the pack lies there, and free its space here."""
        if self.lease is not None:
            self.lease.check()
            storage.upload(path, storage.join(self.uri, path.name), {"sha256": sha256})
            path.unlink()

    def _part(self, number: int) -> str:
        return storage.join(self.uri, PARTS, f"{number:05d}.json")


def _tell(content: dict[str, Any]) -> None:
    total = content["source"]["images"]
    size, tars = content["bytes"], len(content["shards"])
    shown = f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
    say(f"pack: {content['images']} images, {shown}, in {tars} {'tar' if tars == 1 else 'tars'}")
    if content["renamed"]:
        say(
            f"pack: {content['renamed']} members are not called as their image, so that WebDataset takes each for a "
            "sample of its own; their PAX comment is the id"
        )
    left_out = [f"{entry['id']} ({entry['reason']})" for entry in content["left_out"]]
    if left_out:
        more = f" and {len(left_out) - NAMED_FILES} more" if len(left_out) > NAMED_FILES else ""
        say(
            f"pack: {len(left_out)} of {total} files are left out: {', '.join(left_out[:NAMED_FILES])}{more}; {PACK} "
            "names each with its reason"
        )
