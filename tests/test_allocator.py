"""The C library's allocator, told to keep freed memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
)

ROUNDS, BYTES = 20, 24 << 20

FAULTS = f"""
import resource, sys, threading
from mzsr_cli.pipeline.allocator import keep_freed_memory
import numpy as np
done = keep_freed_memory() if sys.argv[1] == "keep" else None
def work():
    for _ in range({ROUNDS}):
        blocks = [np.ones({BYTES} // 12, np.uint8) for _ in range(12)]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
before = faults()
for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(done, faults() - before)
"""


def faults(how: str, **environment: str) -> tuple[str, int]:
    """What a process says that takes and frees BYTES again and again, on two threads: whether
    memory is kept, and how often a page was new."""
    tuned = ("MALLOC_", "GLIBC_TUNABLES")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(tuned)}
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env=clean | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    done, count = ran.stdout.split()
    return done, int(count)


def test_memory_that_was_freed_is_used_again() -> None:
    pages = 2 * ROUNDS * BYTES // os.sysconf("SC_PAGESIZE")
    done, count = faults("keep")
    assert done == "True"
    assert count < pages / 10


@pytest.mark.parametrize(
    "chosen",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "4"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"},
    ],
)
def test_what_somebody_chose_is_left_alone(chosen: dict[str, str]) -> None:
    done, _ = faults("keep", **chosen)
    assert done == "False"


def test_what_dask_sets_is_not() -> None:
    pages = 2 * ROUNDS * BYTES // os.sysconf("SC_PAGESIZE")
    _, without = faults("leave", MALLOC_TRIM_THRESHOLD_="65536")
    done, count = faults("keep", MALLOC_TRIM_THRESHOLD_="65536")
    assert done == "True"
    assert without > pages / 2 > 5 * count
