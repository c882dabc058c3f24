"""How a process that searches image after image asks the system for memory."""

from __future__ import annotations

import ctypes

# The numbers of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MIB = 2**20


def keep_freed_memory() -> bool:
    """Let this process use the pages again that it frees, up to 512 MiB, instead of returning them to the system.

    Each search takes and frees arrays of some MiB. By default glibc asks the kernel for each of them, which clears
    every page anew: a tenth of the time of `opencv`, a third of that of `exact` (benchmarks/RESULTS.md). Arrays
    beyond 32 MiB, those of huge images, are returned as before.

    Returns:
        Whether the C library has the settings: glibc, not macOS or musl.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {M_MMAP_THRESHOLD: 32 * MIB, M_TRIM_THRESHOLD: 512 * MIB, M_TOP_PAD: 64 * MIB}
    taken = [mallopt(name, value) for name, value in settings.items()]
    return taken == [1] * len(settings)
