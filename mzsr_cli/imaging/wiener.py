"""Optimal linear interpolation of a slice from its own spectrum (Wiener, kriging).

Each axis is a stationary process whose power spectrum is read from the LR slice itself: Hann
periodogram, undone for the degradation's response and for aliasing, continued beyond the LR
Nyquist limit by the power law of its upper part where the spectrum is seen to fall, at a part of
its edge's level where it is a flat continuum, by nothing elsewhere. With covariance C and
reduction R per axis, the interpolator is the conditional mean C R^T (R C R^T + mu I)^-1. No
assumption is made about what lies beyond the borders, which is where cosine series and splines
lose most on oversampled wave fields (README, design notes).

Source: N. Wiener, "Extrapolation, interpolation and smoothing of stationary time series", 1949;
G. Matheron, "Principles of geostatistics", 1963 (ordinary kriging: unknown constant mean).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, sparse
from scipy.signal import windows

from mzsr_cli.settings import WienerSettings

Array = NDArray[np.float64]
Single = NDArray[np.float32]


@lru_cache(64)
def _hann(n: int) -> Array:
    """Hann's window of n samples, without the zeros at its ends."""
    return np.asarray(windows.hann(n + 2)[1:-1])


def periodogram(planes: Array | Single, axis: int, padding: int) -> Array:
    """Hann-windowed power of planes (P, h, w) along ``axis`` (1 or 2), averaged over the rest.

    Frequencies 0 to Nyquist in ``padding * n + 1`` steps; mean 1 (all zero stays zero). The lines'
    mean autocorrelation is padded, not each line (Wiener and Khinchin).
    """
    n = planes.shape[axis]
    lines = np.moveaxis(planes - planes.mean((1, 2), keepdims=True), axis, -1).reshape(-1, n)
    found = fft.rfft(lines * _hann(n).astype(lines.dtype), 2 * n)
    mean = (found.real**2 + found.imag**2).mean(0, dtype=np.float64)
    if padding > 1:
        lags = fft.irfft(mean, 2 * n)
        padded = np.zeros(2 * padding * n)
        padded[:n], padded[len(padded) - n + 1 :] = lags[:n], lags[n + 1 :]
        mean = np.maximum(fft.rfft(padded).real, 0.0)
    return np.asarray(mean / (mean.mean() or 1.0))


