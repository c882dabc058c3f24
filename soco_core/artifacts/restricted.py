"""An unpickler that builds arrays, tensors and plain types, and calls nothing that a file chose.

What a pickle may name stands in one table. Whatever it then calls, or sets a state of, is done by a function of this
module, which looks at the values first: NumPy's own way from a state to an array trusts what it is given.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import IO, Any, ClassVar

PLAIN_TYPES = (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, object, set, str, tuple)
_MODERN = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}
"""Modules of Python 2 and of NumPy 2, by the names that the table has."""
_DTYPE = re.compile(r"[<>=|]?[?biufcSU][0-9]{0,9}")
"""Numbers, truth values and text: no objects, and no structures, which may hide them."""


COPIES, ALLOWANCE, ENTRY_BYTES = 8, 1 << 20, 64
"""What builders may make: so many times the file's size, and a MiB; an entry of a container counts so many bytes."""


class RefusedError(pickle.UnpicklingError):
    """A file asks for what weights have no need of; the text says what, without the file's name."""


class RestrictedUnpickler(pickle._Unpickler):  # the one written in C lets nobody look at calls and states
    """Reads a pickle of any protocol.

    Args:
        file: open for reading, seekable.
        options: of ``pickle.Unpickler``; text of Python 2 is always taken for Latin-1, as arrays need it.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    # What pickle.py sets when it begins.
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        bounded = _Bounded(file)
        super().__init__(bounded, encoding="latin1")
        # Bytes pass two builders at most on their way to an array; a value that is named again costs the file nothing.
        self._left = COPIES * bounded.size + ALLOWANCE

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global.

        Raises:
            RefusedError: it is not admitted.
        """
        found = _admitted().get((_MODERN.get(module, module), name))
        if found is None:
            raise RefusedError(f"names {module}.{name}, which weights have no need of")
        return found

    def load_reduce(self) -> None:
        """Call a builder; of the types, only those that a value of theirs is made by."""
        arguments = self.stack.pop()
        called = self.stack[-1]
        builder = next((ours for named, ours in _called() if named is called), None)
        if builder is None or type(arguments) is not tuple:
            raise RefusedError(f"calls {getattr(called, '__name__', type(called).__name__)} as weights do not")
        self.stack[-1] = builder(*arguments)
        self._pay(self.stack[-1])

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        """Make an empty Namespace; nothing else that is admitted is made in this way."""
        arguments = self.stack.pop()
        if self.stack[-1] is not Namespace or arguments != ():
            raise RefusedError("makes an object as weights do not")
        self.stack[-1] = Namespace()

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_build(self) -> None:
        """Set the state of what was made last."""
        state = self.stack.pop()
        _set_state(self.stack[-1], state)
        self._pay(self.stack[-1])

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:
        """Read a bytearray; pickle itself takes its memory before it looks whether there is so much."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def _pay(self, made: Any) -> None:
        """Take what a builder made from the memory that the file may use."""
        import numpy as np

        if isinstance(made, np.ndarray):
            self._left -= made.nbytes
        elif isinstance(made, bytes | bytearray):
            self._left -= len(made)
        elif isinstance(made, dict | set | frozenset | tuple):
            self._left -= ENTRY_BYTES * len(made)
        if self._left < 0:
            raise RefusedError("makes many times its size of memory out of values that it names again")

    def _refuse(self) -> None:
        raise RefusedError("makes an object as weights do not")

    for _opcode in (pickle.OBJ, pickle.INST, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_opcode[0]] = _refuse


class _Bounded:
    """A file whose end is known: a size that is declared beyond it is refused before memory is taken for it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        here = file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(here)

    def read(self, size: int) -> bytes:
        if size > max(self.size, 1):
            raise RefusedError(f"declares {size} bytes in a file of {self.size}")
        if size > self.size - self._file.tell():
            raise EOFError("cut short")
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("cut short")
        return line


