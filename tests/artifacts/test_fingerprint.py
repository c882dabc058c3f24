"""Fingerprints against SHA-256 of text written out by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from soco_core.artifacts.fingerprint import file_sha256, fingerprint


def test_it_is_the_hash_of_the_sorted_compact_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2.5,null],"b":"x"}').hexdigest()[:16]
    assert fingerprint({"b": "x", "a": [1, 2.5, None]}) == expected


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, Path("x"), b"x"])
def test_what_is_not_plain_json_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        fingerprint({"value": value})


def test_a_file_has_the_published_hash_of_its_contents(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
