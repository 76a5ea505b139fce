"""Distributions of a slice's values, before and after its range is mapped to [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mzsr_cli.imaging.normalize import planes_of, slice_range
from mzsr_cli.settings import Normalize

Shares = NDArray[np.float64]
"""(planes, bins): the share of a slice's finite samples in each bin, NaN where it has none."""


def finite_planes(image: NDArray[Any]) -> NDArray[np.float64]:
    """The finite samples of a slice (H, W), as (P, n): P is 2 (real, imaginary) when complex. A
    sample counts only where it is finite in both."""
    finite = np.isfinite(image)
    return planes_of(image)[:, finite]


def shares(planes: NDArray[np.float64], limits: tuple[float, float], bins: int) -> Shares:
    """Shares of samples (P, n) in equal bins between ``limits``, of each plane."""
    if planes.shape[1] == 0:
        return np.full((len(planes), bins), np.nan)
    counts = [np.histogram(values, bins, limits)[0] for values in planes]
    return np.stack(counts) / planes.shape[1]


def expanded_shares(planes: NDArray[np.float64], bins: int) -> Shares:
    """Shares of samples (P, n) in [0, 1], after the map that both planes share (imaging.normalize).
    NaN where there are no samples, or all are one constant: such slices have no range."""
    if planes.size == 0:
        return shares(planes, (0.0, 1.0), bins)
    mapping = slice_range(planes, Normalize.SLICE)
    if mapping.span == 0:
        return np.full((len(planes), bins), np.nan)
    return shares(mapping.forward(planes), (0.0, 1.0), bins)
