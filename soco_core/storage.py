"""One way to read, write and list a local path or an ``s3://bucket/key`` URI.

Every write is atomic: a local file appears under its name only when it is whole and on disk, and an
S3 object is whole by nature. Credentials, region and endpoint of S3 come from boto3's standard
environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL_S3``, a profile, a pod's role ...).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from soco_core.errors import InputError

TEMPORARY_SUFFIX = ".tmp"


def is_s3(uri: str | Path) -> bool:
    """Tell whether `uri` is an ``s3://`` URI."""
    return str(uri).startswith("s3://")


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
        InputError: it does not exist, or the store refuses.
    """
    if is_s3(uri):
        bucket, key = split_s3(uri)
        with s3_errors(uri):
            return bytes(s3_client().get_object(Bucket=bucket, Key=key)["Body"].read())
    try:
        return Path(uri).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {uri}: {error.strerror}") from error


def read_text(uri: str | Path) -> str:
    """Return the contents of a UTF-8 file or object; raises as :func:`read_bytes` does."""
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def exists(uri: str | Path) -> bool:
    """Tell whether a file or object exists."""
    if not is_s3(uri):
        return Path(uri).exists()
    from botocore.exceptions import ClientError

    bucket, key = split_s3(uri)
    with s3_errors(uri):
        try:
            s3_client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
    return True


def list_objects(uri: str) -> Iterator[tuple[str, int]]:
    """Yield (key relative to `uri`, size in bytes) of every object below an S3 URI, sorted by key."""
    bucket, prefix = split_s3(uri.rstrip("/") + "/")
    with s3_errors(uri):
        for page in s3_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                # Consoles mark a "folder" by an empty object whose key ends in a slash.
                if not entry["Key"].endswith("/"):
                    yield entry["Key"].removeprefix(prefix), int(entry["Size"])


def upload(path: Path, uri: str) -> None:
    """Copy a local file to S3 (multipart and retried by boto3)."""
    bucket, key = split_s3(uri)
    with s3_errors(uri):
        s3_client().upload_file(str(path), bucket, key)


def download(uri: str, path: Path) -> None:
    """Copy an S3 object to a local file, atomically."""
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
    return boto3.client("s3", config=Config(retries=retries, connect_timeout=10))


# A forked worker must not talk over its parent's connections.
os.register_at_fork(after_in_child=s3_client.cache_clear)


@contextmanager
def s3_errors(uri: str | Path) -> Iterator[None]:
    """Turn an error of the store into one line that names the URI."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        detail = error.response.get("Error", {})
        raise InputError(f"{uri}: the S3 store answered {detail.get('Code')}: {detail.get('Message')}") from error
    except (BotoCoreError, Boto3Error, ValueError) as error:  # botocore takes a bad endpoint for a ValueError
        cause = " ".join(str(error).split())
        raise InputError(f"{uri}: {cause}; check the endpoint, region and credentials in the environment") from error
