"""What a network may be told beside the starting image: other interpolations, and facts.

Both are known before anything is learned. Guides show where classical interpolations disagree
(aliasing looks different in each of them); facts say how the slice was degraded and how much
error its own spectrum expects (SRMD, Zhang et al., CVPR 2018, conditions on kernels likewise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.imaging.kernels import Kernel
from mzsr_cli.imaging.products import Products
from mzsr_cli.imaging.symmetries import turned
from mzsr_cli.settings import Method, Sampling

FACTS = 8
"""Length of the facts: direct sampling (0, 1); octaves of the scale of rows and of columns from
x2; the kernel's covariance (rows, columns, mixed) in LR pixels squared; decades of the expected
mean-square error from 1e-4, halved; rounded samples (0, 1)."""

_FACT_MAX = 4.0
_OCTAVES_MAX = 2.0


@dataclass(frozen=True)
class Hints:
    """``guides`` (P, K, H, W): other interpolations less the starting image. ``facts`` (FACTS,).
    None where the network does not ask for them."""

    guides: torch.Tensor | None = None
    facts: torch.Tensor | None = None

    def to(self, device: torch.device) -> Hints:
        """The same on another device."""
        guides = None if self.guides is None else self.guides.to(device)
        return Hints(guides, None if self.facts is None else self.facts.to(device))

    def turned(self, which: int) -> Hints:
        """The hints of a slice that was turned by symmetry ``which`` (imaging.symmetries)."""
        guides = None if self.guides is None else turned(self.guides, which)
        return Hints(guides, None if self.facts is None else _turned_facts(self.facts, which))

    def plane(self, index: int) -> Hints:
        """The hints of plane ``index`` alone."""
        if self.guides is None:
            return self
        return replace(self, guides=self.guides[index : index + 1])


def guide_methods(sampling: Sampling) -> tuple[Method, Method]:
    """The interpolations that are shown as guides."""
    other = Method.SPLINE if sampling is Sampling.DIRECT else Method.BANDLIMITED
    return Method.BICUBIC, other


def guides(
    operator: Degradation, y: torch.Tensor, consistency: Consistency, start: torch.Tensor
) -> torch.Tensor:
    """Each of ``guide_methods`` made to explain LR planes y (P, h, w), less ``start`` (P, H, W):
    (P, 2, H, W)."""
    shown = [image.whole() - start for image in guide_images(operator, y, consistency)]
    return torch.stack(shown, 1)


def guide_images(
    operator: Degradation, y: torch.Tensor, consistency: Consistency
) -> tuple[Products, ...]:
    """Each of ``guide_methods`` made to explain LR planes y (P, h, w), not yet evaluated."""
    return tuple(consistency.explained(y, method) for method in guide_methods(operator.sampling))


def kernel_covariance(kernel: Kernel) -> tuple[float, float, float]:
    """Second central moments (rows, columns, mixed) of a kernel, in HR pixels squared."""
    rows, cols = (np.arange(n, dtype=np.float64) for n in kernel.shape)
    weights = kernel / kernel.sum()
    rows = rows - float(weights.sum(1) @ rows)
    cols = cols - float(weights.sum(0) @ cols)
    mixed = float(rows @ weights @ cols)
    return float(weights.sum(1) @ rows**2), float(weights.sum(0) @ cols**2), mixed


def facts(operator: Degradation, expected: float | None, noise: float) -> torch.Tensor:
    """The facts (FACTS,) of a slice degraded by ``operator`` whose starting image is expected to
    have the mean-square error ``expected`` (None: unknown)."""
    rows, cols = operator.scale
    var_rows, var_cols, mixed = kernel_covariance(operator.kernel)
    decades = 0.0 if expected is None else math.log10(max(expected, 1e-12)) + 4
    values = [
        1.0 if operator.sampling is Sampling.DIRECT else 0.0,
        min(math.log2(rows) - 1, _OCTAVES_MAX),
        min(math.log2(cols) - 1, _OCTAVES_MAX),
        var_rows / rows**2,
        var_cols / cols**2,
        mixed / (rows * cols),
        decades / 2,
        1.0 if noise > 0 else 0.0,
    ]
    return torch.tensor(values, device=operator.device).clamp(-_FACT_MAX, _FACT_MAX)


def _turned_facts(known: torch.Tensor, which: int) -> torch.Tensor:
    quarter, mirrored = which % 4, which >= 4
    order = [0, 2, 1, 4, 3, 5, 6, 7] if quarter % 2 else list(range(FACTS))
    changed = known[torch.tensor(order)]  # not a list: tests' device cannot follow that
    if (quarter + mirrored) % 2:
        changed[5] = -changed[5]
    return changed
