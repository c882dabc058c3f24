"""How the kernels of `exact` are compiled: to the floating-point operations that are written, in their order.

No fast-math and no fused multiply-add: either would move a similarity by one unit in the last place, and with it the
order of the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., object])

OPTIONS = {"nogil": True, "error_model": "numpy"}  # without the GIL: a worker's thread watches for its parent's end


def compiled(signature: str) -> Callable[[Kernel], Kernel]:
    """Compile a function for one signature, at once.

    The machine code is kept beside the source or in the user's cache folder, where either can be written. numba takes
    it from there as long as the file of the function is the same; so what a kernel calls must stand in the same file.
    """

    def compile_kernel(function: Kernel) -> Kernel:
        try:
            return numba.njit(signature, cache=True, **OPTIONS)(function)
        except (RuntimeError, OSError):  # a read-only installation without a home, or a full disk
            return numba.njit(signature, **OPTIONS)(function)

    return compile_kernel
