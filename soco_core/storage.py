"""One way to read, write and list a local path or an ``s3://bucket/key`` URI.

Every write is atomic: a local file appears under its name only when it is whole and on disk, and an
S3 object is whole by nature. Credentials, region and endpoint of S3 come from boto3's standard
environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL_S3``, a profile, a pod's role ...).

What is sent to S3, each part of a large file too, carries a CRC-32 that the store compares before it keeps anything;
what comes back whole is compared by botocore.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from soco_core.errors import InputError
from soco_core.store_errors import CHECKSUM_REMEDY, s3_errors

TEMPORARY_SUFFIX = ".tmp"
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
S3_CONNECTIONS = 16
"""Connections that a process keeps open to a store; more threads than this would wait for one another."""
ATTEMPTS = 6
PART_BYTES = 16 << 20
"""A larger file goes in parts of this size (larger ones where there would be more than 10,000)."""
PARTS_AT_ONCE = 4
BODY_ATTEMPTS = 5
"""botocore repeats a request that fails, but not one whose answer breaks off while it is read."""


def is_s3(uri: str | Path) -> bool:
    """Tell whether `uri` is an ``s3://`` URI.

    Raises:
        InputError: it is neither that nor a path, such as ``s3:/bucket`` or ``gs://bucket``: a folder of that name is
            hardly meant.
    """
    text = str(uri)
    if text.startswith("s3://"):
        return True
    if SCHEME.match(text):
        raise InputError(f"{text}: neither a path nor an S3 URI; write s3://BUCKET/PREFIX, or ./{text} for a folder")
    return False


def scratch_path(uri: str) -> Path:
    """Return where this machine keeps its copy of an S3 object or prefix: below ``SOCO_SCRATCH``."""
    return scratch_root().joinpath(*split_s3(uri))


def scratch_root() -> Path:
    """Return the directory of this machine's copies of S3 objects: ``SOCO_SCRATCH``, or one in the user's cache."""
    return Path(os.environ.get("SOCO_SCRATCH") or Path.home() / ".cache" / "soco")


def join(base: str | Path, *parts: str) -> str:
    """Join path components to a local path or an S3 URI."""
    if is_s3(base):
        return "/".join([str(base).rstrip("/"), *parts])
    return str(Path(base, *parts))


@contextmanager
def atomic_file(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a local file for writing that takes its name only when the block ends without an error.

    The data are flushed to disk before the rename, so a crash leaves the old file or the new one,
    never a part. A process that is killed in the block leaves a hidden ``.NAME.*.tmp`` behind.

    Args:
        path: the file; missing folders above it are created.
        mode: ``wb`` or ``w`` (UTF-8 text).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private, and a result is as readable as any other file of the user.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(uri: str | Path, data: bytes) -> None:
    """Write `data` atomically."""
    if is_s3(uri):
        bucket, key = split_s3(uri)
        with s3_errors(uri):
            answer = s3_client().put_object(Bucket=bucket, Key=key, Body=data)
        if "ChecksumCRC32" not in answer:  # a store that compares none
            _check_size(str(uri), len(data), len(data))
        return
    with atomic_file(uri) as file:
        file.write(data)


def write_text(uri: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_bytes(uri, text.encode())


def read_bytes(uri: str | Path) -> bytes:
    """Return the contents of a file or object.

    Raises:
        InputError: it does not exist, or the store refuses; MissingObjectError (a kind of it): the store has no such
            object.
    """
    if is_s3(uri):
        return _get(uri)[0]
    try:
        return Path(uri).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {uri}: {error.strerror}") from error


def read_range(uri: str, offset: int, size: int) -> tuple[bytes, int]:
    """Read a part of an S3 object in one request.

    Args:
        uri: the object.
        offset: first byte.
        size: number of bytes, at least 1.

    Returns:
        The bytes (fewer than `size` at the object's end), and the size of the whole object.

    Raises:
        InputError: the store refuses, cannot be reached, or knows no ranges; MissingObjectError (a kind of it): there
            is no such object.
    """
    data, answer = _get(uri, Range=f"bytes={offset}-{offset + size - 1}")
    _, slash, whole = answer.get("ContentRange", "").partition("/")
    if not slash:
        raise InputError(f"{uri}: the S3 store does not answer ranges of an object; use one that does")
    return data, int(whole)


def read_text(uri: str | Path) -> str:
    """Return the contents of a UTF-8 file or object; raises as :func:`read_bytes` does."""
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def exists(uri: str | Path) -> bool:
    """Tell whether a file or object exists."""
    return describe(str(uri)) is not None if is_s3(uri) else Path(uri).exists()


def list_objects(uri: str) -> Iterator[tuple[str, int]]:
    """Yield (key relative to `uri`, size in bytes) of every object below an S3 URI, sorted by key."""
    bucket, prefix = split_s3(uri.rstrip("/") + "/")
    with s3_errors(uri):
        for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                # Consoles mark a "folder" by an empty object whose key ends in a slash.
                if not entry["Key"].endswith("/"):
                    yield entry["Key"].removeprefix(prefix), int(entry["Size"])


def upload(path: Path, uri: str, metadata: dict[str, str] | None = None) -> None:
    """Copy a local file to S3, a large one in parts; what was sent of one that fails or is stopped is removed.

    Args:
        path: the file; one that only grows may do so meanwhile.
        uri: the object.
        metadata: kept with the object.

    Raises:
        InputError: the store refuses, cannot be reached, or kept something else.
    """
    bucket, key = split_s3(uri)
    least = path.stat().st_size
    with s3_errors(uri):
        s3_client().upload_file(
            str(path), bucket, key, ExtraArgs={"Metadata": metadata or {}}, Config=_transfer_settings()
        )
    _check_size(uri, least, path.stat().st_size)


def remove_unfinished_uploads(uri: str) -> None:
    """Remove the parts below a URI that killed processes left in the store, where they cost money and are not seen.

    Only for who holds the lock on all below `uri`. A store that refuses is left as it is.
    """
    bucket, prefix = split_s3(uri.rstrip("/") + "/")
    client = s3_client()
    with suppress(InputError), s3_errors(uri):
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Uploads", []):
                # Some stores list those of the whole bucket.
                if entry["Key"].startswith(prefix):
                    client.abort_multipart_upload(Bucket=bucket, Key=entry["Key"], UploadId=entry["UploadId"])


def describe(uri: str) -> tuple[int, dict[str, str]] | None:
    """Return the size in bytes and the metadata of an S3 object, or None if there is none."""
    from botocore.exceptions import ClientError

    bucket, key = split_s3(uri)
    with s3_errors(uri):
        try:
            answer = s3_client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
    return int(answer["ContentLength"]), dict(answer["Metadata"])


def download(uri: str, path: Path) -> None:
    """Copy an S3 object to a local file, atomically; boto3 repeats the parts whose connection breaks off."""
    bucket, key = split_s3(uri)
    with atomic_file(path) as file, s3_errors(uri):
        s3_client().download_fileobj(bucket, key, file, Config=_transfer_settings())


def local_copy(uri: str) -> Path:
    """Return this machine's copy of an S3 object (below ``SOCO_SCRATCH``), fetched unless it is that of today.

    Raises:
        InputError: it does not exist, or the store refuses; MissingObjectError (a kind of it): the store has no such
            object.
    """
    bucket, key = split_s3(uri)
    path = scratch_path(uri)
    with s3_errors(uri):
        answer = s3_client().head_object(Bucket=bucket, Key=key)
    # As file synchronisers do: an object that was written anew has another time.
    stamp = (int(answer["ContentLength"]), int(answer["LastModified"].timestamp()))
    if not path.is_file() or (path.stat().st_size, int(path.stat().st_mtime)) != stamp:
        download(uri, path)
        os.utime(path, (stamp[1], stamp[1]))
    return path


def delete(uri: str | Path) -> None:
    """Remove a file or object; it is no error if there is none."""
    if not is_s3(uri):
        Path(uri).unlink(missing_ok=True)
        return
    bucket, key = split_s3(uri)
    with s3_errors(uri):
        s3_client().delete_object(Bucket=bucket, Key=key)


def split_s3(uri: str | Path) -> tuple[str, str]:
    """Return (bucket, key) of an S3 URI; a key may hold any character, ``#`` and ``?`` too."""
    bucket, _, key = str(uri).removeprefix("s3://").partition("/")
    if not is_s3(uri) or not bucket:
        raise InputError(f"{uri}: not an S3 URI; write it as s3://bucket/key")
    return bucket, key.lstrip("/")


@cache
def s3_client() -> Any:
    """Return this process's S3 client."""
    import boto3
    from botocore.config import Config

    retries = {"max_attempts": ATTEMPTS, "mode": "standard"}
    return boto3.client("s3", config=Config(retries=retries, connect_timeout=10, max_pool_connections=S3_CONNECTIONS))


# A forked worker must not talk over its parent's connections.
os.register_at_fork(after_in_child=s3_client.cache_clear)


def _transfer_settings() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=PARTS_AT_ONCE,
        preferred_transfer_client="classic",  # the other one, where it is installed, knows no s3_client
    )


