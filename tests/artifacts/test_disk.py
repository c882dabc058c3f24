"""A disk that is full or refuses is one line; other errors are left as they are."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from soco_core.artifacts.disk import disk_errors
from soco_core.errors import InputError, ResultLockedError, SocoError


def os_error(number: int, *filename: str) -> OSError:
    return OSError(number, os.strerror(number), *filename)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(number: int, tmp_path: Path) -> None:
    with (
        pytest.raises(SocoError, match=rf"^demo: no space is left for {tmp_path}; free some and run the same [^\n]*$"),
        disk_errors("demo", tmp_path),
    ):
        raise os_error(number)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_disk_that_refuses(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    here = tmp_path / "results" / "a" / "here"
    here.parent.mkdir(parents=True)
    here.touch()
    for refused, named in ((here, here), (here.with_name(".a.tmp"), here.parent), (folder, folder)):
        with (
            pytest.raises(
                InputError, match=rf"^demo: cannot write {named} \([^\n]*\); make it writable.*--output"
            ) as e,
            disk_errors("demo", folder / "a"),
        ):
            raise os_error(number, str(refused))
        assert os.strerror(number) in str(e.value)


def test_what_hides_the_disk_is_seen_through(tmp_path: Path) -> None:
    hiding = InputError("a lock")
    hiding.__cause__ = os_error(errno.EROFS, str(tmp_path / ".lock"))
    with pytest.raises(InputError, match=r"^demo: cannot write"), disk_errors("demo", tmp_path):
        raise hiding


def test_what_is_no_matter_of_this_disk_is_left_as_it_is(tmp_path: Path) -> None:
    for error in (
        os_error(errno.EACCES, "/elsewhere/input.png"),
        os_error(errno.EACCES, 7),  # type: ignore[arg-type]
        os_error(errno.ENOENT, str(tmp_path)),
        ResultLockedError("locked"),
        ValueError("x"),
    ):
        with pytest.raises(type(error)) as caught, disk_errors("demo", tmp_path):
            raise error
        assert caught.value is error
