"""Locks that keep a second writer out of a result directory.

On a file system the lock is the operating system's (it goes when its holder dies, however that
happens). On S3 it is an object that is created only if absent, renewed while its holder lives, and
free for the taking once it has not been renewed for a minute. The store must know conditional writes
(`If-None-Match` and `If-Match` on PutObject); AWS S3 and MinIO do.
"""

from __future__ import annotations

import json
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from uuid import uuid4

from soco_core import storage
from soco_core.artifacts.disk import why_not_written
from soco_core.errors import InputError, ResultLockedError
from soco_core.store_errors import s3_errors

PATIENCE_SECONDS = 1.5
"""A worker that a killed process had just forked lets go of its lock only once it gets to run."""
S3_LEASE_SECONDS = 60.0
S3_RENEWAL_SECONDS = 15.0
S3_RELEASE_SECONDS = 5.0
CONDITION_FAILED = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409"})
"""An answer that breaks off reaches us as its status alone."""


@contextmanager
def local_lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on a file.

    Raises:
        ResultLockedError: another process holds it; the message names it.
        InputError: the file cannot be written.
    """
    import filelock

    holder = path.with_name(f"{path.name}.holder")
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=PATIENCE_SECONDS)
    except filelock.Timeout as error:
        raise ResultLockedError(
            f"{what} is being written by {_read_holder(holder)}; wait for it to end, or stop it and run this again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{what}: cannot be written ({why_not_written(path, error)}); give another --output"
        ) from error
    try:
        storage.write_text(holder, _who())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@dataclass(frozen=True)
class _Found:
    """A lease as it lies in the store."""

    token: str
    holder: str
    etag: str
    age: float
    """Seconds since it was written, by the store's clock, so that no other clock matters."""


class Lease:
    """An exclusive lease on an S3 object, as :func:`s3_lock` gives it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.token = uuid4().hex
        self._what = uri.rsplit("/", 1)[0]
        self._etag = ""
        self._lost = False
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    def check(self) -> None:
        """Renew the lease; call it before each write that it protects.

        Raises:
            ResultLockedError: it was lost (this process slept, or was cut off from the store, for longer than a
                lease lasts), and another process may be writing.
            InputError: the store cannot be reached.
        """
        with self._renewing:
            if not self._lost:
                etag = self._put(IfMatch=self._etag)
                if etag is None:
                    found = self._read()
                    # A renewal whose answer was lost on the way has arrived all the same.
                    etag = found.etag if found is not None and found.token == self.token else None
                self._lost = etag is None
                self._etag = etag or ""
            if self._lost:
                raise ResultLockedError(
                    f"{self._what}: another process took the lock while this one did not answer; nothing more is "
                    "written. Run this again when the other has ended"
                )

    def _take(self, former_token: str) -> None:
        etag = self._put(IfNoneMatch="*")
        if etag is None:
            found = self._read()
            if found is not None and found.token == self.token:
                etag = found.etag
            elif found is not None and (found.age >= S3_LEASE_SECONDS or found.token == former_token):
                etag = self._put(IfMatch=found.etag)
            elif found is not None:
                raise ResultLockedError(
                    f"{self._what} is being written by {found.holder}; wait for it to end, or stop it "
                    "and run this again a minute later"
                )
        if etag is None:
            raise ResultLockedError(f"{self._what}: another process holds or held the lock just now; run this again")
        self._etag = etag
        self._thread.start()

    def _release(self) -> None:
        self._ended.set()
        # A store that does not answer must not hold up the end: what is not released is free in a minute.
        release = threading.Thread(target=self._give_back, name="lease-release", daemon=True)
        release.start()
        release.join(S3_RELEASE_SECONDS)

    def _give_back(self) -> None:
        self._thread.join()
        # What cannot be released now is free in a minute; that is no reason to fail.
        with suppress(InputError):
            found = self._read()
            if found is not None and found.token == self.token:
                storage.delete(self.uri)

    def _keep_renewing(self) -> None:
        while not self._ended.wait(S3_RENEWAL_SECONDS):
            # The holder hears of a loss at its next write; a store that does not answer is asked again.
            with suppress(ResultLockedError, InputError):
                self.check()

    def _put(self, **condition: str) -> str | None:
        """Write the lease; return its ETag, or None if the condition does not hold."""
        from botocore.exceptions import ClientError

        bucket, key = storage.split_s3(self.uri)
        body = json.dumps({"token": self.token, "holder": _who()}).encode()
        with s3_errors(self.uri):
            try:
                return str(storage.s3_client().put_object(Bucket=bucket, Key=key, Body=body, **condition)["ETag"])
            except ClientError as error:
                if error.response["Error"]["Code"] in CONDITION_FAILED:
                    return None
                raise

    def _read(self) -> _Found | None:
        from botocore.exceptions import ClientError

        bucket, key = storage.split_s3(self.uri)
        with s3_errors(self.uri):
            try:
                answer = storage.s3_client().get_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if error.response["Error"]["Code"] == "NoSuchKey":
                    return None
                raise
            content = json.loads(answer["Body"].read())
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        age = (now - answer["LastModified"]).total_seconds()
        return _Found(content["token"], content["holder"], answer["ETag"], age)


@contextmanager
def s3_lock(uri: str, local_copy: Path) -> Iterator[Lease]:
    """Hold an exclusive lease on an S3 object.

    Args:
        uri: the object.
        local_copy: the folder that the holder works in, under its :func:`local_lock`. The lease's token is
            kept there: a lease with that token is of a dead process, and need not be waited for.

    Raises:
        ResultLockedError: another process holds it; the message names it.
    """
    lease = Lease(uri)
    former = local_copy / ".lease"
    lease._take(storage.read_text(former) if former.exists() else "")
    try:
        storage.write_text(former, lease.token)
        yield lease
    finally:
        lease._release()


def _who() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # it has only just taken the lock, or only just gone
        return "another process"
