"""Blur kernels: 2-D, sum 1, in HR pixels. Gaussian ones are given by *variances*."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mzsr_cli.errors import KernelError, UsageError
from mzsr_cli.settings import KERNEL_SUM_TOLERANCE, KernelDraw

VARIANCE_MAX = 1e4
"""Largest variance of a Gaussian kernel, in HR pixels squared."""

Kernel = NDArray[np.float64]


def delta() -> Kernel:
    """The kernel of no blur, 1 x 1."""
    return np.ones((1, 1))


def gaussian(lambda1: float, lambda2: float | None = None, theta: float = 0.0) -> Kernel:
    """Gaussian kernel with covariance eigenvalues ``lambda1``, ``lambda2`` (variances, HR px^2).

    The first axis of the covariance lies at ``theta`` radians from the column axis (x), towards
    increasing rows. The side is odd and covers 4.5 standard deviations. Shape (k, k), sum 1.

    Raises KernelError for a variance that is not positive and finite.
    """
    lambda2 = lambda1 if lambda2 is None else lambda2
    if not (0 < lambda1 < math.inf and 0 < lambda2 < math.inf and math.isfinite(theta)):
        raise KernelError(
            f"gaussian kernel: variances {lambda1:g}, {lambda2:g} must be positive and finite. "
            "Type --kernel gaussian:2.0 or gaussian:4,1,-0.5 (variances, radians)."
        )
    if max(lambda1, lambda2) > VARIANCE_MAX:
        raise KernelError(
            f"gaussian kernel: variance {max(lambda1, lambda2):g} is over {VARIANCE_MAX:g}. "
            "Type variances in pixels of the fine grid, such as gaussian:2.0."
        )
    radius = max(1, math.ceil(4.5 * math.sqrt(max(lambda1, lambda2))))
    axis = np.arange(-radius, radius + 1, dtype=np.float64)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    along = x * math.cos(theta) + y * math.sin(theta)
    across = y * math.cos(theta) - x * math.sin(theta)
    kernel = np.exp(-0.5 * (along**2 / lambda1 + across**2 / lambda2))
    return kernel / kernel.sum()


def parse_gaussian(text: str) -> Kernel:
    """The kernel of ``gaussian:L``, ``gaussian:L1,L2`` or ``gaussian:L1,L2,THETA``."""
    try:
        numbers = [float(part) for part in text.split(":", 1)[1].split(",")]
    except (IndexError, ValueError):
        numbers = []
    if not 1 <= len(numbers) <= 3:
        raise UsageError(
            f"--kernel {text}: not understood. Type none, gaussian:VARIANCE, "
            "gaussian:VAR1,VAR2,THETA or a .mat/.npy file."
        )
    return gaussian(*numbers)


def checked(array: NDArray[np.generic], name: str) -> Kernel:
    """``array`` as a kernel: real, finite, 2-D, sum 1. Raises KernelError that names ``name``."""
    if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.number):
        raise KernelError(f"{name}: a kernel is a 2-D numeric array, this is {array.shape}.")
    if np.iscomplexobj(array):
        raise KernelError(f"{name}: a kernel is real, this one is complex.")
    kernel = array.astype(np.float64)
    if not np.isfinite(kernel).all():
        raise KernelError(f"{name}: the kernel has NaN or Inf samples.")
    if abs(kernel.sum() - 1) > KERNEL_SUM_TOLERANCE:
        raise KernelError(
            f"{name}: the kernel sums to {kernel.sum():g}, not to 1. "
            "Divide it by its sum and save it again."
        )
    return kernel / kernel.sum()


def random_blur(rng: np.random.Generator, scale: float, draw: KernelDraw) -> Kernel:
    """One Gaussian of the training distribution (MZSR section 4.1, widened; see KernelDraw)."""
    if rng.random() * draw.blurred_fraction < draw.published_fraction:
        low, high = 1.0, max(1.0, draw.variance_max_per_scale * scale)
    else:
        low, high = draw.narrow_min, draw.narrow_max
    lambda1 = rng.uniform(low, high)
    lambda2 = lambda1 if rng.random() < draw.isotropic_fraction else rng.uniform(low, lambda1)
    return gaussian(lambda1, lambda2, rng.uniform(0, math.pi))


def shrunk(kernel: Kernel, factor: float) -> Kernel:
    """The kernel seen on a grid that is ``factor`` times coarser (variances / factor^2).

    A kernel of HR pixels acts on the grid of an earlier stage as its samples, accumulated into
    the coarser pixels by linear weights (which add up to 1/6 px^2 of variance). ``factor`` 1
    returns the kernel itself.
    """
    if factor <= 1 + 1e-9 or kernel.size == 1:
        return kernel
    rows, cols = (_pooling(side, factor) for side in kernel.shape)
    coarse = rows @ kernel @ cols.T
    return coarse / coarse.sum()


def _pooling(side: int, factor: float) -> NDArray[np.float64]:
    """Linear accumulation of ``side`` centred taps into taps ``factor`` apart: (odd, side)."""
    centre = (side - 1) // 2
    at = (np.arange(side) - centre) / factor
    reach = max(1, math.ceil(np.abs(at).max()))
    taps = np.arange(-reach, reach + 1)
    return np.maximum(0.0, 1 - np.abs(at[None, :] - taps[:, None]))
