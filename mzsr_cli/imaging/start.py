"""The starting image: the best linear answer, on which the network learns the residual."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from mzsr_cli.imaging import resize
from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.imaging.wiener import Array, axis_filter, axis_spectrum, share_beyond
from mzsr_cli.settings import Method, Sampling, WienerSettings


@dataclass(frozen=True)
class Start:
    """A starting image (P, H, W), and the mean-square error that its own model expects of it
    (None where there is no such model). ``complete`` says that it leaves nothing to learn."""

    image: torch.Tensor
    expected: float | None
    complete: bool = False


@dataclass(frozen=True)
class SliceModel:
    """What one slice's spectrum says: HR power spectra of the rows' and of the columns' axis, the
    slice's variance, and about how much of that (0 to 1) interpolation will miss."""

    spectra: tuple[Array, Array]
    variance: float
    missing: float


@dataclass(frozen=True)
class SliceFilter:
    """The Wiener interpolator x = m + L (y - m) R^T, m the mean of y, and the mean-square error
    that its model expects."""

    rows: torch.Tensor
    cols: torch.Tensor
    expected: float

    def apply(self, y: torch.Tensor) -> torch.Tensor:
        """LR planes (P, h, w), float64, to HR (P, H, W)."""
        mean = y.mean((1, 2), keepdim=True)
        return resize.separable(y - mean, self.rows, self.cols) + mean


def slice_model(operator: Degradation, y: torch.Tensor, settings: WienerSettings) -> SliceModel:
    """The model of LR planes (P, h, w), float64, both axes apart."""
    if operator.sampling is Sampling.BICUBIC:
        settings = replace(settings, slope_factor=settings.slope_factor_antialiased)
    planes = y.numpy()
    planes = planes - planes.mean((1, 2), keepdims=True)
    rows, cols = (
        axis_spectrum(planes, axis + 1, operator.reduction(axis), operator.scale[axis], settings)
        for axis in (0, 1)
    )
    kept = (1 - share_beyond(rows, operator.scale[0])) * (1 - share_beyond(cols, operator.scale[1]))
    return SliceModel((rows, cols), float(planes.var()), 1 - kept)


def slice_filter(operator: Degradation, model: SliceModel, settings: WienerSettings) -> SliceFilter:
    """The filter that a model implies."""
    rows, cols = (
        axis_filter(spectrum, operator.reduction(axis), settings)
        for axis, spectrum in enumerate(model.spectra)
    )
    expected = model.variance * (1 - rows.explained * cols.explained)
    return SliceFilter(rows.matrix, cols.matrix, expected)


def wiener(operator: Degradation, y: torch.Tensor, settings: WienerSettings) -> Start:
    """LR planes (P, h, w) to HR (P, H, W) by the slice's own spectrum."""
    planes = y.detach().cpu().double()
    found = slice_filter(operator, slice_model(operator, planes, settings), settings)
    return Start(found.apply(planes).to(y), found.expected)


def _error_of_root(error: float, image: torch.Tensor) -> float:
    """Mean-square error of a root (P, H, W) whose square is wrong by ``error`` (mean square): an
    error e of the square is one of e / 2x of the root x, but not more than sqrt(e)."""
    return float((error / (4 * (image.square() + error**0.5))).mean()) if error > 0 else 0.0


def promising(
    operator: Degradation, magnitude: torch.Tensor, settings: WienerSettings
) -> SliceModel | None:
    """The model of the squares of LR magnitudes (1, h, w), float64, where by the two spectra alone
    they could be interpolated with less error than the values; None elsewhere."""
    values = slice_model(operator, magnitude, settings)
    squares = slice_model(operator, magnitude.square(), settings)
    missed = _error_of_root(squares.variance * squares.missing, magnitude)
    hopeful = settings.intensity.hopeful * values.variance * values.missing
    return squares if missed < hopeful else None


def intensity(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    model: SliceModel | None = None,
    limit: float = math.inf,
) -> Start:
    """LR magnitudes (1, h, w) >= 0 to HR (1, H, W) through their squares.

    The square |p|^2 of a band-limited complex field p is band-limited, |p| is not (its zeros
    are cusps). 1. Interpolate the squares, whose ``model`` may be known. 2. Root, made consistent
    with y. 3. After antialiased sampling y^2 is not the sampled square: sample the square of the
    estimate, and repeat while the expected error falls; not where it begins above ``limit``.
    """
    magnitude = y.detach().cpu().double().clamp(min=0)
    local = consistency.double
    squares = magnitude.square()
    rounds = settings.intensity.rounds if operator.sampling is Sampling.BICUBIC else 0
    for done in range(1 + rounds):
        known = model if model is not None and done == 0 else None
        found = slice_filter(operator, known or slice_model(operator, squares, settings), settings)
        image = local.restore(magnitude, found.apply(squares).clamp(min=0).sqrt())
        expected = _error_of_root(found.expected, image)
        if expected > limit or done == rounds:
            break
        limit = settings.intensity.falls * expected
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
    return _of_magnitudes(operator, y, consistency, settings, zero, plain)


def _of_magnitudes(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    zero: float,
    plain: Start,
) -> Start:
    """The interpolation of squares alone where it surely expects less error than ``plain``, that
    of values; the mean of the two, by the inverse of their expected errors (optimal where errors
    are independent), where the squares are plausible. Elsewhere ``plain`` where it expects little
    error; where not, cusps or aliases mislead the spectrum: then a mean of interpolations."""
    how, direct = settings.intensity, operator.sampling is Sampling.DIRECT
    assert plain.expected is not None
    magnitude = (y - zero).detach().cpu().double().clamp(min=0)
    power = float(magnitude.square().mean())
    model = promising(operator, magnitude, settings)
    if model is not None:
        limit = how.hopeful * plain.expected
        root = intensity(operator, y - zero, consistency, settings, model, limit)
        assert root.expected is not None
        if root.expected < min(how.clear * plain.expected, how.sure * power):
            return Start(root.image + zero, root.expected, complete=True)
        if root.expected < how.plausible * power:
            share = min(0.5, plain.expected / (plain.expected + root.expected + 1e-30))
            image = torch.lerp(plain.image, root.image + zero, share)
            expected = min(plain.expected, root.expected)
            return Start(image, expected, direct and expected <= how.silent_direct * power)
    if plain.expected <= power * (how.believed_direct if direct else how.believed_antialiased):
        return replace(plain, complete=direct and plain.expected <= how.silent_direct * power)
    methods = (Method.SPLINE, Method.BICUBIC if direct else Method.BANDLIMITED)
    images = [
        consistency.restore(y, operator.interpolate(y, method, consistency.damping))
        for method in methods
    ]
    images += [] if direct else [plain.image]
    return Start(torch.stack(images).mean(0), plain.expected)


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
