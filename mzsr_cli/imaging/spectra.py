"""Power spectra of a slice's axes, and what they suggest of the finer grid's.

Each axis is a stationary process whose power spectrum is read from the LR slice itself: Hann
periodogram, undone for the degradation's response and for aliasing, continued beyond the LR
Nyquist limit by the power law of its upper part where the spectrum is seen to fall, at a part of
its edge's level where it is a flat continuum, by nothing elsewhere. Real slices have as much power
at a negative frequency as at the positive one; complex ones do not (delays are positive, angles
lie on one side), and both sides are modelled, each like that of a real slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.signal import windows

from mzsr_cli.settings import WienerSettings

if TYPE_CHECKING:
    from mzsr_cli.imaging.wiener import Reduction

Array = NDArray[np.float64]
Single = NDArray[np.float32]
Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Spectrum:
    """HR power along one axis: ``up`` at frequencies 0 to HR Nyquist, ``down`` at 0 to minus that
    (complex slices; None where it is the same). Both are empty where the axis is constant.

    ``left`` is what the LR spectrum has at its very ends, over its mean power: next to nothing
    where it has died before, much where it may be aliased."""

    up: Array
    down: Array | None = None
    left: float = 0.0

    @property
    def empty(self) -> bool:
        """Whether the axis is constant."""
        return len(self.up) == 0


@lru_cache(64)
def _hann(n: int) -> Array:
    """Hann's window of n samples, without the zeros at its ends."""
    return np.asarray(windows.hann(n + 2)[1:-1])


def _lines(planes: NDArray[Any], axis: int) -> NDArray[Any]:
    """Lines (L, n) of planes (P, h, w) along ``axis`` (1 or 2), without the planes' means."""
    lines = planes - planes.mean((1, 2), keepdims=True)
    return np.moveaxis(lines, axis, -1).reshape(-1, planes.shape[axis])


def periodogram(planes: Array | Single, axis: int, padding: int) -> Array:
    """Hann-windowed power of real planes (P, h, w) along ``axis`` (1 or 2), averaged over the rest.

    Frequencies 0 to Nyquist in ``padding * n + 1`` steps; mean 1 (all zero stays zero). The lines'
    mean autocorrelation is padded, not each line (Wiener and Khinchin).
    """
    lines, n = _lines(planes, axis), planes.shape[axis]
    found = fft.rfft(lines * _hann(n).astype(lines.dtype), 2 * n)
    mean = (found.real**2 + found.imag**2).mean(0, dtype=np.float64)
    if padding > 1:
        lags = fft.irfft(mean, 2 * n)
        padded = np.zeros(2 * padding * n)
        padded[:n], padded[len(padded) - n + 1 :] = lags[:n], lags[n + 1 :]
        mean = np.maximum(fft.rfft(padded).real, 0.0)
    return np.asarray(mean / (mean.mean() or 1.0))


def two_sided_periodogram(planes: Complex, axis: int, padding: int) -> Array:
    """The same of complex planes: all frequencies from 0 on, ``2 * padding * n`` of a period."""
    lines, n = _lines(planes, axis), planes.shape[axis]
    found = fft.fft(lines * _hann(n), 2 * n)
    lags = fft.ifft((found.real**2 + found.imag**2).mean(0))
    padded = np.zeros(2 * padding * n, complex)
    padded[:n], padded[len(padded) - n + 1 :] = lags[:n], lags[n + 1 :]
    power = np.maximum(fft.fft(padded).real, 0.0)
    return np.asarray(power / (power.mean() or 1.0))


def _folded(spectrum: Array, bins: int) -> Array:
    """What decimation makes of an HR spectrum: every alias added, ``bins`` values 0 to Nyquist."""
    return _circle(spectrum, spectrum, 2 * (bins - 1))[:bins]


def ramp(value: float, none: float, full: float) -> float:
    """0 at ``none``, 1 at ``full``, linear between."""
    return min(1.0, max(0.0, (value - none) / (full - none)))


def _upper(known: Array, band: float) -> Array:
    """The part of a spectrum above ``band``, a fraction of its last frequency."""
    return known[math.floor(band * (len(known) - 1)) + 1 :]


