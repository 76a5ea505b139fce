"""Total-variation reconstruction with a known degradation: the classical floor of the benchmark.

FISTA (Beck and Teboulle, "A fast iterative shrinkage-thresholding algorithm", 2009) with the
operator of this package; its proximal step is scikit-image's (Chambolle, "An algorithm for total
variation minimization", 2004), imported when asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from mzsr_cli.errors import UsageError
from mzsr_cli.imaging.degrade import Degradation, largest_eigenvalue
from mzsr_cli.settings import Method, TvSettings


def denoiser() -> Callable[..., Any]:
    """scikit-image's ``denoise_tv_chambolle``. Raises UsageError where it is not installed."""
    try:
        from skimage.restoration import denoise_tv_chambolle
    except ImportError as error:
        raise UsageError(
            "--method tv: needs scikit-image, which is not installed. Type "
            "pip install 'mzsr[benchmark]', or leave --method tv out."
        ) from error
    found: Callable[..., Any] = denoise_tv_chambolle
    return found


def variation(x: torch.Tensor) -> torch.Tensor:
    """Isotropic total variation of each plane (P, H, W), forward differences, x's units: (P,)."""
    down, right = torch.zeros_like(x), torch.zeros_like(x)
    down[:, :-1] = x.diff(dim=1)
    right[:, :, :-1] = x.diff(dim=2)
    return torch.hypot(down, right).sum((1, 2))


def objective(
    operator: Degradation, y: torch.Tensor, x: torch.Tensor, weight: float
) -> torch.Tensor:
    """|A x - y|^2 / 2 + ``weight`` TV(x) of each plane, y (P, h, w) and x (P, H, W): (P,)."""
    return (operator.apply(x) - y).square().sum((1, 2)) / 2 + weight * variation(x)


def denoised(x: torch.Tensor, weight: float, settings: TvSettings) -> torch.Tensor:
    """argmin_u |u - x|^2 / 2 + ``weight`` TV(u) of each plane (P, H, W), Chambolle's iterations."""
    planes = [
        denoiser()(
            plane,
            weight=weight,
            eps=settings.tolerance,
            max_num_iter=settings.proximal_iterations,
        )
        for plane in x.cpu().numpy()
    ]
    return torch.stack([torch.from_numpy(plane) for plane in planes]).to(x)


def total_variation(
    operator: Degradation, y: torch.Tensor, settings: TvSettings, weight: float | None = None
) -> torch.Tensor:
    """LR planes (P, h, w) to HR (P, H, W): the minimiser of :func:`objective`, by FISTA from the
    cubic B-spline. ``weight`` None is that of the settings, for planes in [0, 1].

    Steps are 1 / L, L the largest eigenvalue of A^T A. Raises UsageError (no scikit-image).
    """
    weight = settings.weight if weight is None else weight
    step = 1 / largest_eigenvalue(operator)
    x = point = operator.interpolate(y, Method.SPLINE, 0.0)
    t = 1.0
    for _ in range(settings.iterations):
        # 1. Gradient step of the misfit (4.1), then the proximal step of the variation.
        descended = point - step * operator.adjoint(operator.apply(point) - y)
        found = denoised(descended, step * weight, settings)
        # 2. Momentum (4.2, 4.3).
        following = (1 + math.sqrt(1 + 4 * t**2)) / 2
        point = found + (t - 1) / following * (found - x)
        x, t = found, following
    return x
