"""Peak memory of ``mzsr upscale``, under a hard limit."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from upscale_files import load

from mzsr_cli.learning.superresolve import SliceReport
from mzsr_cli.pipeline.lanes import InProcess
from mzsr_cli.pipeline.solving import Job, Solved
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import Method, UpscaleSettings

resource = pytest.importorskip("resource", reason="needs POSIX limits")

LIMIT = 3 * 2**29
"""1.5 GiB, beside one output slice."""

COMMAND = """
import resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from mzsr_cli.cli.main import exit_code
code = exit_code(sys.argv[2:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
sys.exit(code)
"""


def peak(arguments: list[str], limit: int) -> int:
    """Peak resident bytes of a command that may not have more than ``limit`` bytes of data."""
    import subprocess

    command = [sys.executable, "-c", COMMAND, str(limit), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout.splitlines()[-1])


def street_map(shape: tuple[int, int, int]) -> np.ndarray:
    """Blocks with soft shadows: something for the network at every stage."""
    rng = np.random.default_rng(3)
    blocks = rng.random((shape[0] // 16 + 1, shape[1] // 16 + 1, shape[2]))
    large = blocks.repeat(16, 0).repeat(16, 1)[: shape[0], : shape[1]]
    return (40 * large + rng.normal(0, 0.5, shape)).astype(np.float32)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts maps on Linux only")
@pytest.mark.parametrize(
    ("side", "scale", "dtype", "kernel"),
    [
        (128, 10, "float32", "none"),
        pytest.param(256, 20, "float32", "none", marks=pytest.mark.slow),
        pytest.param(256, 20, "complex64", "none", marks=pytest.mark.slow),
        pytest.param(256, 20, "float32", "gaussian:4,1,-0.5", marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(1800)
def test_two_slices_within_a_gibibyte_and_a_half(
    tmp_path: Path, side: int, scale: int, dtype: str, kernel: str
) -> None:
    cube = street_map((side, side, 2))
    np.save(tmp_path / "c.npy", (cube if dtype == "float32" else cube + 1j * cube).astype(dtype))
    target = tmp_path / "o.npy"
    options = ["--scale", str(scale), "--steps", "10", "--no-self-check", "-o", str(target), "-q",
               "--kernel", kernel]  # fmt: skip
    limit = LIMIT + (side * scale) ** 2 * np.dtype(dtype).itemsize
    assert peak(["upscale", str(tmp_path / "c.npy"), *options], limit) < limit
    assert load(target).shape == (side * scale, side * scale, 2)


class Watched(InProcess):
    """Makes slices up, and waits for each to be let go of before the next."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def solve(self, job: Job) -> Generator[Solved]:
        for position, k in job.todo():
            image = np.full(job.plan.shape[:2], k, job.plan.out.dtype)
            alive = weakref.ref(image)
            yield Solved(position, k, image, SliceReport("spline"), 0.0)
            del image
            end = time.monotonic() + 10
            while alive() is not None and time.monotonic() < end:
                time.sleep(0.01)
            if alive() is not None:
                self.kept.append(position)


def test_a_slice_is_let_go_of_once_it_is_written(tmp_path: Path) -> None:
    """A result of 5120 x 5120 would take 0.1 to 0.2 GiB beside the slice that is solved next."""
    np.save(tmp_path / "c.npy", street_map((17, 19, 3)))
    watched = Watched()
    settings = UpscaleSettings(scale=(2.0, 2.0), method=Method.SPLINE)
    upscale_cube(tmp_path / "c.npy", tmp_path / "o.npy", settings, executor=watched)
    assert watched.kept == []