def _check_size(uri: str, least: int, most: int) -> None:
    """Compare an object's size in bytes: a store that does not know checksums may keep them among the data."""
    found = describe(uri)
    if found is None or not least <= found[0] <= most:
        kept = "nothing" if found is None else f"{found[0]} bytes"
        raise InputError(f"{uri}: the S3 store kept {kept} of {least}; {CHECKSUM_REMEDY}")


def _get(uri: str | Path, **request: str) -> tuple[bytes, dict[str, Any]]:
    """Get an object (or its ``Range``) and read the answer to its end; one request, unless something fails."""
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    bucket, key = split_s3(uri)
    attempt = 0
    while True:
        with s3_errors(uri):
            answer = s3_client().get_object(Bucket=bucket, Key=key, **request)
        try:
            return bytes(answer["Body"].read()), answer
        except (BotoCoreError, HTTPError, OSError) as error:
            attempt += 1
            if attempt == BODY_ATTEMPTS:
                cause = " ".join(str(error).split())
                raise InputError(
                    f"{uri}: the connection broke off {attempt} times ({cause}); run this again once the store can be "
                    "reached"
                ) from error
            # Random, as botocore waits, so that all workers do not come back at once; not from the generator that
            # training may have seeded.
            time.sleep(random.SystemRandom().random() * 2**attempt / 2)
