"""Optimal linear interpolation of a slice from its own spectra (Wiener, kriging).

With covariance C of an axis (imaging.spectra) and reduction R, the interpolator is the conditional
mean C R^T (R C R^T + mu I)^-1. No assumption is made about what lies beyond the borders, which is
where cosine series and splines lose most on oversampled wave fields (README, design notes).

Source: N. Wiener, "Extrapolation, interpolation and smoothing of stationary time series", 1949;
G. Matheron, "Principles of geostatistics", 1963 (ordinary kriging: unknown constant mean).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import sparse

from mzsr_cli.imaging.spectra import Array, Spectrum, covariance
from mzsr_cli.settings import WienerSettings


@dataclass(frozen=True)
class AxisFilter:
    """Interpolator of one axis, (n_hr, n_lr), float64 or complex128, and the share of the HR
    variance that the model expects it to explain, 0 to 1."""

    matrix: torch.Tensor
    explained: float


class Reduction:
    """One axis' degradation (n_lr, n_hr), unit gain at DC, and what every filter needs of it.

    ``mirrored``: it stays what it is when both axes are, as after antialiased sampling; then so do
    all the matrices made with it, of which the upper ``rows`` are enough.
    """

    def __init__(self, matrix: Array) -> None:
        self.n_lr, self.n_hr = matrix.shape
        self.matrix = matrix
        self.sums = torch.from_numpy(matrix.sum(1, keepdims=True))
        self.mirrored = bool(np.allclose(matrix, matrix[::-1, ::-1], rtol=0, atol=1e-14))
        self.rows = (self.n_lr + 1) // 2 if self.mirrored else self.n_lr
        self._responses: dict[int, Array] = {}

    @cached_property
    def _taps(self) -> sparse.csr_array:
        return sparse.csr_array(self.matrix)

    @cached_property
    def _waves(self) -> torch.Tensor:
        """Transforms of the upper rows."""
        upper = torch.from_numpy(np.ascontiguousarray(self.matrix[: self.rows]))
        return torch.fft.rfft(upper, 2 * self.n_hr)

    def response(self, bins: int) -> Array:
        """Squared response of the middle row at ``bins`` frequencies 0 to HR Nyquist."""
        if bins not in self._responses:
            taps = self.matrix[self.n_lr // 2]
            period = 2 * (bins - 1)
            support = np.flatnonzero(taps)
            folded = np.bincount((support - support[0]) % period, taps[support], period)
            self._responses[bins] = np.abs(np.fft.rfft(folded)) ** 2
        return self._responses[bins]

    def cross(self, lags: torch.Tensor) -> torch.Tensor:
        """The upper rows of R C, (rows, n_hr), for the covariance ``lags`` (n_hr): products with a
        symmetric Toeplitz matrix, by circulants. All of them (n_lr, n_hr) for complex lags."""
        if lags.is_complex():
            return self._two_sided_cross(lags)
        circle = torch.cat([lags, lags.new_zeros(1), lags[1:].flip(0)])
        return self._circulated(torch.fft.rfft(circle).real)

    def _circulated(self, spectrum: torch.Tensor) -> torch.Tensor:
        """The upper rows times the circulant of a (half) ``spectrum``, (rows, n_hr)."""
        return torch.fft.irfft(self._waves * spectrum, 2 * self.n_hr)[:, : self.n_hr]

    def _two_sided_cross(self, lags: torch.Tensor) -> torch.Tensor:
        """The same for complex ``lags``: their even part gives the real part, the odd one the
        imaginary one, and mirroring both axes the conjugate."""
        even = self.cross(lags.real.contiguous())
        odd = torch.cat([-lags.imag, lags.imag.new_zeros(1), lags.imag[1:].flip(0)])
        upper = torch.complex(even, self._circulated(torch.fft.rfft(odd)))
        if not self.mirrored:
            return upper
        return torch.cat([upper, upper[: self.n_lr - self.rows].flip(0, 1).conj()])

    def gram(self, turned: torch.Tensor) -> torch.Tensor:
        """Rows of R C R^T, (r, n_lr), from as many of R C, ``turned`` (n_hr, r)."""
        return torch.from_numpy(np.ascontiguousarray((self._taps @ turned.numpy()).T))

    def summed(self, upper: torch.Tensor) -> float:
        """The sum over all rows of what is the same when mirrored, from the sums (rows,) of the
        upper ones."""
        total = float(upper.sum())
        return 2 * total - float(upper[-1]) * (self.n_lr % 2) if self.mirrored else total


def axis_filter(spectrum: Spectrum, reduction: Reduction, settings: WienerSettings) -> AxisFilter:
    """The Wiener filter of one axis for an HR power ``spectrum`` (imaging.spectra).

    An empty spectrum gives the interpolator of a constant.
    """
    n_lr, n_hr = reduction.n_lr, reduction.n_hr
    if spectrum.empty:
        return AxisFilter(torch.full((n_hr, n_lr), 1.0 / n_lr, dtype=torch.float64), 1.0)
    turned = reduction.cross(torch.from_numpy(covariance(spectrum, n_hr))).mT.contiguous()
    gram = reduction.gram(turned)
    whole = len(gram) == n_lr
    diagonal = gram.diagonal()
    trace = float(diagonal.real.sum()) if whole else reduction.summed(diagonal)
    diagonal.add_(settings.damping * trace / n_lr)
    solve = _solved if whole else _solved_by_halves
    plain, constant = solve(gram, turned, reduction.sums[:, 0])
    found = (plain[:, : len(gram)].conj() * turned).real.sum(0)
    explained = (float(found.sum()) if whole else reduction.summed(found)) / n_hr
    return AxisFilter(
        _with_mean(plain, constant, reduction.sums[:, 0], settings), min(1.0, explained)
    )


def _solved(
    gram: torch.Tensor, turned: torch.Tensor, ones: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gram``^-1 of each row of ``turned`` (m, n) and of ``ones`` (n,): (m, n) and (n,). Not by
    the inverse, which is faster: errors of 1e-8 in what is explained decide between starts at
    -80 dB. Rows of right-hand sides are what LAPACK takes as columns without copies."""
    factor = torch.linalg.cholesky(gram)
    sides = torch.cat([turned, ones.to(turned)[None]])
    solved = torch.cholesky_solve(sides.mT, factor).mT
    return solved[:-1], solved[-1]


