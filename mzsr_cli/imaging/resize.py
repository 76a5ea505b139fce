"""Interpolation and decimation as one matrix per axis, float64, on the grid the sampling implies.

An image ``x`` of H x W becomes ``rows @ x @ cols.T``. Three families: Keys' cubic with MATLAB's
``imresize`` conventions (a = -0.5, symmetric borders), the cubic B-spline, and band-limited
(cosine series). Positions are counted in pixels of the input, the first pixel's centre being 0.

Sources: R. Keys, "Cubic convolution interpolation", 1981; M. Unser, "Splines: a perfect fit",
1999; MATLAB's documentation of ``imresize``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from mzsr_cli.settings import Sampling

Matrix = NDArray[np.float64]


def enlarged(n: int, scale: float) -> int:
    """Side of an axis of ``n`` samples after scaling: ceil(n * scale), as MATLAB's imresize."""
    return max(1, math.ceil(round(n * scale, 9)))


def reduced(n: int, scale: float) -> int:
    """Side of an axis of ``n`` samples after decimation: ceil(n / scale)."""
    return max(1, math.ceil(round(n / scale, 9)))


def positions(n_hr: int, scale: float, sampling: Sampling) -> Matrix:
    """LR coordinates of the ``n_hr`` HR samples.

    ``direct`` keeps sample 0, so HR i sits at LR i / scale; ``bicubic`` is centred on pixels,
    so HR i sits at LR (i + 0.5) / scale - 0.5.
    """
    index = np.arange(n_hr, dtype=np.float64)
    if sampling is Sampling.DIRECT:
        return index / scale
    return (index + 0.5) / scale - 0.5


def _keys(t: Matrix) -> Matrix:
    """Keys' cubic with a = -0.5; support [-2, 2]."""
    t = np.abs(t)
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t <= 1, near, np.where(t <= 2, far, 0.0))


def symmetric(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Half-sample symmetric extension (period 2n): ... 1 0 | 0 1 ... n-1 | n-1 ..."""
    index = np.mod(index, 2 * n)
    return np.where(index < n, index, 2 * n - 1 - index)


def _mirror(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Whole-sample symmetric extension (period 2n - 2): ... 2 1 | 0 1 ... n-1 | n-2 ..."""
    if n == 1:
        return np.zeros_like(index)
    index = np.mod(index, 2 * n - 2)
    return np.where(index < n, index, 2 * n - 2 - index)


def _scatter(index: NDArray[np.int64], weight: Matrix, n: int) -> Matrix:
    """Dense (rows, n) matrix from tap indices and weights of shape (rows, taps)."""
    matrix = np.zeros((index.shape[0], n))
    rows = np.broadcast_to(np.arange(index.shape[0])[:, None], index.shape)
    np.add.at(matrix, (rows, index), weight)
    return matrix


def _cubic_taps(n: int, at: Matrix, stretch: float) -> tuple[NDArray[np.int64], Matrix]:
    """Indices (with symmetric borders) and weights of Keys' cubic, both (len(at), taps)."""
    taps = math.ceil(4 * stretch) + (2 if stretch > 1 else 0)
    first = np.floor(at - 2 * stretch).astype(np.int64) + (stretch == 1)
    index = first[:, None] + np.arange(taps)
    weight = _keys((at[:, None] - index) / stretch)
    weight /= weight.sum(1, keepdims=True)
    return symmetric(index, n), weight


def cubic_matrix(n: int, at: Matrix, stretch: float = 1.0) -> Matrix:
    """Keys interpolation of ``n`` samples at positions ``at``, (len(at), n).

    ``stretch`` >= 1 widens the kernel by that factor: MATLAB's antialiasing for reductions.
    """
    return _scatter(*_cubic_taps(n, at, stretch), n)


def cubic_resample(image: torch.Tensor, rows: Matrix, cols: Matrix) -> torch.Tensor:
    """Keys interpolation of (..., h, w) at row and column positions, without dense matrices."""
    taps = [_cubic_taps(n, at, 1.0) for n, at in zip(image.shape[-2:], (rows, cols), strict=True)]
    for axis, (index, _) in zip((-2, -1), taps, strict=True):
        image = image.narrow(axis, int(index.min()), int(np.ptp(index)) + 1)
    for axis, (index, weight) in zip((-2, -1), taps, strict=True):
        image = _weighted(image, axis, index - index.min(), weight)
    return image


def _weighted(
    image: torch.Tensor, axis: int, index: NDArray[np.int64], weight: Matrix
) -> torch.Tensor:
    """Weighted sums of the samples of (..., h, w) along ``axis`` (-2 or -1); index and weight are
    (n, taps)."""
    which = torch.as_tensor(index, device=image.device)
    factor = torch.as_tensor(weight).to(image)
    factor = factor[..., None] if axis == -2 else factor
    total = image.index_select(axis, which[:, 0]) * factor[:, 0]
    for tap in range(1, index.shape[1]):
        total.addcmul_(image.index_select(axis, which[:, tap]), factor[:, tap])
    return total


def antialiased_matrix(n_hr: int, n_lr: int, scale: float) -> Matrix:
    """MATLAB's ``imresize`` reduction by ``scale``: (n_lr, n_hr)."""
    at = (np.arange(n_lr, dtype=np.float64) + 0.5) * scale - 0.5
    return cubic_matrix(n_hr, at, max(1.0, scale))


def decimation_matrix(n_hr: int, n_lr: int, scale: float, sampling: Sampling) -> Matrix:
    """How the (already blurred) HR axis is sampled: (n_lr, n_hr).

    ``direct`` picks samples 0, s, 2s, ...; between samples (fractional s) by Keys' cubic.
    """
    if sampling is Sampling.BICUBIC:
        return antialiased_matrix(n_hr, n_lr, scale)
    return cubic_matrix(n_hr, np.arange(n_lr, dtype=np.float64) * scale)


def bicubic_matrix(n_lr: int, n_hr: int, scale: float, sampling: Sampling) -> Matrix:
    """Cubic interpolation LR to HR on the right grid: (n_hr, n_lr)."""
    return cubic_matrix(n_lr, positions(n_hr, scale, sampling))


def spline_matrix(n_lr: int, n_hr: int, scale: float, sampling: Sampling) -> Matrix:
    """Cubic B-spline interpolation LR to HR on the right grid: (n_hr, n_lr).

    Borders: whole-sample mirror for ``direct``, half-sample symmetric for ``bicubic`` sampling.
    """
    direct = sampling is Sampling.DIRECT
    if n_lr == 1:
        return np.ones((n_hr, 1))
    at = positions(n_hr, scale, sampling)
    first = np.floor(at).astype(np.int64) - 1
    index = first[:, None] + np.arange(4)
    t = np.abs(at[:, None] - index)
    weight = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6)
    extend = _mirror if direct else symmetric
    sample = _scatter(extend(index, n_lr), weight, n_lr)
    border = "mirror" if direct else "reflect"
    coefficients = ndimage.spline_filter1d(np.eye(n_lr), order=3, axis=0, mode=border)
    return product(sample, coefficients)


