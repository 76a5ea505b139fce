"""The starting image: the best linear answer, on which the network learns the residual."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from mzsr_cli.imaging import resize
from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.imaging.wiener import axis_filter
from mzsr_cli.settings import IntensitySettings, Method, Sampling, WienerSettings


@dataclass(frozen=True)
class Start:
    """A starting image (P, H, W), and the mean-square error that its own model expects of it
    (None where there is no such model). ``complete`` says that it leaves nothing to learn."""

    image: torch.Tensor
    expected: float | None
    complete: bool = False


@dataclass(frozen=True)
class SliceFilter:
    """The Wiener interpolator that one slice's spectrum gives: x = m + L (y - m) R^T, m the mean
    of y; and the mean-square error that it expects."""

    rows: torch.Tensor
    cols: torch.Tensor
    expected: float

    def apply(self, y: torch.Tensor) -> torch.Tensor:
        """LR planes (P, h, w), float64, to HR (P, H, W)."""
        mean = y.mean((1, 2), keepdim=True)
        return resize.separable(y - mean, self.rows, self.cols) + mean


def slice_filter(operator: Degradation, y: torch.Tensor, settings: WienerSettings) -> SliceFilter:
    """The filter of LR planes (P, h, w), both axes apart."""
    if operator.sampling is Sampling.BICUBIC:
        settings = replace(settings, slope_factor=settings.slope_factor_antialiased)
    planes = y.numpy()
    planes = planes - planes.mean((1, 2), keepdims=True)
    rows, cols = (
        axis_filter(planes, axis + 1, operator.reduction(axis), operator.scale[axis], settings)
        for axis in (0, 1)
    )
    expected = float(planes.var()) * (1 - rows.explained * cols.explained)
    return SliceFilter(torch.as_tensor(rows.matrix), torch.as_tensor(cols.matrix), expected)


def wiener(operator: Degradation, y: torch.Tensor, settings: WienerSettings) -> Start:
    """LR planes (P, h, w) to HR (P, H, W) by the slice's own spectrum."""
    planes = y.detach().cpu().double()
    found = slice_filter(operator, planes, settings)
    return Start(found.apply(planes).to(y), found.expected)


def _error_of_root(error: float, image: torch.Tensor) -> float:
    """Mean-square error of a root (P, H, W) whose square is wrong by ``error`` (mean square): an
    error e of the square is one of e / 2x of the root x, but not more than sqrt(e)."""
    return float((error / (4 * (image.square() + error**0.5))).mean()) if error > 0 else 0.0


def intensity(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    plain: float = math.inf,
) -> Start:
    """LR magnitudes (1, h, w) >= 0 to HR (1, H, W) through their squares.

    The square |p|^2 of a band-limited complex field p is band-limited, |p| is not (its zeros
    are cusps). 1. Interpolate the squares. 2. Root, made consistent with y. 3. After antialiased
    sampling y^2 is not the sampled square: sample the square of the estimate, and repeat; but
    not where the first round is far from the error ``plain`` that the values expect.
    """
    magnitude = y.detach().cpu().double().clamp(min=0)
    local = consistency.double
    squares = magnitude.square()
    antialiased = operator.sampling is Sampling.BICUBIC
    for done in range(1 + settings.intensity.rounds if antialiased else 1):
        found = slice_filter(operator, squares, settings)
        image = local.restore(magnitude, found.apply(squares).clamp(min=0).sqrt())
        expected = _error_of_root(found.expected, image)
        if done == 0 and expected > settings.intensity.hopeful * plain:
            break
        squares = local.operator.apply(image.clamp(min=0).square())
    return Start(image.to(y), expected)


def starting_image(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    zero: float | None = None,
) -> Start:
    """LR planes (P, h, w) to the starting image (P, H, W), which explains y.

    Without a blur kernel the Wiener interpolation, through the squares where the planes are
    magnitudes (``zero`` is what 0 has become in units of y, None for signed data) and the squares
    promise more; with one the cubic B-spline, made consistent (deblurred) by the regularised
    projection (measured: README, design notes). Where consistency is switched off, the cubic
    B-spline alone.
    """
    if not consistency.settings.enabled:
        return Start(operator.interpolate(y, Method.SPLINE, consistency.damping), None)
    if operator.kernel.size > 1:
        spline = operator.interpolate(y, Method.SPLINE, consistency.damping)
        return Start(consistency.restore(y, spline), None)
    plain = wiener(operator, y, settings)
    if zero is None or not settings.intensity.enabled:
        return plain
    root = intensity(operator, y - zero, consistency, settings, plain.expected or 0.0)
    power = float((y - zero).double().square().mean())
    return _better(plain, replace(root, image=root.image + zero), power, settings.intensity)


def _better(plain: Start, root: Start, power: float, how: IntensitySettings) -> Start:
    """Of the interpolations of values and of squares the one that expects less error, or their
    weighted mean (optimal where errors are independent) where that is not clear."""
    assert plain.expected is not None and root.expected is not None
    if root.expected < min(how.clear * plain.expected, how.sure * power):
        return replace(root, complete=True)
    if root.expected < how.plausible * power:
        share = min(0.5, plain.expected / (plain.expected + root.expected + 1e-30))
        image = torch.lerp(plain.image, root.image, share)
        return Start(image, min(plain.expected, root.expected))
    return plain


def carried(
    start: torch.Tensor,
    added: torch.Tensor,
    factor: tuple[float, float],
    sampling: Sampling,
) -> torch.Tensor:
    """A stage's start: the linear answer (P, H, W) from the LR slice itself, plus what the
    network ``added`` (P, h, w) to the linear answer of the stage before, interpolated."""
    rows, cols = (
        resize.positions(n, f, sampling) for n, f in zip(start.shape[-2:], factor, strict=True)
    )
    return start + resize.cubic_resample(added, rows, cols)
