"""Result directories: the only cache, and the way every stage stops and goes on.

A result lies in ``<output>/<stage>/<fingerprint>/``. The fingerprint covers all that determines it:
its part of the recipe, the fingerprints of its inputs, the version of its contract. ``done.json`` is
written last. A stage that finds it does nothing; one that finds a part goes on from there.

With an ``s3://`` output the stage works in a local copy (below ``SOCO_SCRATCH``): what a former attempt
published is fetched first, and :meth:`ResultDirectory.publish` sends files as they are finished.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soco_core
from soco_core import storage
from soco_core.artifacts.fingerprint import file_sha256, fingerprint
from soco_core.artifacts.lock import Lease, local_lock, s3_lock
from soco_core.config import Recipe
from soco_core.errors import InputError

DONE = "done.json"
RECIPE = "config.yaml"
JOURNAL_SUFFIX = ".jsonl"
"""Of files that only ever grow: the longer copy is the newer one."""
# A file that nobody has written to for so long is what a killed attempt left behind.
ABANDONED_SECONDS = 3600.0


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
    lease: Lease | None = field(default=None, repr=False)
    """What keeps other writers out of `uri` if that is on S3; None while this process does not write."""
    _published: dict[Path, tuple[int, int]] = field(default_factory=dict, repr=False)

    @property
    def summary(self) -> dict[str, Any]:
        """What the stage said of its result when it finished."""
        assert self.done is not None
        return dict(self.done["summary"])

    def publish(self, *paths: Path) -> None:
        """Make finished files visible at `uri`; nothing to do on a file system.

        Args:
            paths: the files; if none is named, all that changed since they were published.

        Raises:
            ResultLockedError: the lock on `uri` was lost.
        """
        if not storage.is_s3(self.uri):
            return
        if self.lease is not None:
            self.lease.check()
        for path in paths or tuple(path for path in _files(self.path) if self._published.get(path) != _stamp(path)):
            stamp = _stamp(path)
            storage.upload(path, self._published_as(path))
            self._published[path] = stamp

    def is_published(self, path: Path) -> bool:
        """Whether `uri` has this file as it is here; always so on a file system."""
        return not storage.is_s3(self.uri) or self._published.get(path) == _stamp(path)

    def unpublish(self, *paths: Path) -> None:
        """Remove files here and at `uri`."""
        for path in paths:
            path.unlink(missing_ok=True)
            if storage.is_s3(self.uri):
                storage.delete(self._published_as(path))

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
            storage.remove_unfinished_uploads(self.uri)
        self.done = done

    def _published_as(self, path: Path) -> str:
        return storage.join(self.uri, path.relative_to(self.path).as_posix())


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
        InputError: the directory cannot be written.
    """
    with local_lock(result.path / ".lock", result.uri):
        if storage.is_s3(result.uri):
            with s3_lock(storage.join(result.uri, ".lock"), result.path) as lease:
                result.lease = lease
                try:
                    yield _prepared(result, recipe)
                finally:
                    result.lease = None
        else:
            yield _prepared(result, recipe)


def find_result(uri: str | Path, stage: str | None = None) -> ResultDirectory:
    """Find a whole result of a former stage; none of its files is fetched or looked at.

    Raises:
        InputError: there is no result, it is not whole, or it is another stage's.
    """
    uri = str(uri) if storage.is_s3(uri) else str(Path(uri).resolve())
    done = _read_done(uri)
    if done is None:
        raise InputError(f"{uri}: not a finished result (it has no {DONE}); run its stage to the end first")
    if stage is not None and done["stage"] != stage:
        raise InputError(f"{uri}: a result of `{done['stage']}`, but one of `{stage}` is needed")
    return ResultDirectory(uri, _local(uri), done["fingerprint"], done["stage"], done["determined_by"], done)


def open_result(uri: str | Path, stage: str | None = None) -> ResultDirectory:
    """Open a whole result of a former stage for reading (fetched first, if it is on S3).

    Raises:
        InputError: as :func:`find_result`, or a file of it is missing or not as it was written.
    """
    result = find_result(uri, stage)
    uri, path, done = result.uri, result.path, result.done
    assert done is not None
    if storage.is_s3(uri):
        _remove_abandoned(path)
        _fetch_whole(uri, path, done["files"])
    for name, entry in done["files"].items():
        if not (path / name).is_file() or (path / name).stat().st_size != entry["bytes"]:
            raise InputError(
                f"{storage.join(uri, name)}: missing or damaged; delete {storage.join(uri, DONE)} and run the stage "
                f"`{done['stage']}` again to make the result whole"
            )
    return result


def _prepared(result: ResultDirectory, recipe: Recipe) -> ResultDirectory:
    result.done = _read_done(result.uri)
    if result.done is None:
        _remove_abandoned(result.path)
        if storage.is_s3(result.uri):
            _fetch_part(result)
        storage.write_text(result.path / RECIPE, recipe.to_yaml())
        result.publish(result.path / RECIPE)
    return result


def _remove_abandoned(folder: Path) -> None:
    for path in folder.rglob(f".*{storage.TEMPORARY_SUFFIX}"):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()


def _read_done(uri: str) -> dict[str, Any] | None:
    where = storage.join(uri, DONE)
    if not storage.exists(where):
        return None
    try:
        done: dict[str, Any] = json.loads(storage.read_bytes(where))
        missing = {"stage", "fingerprint", "determined_by", "summary", "files"} - set(done)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: damaged ({error}); delete it, and its stage will complete the result") from error
    if missing:
        raise InputError(f"{where}: not a result of soco (it lacks {', '.join(sorted(missing))})")
    return done


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a result, sorted; hidden ones (locks, unfinished files) and ``done.json`` are none."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and relative != Path(DONE) and not any(part.startswith(".") for part in relative.parts):
            yield path


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _local(uri: str) -> Path:
    return storage.scratch_path(uri) if storage.is_s3(uri) else Path(uri)


def _fetch_part(result: ResultDirectory) -> None:
    """Fetch what a former attempt published; a local file of the same name may be of yet another attempt."""
    for name, size in storage.list_objects(result.uri):
        if name != DONE and not any(part.startswith(".") for part in Path(name).parts):
            path = _inside(result.path, name, result.uri)
            if path.suffix == JOURNAL_SUFFIX and not is_behind(path, size):
                continue
            storage.download(storage.join(result.uri, name), path)
            result._published[path] = _stamp(path)


def is_behind(journal: Path, published: int | None) -> bool:
    """Tell whether the published copy of a journal, which only ever grows, holds more than the one here.

    Args:
        journal: the local file; it need not exist.
        published: size in bytes of the copy in the store; None if there is none.
    """
    return published is not None and (not journal.exists() or journal.stat().st_size < published)


def _fetch_whole(uri: str, folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Fetch the files of a finished result that are not here yet."""
    for name, entry in files.items():
        path = _inside(folder, name, uri)
        if not _is_as_written(path, entry):
            storage.download(storage.join(uri, name), path)
            if not _is_as_written(path, entry):
                path.unlink()


def _is_as_written(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]


def _inside(folder: Path, name: str, uri: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(
            f"{uri}: {name!r} is not a file name of a result; somebody else wrote there, use another output"
        )
    return folder / name
