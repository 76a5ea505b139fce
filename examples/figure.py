"""LR, interpolation, SR, truth and errors of one slice, side by side, as a PNG.

python examples/figure.py LR.mat INTERPOLATED.mat SR.mat TRUTH.mat OUT.png [SLICE]
"""

from __future__ import annotations

import sys

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from mzsr_cli.cubes.open import open_cube
from mzsr_cli.imaging.metrics import nmse


def slice_of(path: str, k: int) -> np.ndarray:
    """Slice ``k`` of a cube file, (H, W)."""
    with open_cube(path) as reader:
        return reader.read(k)


def main() -> None:
    """Draw the figure that the command line names."""
    k = int(sys.argv[6]) if len(sys.argv) > 6 else 1
    lr, interpolated, sr, truth = (slice_of(path, k) for path in sys.argv[1:5])
    top = float(np.abs(truth).max())
    error_top = float(np.abs(interpolated - truth).max())
    panels = [
        (f"LR {lr.shape[0]}x{lr.shape[1]}", np.abs(lr), "viridis", top),
        (f"cubic, NMSE {nmse(interpolated, truth):.1f} dB", np.abs(interpolated), "viridis", top),
        (f"mzsr, NMSE {nmse(sr, truth):.1f} dB", np.abs(sr), "viridis", top),
        ("truth", np.abs(truth), "viridis", top),
        ("error of cubic", np.abs(interpolated - truth), "magma", error_top),
        ("error of mzsr", np.abs(sr - truth), "magma", error_top),
    ]
    figure, axes = plt.subplots(1, 6, figsize=(18, 3.4), constrained_layout=True)
    for axis, (title, image, colours, limit) in zip(axes, panels, strict=True):
        axis.imshow(image, cmap=colours, vmin=0, vmax=limit, interpolation="nearest")
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    figure.savefig(sys.argv[5], dpi=110)


if __name__ == "__main__":
    main()
