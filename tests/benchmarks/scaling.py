"""Seconds of ``mzsr upscale`` in one process and on 1 to N workers, one thread each.

python tests/benchmarks/scaling.py [--workers 2] [--slices 24] [--side 128] [--steps 10]
                                   [--repeat 3] [CUBE]

Without a CUBE a random smooth one is taken, all of whose slices cost the same. Starting the workers
is not counted, nor a first run on them, in which they import torch. "Speed" is relative to one
worker, "efficiency" is that over their number; best of the repetitions. All results are compared
with that of one process, byte by byte.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from common import markdown

from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.pipeline.workers import local_workers
from mzsr_cli.settings import AdaptSettings, UpscaleSettings


def smooth(side: int, slices: int) -> Any:
    """A random walk along both axes, complex."""
    rng = np.random.default_rng(0)
    shape = (2, side, side, slices)
    real, imaginary = rng.standard_normal(shape).cumsum(1).cumsum(2)
    return (real + 1j * imaginary).astype(np.complex64)


def seconds(source: Path, settings: UpscaleSettings, repeat: int, executor: Any) -> float:
    """Of the quickest of ``repeat`` runs; where there are workers, after one that does not
    count."""
    times = []
    for _ in range(repeat + (executor is not None)):
        begin = time.monotonic()
        upscale_cube(
            source, source.with_name("out.npy"), settings, overwrite=True, executor=executor
        )
        times.append(time.monotonic() - begin)
    return min(times[-repeat:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cube", nargs="?", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = UpscaleSettings(
        scale=(2.0, 2.0),
        adapt=AdaptSettings(steps=options.steps),
        slices=f"0:{options.slices}" if options.cube else None,
    )
    with tempfile.TemporaryDirectory() as scratch:
        source = options.cube or Path(scratch) / "cube.npy"
        if options.cube is None:
            np.save(source, smooth(options.side, options.slices))
        rows = table(source, Path(scratch), settings, options)
    header = ["workers", "seconds", "s/slice", "speed", "efficiency", "same bytes"]
    print(markdown(header, rows))


def table(
    source: Path, scratch: Path, settings: UpscaleSettings, options: argparse.Namespace
) -> list[list[str]]:
    """A row for one process, then one for each number of workers."""
    if source.parent != scratch:
        (scratch / source.name).symlink_to(source.resolve())
        source = scratch / source.name
    out = scratch / "out.npy"
    alone = seconds(source, settings, options.repeat, None)
    wanted = out.read_bytes()
    rows = [["none", f"{alone:.2f}", f"{alone / options.slices:.3f}", "", "", ""]]
    first = 0.0
    for count in range(1, options.workers + 1):
        with local_workers(count) as executor:
            taken = seconds(source, settings, options.repeat, executor)
        first = first or taken
        speed, same = first / taken, out.read_bytes() == wanted
        figures = (f"{taken:.2f}", f"{taken / options.slices:.3f}", f"{speed:.2f}")
        rows.append([str(count), *figures, f"{speed / count:.2f}", "yes" if same else "NO"])
    return rows


if __name__ == "__main__":
    main()
