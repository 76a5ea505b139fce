"""Peak memory of ``mzsr upscale``, under a hard limit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from upscale_files import load

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