@cache
def _admitted() -> dict[tuple[str, str], Any]:
    """Return what a pickle may name, and what it gets for it."""
    import numpy as np
    import torch

    return {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _dtype,
        ("numpy.core.multiarray", "_reconstruct"): _array,
        ("numpy.core.multiarray", "scalar"): _scalar,
        ("numpy.core.numeric", "_frombuffer"): _array_of_buffer,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _itself,
        ("torch", "Size"): torch.Size,
        ("collections", "OrderedDict"): OrderedDict,
        ("argparse", "Namespace"): Namespace,
        ("copyreg", "_reconstructor"): _namespace,
        ("_codecs", "encode"): _encode,
        **{("builtins", kind.__name__): kind for kind in PLAIN_TYPES},
        **{("builtins", name): kind for name, kind in (("long", int), ("unicode", str))},  # Python 2
        **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    }


@cache
def _called() -> tuple[tuple[Any, Any], ...]:
    """Return what a pickle may call, and what is called for it."""
    import torch

    builders = (_dtype, _array, _scalar, _array_of_buffer, _tensor, _itself, _namespace, _encode)
    types = ((OrderedDict, OrderedDict), (set, set), (frozenset, frozenset), (complex, complex))
    # `bytes` and `bytearray` of a number would be that many bytes.
    return (
        *((b, b) for b in builders),
        *types,
        (bytes, lambda: b""),
        (bytearray, _bytearray),
        (torch.Size, torch.Size),
    )


def _set_state(value: Any, state: Any) -> None:
    import numpy as np

    if type(value) is np.ndarray:
        _, shape, dtype, fortran, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(dtype, np.dtype) or len(raw) != math.prod(shape) * dtype.itemsize or type(raw) is not bytes:
            raise RefusedError("holds an array whose bytes do not fit its shape and type")
        value.__setstate__((1, shape, dtype, fortran, raw))
    elif isinstance(value, np.dtype):
        order = state[1]
        # All else in it a plain dtype has of itself; given by a file it may turn numbers into pointers.
        plain = tuple(state[2:5]) == (None, None, None) and order in ("<", ">", "=", "|")
        if not plain or state[5] not in (-1, value.itemsize) or state[6] not in (-1, value.alignment):
            raise RefusedError("holds a dtype that is no plain one")
        state = (3, order, None, None, None, state[5], state[6], 0)
        value.__setstate__(state)  # type: ignore[attr-defined]
    elif isinstance(value, Namespace) and type(state) is dict and all(type(key) is str for key in state):
        vars(value).update(state)
    elif not (isinstance(value, OrderedDict) and type(state) is dict):  # a state dict's: versions of its modules
        raise RefusedError(f"sets the state of a {type(value).__name__}, which weights have no need of")


def _dtype(code: Any, *_: Any) -> Any:
    import numpy as np

    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise RefusedError(f"holds an array of {code!r}, neither numbers nor text")
    return np.dtype(np.dtype(code), copy=True)


def _array(kind: Any, *_: Any) -> Any:
    import numpy as np

    if kind is not np.ndarray:
        raise RefusedError("holds an array of another kind than NumPy's own")
    return np.empty(0)


def _array_of_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    import numpy as np

    flat = np.frombuffer(bytearray(buffer) if isinstance(buffer, bytes | bytearray) else b"", dtype)
    return flat.reshape(shape, order=order) if axes is None else flat.reshape(shape).transpose(axes)


def _scalar(dtype: Any, data: Any) -> Any:
    import numpy as np

    raw = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, np.dtype) or len(raw) != dtype.itemsize:
        raise RefusedError("holds a number whose bytes do not fit its type")
    return np.frombuffer(raw, dtype)[0]


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    import torch

    if not isinstance(storage, torch.storage.TypedStorage):
        raise RefusedError("holds a tensor without a storage")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    # torch would make the storage as large as it takes.
    if min((offset, *size, *stride)) < 0 or (0 not in size and last >= storage._size()):
        raise RefusedError(f"holds a tensor of shape {list(size)} in a storage of {storage._size()} numbers")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _itself(tensor: Any, *_: Any) -> Any:
    return tensor


def _namespace(kind: Any, base: Any, state: Any) -> Namespace:
    if kind is not Namespace or base is not object or state is not None:
        raise RefusedError("makes an object as weights do not")
    return Namespace()


def _encode(text: Any, encoding: Any) -> bytes:
    """How protocols below 3 write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"encodes text as {encoding!r}")
    return text.encode("latin1")


def _bytearray(*arguments: Any) -> bytearray:
    if not arguments:
        return bytearray()
    text = arguments[0]
    return bytearray(text if isinstance(text, bytes) else _encode(*arguments))