def _edge(known: Array, settings: WienerSettings) -> float:
    """Mean power just below the LR Nyquist limit."""
    return float(_upper(known, settings.edge_band).mean())


def _left(known: Array, settings: WienerSettings) -> float:
    """Mean power at a spectrum's very end."""
    return float(_upper(known, settings.end_band).mean())


def _end(known: Array, settings: WienerSettings) -> float:
    """Power from which a spectrum goes on: that of its edge, but where it has died between there
    and the limit (bands and lines that end below it) not much more than is left at the limit."""
    edge, left = _edge(known, settings), _left(known, settings)
    return edge if settings.end_ratio is None else min(edge, settings.end_ratio * left)


def _lowest(known: Array, settings: WienerSettings) -> float:
    """Mean power in the lowest band."""
    return float(known[: math.ceil(settings.low_band * (len(known) - 1))].mean())


def _leans(known: Array, settings: WienerSettings) -> bool:
    """Whether a spectrum that is flat at its edge, as aliasing makes it, still falls from its
    lowest band to there."""
    edge, low = _edge(known, settings), _lowest(known, settings)
    return bool(edge > settings.edge_ratio * known.mean()) and edge < settings.lean_ratio * low


def _smoothness(known: Array, settings: WienerSettings) -> float:
    """Geometric over arithmetic mean of a spectrum's upper band: 1 for a continuum, near 0 for
    lines (spectral flatness; Gray and Markel, 1974)."""
    upper = _upper(known, settings.fit_band)
    mean = float(upper.mean())
    return float(np.exp(np.log(upper + 1e-12 * mean).mean())) / mean if mean > 0 else 0.0


def _flat_share(known: Array, settings: WienerSettings) -> float:
    """Share of its edge's power with which a flat-edged spectrum goes on beyond the limit: where it
    is smooth, less where it is lower at its edge than in its lowest band. (Waves sampled at their
    limit show lines, and bands that do not begin at 0.)"""
    if len(known) <= settings.padding * settings.continuum.samples_min:
        return 0.0
    how, smoothness = settings.continuum, _smoothness(known, settings)
    low = _lowest(known, settings)
    sinks = ramp(_edge(known, settings) / low, *how.sinks) if low > 0 else 0.0
    sunk = min(sinks, ramp(smoothness, *how.smooth_sinking))
    return how.share * max(ramp(smoothness, *how.smooth), sunk)


def _continuation(known: Array, bins: int, settings: WienerSettings) -> Array:
    """What follows on a spectrum ``known`` (0 to LR Nyquist) up to ``bins`` values, over the power
    at its edge: its own power law where it is seen to fall, a continuum where it is a flat one,
    nothing elsewhere."""
    beyond = np.arange(len(known), bins) / (len(known) - 1)
    edge = _edge(known, settings)
    if edge <= 0:
        return np.zeros(len(beyond))
    if edge > settings.edge_ratio * known.mean() and not _leans(known, settings):
        return np.asarray(_flat_share(known, settings) * beyond**settings.continuum.slope)
    slope = min(settings.slope_factor * _slope(known, settings), settings.slope_max)
    return np.asarray(beyond**slope)


def _continued(known: Array, bins: int, settings: WienerSettings) -> Array:
    """``known`` (0 to LR Nyquist) and what follows on it, ``bins`` values."""
    return np.concatenate([known, _end(known, settings) * _continuation(known, bins, settings)])


def _both_continued(known: list[Array], bins: int, settings: WienerSettings) -> list[Array]:
    """Both sides of a spectrum and what follows on them: on each in the same manner, that of
    their mean, from its own end; where they are not equally long, each in its own."""
    if len(known[0]) != len(known[1]):
        return [_continued(side, bins, settings) for side in known]
    follows = _continuation((known[0] + known[1]) / 2, bins, settings)
    return [np.concatenate([side, _end(side, settings) * follows]) for side in known]


def _slope(known: Array, settings: WienerSettings) -> float:
    """Exponent of the power law that fits a spectrum's upper part best (least squares of the
    logarithms)."""
    powers = np.log(_upper(known, settings.fit_band) + (1e-30 + 1e-12 * known.max()))
    if len(powers) < 2:
        return 0.0
    octaves = np.log(np.arange(len(known) - len(powers), len(known)))
    octaves -= octaves.mean()
    return float(octaves @ powers) / float(octaves @ octaves)


