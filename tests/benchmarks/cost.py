"""What a cube of 256x256x150 costs: seconds and peak memory at x2, x4, x8 and x20.

python tests/benchmarks/cost.py [--scales 2,4,8,20] [--slices 2] [--zssr 2,4]

Each run is a process of its own on the first slices of raytrace.mat, one thread a core; its
seconds for 150 slices are start-up plus 150 times the mean slice, its memory is that of the run
(memory does not grow with the number of slices: tests/test_upscale.py). ZSSR is run on one slice.
Also the time of ``mzsr --help`` and of a 64x64x8 cube from a cold start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import data_folder, markdown

from mzsr_cli.cubes.open import open_cube

COUNT = 150


def run(*arguments: object) -> tuple[float, float]:
    """Seconds of a command, and its peak resident memory in GiB."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "mzsr_cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.monotonic() - begin, usage.ru_maxrss / 2**20


def cost(source: Path, scale: int, slices: int, *how: object) -> list[str]:
    """Cells of one method at one scale: seconds a slice, hours for the cube, GiB."""
    out = source.with_name("out.npy")
    wall, memory = run(
        "upscale", source, "--scale", scale, "--slices", f"0:{slices}", *how,
        "-o", out, "--overwrite", "-q",
    )  # fmt: skip
    record = json.loads(Path(f"{out}.json").read_text())
    out.unlink()
    each = float(np.mean([report["seconds"] for report in record["slice_reports"]]))
    start = wall - sum(report["seconds"] for report in record["slice_reports"])
    return [f"{each:.2f}", f"{(start + COUNT * each) / 60:.1f}", f"{memory:.2f}"]


def main() -> None:
    """Print the table, then the two start-up times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scales", default="2,4,8,20")
    parser.add_argument("--slices", type=int, default=2)
    parser.add_argument("--zssr", default="2", help="scales at which ZSSR is run, too")
    options = parser.parse_args()
    with open_cube(data_folder() / "cubes" / "validation" / "raytrace.mat") as reader:
        cube = np.stack([reader.read(k) for k in range(options.slices)], axis=-1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "cube.npy"
        np.save(source, cube)
        for scale in map(int, options.scales.split(",")):
            methods = {"bicubic": (options.slices, ["--method", "bicubic"])}
            methods |= {"wiener": (options.slices, ["--method", "wiener"])}
            methods |= {"mzsr:10": (options.slices, ["--steps", 10])}
            if str(scale) in options.zssr.split(","):
                methods["zssr"] = (1, ["--method", "zssr"])
            for name, (slices, how) in methods.items():
                rows.append([f"x{scale}", name, *cost(source, scale, slices, *how)])
                print(rows[-1], flush=True)
        small = Path(scratch) / "small.npy"
        np.save(small, np.repeat(cube[:64, :64, :1], 8, axis=2))
        cold = run("upscale", small, "--scale", 2, "-o", Path(scratch) / "s.npy", "-q")[0]
    print(markdown(["scale", "method", "s/slice", "minutes for 150", "peak GiB"], rows))
    print(f"\n64x64x8 at x2 from a cold start: {cold:.1f} s; mzsr --help: {run('--help')[0]:.2f} s")


if __name__ == "__main__":
    main()
