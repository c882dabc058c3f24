"""One way to read, write and list a local path or an ``s3://bucket/key`` URI.

Every write is atomic: a local file appears under its name only when it is whole and on disk, and an
S3 object is whole by nature. Credentials, region and endpoint of S3 come from boto3's standard
environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL_S3``, a profile, a pod's role ...).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from soco_core.errors import InputError

TEMPORARY_SUFFIX = ".tmp"
S3_CONNECTIONS = 16
"""Connections that a process keeps open to a store; more threads than this would wait for one another."""
BODY_ATTEMPTS = 5
"""botocore repeats a request that fails, but not one whose answer breaks off while it is read."""


class MissingObjectError(InputError):
    """An S3 store has no object of this key (its bucket exists)."""


def is_s3(uri: str | Path) -> bool:
    """Tell whether `uri` is an ``s3://`` URI."""
    return str(uri).startswith("s3://")


def scratch_path(uri: str) -> Path:
    """Return where this machine keeps its copy of an S3 object or prefix: below ``SOCO_SCRATCH``."""
    root = os.environ.get("SOCO_SCRATCH") or Path.home() / ".cache" / "soco"
    return Path(root, *split_s3(uri))


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
            s3_client().put_object(Bucket=bucket, Key=key, Body=data)
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
    """Copy a local file to S3 (multipart and retried by boto3); `metadata` is kept with the object."""
    bucket, key = split_s3(uri)
    with s3_errors(uri):
        s3_client().upload_file(str(path), bucket, key, ExtraArgs={"Metadata": metadata or {}})


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
        s3_client().download_fileobj(bucket, key, file)


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

    retries = {"max_attempts": 6, "mode": "standard"}
    return boto3.client("s3", config=Config(retries=retries, connect_timeout=10, max_pool_connections=S3_CONNECTIONS))


# A forked worker must not talk over its parent's connections.
os.register_at_fork(after_in_child=s3_client.cache_clear)


@contextmanager
def s3_errors(uri: str | Path) -> Iterator[None]:
    """Turn an error of the store into one line that names the URI."""
    from boto3.exceptions import Boto3Error, S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import (  # type: ignore[import-untyped]
        RetriesExceededError,
        S3DownloadFailedError,
    )

    try:
        yield
    except (ClientError, S3UploadFailedError) as error:
        answered = error if isinstance(error, ClientError) else error.__context__
        assert isinstance(answered, ClientError)  # boto3 wraps nothing else
        detail = answered.response.get("Error", {})
        code, status = str(detail.get("Code")), answered.response["ResponseMetadata"].get("HTTPStatusCode")
        kind = MissingObjectError if status == 404 and code in {"NoSuchKey", "404"} else InputError
        told = " ".join(str(detail.get("Message")).split()).rstrip(".")
        raise kind(f"{uri}: the S3 store answered {code}: {told}; {_remedy(code, status)}") from error
    except (RetriesExceededError, S3DownloadFailedError) as error:
        cause = " ".join(str(getattr(error, "last_exception", error)).split())
        raise InputError(f"{uri}: not downloaded ({cause}); run this again once the store can be reached") from error
    except (BotoCoreError, Boto3Error, ValueError) as error:  # botocore takes a bad endpoint for a ValueError
        cause = " ".join(str(error).split())
        raise InputError(f"{uri}: {cause}; check the endpoint, region and credentials in the environment") from error


def _remedy(code: str, status: int | None) -> str:
    if code == "NoSuchBucket":
        return "check the bucket's name, and the endpoint in the environment"
    if status in {401, 403} or code in {"ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}:
        return "check the credentials in the environment and what they may do"
    if status is not None and status >= 500:
        return "run this again once the store is well"
    if status == 416:
        return "it is shorter than it should be, write it again"
    return "check the path"


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
