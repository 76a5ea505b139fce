"""Spectral gate: how much a slice leaves to predict beyond the LR Nyquist limit."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from mzsr_cli.settings import GateSettings


def band_table(image: NDArray[np.floating], bins: int = 256) -> NDArray[np.float64]:
    """Cumulative energy of an image's DCT-II by max-norm frequency: (bins + 1,), in pixel^2.

    Entry b is the mean-square value carried by cosines whose larger normalised frequency
    (1 = the image's Nyquist limit) is below b / bins.
    """
    spectrum = fft.dctn(np.asarray(image, dtype=np.float64), norm="ortho") ** 2 / image.size
    rows = np.arange(image.shape[0]) / image.shape[0]
    cols = np.arange(image.shape[1]) / image.shape[1]
    radius = np.maximum(rows[:, None], cols[None, :])
    bin_of = np.minimum((radius * bins).astype(int), bins - 1)
    energy = np.bincount(bin_of.ravel(), weights=spectrum.ravel(), minlength=bins)
    return np.concatenate([[0.0], np.cumsum(energy)])


def tail(table: NDArray[np.float64], nyquist: float, settings: GateSettings) -> float:
    """RMS that an image carries in the top band below ``nyquist`` (a fraction of its own)."""
    at = np.linspace(0, 1, len(table))
    low, high = np.interp([settings.band * nyquist, nyquist], at, table)
    return float(np.sqrt(max(0.0, high - low)))


def trust(tail_rms: float, settings: GateSettings) -> float:
    """Factor in [0, 1] on the network's residual: 1 for tails above ``settings.tail``."""
    return min(1.0, tail_rms / settings.tail) if settings.enabled else 1.0


def slice_trust(
    planes: torch.Tensor, scale: tuple[float, float], settings: GateSettings
) -> float:
    """Trust for a stack of planes (..., H, W) that was interpolated by ``scale``."""
    if not settings.enabled:
        return 1.0
    stack = planes.reshape(-1, *planes.shape[-2:]).cpu().double().numpy()
    nyquist = 1 / max(scale)
    return max(trust(tail(band_table(plane), nyquist, settings), settings) for plane in stack)
