"""Whole numbers: what rounding has added to a slice's means, and how to take most of it out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage

from mzsr_cli.settings import RoundingSettings


def unrounded(y: torch.Tensor, noise: float, settings: RoundingSettings) -> torch.Tensor:
    """LR planes (P, h, w) that were rounded, nearer to what they were before.

    Rounding adds white noise of a known standard deviation, ``noise`` in units of the planes; 0
    leaves them alone. Where neighbours have the same value it adds none: the noise is that of the
    others. Each coefficient of the 2-D cosine transform is multiplied by 1 - noise^2 / p
    (0 at least), p the mean power around it: the Wiener gain of a signal in white noise whose
    spectrum is read from the slice itself.
    """
    if noise <= 0 or not settings.enabled:
        return y
    planes = y.detach().cpu().double().numpy()
    variance = noise**2 * _changing(planes)
    if variance == 0:
        return y
    mean = planes.mean((1, 2), keepdims=True)
    found = fft.dctn(planes - mean, axes=(1, 2), norm="ortho")
    size = (1, settings.window, settings.window)
    power = ndimage.uniform_filter(found**2, size, mode="reflect")
    gain = 1 - variance / np.maximum(power, variance)
    return torch.from_numpy(mean + fft.idctn(found * gain, axes=(1, 2), norm="ortho")).to(y)


def _changing(planes: NDArray[np.float64]) -> float:
    """Share of the samples of planes (P, h, w) that differ from one of their neighbours."""
    differs = np.zeros(planes.shape, bool)
    down, right = planes[:, 1:] != planes[:, :-1], planes[:, :, 1:] != planes[:, :, :-1]
    differs[:, 1:] |= down
    differs[:, :-1] |= down
    differs[:, :, 1:] |= right
    differs[:, :, :-1] |= right
    return float(differs.mean())