def cosine_basis(n_lr: int, at: Matrix, sampling: Sampling) -> Matrix:
    """The n_lr cosines of the DCT that fits the sampling, at LR positions ``at``: (len(at), n_lr).

    DCT-II (half-sample symmetric) for ``bicubic`` sampling, DCT-I for ``direct``.
    """
    k = np.arange(n_lr)
    if sampling is Sampling.DIRECT:
        return np.cos(np.pi * k * at[:, None] / max(1, n_lr - 1))
    return np.cos(np.pi * k * (at[:, None] + 0.5) / n_lr)


def analysis_matrix(n_lr: int, sampling: Sampling) -> Matrix:
    """Cosine coefficients of n_lr samples, the inverse of :func:`cosine_basis`: (n_lr, n_lr)."""
    k = np.arange(n_lr)
    basis = cosine_basis(n_lr, k.astype(np.float64), sampling)
    if sampling is Sampling.DIRECT:
        weight = np.full(n_lr, 2.0 / max(1, n_lr - 1))
        if n_lr == 1:
            return np.ones((1, 1))
        ends = np.ones(n_lr)
        ends[[0, -1]] = 0.5
        return (weight * ends)[:, None] * basis.T * ends[None, :]
    weight = np.where(k == 0, 1.0, 2.0) / n_lr
    return weight[:, None] * basis.T


def bandlimited_matrix(
    n_lr: int, n_hr: int, scale: float, sampling: Sampling, reduction: Matrix, damping: float
) -> Matrix:
    """Band-limited interpolation LR to HR: (n_hr, n_lr).

    Cosine series through the LR samples, evaluated on the right grid, each coefficient divided
    by the response that ``reduction`` (n_lr, n_hr: blur and decimation of this axis) has to its
    cosine; ``damping`` keeps the division finite (Wiener form h / (h^2 + damping)).
    """
    basis = cosine_basis(n_lr, positions(n_hr, scale, sampling), sampling)
    analysis = analysis_matrix(n_lr, sampling)
    response = np.einsum("kn,nk->k", product(analysis, reduction), basis)
    gain = response / (response**2 + damping) * (1 + damping)
    return product(basis * gain, analysis)


def lowpassed(image: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    """Image (..., H, W) without what a grid of ``sides`` (h, w) cannot carry: the cosines (DCT-II)
    from h and w on are left out."""
    rows, cols = (
        as_matrix(_lowpass_matrix(n, kept), image)
        for n, kept in zip(image.shape[-2:], sides, strict=True)
    )
    return separable(image, rows, cols)


def _lowpass_matrix(n: int, kept: int) -> Matrix:
    """Projection of n samples on their first ``kept`` cosines: (n, n)."""
    basis = cosine_basis(n, np.arange(n, dtype=np.float64), Sampling.BICUBIC)
    return product(basis[:, :kept], analysis_matrix(n, Sampling.BICUBIC)[:kept])


def product(left: Matrix, right: Matrix) -> Matrix:
    """The product of two float64 matrices, with torch's number of threads: numpy's own product has
    as many as there are processors, and its last bits depend on them."""
    return np.asarray((torch.from_numpy(left) @ torch.from_numpy(right)).numpy())


def separable(image: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """``rows @ image @ cols.T`` over the last two axes (..., H, W)."""
    return rows @ image @ cols.mT


def as_matrix(matrix: Matrix, like: torch.Tensor) -> torch.Tensor:
    """A float64 axis matrix in the dtype and on the device of ``like``."""
    return torch.as_tensor(matrix).to(dtype=like.dtype, device=like.device)
