"""What a cube of 256x256x150 costs: seconds and peak memory at x2, x4, x8 and x20.

python tests/benchmarks/cost.py [--scales 2,4,8,20] [--zssr 2,4]

Each run is a process of its own on slices of raytrace.mat, in turn, one thread a core. Two runs,
one of twice as many slices: what the second takes longer (once mzsr is loaded) is what its further
slices cost, the rest is start-up, and its memory is that of the cube (memory does not grow with the
number of slices: tests/test_upscale.py). ZSSR is run on one and two slices. Also the time of
``mzsr --help`` and of a
64x64x8 cube from a cold start.
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

SLICES = {2: 16, 4: 16, 8: 4}
"""Slices of the shorter run at each scale; 2 at others."""


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
    out, wall, inside, memory = source.with_name("out.npy"), [0.0, 0.0], [0.0, 0.0], 0.0
    for i, count in enumerate((slices, 2 * slices)):
        wall[i], memory = run(
            "upscale", source, "--scale", scale, "--slices", f"0:{count}", *how,
            "-o", out, "--overwrite", "-q",
        )  # fmt: skip
        inside[i] = json.loads(Path(f"{out}.json").read_text())["seconds"]
        out.unlink()
    each = (inside[1] - inside[0]) / slices
    start = wall[0] - slices * each
    return [f"{each:.2f}", f"{(start + COUNT * each) / 60:.1f}", f"{memory:.2f}"]


def main() -> None:
    """Print the table, then the two start-up times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scales", default="2,4,8,20")
    parser.add_argument("--zssr", default="2", help="scales at which ZSSR is run, too")
    options = parser.parse_args()
    with open_cube(data_folder() / "cubes" / "validation" / "raytrace.mat") as reader:
        slices = [reader.read(k) for k in range(reader.info.shape[2])]
        most = 2 * max(SLICES.values())
        cube = np.stack([slices[k % len(slices)] for k in range(most)], axis=-1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "cube.npy"
        np.save(source, cube)
        for scale in map(int, options.scales.split(",")):
            count = SLICES.get(scale, 2)
            methods = {"bicubic": (count, ["--method", "bicubic"])}
            methods |= {"wiener": (count, ["--method", "wiener"])}
            methods |= {"mzsr:10": (count, ["--steps", 10])}
            if str(scale) in options.zssr.split(","):
                methods["zssr"] = (1, ["--method", "zssr"])
            for name, (few, how) in methods.items():
                rows.append([f"x{scale}", name, *cost(source, scale, few, *how)])
                print(rows[-1], flush=True)
        small = Path(scratch) / "small.npy"
        np.save(small, np.repeat(cube[:64, :64, :1], 8, axis=2))
        cold = run("upscale", small, "--scale", 2, "-o", Path(scratch) / "s.npy", "-q")[0]
    print(markdown(["scale", "method", "s/slice", "minutes for 150", "peak GiB"], rows))
    print(f"\n64x64x8 at x2 from a cold start: {cold:.1f} s; mzsr --help: {run('--help')[0]:.2f} s")


if __name__ == "__main__":
    main()
