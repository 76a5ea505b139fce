"""Seconds a 256x256 slice at x2: mzsr with 10 steps beside ZSSR run to its own stop.

The median over the slices of a four-slice cube; ZSSR on the first slice alone.

python tests/benchmarks/speed.py [--side 256] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import data_folder, markdown, mzsr

from mzsr_cli.cubes.open import open_cube


def main() -> None:
    """Print a row a method: seconds of the slice, and its ratio to mzsr:10."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with open_cube(data_folder() / "cubes" / "validation" / "raytrace.mat") as reader:
        sides = slice(0, options.side)
        cube = np.stack([reader.read(k)[sides, sides] for k in range(4)], axis=-1)
    seconds = {}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "slice.npy"
        np.save(source, cube)
        runs = {"bicubic": ["--method", "bicubic"], "wiener": ["--method", "wiener"]}
        runs |= {f"mzsr:{n}": ["--steps", n] for n in (0, 1, 10)}
        runs["zssr"] = ["--method", "zssr", "--slices", "0"]
        for name, arguments in runs.items():
            out = Path(scratch) / f"{name.replace(':', '_')}.npy"
            mzsr("upscale", source, "--scale", 2, *arguments, "-o", out, "-q")
            reports = json.loads(Path(f"{out}.json").read_text())["slice_reports"]
            seconds[name] = float(np.median([report["seconds"] for report in reports]))
    ten = seconds["mzsr:10"]
    rows = [[name, f"{s:.3f}", f"{s / ten:.2f}"] for name, s in seconds.items()]
    print(markdown(["method", "seconds", "relative to mzsr:10"], rows))


if __name__ == "__main__":
    main()
