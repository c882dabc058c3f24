"""What an S3 store answered, as one line that names the URI and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soco_core.errors import InputError

NO_CHECKSUMS = frozenset({"NotImplemented", "XAmzContentSHA256Mismatch", "MissingContentLength", "InvalidArgument"})
"""What stores answer that do not know the checksums which every write carries."""
DAMAGED = frozenset({"BadDigest", "InvalidDigest", "IncompleteBody"})
CHECKSUM_REMEDY = (
    "if the store does not know S3's checksums, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required in the environment"
)


class MissingObjectError(InputError):
    """An S3 store has no object of this key (its bucket exists)."""


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
        cause = _said(getattr(error, "last_exception", error))
        raise InputError(f"{uri}: not downloaded ({cause}); run this again once the store can be reached") from error
    except (BotoCoreError, Boto3Error, ValueError) as error:  # botocore takes a bad endpoint for a ValueError
        cause = _said(error)
        raise InputError(f"{uri}: {cause}; check the endpoint, region and credentials in the environment") from error


def _said(error: object) -> str:
    """Return an error's text as one line, without the user and password that an endpoint or proxy in it may hold."""
    return re.sub(r"//[^/\s]*@", "//", " ".join(str(error).split()))


def _remedy(code: str, status: int | None) -> str:
    codes = {
        "NoSuchBucket": "check the bucket's name, and the endpoint in the environment",
        **dict.fromkeys(NO_CHECKSUMS, f"check the path; {CHECKSUM_REMEDY}"),
        **dict.fromkeys(DAMAGED, "the data changed on their way, run this again"),
    }
    if code in codes:
        return codes[code]
    if status in {401, 403} or code in {"ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}:
        return "check the credentials in the environment and what they may do"
    if status is not None and status >= 500:
        return "run this again once the store is well"
    if status == 416:
        return "it is shorter than it should be, write it again"
    return "check the path"
