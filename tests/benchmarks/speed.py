"""Seconds a 256x256 slice at x2: mzsr with 10 steps beside ZSSR run to its own stop.

The median over the slices of a four-slice cube; ZSSR on the first slice alone.

python tests/benchmarks/speed.py [--side 256] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import data_folder, markdown, mzsr

from mzsr_cli.cubes.open import open_cube
from mzsr_cli.learning.catalog import find
from mzsr_cli.learning.networks import build, parameter_count
from mzsr_cli.learning.weights import load_weights
from mzsr_cli.settings import NetworkSettings


def count(record: dict[str, Any]) -> str:
    """Parameters of the network that a run used, from its provenance."""
    if record["method"] == "zssr":
        return f"{parameter_count(build(NetworkSettings())):,}"
    if record["weights"] is None:
        return ""
    return f"{parameter_count(load_weights(find(record['weights']['name'])).network):,}"


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
    seconds, parameters = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "slice.npy"
        np.save(source, cube)
        runs = {"bicubic": ["--method", "bicubic"], "wiener": ["--method", "wiener"]}
        runs |= {f"mzsr:{n}": ["--steps", n] for n in (0, 1, 10)}
        runs["zssr"] = ["--method", "zssr", "--slices", "0"]
        for name, arguments in runs.items():
            out = Path(scratch) / f"{name.replace(':', '_')}.npy"
            mzsr("upscale", source, "--scale", 2, *arguments, "-o", out, "-q")
            record = json.loads(Path(f"{out}.json").read_text())
            parameters[name] = count(record)
            each = [report["seconds"] for report in record["slice_reports"]]
            seconds[name] = float(np.median(each))
    ten = seconds["mzsr:10"]
    rows = [[n, parameters[n], f"{s:.3f}", f"{s / ten:.2f}"] for n, s in seconds.items()]
    print(markdown(["method", "parameters", "seconds", "relative to mzsr:10"], rows))


if __name__ == "__main__":
    main()