def _folded(spectrum: Array, bins: int) -> Array:
    """What decimation makes of an HR spectrum: every alias added, ``bins`` values 0 to Nyquist."""
    period = 2 * (bins - 1)
    total = np.zeros(bins)
    for order in range(-(len(spectrum) // period) - 1, len(spectrum) // period + 2):
        source = np.abs(np.arange(bins) + order * period)
        inside = source < len(spectrum)
        total[inside] += spectrum[source[inside]]
    return total


def _upper(known: Array, band: float) -> Array:
    """The part of a spectrum above ``band``, a fraction of its last frequency."""
    return known[math.floor(band * (len(known) - 1)) + 1 :]


def _edge(known: Array, settings: WienerSettings) -> float:
    """Mean power just below the LR Nyquist limit."""
    return float(_upper(known, settings.edge_band).mean())


def _leans(known: Array, settings: WienerSettings) -> bool:
    """Whether a spectrum that is flat at its edge, as aliasing makes it, still falls from its
    lowest band to there."""
    low = float(known[: math.ceil(settings.low_band * (len(known) - 1))].mean())
    edge = _edge(known, settings)
    return bool(edge > settings.edge_ratio * known.mean()) and edge < settings.lean_ratio * low


def _smoothness(known: Array, settings: WienerSettings) -> float:
    """Geometric over arithmetic mean of a spectrum's upper band: 1 for a continuum, near 0 for
    lines (spectral flatness; Gray and Markel, 1974)."""
    upper = _upper(known, settings.fit_band)
    mean = float(upper.mean())
    return float(np.exp(np.log(upper + 1e-12 * mean).mean())) / mean if mean > 0 else 0.0


def _flat_share(known: Array, settings: WienerSettings) -> float:
    """Share of its edge's power with which a flat-edged spectrum goes on beyond the limit."""
    if len(known) <= settings.padding * settings.continuum.samples_min:
        return 0.0
    low, high = settings.continuum.smooth
    ramp = (_smoothness(known, settings) - low) / (high - low)
    return settings.continuum.share * min(1.0, max(0.0, ramp))


def _continued(known: Array, bins: int, settings: WienerSettings) -> Array:
    """``known`` (0 to LR Nyquist) continued to ``bins`` values: by its own power law where it is
    seen to fall, as a continuum where it is a flat one, by nothing elsewhere."""
    spectrum = np.zeros(bins)
    spectrum[: len(known)] = known
    beyond = np.arange(len(known), bins) / (len(known) - 1)
    edge = _edge(known, settings)
    if edge <= 0:
        return spectrum
    if edge > settings.edge_ratio * known.mean() and not _leans(known, settings):
        level = _flat_share(known, settings) * edge
        spectrum[len(known) :] = level * beyond**settings.continuum.slope
        return spectrum
    slope = min(settings.slope_factor * _slope(known, settings), settings.slope_max)
    spectrum[len(known) :] = edge * beyond**slope
    return spectrum


def _slope(known: Array, settings: WienerSettings) -> float:
    """Exponent of the power law that fits a spectrum's upper part best (least squares of the
    logarithms)."""
    powers = np.log(_upper(known, settings.fit_band) + (1e-30 + 1e-12 * known.max()))
    octaves = np.log(np.arange(len(known) - len(powers), len(known)))
    octaves -= octaves.mean()
    return float(octaves @ powers) / float(octaves @ octaves)


def spectral_model(
    power: Array, reduction: Reduction, scale: float, settings: WienerSettings
) -> Array:
    """HR power spectrum 0 to HR Nyquist whose decimation by ``reduction`` gives ``power``."""
    bins = max(len(power), round((len(power) - 1) * scale) + 1)
    response = reduction.response(bins)
    known = power / np.maximum(response[: len(power)], settings.response_min)
    spectrum = _continued(known, bins, settings)
    falls = _edge(known, settings) < settings.dealias_ratio * known.mean()
    for _ in range(settings.dealias if falls or _leans(known, settings) else 0):
        seen = _folded(spectrum * response, len(power))
        known = spectrum[: len(power)] * (power / np.maximum(seen, 1e-12 * power.max()))
        spectrum = _continued(known, bins, settings)
    return spectrum


def covariance(spectrum: Array, n: int) -> Array:
    """First ``n`` lags of the covariance of an HR ``spectrum``, variance 1."""
    period = 2 * (len(spectrum) - 1)
    lags = np.fft.irfft(spectrum, period)
    index = np.arange(n) % period
    return np.asarray(lags[np.minimum(index, period - index)] / lags[0])


@dataclass(frozen=True)
class AxisFilter:
    """Interpolator of one axis, (n_hr, n_lr), float64, and the share of the HR variance that the
    model expects it to explain, 0 to 1."""

    matrix: torch.Tensor
    explained: float


def axis_spectrum(
    planes: Array, axis: int, reduction: Reduction, scale: float, settings: WienerSettings
) -> Array:
    """The HR power spectrum that LR planes (P, h, w) suggest along ``axis`` 1 or 2; empty where
    they are constant along it."""
    power = periodogram(planes, axis, settings.padding)
    if not math.isfinite(power.sum()) or power.max() <= 0:
        return np.zeros(0)
    return spectral_model(power, reduction, scale, settings)


def share_beyond(spectrum: Array, scale: float) -> float:
    """Share of an HR spectrum beyond the LR Nyquist limit: about what interpolation misses."""
    limit = round(max(0, len(spectrum) - 1) / scale)
    total = float(spectrum.sum())
    return float(spectrum[limit + 1 :].sum()) / total if total > 0 else 0.0


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
        symmetric Toeplitz matrix, by circulants."""
        circle = torch.cat([lags, lags.new_zeros(1), lags[1:].flip(0)])
        product = self._waves * torch.fft.rfft(circle).real
        return torch.fft.irfft(product, 2 * self.n_hr)[:, : self.n_hr]

    def gram(self, cross: torch.Tensor) -> torch.Tensor:
        """The upper rows of R C R^T, (rows, n_lr), from those of R C."""
        found = self._taps @ np.ascontiguousarray(cross.numpy().T)
        return torch.from_numpy(np.ascontiguousarray(found.T))

    def summed(self, upper: torch.Tensor) -> float:
        """The sum over all rows of what is the same when mirrored, from the sums (rows,) of the
        upper ones."""
        total = float(upper.sum())
        return 2 * total - float(upper[-1]) * (self.n_lr % 2) if self.mirrored else total


def axis_filter(spectrum: Array, reduction: Reduction, settings: WienerSettings) -> AxisFilter:
    """The Wiener filter of one axis for an HR power ``spectrum`` (see :func:`axis_spectrum`).

    An empty spectrum gives the interpolator of a constant.
    """
    n_lr, n_hr = reduction.n_lr, reduction.n_hr
    if len(spectrum) == 0:
        return AxisFilter(torch.full((n_hr, n_lr), 1.0 / n_lr, dtype=torch.float64), 1.0)
    cross = reduction.cross(torch.from_numpy(covariance(spectrum, n_hr)))
    gram = reduction.gram(cross)
    diagonal = gram.diagonal()
    diagonal.add_(settings.damping * reduction.summed(diagonal) / n_lr)
    solve = _solved_by_halves if reduction.mirrored else _solved
    plain, constant = solve(gram, cross, reduction.sums)
    upper = (plain[: reduction.rows] * cross).sum(1)
    explained = reduction.summed(upper) / n_hr
    return AxisFilter(
        _with_mean(plain, constant, reduction.sums[:, 0], settings), min(1.0, explained)
    )


def _solved(
    gram: torch.Tensor, cross: torch.Tensor, ones: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``gram``^-1 times ``cross`` (n, m) and ``ones`` (n, 1): (n, m) and (n,). Not by the inverse,
    which is faster: errors of 1e-8 in what is explained decide between starts at -80 dB."""
    factor = torch.linalg.cholesky(gram)
    solved = torch.cholesky_solve(torch.cat([cross, ones], 1), factor)
    return solved[:, :-1], solved[:, -1]


def _solved_by_halves(
    gram: torch.Tensor, cross: torch.Tensor, ones: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where all stay what they are when every axis is mirrored, from the upper halves of
    ``gram`` and ``cross`` (with the middle row): even and odd parts are solved apart, of half of
    the columns (the others are these, mirrored): a quarter of the work (Cantoni and Butler, 1976,
    centrosymmetric systems)."""
    n, m = gram.shape[1], cross.shape[1]
    half, wanted = n // 2, (m + 1) // 2
    root = 0.5**0.5
    top, bottom = cross[:half, :wanted], cross[:half].flip(1)[:, :wanted]
    same, other = gram[:half, :half], gram[:half, n - half :].flip(1)
    odd, _ = _solved(same - other, (top - bottom) * root, ones[:half])
    even_gram, even_right = same + other, (top + bottom) * root
    even_ones = 2 * root * ones[:half]
    if n % 2:
        middle = gram[half, :half] / root
        even_gram = torch.cat([even_gram, middle[None]])
        column = torch.cat([middle, gram[half, half][None]])
        even_gram = torch.cat([even_gram, column[:, None]], 1)
        even_right = torch.cat([even_right, cross[half, :wanted][None]])
        even_ones = torch.cat([even_ones, ones[half][None]])
    even, constant = _solved(even_gram, even_right, even_ones)
    first, last = (even[:half] + odd) * root, (even[:half] - odd) * root
    found = torch.cat([first, even[half:], last.flip(0)])
    ends = constant[:half] * root
    constant = torch.cat([ends, constant[half:], ends.flip(0)])
    return torch.cat([found, found[:, : m - wanted].flip(0, 1)], 1), constant


def _with_mean(
    plain: torch.Tensor, constant: torch.Tensor, ones: torch.Tensor, settings: WienerSettings
) -> torch.Tensor:
    """The filter when the process has an unknown mean of variance m, (n_hr, n_lr).

    ``plain`` is G^-1 C^T (n_lr, n_hr) without one, ``constant`` G^-1 r for r = R 1 = ``ones``; the
    mean adds m r r^T to G and m r 1^T to C^T (Sherman and Morrison, 1950).
    """
    m = settings.mean_variance
    missing = m * (1 - ones @ plain) / (1 + m * float(ones @ constant))
    return (plain + torch.outer(constant, missing)).mT.contiguous()
