"""Result directories: named by what determines them, whole or gone on with, here and on S3."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from soco_core import storage
from soco_core.artifacts.result import ResultDirectory, locate, open_result, writing
from soco_core.config import Recipe
from soco_core.errors import InputError, ResultLockedError
from soco_core.recipes import parse_recipe


def find(output: str | Path, recipe: Recipe | None = None, **changes: Any) -> ResultDirectory:
    arguments = {"contract": 1, "sections": ("seed", "views"), "inputs": {"images": "abc"}, **changes}
    return locate(str(output), "demo", recipe=recipe or Recipe(), **arguments)


def make(result: ResultDirectory, files: dict[str, str]) -> None:
    with writing(result, Recipe()):
        for name, text in files.items():
            storage.write_text(result.path / name, text)
        result.finish({"files": len(files)})


def test_the_fingerprint_covers_all_that_determines_the_result_and_nothing_else(tmp_path: Path) -> None:
    same = find(tmp_path).fingerprint
    assert find(tmp_path / "elsewhere", parse_recipe("name: x\nruntime: {workers: 7}")).fingerprint == same
    assert find(tmp_path, parse_recipe("pretrain: {epochs: 400}")).fingerprint == same  # not its part
    others = {
        find(tmp_path, parse_recipe("seed: 1")).fingerprint,
        find(tmp_path, parse_recipe("views: {size: 225}")).fingerprint,
        find(tmp_path, inputs={"images": "abd"}).fingerprint,
        find(tmp_path, contract=2).fingerprint,
        find(tmp_path, sections=("seed",)).fingerprint,
        locate(str(tmp_path), "other", 1, Recipe(), ("seed", "views"), {"images": "abc"}).fingerprint,
    }
    assert len(others | {same}) == 7


def test_locating_touches_nothing(tmp_path: Path) -> None:
    result = find(tmp_path / "runs")
    assert result.uri == str(tmp_path / "runs" / "demo" / result.fingerprint)
    assert result.done is None
    assert os.listdir(tmp_path) == []


def test_done_says_what_is_there_and_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    original = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (written.append(Path(target)), original(self, target))[1])
    result = find(tmp_path)
    make(result, {"a.txt": "abc", "sub/b.txt": ""})
    assert written[-1] == result.path / "done.json"
    done = json.loads((result.path / "done.json").read_text())
    assert done == result.done
    assert done["summary"] == result.summary == {"files": 2}
    assert done["determined_by"]["inputs"] == {"images": "abc"}
    assert set(done["files"]) == {"a.txt", "sub/b.txt", "config.yaml"}
    assert done["files"]["a.txt"] == {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert parse_recipe((result.path / "config.yaml").read_text()) == Recipe()
    assert find(tmp_path).done == done


def test_an_interrupted_attempt_is_not_done_and_its_files_stay(tmp_path: Path) -> None:
    def attempt() -> None:
        with writing(find(tmp_path), Recipe()) as result:
            storage.write_text(result.path / "part.txt", "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert find(tmp_path).done is None
    with writing(find(tmp_path), Recipe()) as result:
        assert (result.path / "part.txt").read_text() == "half"


def test_a_result_that_another_process_finished_meanwhile_is_seen(tmp_path: Path) -> None:
    waiting = find(tmp_path)
    make(find(tmp_path), {"a": "1"})
    with writing(waiting, Recipe()) as result:
        assert result.done is not None


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with writing(find(tmp_path), Recipe()) as result, pytest.raises(ResultLockedError) as caught:
        writing(find(tmp_path), Recipe()).__enter__()
    assert str(caught.value).startswith(f"{result.uri} is being written by process {os.getpid()} on ")


def test_what_a_killed_attempt_left_half_written_is_removed_once_it_is_old(tmp_path: Path) -> None:
    result = find(tmp_path)
    (result.path / "checkpoints").mkdir(parents=True)
    old, new = result.path / "checkpoints" / ".step.pt.1.tmp", result.path / ".of-another-shard.2.tmp"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    make(result, {})
    assert not old.exists()
    assert new.exists()
    assert result.done is not None
    assert set(result.done["files"]) == {"config.yaml"}


def test_a_whole_result_is_opened(tmp_path: Path) -> None:
    result = find(tmp_path)
    make(result, {"a": "1"})
    opened = open_result(result.path, "demo")
    assert (opened.uri, opened.fingerprint, opened.summary) == (result.uri, result.fingerprint, {"files": 1})


def test_what_is_not_a_whole_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: not a finished result"):
        open_result(tmp_path / "none")
    result = find(tmp_path)
    make(result, {"a": "12345"})
    with pytest.raises(InputError, match="a result of `demo`, but one of `pretrain` is needed"):
        open_result(result.uri, "pretrain")
    (result.path / "a").write_text("123")
    with pytest.raises(InputError, match=r"/a: missing or damaged; delete .*done\.json and run the stage `demo` again"):
        open_result(result.uri)
    (result.path / "a").unlink()
    with pytest.raises(InputError, match=r"/a: missing or damaged"):
        open_result(result.uri)
    for damage in ("{", "3", '{"stage": "demo"}'):
        (result.path / "done.json").write_text(damage)
        with pytest.raises(InputError, match=r"done\.json: (damaged|not a result of soco)"):
            open_result(result.uri)
        with pytest.raises(InputError, match=r"done\.json: (damaged|not a result of soco)"):
            find(tmp_path)


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written \(/.* is a file\); give another --output$"):
        writing(find(tmp_path / "file"), Recipe()).__enter__()


def test_on_s3_the_result_is_the_same(s3: str, tmp_path: Path) -> None:
    result = find(f"{s3}/runs")
    make(result, {"a.txt": "abc", "sub/b": ""})
    assert result.uri == f"{s3}/runs/demo/{result.fingerprint}"
    assert result.fingerprint == find(tmp_path).fingerprint
    names = {name for name, _ in storage.list_objects(result.uri)}
    assert names == {"a.txt", "sub/b", "config.yaml", "done.json"}
    assert find(f"{s3}/runs").done == result.done
    shutil.rmtree(tmp_path / "scratch")
    opened = open_result(result.uri, "demo")
    assert (opened.path / "a.txt").read_text() == "abc"


def test_on_s3_published_work_is_there_for_an_attempt_with_an_empty_scratch_folder(s3: str, tmp_path: Path) -> None:
    def attempt() -> None:
        with writing(find(s3), Recipe()) as result:
            storage.write_text(result.path / "checkpoints" / "one", "1")
            storage.write_text(result.path / "kept here", "2")
            result.publish(result.path / "checkpoints" / "one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt()
    with writing(find(s3), Recipe()) as result:
        assert (result.path / "kept here").exists()
    shutil.rmtree(tmp_path / "scratch")
    with writing(find(s3), Recipe()) as result:
        assert (result.path / "checkpoints" / "one").read_text() == "1"
        assert not (result.path / "kept here").exists()
        result.unpublish(result.path / "checkpoints" / "one")
        result.finish({})
    assert {name for name, _ in storage.list_objects(result.uri)} == {"config.yaml", "done.json"}


def test_on_s3_a_local_file_of_another_attempt_does_not_stand_for_the_published_one(s3: str, tmp_path: Path) -> None:
    result = find(s3)
    make(result, {"weights": "A" * (2 << 20)})
    (result.path / "weights").write_text("B" * (2 << 20))  # the same size
    assert (open_result(result.uri).path / "weights").read_text() == "A" * (2 << 20)


def test_on_s3_a_lost_object_is_named(s3: str, tmp_path: Path) -> None:
    result = find(s3)
    make(result, {"a": "1"})
    storage.delete(f"{result.uri}/a")
    shutil.rmtree(tmp_path / "scratch")
    with pytest.raises(InputError, match=rf"^{result.uri}/a: the S3 store answered 404"):
        open_result(result.uri)


@pytest.mark.parametrize("name", ["../../escaped", "/escaped"])
def test_on_s3_a_file_cannot_lie_outside_the_scratch_folder(s3: str, name: str) -> None:
    result = find(s3)
    make(result, {"a": "1"})
    assert result.done is not None
    files = {name: result.done["files"]["a"]}
    storage.write_text(f"{result.uri}/done.json", json.dumps({**result.done, "files": files}))
    with pytest.raises(InputError, match=rf"^{result.uri}: '{name}' is not a file name of a result"):
        open_result(result.uri)


def test_on_s3_nothing_is_published_after_the_lock_is_lost(s3: str) -> None:
    with writing(find(s3), Recipe()) as result:
        storage.delete(f"{result.uri}/.lock")
        with pytest.raises(ResultLockedError, match="another process took the lock"):
            result.finish({})
    assert not storage.exists(f"{result.uri}/done.json")
    assert result.lease is None


def test_on_s3_a_file_is_sent_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    original = storage.upload
    monkeypatch.setattr(storage, "upload", lambda path, uri: (sent.append(path.name), original(path, uri)))
    with writing(find(s3), Recipe()) as result:
        for name in ("early", "changed", "late"):
            storage.write_text(result.path / name, "1")
        result.publish(result.path / "early", result.path / "changed")
        storage.write_text(result.path / "changed", "22")
        result.finish({})
    assert sorted(sent) == ["changed", "changed", "config.yaml", "early", "late"]
    assert storage.read_text(f"{result.uri}/changed") == "22"


def test_on_s3_a_missing_bucket_is_one_line(s3: str) -> None:
    with pytest.raises(InputError, match=r"^s3://no-such-bucket/\S+: the S3 store answered NoSuchBucket: [^\n]*$"):
        writing(find("s3://no-such-bucket/runs"), Recipe()).__enter__()
