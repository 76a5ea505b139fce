"""The C library's allocator, told to keep freed memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mzsr_cli.pipeline.allocator import keep_freed_memory

pytestmark = pytest.mark.skipif(
    not keep_freed_memory(insist=True), reason="the C library is not glibc"
)

ROUNDS, BYTES = 20, 24 << 20

FAULTS = f"""
import resource, sys, threading
from mzsr_cli.pipeline.allocator import keep_freed_memory
import numpy as np
done = keep_freed_memory(insist=sys.argv[2] == "insist") if sys.argv[1] == "keep" else None
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


def faults(how: str, insist: str = "no", **environment: str) -> tuple[str, int]:
    """What a process says that takes and frees BYTES again and again, on two threads: whether
    memory is kept, and how often a page was new."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS, how, insist], env=clean | environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    done, count = ran.stdout.split()
    return done, int(count)


def test_memory_that_was_freed_is_used_again() -> None:
    pages = 2 * ROUNDS * BYTES // os.sysconf("SC_PAGESIZE")
    done, count = faults("keep")
    assert done == "True"
    assert count < pages / 10


def test_other_settings_of_the_allocator_are_left_alone() -> None:
    done, _ = faults("keep", MALLOC_TRIM_THRESHOLD_="65536")
    assert done == "False"


def test_those_of_dask_are_not() -> None:
    pages = 2 * ROUNDS * BYTES // os.sysconf("SC_PAGESIZE")
    _, without = faults("leave", MALLOC_TRIM_THRESHOLD_="65536")
    done, count = faults("keep", "insist", MALLOC_TRIM_THRESHOLD_="65536")
    assert done == "True"
    assert without > pages / 2 > 5 * count
