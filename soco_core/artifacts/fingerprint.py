"""Fingerprints: a result directory is named by what determines it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FINGERPRINT_LENGTH = 16


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits that name a value of plain JSON types (SHA-256, keys sorted)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a local file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
