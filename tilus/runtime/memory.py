"""Memory for weights: aligned to, and made of, huge pages where the system has them.

A product of one row reads its weights once, at the speed of memory; with pages of 4 KiB it would
walk the page tables for every one of them, and the processor's prefetch would stop at each.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import lru_cache
from typing import Any

import torch

PAGE = 2 << 20  # bytes of a huge page
_MADV_HUGEPAGE = 14
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = (1 << 31) - 1  # bytes, the most that mallopt takes


@lru_cache(maxsize=1)
def _madvise() -> Any:
    """The system call's wrapper; None where there is none."""
    try:
        return ctypes.CDLL(None).madvise
    except (AttributeError, OSError):
        return None


def empty(nbytes: int) -> torch.Tensor:
    """Uninitialised u8 [nbytes], on huge pages if it fills at least one."""
    if nbytes < PAGE:
        return torch.empty(nbytes, dtype=torch.uint8)
    whole = torch.empty(nbytes + PAGE, dtype=torch.uint8)
    start = -whole.data_ptr() % PAGE
    advise = _madvise()
    if advise is not None:
        size = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        advise(ctypes.c_void_p(whole.data_ptr() + start), ctypes.c_size_t(size), _MADV_HUGEPAGE)
    return whole[start : start + nbytes]


def copied(data: torch.Tensor) -> torch.Tensor:
    """The same bytes in memory of their own."""
    out = empty(data.numel())
    out.copy_(data.reshape(-1))
    return out.reshape(data.shape)


def keep_freed() -> None:
    """Have the process keep large blocks that are freed, and use them again.

    The C library gives them back to the system otherwise, whose pages then have to be cleared and
    mapped anew for each large temporary: a tenth of the time of a long prompt. For programs that
    are ours alone; where the library knows no such setting, nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_THRESHOLD, _KEPT)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
