"""Interference fields, and how they are sampled, for tests."""

from __future__ import annotations

import numpy as np
import torch

from mzsr_cli.imaging import degrade, kernels, metrics
from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.settings import ConsistencySettings, Sampling

SHAPE = (148, 124)


def interference(rng: np.random.Generator, top: float) -> torch.Tensor:
    """|p| of twelve complex plane waves, per-axis frequencies below ``top`` rad/pixel."""
    rows, cols = (np.arange(n) for n in SHAPE)
    field = np.zeros(SHAPE, complex)
    for _ in range(12):
        k_row, k_col = rng.uniform(-top, top, 2)
        field += rng.normal() * np.exp(1j * (k_row * rows[:, None] + k_col * cols))
    return torch.from_numpy(np.abs(field))[None]


def known(
    sampling: Sampling, scale: float = 2.0, kernel: kernels.Kernel | None = None
) -> tuple[Degradation, Consistency]:
    kernel = kernels.delta() if kernel is None else kernel
    op = degrade.degradation(kernel, sampling, (scale, scale), SHAPE, dtype=torch.float64)
    return op, Consistency(op, ConsistencySettings())


def error(image: torch.Tensor, truth: torch.Tensor) -> float:
    return metrics.nmse(image[0].numpy(), truth[0].numpy())
