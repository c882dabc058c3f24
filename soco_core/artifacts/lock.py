"""Locks that keep a second writer out of a result directory.

On a file system the lock is the operating system's (it goes when its holder dies, however that
happens). On S3 it is an object that is created only if absent, renewed while its holder lives, and
free for the taking once it has not been renewed for a minute.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from soco_core import storage
from soco_core.errors import ResultLockedError

S3_LEASE_SECONDS = 60.0
S3_RENEWAL_SECONDS = 15.0


@contextmanager
def local_lock(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on a file.

    Raises:
        ResultLockedError: another process holds it; the message names it.
    """
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_name(f"{path.stem}.holder")
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        by = holder.read_text() if holder.exists() else "another process"
        raise ResultLockedError(
            f"{what} is being written by {by}; wait for it to end, or stop it and run this again"
        ) from error
    try:
        holder.write_text(_who())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def s3_lock(uri: str) -> Iterator[None]:
    """Hold an exclusive lease on an S3 object; raises as :func:`local_lock` does."""
    token = uuid4().hex
    if not _create(uri, token):
        held = json.loads(storage.read_bytes(uri))
        if time.time() < held["expires"]:
            raise ResultLockedError(
                f"{uri.rsplit('/', 1)[0]} is being written by {held['holder']}; wait for it to end, or stop it "
                "and run this again a minute later"
            )
        _delete(uri)
        if not _create(uri, token):
            raise ResultLockedError(f"{uri.rsplit('/', 1)[0]}: another process took the lock; run this again later")
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(uri, token, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        _delete(uri)


def _who() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _lease(token: str) -> bytes:
    content: dict[str, Any] = {"token": token, "holder": _who(), "expires": time.time() + S3_LEASE_SECONDS}
    return json.dumps(content).encode()


def _create(uri: str, token: str) -> bool:
    from botocore.exceptions import ClientError

    bucket, key = storage.split_s3(uri)
    with storage.s3_errors(uri):
        try:
            storage.s3_client().put_object(Bucket=bucket, Key=key, Body=_lease(token), IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] in {"PreconditionFailed", "ConditionalRequestConflict"}:
                return False
            raise
    return True


def _delete(uri: str) -> None:
    bucket, key = storage.split_s3(uri)
    with storage.s3_errors(uri):
        storage.s3_client().delete_object(Bucket=bucket, Key=key)


def _renew(uri: str, token: str, ended: threading.Event) -> None:
    while not ended.wait(S3_RENEWAL_SECONDS):
        storage.write_bytes(uri, _lease(token))