def spectral_model(
    power: Array, reduction: Reduction, scale: float, settings: WienerSettings
) -> Spectrum:
    """HR power spectrum of real planes whose decimation by ``reduction`` gives ``power``."""
    bins = max(len(power), round((len(power) - 1) * scale) + 1)
    response = reduction.response(bins)
    known = power / np.maximum(response[: len(power)], settings.response_min)
    spectrum = _continued(known, bins, settings)
    left = _left(known, settings) / float(known.mean())
    falls = _edge(known, settings) < settings.dealias_ratio * known.mean()
    for _ in range(settings.dealias if falls or _leans(known, settings) else 0):
        seen = _folded(spectrum * response, len(power))
        known = spectrum[: len(power)] * (power / np.maximum(seen, 1e-12 * power.max()))
        spectrum = _continued(known, bins, settings)
    return Spectrum(spectrum, left=left)


def _circle(up: Array, down: Array, period: int) -> Array:
    """Power of both sides, each from 0 outward, at the ``period`` frequencies of a circle on which
    they may go round more than once."""
    total = np.bincount(np.arange(len(up)) % period, up, period)
    outward = -np.arange(1, len(down))
    return np.asarray(total + np.bincount(outward % period, down[1:], period))


def _smoothed(power: Array, width: int) -> Array:
    """The circular mean of ``power`` over about ``width`` neighbours, weighted by Hann's window."""
    weights = np.zeros(len(power))
    taps = windows.hann(2 * width + 1)
    weights[: 2 * width + 1] = taps / taps.sum()
    spread = fft.rfft(np.roll(weights, -width)) * fft.rfft(power)
    return np.maximum(fft.irfft(spread, len(power)), 0.0)


def _widest_gap(empty: NDArray[np.bool_]) -> slice:
    """The longest run of what is ``empty`` on a circle, as bins that may exceed its period."""
    if empty.all() or not empty.any():
        return slice(0, len(empty) if empty.all() else 0)
    first = int(np.flatnonzero(~empty)[0])
    turned = np.r_[False, np.roll(empty, -first), False]
    begins, ends = (np.flatnonzero(np.diff(turned.astype(int)) == sign) for sign in (1, -1))
    longest = int((ends - begins).argmax())
    return slice(first + int(begins[longest]), first + int(ends[longest]))


def band_edge(power: Array, settings: WienerSettings) -> int:
    """Where on a two-sided LR spectrum the positive frequencies end and the negative ones begin.

    That is at the Nyquist limit, but where nearly all of the power lies on one side (delays of one
    sign, waves from one side) and the widest gap is on the other, not about the limit: then in the
    middle of that gap.
    """
    how, period = settings.wrapped, len(power)
    half = period // 2
    seen = _smoothed(power, max(1, round(how.smooth * period)))
    gap = _widest_gap(seen <= how.floor * seen.mean())
    up, down = float(power[:half].sum()), float(power[half + 1 :].sum())
    one_sided = max(up, down) >= how.share * (up + down)
    wide = gap.stop - gap.start >= how.width * period
    at_limit = gap.start <= half < gap.stop or gap.start <= half + period < gap.stop
    if at_limit or not (wide and one_sided):
        return half
    return _middle(power, gap, up > down, settings.padding * how.least)


