"""Result directories: the only cache, and the way every stage stops and goes on.

A result lies in ``<output>/<stage>/<fingerprint>/``. The fingerprint covers all that determines it:
its part of the recipe, the fingerprints of its inputs, the version of its contract. ``done.json`` is
written last. A stage that finds it does nothing; one that finds a part goes on from there.

With an ``s3://`` output the stage works in a local copy: what a former attempt published is fetched
first, and :meth:`ResultDirectory.publish` sends files as they are finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soco_core
from soco_core import storage
from soco_core.artifacts.fingerprint import file_sha256, fingerprint
from soco_core.artifacts.lock import local_lock, s3_lock
from soco_core.config import Recipe
from soco_core.errors import InputError

DONE = "done.json"
RECIPE = "config.yaml"
# Below this size a file may be a pointer whose contents change while its size stays.
SMALL_FILE_BYTES = 1 << 20


@dataclass
class ResultDirectory:
    """One result: where it lies, what determines it, and whether it is whole."""

    uri: str
    """Where users find it: a local directory or an S3 URI."""
    path: Path
    """Local directory to read from and write to (the same as `uri` unless that is on S3)."""
    fingerprint: str
    stage: str
    determined_by: dict[str, Any]
    done: dict[str, Any] | None = field(default=None)
    """Contents of ``done.json``; None while the result is not whole."""

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage said of its result when it finished."""
        assert self.done is not None
        return dict(self.done["summary"])

    def publish(self, *paths: Path) -> None:
        """Make finished files (all, if none is named) visible at `uri`; nothing to do on a file system."""
        if not storage.is_s3(self.uri):
            return
        for path in paths or tuple(_files(self.path)):
            storage.upload(path, storage.join(self.uri, path.relative_to(self.path).as_posix()))

    def unpublish(self, *paths: Path) -> None:
        """Remove files here and at `uri`."""
        for path in paths:
            path.unlink(missing_ok=True)
            if storage.is_s3(self.uri):
                bucket, key = storage.split_s3(storage.join(self.uri, path.relative_to(self.path).as_posix()))
                storage.s3_client().delete_object(Bucket=bucket, Key=key)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write ``done.json``: the result is whole. `summary` is plain JSON, shown to users."""
        self.publish()
        files = {
            path.relative_to(self.path).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": file_sha256(path),
            }
            for path in _files(self.path)
        }
        done = {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "determined_by": self.determined_by,
            "soco_version": soco_core.__version__,
            "summary": summary,
            "files": files,
        }
        text = json.dumps(done, indent=2, allow_nan=False) + "\n"
        storage.write_text(self.path / DONE, text)
        if storage.is_s3(self.uri):
            storage.write_text(storage.join(self.uri, DONE), text)
        self.done = done


def locate(
    output: str, stage: str, contract: int, recipe: Recipe, sections: tuple[str, ...], inputs: dict[str, Any]
) -> ResultDirectory:
    """Find the directory of a result without creating, locking or computing anything.

    Args:
        output: root of all results, a local directory or an S3 URI.
        stage: name of the stage.
        contract: version of what the stage writes; raised when its files or their meaning change.
        recipe: the resolved recipe.
        sections: the parts of the recipe that determine the result.
        inputs: fingerprints of the inputs, plain JSON.
    """
    determined_by = {"contract": contract, "recipe": recipe.part(*sections), "inputs": inputs}
    name = fingerprint({"stage": stage, **determined_by})
    uri = storage.join(output if storage.is_s3(output) else str(Path(output).resolve()), stage, name)
    result = ResultDirectory(uri, _local(uri), name, stage, determined_by)
    result.done = _read_done(uri)
    return result


@contextmanager
def writing(result: ResultDirectory, recipe: Recipe) -> Iterator[ResultDirectory]:
    """Lock a result that is not whole and prepare its directory.

    If another process finished it between :func:`locate` and the lock, ``result.done`` is set, and
    there is nothing left to do.

    Raises:
        ResultLockedError: another process is writing it.
    """
    result.path.mkdir(parents=True, exist_ok=True)
    with local_lock(result.path / ".lock", result.uri):
        if storage.is_s3(result.uri):
            with s3_lock(storage.join(result.uri, ".lock")):
                _fetch(result.uri, result.path)
                yield _prepared(result, recipe)
        else:
            yield _prepared(result, recipe)


def open_result(uri: str | Path, stage: str | None = None) -> ResultDirectory:
    """Open a whole result of a former stage for reading (fetched first, if it is on S3).

    Raises:
        InputError: there is no result, it is not whole, or it is another stage's.
    """
    uri = str(uri) if storage.is_s3(uri) else str(Path(uri).resolve())
    done = _read_done(uri)
    if done is None:
        raise InputError(f"{uri}: not a finished result (it has no {DONE}); run its stage to the end first")
    if stage is not None and done["stage"] != stage:
        raise InputError(f"{uri}: a result of `{done['stage']}`, but one of `{stage}` is needed")
    path = _local(uri)
    if storage.is_s3(uri):
        _fetch(uri, path)
    return ResultDirectory(uri, path, done["fingerprint"], done["stage"], done["determined_by"], done)


def _prepared(result: ResultDirectory, recipe: Recipe) -> ResultDirectory:
    result.done = _read_done(result.uri)
    if result.done is None:
        storage.write_text(result.path / RECIPE, recipe.to_yaml())
        result.publish(result.path / RECIPE)
    return result


def _read_done(uri: str) -> dict[str, Any] | None:
    where = storage.join(uri, DONE)
    if not storage.exists(where):
        return None
    try:
        return dict(json.loads(storage.read_bytes(where)))
    except ValueError as error:
        raise InputError(f"{where}: damaged ({error}); delete it, and its stage will complete the result") from error


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not _private(path.name):
            yield path


def _private(name: str) -> bool:
    """Locks, files that are still being written, and ``done.json``, which goes its own way."""
    return name == DONE or name.startswith(".") or name.endswith((".lock", ".holder"))


def _local(uri: str) -> Path:
    if not storage.is_s3(uri):
        return Path(uri)
    root = os.environ.get("SOCO_SCRATCH") or Path.home() / ".cache" / "soco"
    return Path(root, *storage.split_s3(uri))


def _fetch(uri: str, folder: Path) -> None:
    """Bring the local copy up to what is published; large files of the same size are taken to be the same."""
    for name, size in storage.list_objects(uri):
        path = folder / name
        same = size >= SMALL_FILE_BYTES and path.exists() and path.stat().st_size == size
        if not (same or _private(Path(name).name)):
            storage.download(storage.join(uri, name), path)
