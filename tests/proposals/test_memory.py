"""The memory of a process that searches."""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from soco_core.proposals.memory import keep_freed_memory

ARRAY_BYTES, ARRAYS, ROUNDS = 4 * 2**20, 8, 10


def faults_of_arrays(keep: bool) -> int:
    """Page faults of taking, filling and freeing arrays in turn."""
    if keep:
        assert keep_freed_memory()
    before = 0
    for number in range(ROUNDS + 1):
        # Several at once: one alone glibc learns to keep.
        arrays = [np.ones(ARRAY_BYTES, np.uint8) for _ in range(ARRAYS)]
        del arrays
        if number == 0:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="a C library without mallopt")
def test_freed_pages_are_used_again() -> None:
    faults = []
    for keep in (False, True):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            faults.append(process.submit(faults_of_arrays, keep).result())
    assert faults[1] < faults[0] / 5, faults
