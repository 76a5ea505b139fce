"""What gradient steps add to the weights: none, on each slice, once for a cube, from a neighbour.

python tests/benchmarks/adapting.py CUBE.mat ... [--scale 2] [--sampling bicubic] [--steps 10]
                                    [--slices 0:12:3] [--weights NAME|PATH]

Prints, for ``mzsr upscale --adapt``, the mean over slices of NMSE in dB, on how many slices that is
better and worse than without steps by 0.02 dB and more, and seconds a slice.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import markdown, mzsr
from cubes import crop, figures

NOTICEABLE = 0.02


def lines(path: Path, options: argparse.Namespace) -> Iterator[list[str]]:
    """A row a mode."""
    how = ("--scale", options.scale, "--sampling", options.sampling)
    with tempfile.TemporaryDirectory() as scratch:
        low, high = Path(scratch) / "low.npy", Path(scratch) / "truth.npy"
        crop(path, options.scale, high)
        mzsr("degrade", high, *how, "-o", low, "-q")
        plain: list[float] = []
        for steps, mode in [(0, "slice"), *((options.steps, m) for m in ("slice", "cube", "warm"))]:
            out = Path(scratch) / "out.npy"
            extra = ("--weights", options.weights) if options.weights else ()
            seconds = mzsr("upscale", low, *how, "--steps", steps, "--adapt", mode, *extra,
                           "--slices", options.slices, "-o", out, "--overwrite", "-q")  # fmt: skip
            each = figures(out, high, options.slices)[1]
            plain = plain or each
            gain = np.array(plain) - each
            counts = f"{np.sum(gain > NOTICEABLE)}/{np.sum(gain < -NOTICEABLE)}" if steps else ""
            name = f"{mode}, {steps} steps" if steps else "none"
            case = f"x{options.scale} {options.sampling}"
            yield [path.stem, case, name, f"{np.mean(each):.2f}", counts,
                   f"{seconds / len(each):.2f}"]  # fmt: skip


def main() -> None:
    """Print a line as it goes, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cubes", nargs="+", type=Path)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--sampling", choices=["bicubic", "direct"], default="bicubic")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--slices", default=":")
    parser.add_argument("--weights")
    options = parser.parse_args()
    rows = []
    for path in options.cubes:
        for row in lines(path, options):
            rows.append(row)
            print(row, flush=True)
    print(markdown(["cube", "case", "adapting", "NMSE dB", "better/worse", "s/slice"], rows))


if __name__ == "__main__":
    main()
