"""Foreign weights: every good kind is read, nothing of a bad one is run, and what it declares it must hold."""

from __future__ import annotations

import functools
import io
import os
import pickle
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soco_core.artifacts.unpickle import load_foreign
from soco_core.errors import InputError

ARRAYS: dict[str, Any] = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.float16([1.5, 2]),
    "other end first": np.arange(3, dtype=">i4"),
    "text": np.array(["ab", "c"]),
    "bytes": np.array([b"x"]),
    "truth": np.array([True, False]),
    "no dimension": np.array(7),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.float64(2.5),
    "count": np.int64(9),
}
PLAIN: dict[str, Any] = {
    "__author__": "somebody",
    "opt": Namespace(lr=0.1, steps=[1, 2], name=None, inner=Namespace(deep=True)),
    "set": {1, 2},
    "frozen": frozenset({3}),
    "bytes": b"\x00\xff",
    "no bytes": b"",
    "bytearray": bytearray(b"q"),
    "complex": 1 + 2j,
    "type": int,
    "ordered": OrderedDict(b=1, a=2),
}
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
TORCH_PROTOCOLS = range(1, pickle.HIGHEST_PROTOCOL + 1)
"""torch cannot read its own files of protocol 0."""


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.reduced


class State:
    """Pickles as a call whose value gets a state."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any) -> None:
        self.reduced = function, arguments, state

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def save(path: Path, content: Any, kind: str, protocol: int) -> Path:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=kind == "zip")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_foreign(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_of_arrays_and_plain_types_is_read(tmp_path: Path, protocol: int) -> None:
    found = load_foreign(save(tmp_path / "model.pkl", {"model": ARRAYS, **PLAIN}, "pickle", protocol))
    for name, array in ARRAYS.items():
        read = found["model"][name]
        assert np.array_equal(read, array), name
        assert (read.shape, read.dtype.newbyteorder("=")) == (array.shape, array.dtype.newbyteorder("=")), name
    assert {key: found[key] for key in PLAIN} == PLAIN


@pytest.mark.parametrize("kind", ["zip", "old"])
@pytest.mark.parametrize("protocol", TORCH_PROTOCOLS)
def test_what_torch_saves_is_read(tmp_path: Path, kind: str, protocol: int) -> None:
    shared = torch.arange(12.0)
    tensors = {
        "part": shared[2:8].view(2, 3),
        "turned": shared.view(3, 4).T,
        "half": torch.ones(2).half(),
        "bf16": torch.ones(2).bfloat16(),
        "count": torch.tensor(5),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "none": torch.zeros(0, 4),
    }
    content = {**tensors, "size": torch.Size([1, 2]), "dtype": torch.float16, **PLAIN, "numbers": ARRAYS}
    found = load_foreign(save(tmp_path / "model.pth", content, kind, protocol))
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype, name
    assert (found["size"], found["dtype"]) == (torch.Size([1, 2]), torch.float16)
    assert {key: found[key] for key in PLAIN} == PLAIN
    assert np.array_equal(found["numbers"]["float"], ARRAYS["float"])


def test_a_state_dict_of_a_module_is_read(tmp_path: Path) -> None:
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)).state_dict()
    found = load_foreign(save(tmp_path / "model.pth", {"model": state, "opt": Namespace(a=1)}, "zip", 2))["model"]
    assert list(found) == list(state)
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_detectron2s_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    """As Caffe2's model zoo has them: protocol 2, bytes of arrays as text (SHORT_BINSTRING), names of old NumPy."""
    data = np.float32([1.5, -2.25]).tobytes()
    dtype = b"cnumpy\ndtype\nq\x01(U\x02f4K\x00K\x01tRq\x02(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    array += b"(K\x01K\x02\x85" + dtype + b"\x89U" + bytes([len(data)]) + data + b"tb"
    path = tmp_path / "R-50.pkl"
    path.write_bytes(b"\x80\x02}U\x05model}U\x07conv1_w" + array + b"ss.")
    found = load_foreign(path)["model"]["conv1_w"]
    assert (found.dtype, found.tolist()) == (np.float32, [1.5, -2.25])
    assert np.array_equal(pickle.loads(path.read_bytes(), encoding="latin1")["model"]["conv1_w"], found)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that must not come to be."""
    return tmp_path / "owned"


def commands(marker: Path) -> dict[str, tuple[Any, str]]:
    """What would run a command, and the global that is named."""
    touch = f"touch {marker}"
    return {
        "os.system": (Call(os.system, touch), "posix.system"),
        "subprocess": (Call(subprocess.getoutput, touch), "getoutput"),
        "eval": (Call(eval, f"open({str(marker)!r}, 'w')"), "eval"),
        "exec": (Call(exec, f"open({str(marker)!r}, 'w')"), "exec"),
        "getattr": (Call(getattr, "", "join"), "getattr"),
        "import": (Call(__import__, "os"), "__import__"),
        "open": (Call(open, str(marker), "w"), "open"),
        "partial": (functools.partial(os.system, touch), "functools.partial"),
        "hub": (Call(torch.hub.load, "somebody/somewhere", "model"), "torch.hub.load"),
        "torch.load": (Call(torch.load, str(marker)), "torch.serialization.load"),
        "numpy.load": (Call(np.load, str(marker)), "numpy.load"),
    }


@pytest.mark.parametrize("kind", ["pickle", "zip", "old"])
@pytest.mark.parametrize("name", list(commands(Path())))
def test_a_command_is_not_run(tmp_path: Path, marker: Path, name: str, kind: str) -> None:
    content, named = commands(marker)[name]
    for protocol in PROTOCOLS if kind == "pickle" else TORCH_PROTOCOLS:
        for k, place in enumerate((content, {"model": {"weight": content}}, {"opt": Namespace(a=[content])})):
            path = save(tmp_path / f"{protocol}-{k}.pth", place, kind, protocol)
            line = refusal(path)
            assert named in line, protocol
            assert "nothing of the file was run; if you trust its author" in line
            assert not marker.exists()
    # The test would see a command that is run.
    if name == "os.system":
        pickle.loads(pickle.dumps(content))
        assert marker.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("trick", "cause"),
    [
        (Call(bytes, 1 << 40), "takes 0 positional"),
        (Call(bytearray, 1 << 40), "encode"),
        (Call(str, 5), "calls str as weights do not"),
        (Call(list, ()), "calls list as weights do not"),
        (Call(np.ndarray, (1 << 20, 1 << 20)), "calls ndarray as weights do not"),
        (Call(torch.Size, (1, 2)), None),
        (Call(np.dtype, "O"), "an array of 'O', neither numbers nor text"),
        (Call(np.dtype, "V8"), "an array of 'V8'"),
        (Call(np.dtype, [("a", "O")]), "neither numbers nor text"),
        (np.array([object]), "an array of 'O8'"),
        (np.zeros(2, [("a", "f4")]), "an array of 'V4'"),
        (Call(Namespace), "calls Namespace as weights do not"),
        (State(set, (), {"a": 1}), "sets the state of a set"),
        (State(np.dtype, ("f8",), (3, "|", None, ("a",), {"a": (np.dtype("f8"), 0)}, 8, 8, 63)), "no plain one"),
        (State(np.dtype, ("f8",), (3, "|", None, None, None, 1 << 30, 8, 0)), "no plain one"),
    ],
)
def test_a_trick_on_what_is_admitted_is_refused(tmp_path: Path, trick: Any, cause: str | None, protocol: int) -> None:
    path = save(tmp_path / "model.pkl", {"a": trick}, "pickle", protocol)
    if cause is None:
        assert load_foreign(path)["a"] == (1, 2)
    else:
        assert cause in refusal(path)


def raw(*opcodes: bytes) -> bytes:
    return b"\x80\x02" + b"".join(opcodes) + b"."


@pytest.mark.parametrize(
    ("opcodes", "cause"),
    [
        # A state in two parts sets attributes of whatever it is given, of a class too.
        ((b"cargparse\nNamespace\n", b"N}U\x08__repr__K\x01s\x86b"), "sets the state of a type"),
        ((b"cnumpy.core.multiarray\n_reconstruct\n", b"N}U\x01aK\x01s\x86b"), "sets the state of a function"),
        ((b"cargparse\nNamespace\n", b")\x81", b"N}U\x01aK\x01s\x86b"), "sets the state of a Namespace"),
        ((b"cbuiltins\nset\n", b")\x81"), "makes an object"),
        ((b"(cargparse\nNamespace\no",), "makes an object"),
        ((b"(iargparse\nNamespace\n",), "makes an object"),
        ((b"\x82\x01",), "makes an object"),
        # A NumPy array of more bytes than it has, and of pointers.
        (
            (
                b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR",
                b"(K\x01J\x00\x00\x00\x40\x85cnumpy\ndtype\nU\x02f8\x85R\x89U\x01xtb",
            ),
            "bytes do not fit",
        ),
        ((b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\nU\x02f8\x85RU\x01xtR",), "bytes do not fit"),
        ((b"c_codecs\nencode\n(X\x01\x00\x00\x00aU\x04zlibtR",), "encodes text as 'zlib'"),
        ((b"ctorch._utils\n_rebuild_tensor\n(NK\x00K\x01\x85K\x01\x85tR",), "without a storage"),
    ],
)
def test_opcodes_that_no_pickler_writes_are_refused(tmp_path: Path, opcodes: tuple[bytes, ...], cause: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(raw(*opcodes))
    assert cause in refusal(path)
    assert "a=1" in repr(Namespace(a=1))  # the class is as it was


@pytest.mark.parametrize(
    "bomb",
    [
        pickle.BINBYTES8 + struct.pack("<Q", 1 << 40),
        pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 40),
        pickle.BINUNICODE8 + struct.pack("<Q", 1 << 40),
        pickle.BINBYTES + struct.pack("<I", 0xFFFFFFF0),
        pickle.BINSTRING + struct.pack("<i", 0x7FFFFFF0),
        pickle.LONG4 + struct.pack("<i", 0x7FFFFFF0),
        pickle.FRAME + struct.pack("<Q", 1 << 40),
    ],
)
def test_a_size_beyond_the_file_takes_no_memory(tmp_path: Path, bomb: bytes) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x05" + bomb + b"x" * 100 + b".")
    refusal(path)  # what is imported at the first time
    tracemalloc.start()
    assert "bytes in a file of" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_memo_of_four_thousand_million_places_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(raw(b"}", b"r\xff\xff\xff\xff"))
    assert load_foreign(path) == {}


def test_a_value_copied_again_and_again_takes_no_memory(tmp_path: Path) -> None:
    """Each further copy of a MiB costs the file six bytes."""
    size, copies = 1 << 20, 400
    body = pickle.PROTO + b"\x04}\x8c\x01a](B" + struct.pack("<I", size) + b"a" * size + b"q\x050"
    body += b"\x8c\x08builtins\x8c\x09bytearray\x93q\x060" + b"h\x06h\x05\x85R" * copies + b"es."
    path = tmp_path / "copies.pkl"
    path.write_bytes(body)
    tracemalloc.start()
    try:
        said = refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 30 * size
    finally:
        tracemalloc.stop()
    assert "many times its size of memory" in said


def test_a_zip_that_unfolds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/0", bytes(1 << 24))
    assert f"declares {1 << 24} bytes in a file of {path.stat().st_size}" in refusal(path)


@pytest.mark.parametrize("kind", ["zip", "old"])
def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path, kind: str) -> None:
    """In both: the size of the tensor, and the size of its storage."""
    good = save(tmp_path / "good.pth", {"a": torch.arange(4.0)}, kind, 2)
    for old, new in ((b"K\x00K\x04\x85", b"K\x00J\xff\xff\xff\x0f\x85"), (b"K\x04tq", b"J\xff\xff\xff\x0ftq")):
        bad = tmp_path / "bad.pth"
        if kind == "zip":
            with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
                for name in source.namelist():
                    target.writestr(name, source.read(name).replace(old, new, 1))
        else:
            text = good.read_bytes()
            # The old format has one more number in a storage.
            at, by = (old, new) if old in text else (b"K\x04Ntq", b"J\xff\xff\xff\x0fNtq")
            assert at in text
            bad.write_bytes(text.replace(at, by, 1))
        line = refusal(bad)
        assert "1073741820" in line or "268435455" in line or "wrong" in line or "size" in line


def test_a_program_of_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "model.pt"))
    assert "holds a TorchScript program, not weights; nothing of the file was run" in refusal(tmp_path / "model.pt")


def test_a_tar_file_is_refused_and_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "../../outside"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    assert "is a tar file" in refusal(path)
    assert not (tmp_path.parent.parent / "outside").exists()


@pytest.mark.parametrize("text", [b"", b"\x80", b"\x80\x02}", b"\x80\x02K\x01.", b"<!DOCTYPE html>", b"\x80\x09N."])
def test_what_is_no_mapping_or_no_pickle_is_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(text)
    assert "give " in refusal(path)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert "No such file or directory" in refusal(tmp_path / "none.pth")


@pytest.mark.parametrize("kind", ["pickle", "zip", "old"])
def test_a_cut_file_is_one_line(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "model.pth", {"a": ARRAYS if kind == "pickle" else torch.arange(99.0)}, kind, 2)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 11):
        path.write_bytes(whole[:size])
        assert "copy it again" in refusal(path)