def _solved_by_halves(
    gram: torch.Tensor, turned: torch.Tensor, ones: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where all stay what they are when every axis is mirrored, from the upper half of
    ``gram`` and the left one of ``turned`` (with the middle): even and odd parts are solved apart,
    of half of the rows of ``turned`` (the others are these, mirrored): a quarter of the work
    (Cantoni and Butler, 1976, centrosymmetric systems)."""
    n, m = gram.shape[1], len(turned)
    half, wanted = n // 2, (m + 1) // 2
    root = 0.5**0.5
    top, bottom = turned[:wanted, :half], turned[m - wanted :, :half].flip(0)
    same, other = gram[:half, :half], gram[:half, n - half :].flip(1)
    odd, _ = _solved(same - other, (top - bottom) * root, ones[:half])
    even_gram, even_right = same + other, (top + bottom) * root
    even_ones = 2 * root * ones[:half]
    if n % 2:
        middle = gram[half, :half] / root
        even_gram = torch.cat([even_gram, middle[None]])
        column = torch.cat([middle, gram[half, half][None]])
        even_gram = torch.cat([even_gram, column[:, None]], 1)
        even_right = torch.cat([even_right, turned[:wanted, half : half + 1]], 1)
        even_ones = torch.cat([even_ones, ones[half : half + 1]])
    even, constant = _solved(even_gram, even_right, even_ones)
    found, sums = turned.new_empty(m, n), turned.new_empty(n)
    torch.mul(even[:, :half] + odd, root, out=found[:wanted, :half])
    found[:wanted, n - half :] = ((even[:, :half] - odd) * root).flip(1)
    found[:wanted, half : n - half] = even[:, half:]
    found[wanted:] = found[: m - wanted].flip(0, 1)
    sums[:half] = constant[:half] * root
    sums[n - half :] = sums[:half].flip(0)
    sums[half : n - half] = constant[half:]
    return found, sums


def _with_mean(
    plain: torch.Tensor, constant: torch.Tensor, ones: torch.Tensor, settings: WienerSettings
) -> torch.Tensor:
    """The filter when the process has an unknown mean of variance m, (n_hr, n_lr).

    ``plain`` is (G^-1 R C)^T (n_hr, n_lr) without one, ``constant`` G^-1 r for r = R 1 = ``ones``;
    the mean adds m r r^T to G and m r 1^T to R C (Sherman and Morrison, 1950). In the place of
    ``plain``.
    """
    m, r = settings.mean_variance, ones.to(plain)
    missing = m * (1 - plain @ r) / (1 + m * float((r @ constant).real))
    return plain.addr_(missing, constant).conj().resolve_conj()