def _middle(power: Array, gap: slice, upwards: bool, least: int) -> int:
    """The middle of what of a ``gap`` lies beyond the Nyquist limit, going up or down from it, and
    at least ``least`` bins short of 0; the limit where nothing does. Of two middles the one with
    less ``power``, so that a mirrored spectrum has the mirrored edge."""
    period = len(power)
    half = period // 2
    first, last = (half + 1, period - least) if upwards else (least, half - 1)
    for turn in (0, period):
        low, high = max(first, gap.start - turn), min(last, gap.stop - 1 - turn)
        if low <= high:
            return min({(low + high) // 2, (low + high + 1) // 2}, key=lambda b: float(power[b]))
    return half


def _plausible(power: Array, edge: int, response: Array, settings: WienerSettings) -> bool:
    """Whether a spectrum may go on through the Nyquist limit to ``edge``: the finer grid has such
    frequencies, and the power there, undone for the degradation's ``response``, is less than that
    within the limit; else the samples show something else there."""
    period = len(power)
    half, most = period // 2, max(edge, period - edge)
    if edge == half:
        return True
    if most >= len(response):
        return False
    outward = power[np.arange(most + 1) if edge > half else -np.arange(most + 1)]
    undone = outward / np.maximum(response[: most + 1], 1e-12)
    within, beyond = float(undone[: half + 1].sum()), float(undone[half + 1 :].sum())
    return beyond <= settings.wrapped.beyond * within


def two_sided_model(
    power: Array, reduction: Reduction, scale: float, settings: WienerSettings
) -> Spectrum:
    """HR power spectrum, both sides, whose decimation by ``reduction`` gives the two-sided
    ``power``: each side as :func:`spectral_model`, but that no spectrum that is not smooth goes on
    because it sinks: complex slices are waves."""
    settings, period = settings.of_waves, len(power)
    bins = max(period // 2, round(period // 2 * scale)) + 1
    response = reduction.response(bins)
    edge = band_edge(power, settings)
    if not _plausible(power, edge, response, settings):
        edge = period // 2
    places = np.arange(edge + 1), -np.arange(period - edge + 1) % period
    known = [power[at] / np.maximum(response[: len(at)], settings.response_min) for at in places]
    sides = _both_continued(known, bins, settings)
    whole = np.concatenate(known)
    edges = sum(_edge(side, settings) for side in known) / 2
    falls = edges < settings.dealias_ratio * whole.mean()
    left = max(_left(side, settings) for side in known) / float(whole.mean())
    leans = len(known[0]) == len(known[1]) and _leans((known[0] + known[1]) / 2, settings)
    for _ in range(settings.dealias if falls or leans else 0):
        seen = _circle(sides[0] * response, sides[1] * response, period)
        ratio = power / np.maximum(seen, 1e-12 * power.max())
        known = [side[: len(at)] * ratio[at] for side, at in zip(sides, places, strict=True)]
        sides = _both_continued(known, bins, settings)
    return Spectrum(sides[0], sides[1], left)


def covariance(spectrum: Spectrum, n: int) -> Array | Complex:
    """First ``n`` lags of the covariance of an HR ``spectrum``, variance 1; complex where it has
    two sides (its lags to the other side are their conjugates)."""
    period = 2 * (len(spectrum.up) - 1)
    index = np.arange(n) % period
    if spectrum.down is None:
        lags = np.fft.irfft(spectrum.up, period)
        return np.asarray(lags[np.minimum(index, period - index)] / lags[0])
    both = np.fft.ifft(_circle(spectrum.up, spectrum.down, period))
    return np.asarray(both[index] / both[0].real)


def axis_power(planes: NDArray[Any], axis: int, padding: int) -> Array:
    """The LR power spectrum of planes (P, h, w) along ``axis`` 1 or 2: :func:`periodogram` of real
    ones, :func:`two_sided_periodogram` of complex ones."""
    if np.iscomplexobj(planes):
        return two_sided_periodogram(planes, axis, padding)
    return periodogram(planes, axis, padding)


def axis_spectrum(
    power: Array, two_sided: bool, reduction: Reduction, scale: float, settings: WienerSettings
) -> Spectrum:
    """The HR power spectrum that an LR ``power`` spectrum suggests, with both sides where it is
    ``two_sided``; empty where the axis is constant."""
    if not math.isfinite(power.sum()) or power.max() <= 0:
        return Spectrum(np.zeros(0))
    if two_sided:
        return two_sided_model(power, reduction, scale, settings)
    return spectral_model(power, reduction, scale, settings)


def share_beyond(spectrum: Spectrum, scale: float) -> float:
    """Share of an HR spectrum beyond the LR Nyquist limit: about what interpolation misses."""
    sides = [spectrum.up] if spectrum.down is None else [spectrum.up, spectrum.down]
    limit = round(max(0, len(spectrum.up) - 1) / scale)
    total = sum(float(side.sum()) for side in sides)
    return sum(float(side[limit + 1 :].sum()) for side in sides) / total if total > 0 else 0.0
