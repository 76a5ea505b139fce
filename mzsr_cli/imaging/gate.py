"""Spectral gate: how much a slice leaves to predict beyond the LR Nyquist limit."""

from __future__ import annotations

import numpy as np
import torch

from mzsr_cli.imaging.spectra import periodogram
from mzsr_cli.settings import GateSettings


def tail(
    planes: torch.Tensor, axis: int, nyquist: float, settings: GateSettings, every: int = 1
) -> float:
    """RMS that planes (P, H, W) carry along ``axis`` (1 or 2) in the top band below ``nyquist``
    (a fraction of their own), from one line in ``every``. Hann-windowed, so that borders do not
    count as detail."""
    lines = planes[:, :, every // 2 :: every] if axis == 1 else planes[:, every // 2 :: every]
    image = lines.detach().cpu().numpy()
    power = periodogram(image, axis, padding=1)
    at = np.linspace(0, 1, len(power))
    band = (at >= settings.band * nyquist) & (at <= nyquist)
    share = power[band].sum() / (power.sum() or 1.0)
    return float(np.sqrt(share * image.var(dtype=np.float64)))


def trust(tail_rms: float, settings: GateSettings) -> float:
    """Factor in [0, 1] on the network's residual: 1 for tails above ``settings.tail``."""
    return min(1.0, (tail_rms / settings.tail) ** 2) if settings.enabled else 1.0


def slice_trust(planes: torch.Tensor, scale: tuple[float, float], settings: GateSettings) -> float:
    """Trust for planes (P, H, W) that were interpolated by ``scale``: the larger of the axes'.
    One line is looked at for each sample of the other axis, whose lines are that much alike."""
    if not settings.enabled:
        return 1.0
    most = 0.0
    for axis, along, across in ((1, *scale), (2, *scale[::-1])):
        if most < 1:  # nothing is more
            every = max(1, int(across))
            most = max(most, trust(tail(planes, axis, 1 / along, settings, every), settings))
    return most
