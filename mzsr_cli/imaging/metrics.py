"""Quality figures: PSNR, SSIM, NMSE. Numpy, float64; no clipping, no guessed peak."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[Any]


def _wide(image: Image) -> Image:
    """In double precision, so that integers do not wrap."""
    array = np.asarray(image)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def unit(estimate: Image, truth: Image) -> float:
    """The power of two at or above every magnitude: in units of it squares neither overflow nor
    vanish, and figures do not change by a bit. 1 for zeros."""
    largest = max(float(np.max(np.abs(_wide(image)), initial=0)) for image in (estimate, truth))
    return float(np.exp2(min(math.frexp(largest)[1], 1023))) if 0 < largest < np.inf else 1.0


def energies(estimate: Image, truth: Image, one: float) -> tuple[float, float]:
    """Sums of squared magnitudes of the error and of the truth, in units of ``one`` squared."""
    a, b = _wide(estimate) / one, _wide(truth) / one
    return float(np.sum(np.abs(a - b) ** 2)), float(np.sum(np.abs(b) ** 2))


def psnr(estimate: Image, truth: Image, peak: float) -> float:
    """Peak signal-to-noise ratio in dB; inf for equal images. Complex allowed."""
    a, b = _wide(estimate), _wide(truth)
    one = unit(a, b)
    error = float(np.mean(np.abs(a / one - b / one) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10((peak / one) ** 2 / error))


def nmse(estimate: Image, truth: Image) -> float:
    """Energy of the error over the energy of the truth, in dB. Complex allowed."""
    error, energy = energies(estimate, truth, unit(estimate, truth))
    if error == 0:
        return float("-inf")
    return float("inf") if energy == 0 else float(10 * np.log10(error / energy))


def _window(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian mean, 11 taps, sigma 1.5, only where the window fits."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()
    smooth = ndimage.correlate1d(ndimage.correlate1d(image, taps, 0), taps, 1)
    return np.asarray(smooth[5:-5, 5:-5])


def ssim(estimate: Image, truth: Image, peak: float) -> float:
    """Mean structural similarity (Wang et al., 2004), Gaussian window 11, sigma 1.5, valid part.

    Real 2-D images; complex ones give the mean of their planes. NaN for sides under 11.
    """
    a, b = np.asarray(estimate), np.asarray(truth)
    if np.iscomplexobj(a) or np.iscomplexobj(b):
        return (ssim(a.real, b.real, peak) + ssim(a.imag, b.imag, peak)) / 2
    if min(a.shape) < 11:
        return float("nan")
    one = unit(a, b)
    a, b, peak = a.astype(np.float64) / one, b.astype(np.float64) / one, peak / one
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = _window(a), _window(b)
    var_a = _window(a * a) - mean_a**2
    var_b = _window(b * b) - mean_b**2
    covariance = _window(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return float(np.mean(luminance * structure))


def shave(image: Image, border: int) -> Image:
    """The image without ``border`` pixels on each side."""
    return image[border:-border, border:-border] if border else image
