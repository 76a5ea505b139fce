"""The C library's allocator, told to keep what it is given back.

A slice takes and frees the same tens of MiB over and over. By default glibc returns them to the
system each time, and the system hands out zeroed pages again, one fault every 4 KiB: measured, 25
to 35 thousand faults a slice, 7 % of the processor time of a slice in fp32, more in bf16.
"""

from __future__ import annotations

import ctypes
import os
import sys

from mzsr_cli.settings import AllocatorSettings

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Parameters of mallopt (malloc.h)."""

DASKS = ("MALLOC_TRIM_THRESHOLD_", "65536")
"""What dask sets: everything is given back at once."""


def keep_freed_memory(settings: AllocatorSettings | None = None) -> bool:
    """Have freed memory kept for what is allocated next, in one arena for all threads (each would
    keep its own), for the whole process; before it has many threads, best. Whether that was done:
    of the allocators only glibc's is known to, and whoever tunes that keeps what was chosen.
    """
    how = settings or AllocatorSettings()
    if not sys.platform.startswith("linux") or "LD_PRELOAD" in os.environ or _tuned():
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    asked = {TRIM_THRESHOLD: how.kept, MMAP_THRESHOLD: how.mapped, ARENA_MAX: how.arenas}
    return all([library.mallopt(name, value) == 1 for name, value in asked.items()])


def _tuned() -> bool:
    """Whether the environment has settings of malloc, but for the one that dask gives all its
    workers, which nobody chose."""
    set_ = {(name, value) for name, value in os.environ.items() if name.startswith("MALLOC_")}
    return bool(set_ - {DASKS}) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
