"""What shortcuts save and cost: each is taken back alone.

python tests/benchmarks/savings.py CUBE.mat ... [--scale 2] [--slices 0:12:3] [--threads 1]

LR cubes are made by ``mzsr degrade``. A row a cube and shortcut: seconds a slice without it in
those with it, and by how many dB (mean over the slices, and the largest of any) the result with it
is behind the one without.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import markdown, mzsr
from cubes import crop, figures

from mzsr_cli.imaging import banded
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import Precision, UpscaleSettings

WHOLE = sys.maxsize


def without(shortcut: str, known: UpscaleSettings) -> UpscaleSettings:
    """The settings that take a shortcut back."""
    if shortcut == "bf16 convolutions":
        return replace(known, precision=Precision.FP32)
    if shortcut == "steps on the most detailed 96x96":
        return replace(known, adapt=replace(known.adapt, window=WHOLE))
    if shortcut == "check on the most detailed 128x128":
        return replace(known, check=replace(known.check, window=WHOLE))
    if shortcut == "48 rounds of bounds":
        return replace(known, bounds=replace(known.bounds, rounds=256, enough=0.0))
    return known


SHORTCUTS = (
    "bf16 convolutions",
    "steps on the most detailed 96x96",
    "check on the most detailed 128x128",
    "48 rounds of bounds",
    "zeros left out of products",
)


@contextmanager
def dense(wanted: bool) -> Iterator[None]:
    """Take every matrix whole."""
    before = banded.WORTHWHILE
    banded.WORTHWHILE = -1.0 if wanted else before
    try:
        yield
    finally:
        banded.WORTHWHILE = before


def solved(
    low: Path, high: Path, settings: UpscaleSettings, whole: bool = False
) -> tuple[float, np.ndarray]:
    """Seconds a slice after the first of at least two, and each slice's NMSE in dB."""
    ticks: list[float] = []
    out = low.with_name("out.npy")
    with dense(whole):
        upscale_cube(
            low, out, settings, overwrite=True, on_slice=lambda *_: ticks.append(time.monotonic())
        )
    if len(ticks) < 2:
        sys.exit("--slices: at least two are needed.")
    seconds = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    return seconds, np.array(figures(out, high, settings.slices or ":")[1])


def rows(path: Path, options: argparse.Namespace) -> Iterator[list[str]]:
    """A row a shortcut."""
    factor = float(options.scale)
    known = UpscaleSettings(scale=(factor, factor), slices=options.slices)
    with tempfile.TemporaryDirectory() as scratch:
        low, high = Path(scratch) / "low.npy", Path(scratch) / "truth.npy"
        crop(path, options.scale, high)
        mzsr("degrade", high, "--scale", options.scale, "-o", low, "-q")
        for shortcut in SHORTCUTS:
            seconds, each = solved(low, high, known)
            whole = shortcut == "zeros left out of products"
            longer, better = solved(low, high, without(shortcut, known), whole)
            behind = each - better
            yield [f"{path.stem} x{options.scale}", shortcut, f"{longer / seconds:.2f}",
                   f"{behind.mean():+.3f}", f"{behind.max():+.3f}"]  # fmt: skip


def main() -> None:
    """Print a line as it goes, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cubes", nargs="+", type=Path)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--slices", default="0:12:3")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = []
    for path in options.cubes:
        for row in rows(path, options):
            found.append(row)
            print(row, flush=True)
    header = ["cube", "shortcut", "seconds without / with", "dB behind, mean", "dB behind, at most"]
    print(markdown(header, found))


if __name__ == "__main__":
    main()
