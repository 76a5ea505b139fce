"""The starting image: the best linear answer, on which the network learns the residual."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray

from mzsr_cli.imaging import resize
from mzsr_cli.imaging.banded import Banded
from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.imaging.products import Products, bands
from mzsr_cli.imaging.rounding import unrounded
from mzsr_cli.imaging.spectra import Array, Spectrum, axis_power, axis_spectrum, share_beyond
from mzsr_cli.imaging.wiener import axis_filter
from mzsr_cli.settings import Method, Sampling, WienerSettings


@dataclass(frozen=True)
class Start:
    """A starting image (P, H, W), and the mean-square error that its own model expects of it
    (None where there is no such model). ``complete`` says that it leaves nothing to learn,
    ``two_sided`` that it models both sides of a complex slice's spectrum, ``sure`` that they end
    before the band does, so that the model may be believed."""

    image: torch.Tensor
    expected: float | None
    complete: bool = False
    two_sided: bool = False
    sure: bool = False


@dataclass(frozen=True)
class SliceModel:
    """What one slice's spectrum says: HR power spectra of the rows' and of the columns' axis, the
    slice's variance, and about how much of that (0 to 1) interpolation will miss."""

    spectra: tuple[Spectrum, Spectrum]
    variance: float
    missing: float


@dataclass(frozen=True)
class SliceFilter:
    """The Wiener interpolator x = m + L (y - m) R^T, m the mean of y, and the mean-square error
    that its model expects. L and R are complex for the planes of a complex slice."""

    rows: torch.Tensor
    cols: torch.Tensor
    expected: float

    def apply(self, y: torch.Tensor) -> Products:
        """LR planes (P, h, w) to HR (P, H, W), in their precision."""
        mean = y.mean((1, 2), keepdim=True)
        ones = Banded.whole(y.new_ones(len(self.rows), 1))
        level = (ones, mean.expand(-1, 1, len(self.cols)))
        if self.rows.is_complex() or self.cols.is_complex():
            return Products((*self._complex_terms(y - mean), level))
        rows, cols = Banded.whole(self.rows.to(y)), self.cols.to(y)
        return Products(((rows, (y - mean) @ cols.mT), level))

    def _complex_terms(self, y: torch.Tensor) -> list[tuple[Banded, torch.Tensor]]:
        """L y R^T of a complex slice's two planes (2, h, w): the real part of L times both, and
        its imaginary part times i of both."""
        slices = torch.complex(y[0], y[1])
        rows = self.rows.to(slices)
        across = slices @ self.cols.to(slices).mT
        real, imaginary = across.real, across.imag
        return [
            (Banded.whole(rows.real.contiguous()), torch.stack([real, imaginary])),
            (Banded.whole(rows.imag.contiguous()), torch.stack([-imaginary, real])),
        ]


def _powers(lines: NDArray[Any], settings: WienerSettings) -> tuple[Array, Array]:
    """The LR power spectra of the rows' and of the columns' axis of ``lines`` (P, h, w)."""
    rows, cols = (axis_power(lines, axis, settings.padding) for axis in (1, 2))
    return rows, cols


def _spectra(
    operator: Degradation, powers: tuple[Array, Array], two_sided: bool, settings: WienerSettings
) -> tuple[Spectrum, Spectrum]:
    """The HR spectra of the rows' and of the columns' axis that LR ``powers`` suggest."""
    rows, cols = (
        axis_spectrum(power, two_sided, reduction, scale, settings)
        for power, reduction, scale in zip(powers, operator.reductions, operator.scale, strict=True)
    )
    return rows, cols


def _left(operator: Degradation, spectra: tuple[Spectrum, Spectrum]) -> float:
    """The most that is left at the end of an axis that is enlarged."""
    pairs = zip(spectra, operator.scale, strict=True)
    return max((spectrum.left for spectrum, scale in pairs if scale > 1), default=0.0)


def slice_model(operator: Degradation, y: torch.Tensor, settings: WienerSettings) -> SliceModel:
    """The model of LR planes (P, h, w), float64, both axes apart; two planes are the parts of a
    complex slice."""
    if operator.sampling is Sampling.BICUBIC:
        settings = replace(
            settings,
            slope_factor=settings.slope_factor_antialiased,
            continuum=settings.continuum_antialiased,
        )
    planes = y.numpy()
    planes = planes - planes.mean((1, 2), keepdims=True)
    two_sided = len(planes) == 2
    powers = _powers(planes[:1] + 1j * planes[1:] if two_sided else planes, settings)
    rows, cols = _spectra(operator, powers, two_sided, settings)
    left = _left(operator, (rows, cols))
    if left >= settings.left_sure:  # gaps at one axis' limit say nothing
        settings = replace(settings, end_ratio=None)
        if two_sided and left >= settings.left_alias:
            powers, two_sided, settings = _powers(planes, settings), False, settings.of_waves
        rows, cols = _spectra(operator, powers, two_sided, settings)
    kept = (1 - share_beyond(rows, operator.scale[0])) * (1 - share_beyond(cols, operator.scale[1]))
    return SliceModel((rows, cols), float(planes.var()), 1 - kept)


def slice_filter(operator: Degradation, model: SliceModel, settings: WienerSettings) -> SliceFilter:
    """The filter that a model implies."""
    rows, cols = (
        axis_filter(spectrum, reduction, settings)
        for spectrum, reduction in zip(model.spectra, operator.reductions, strict=True)
    )
    expected = model.variance * (1 - rows.explained * cols.explained)
    return SliceFilter(rows.matrix, cols.matrix, expected)


def wiener(operator: Degradation, y: torch.Tensor, settings: WienerSettings) -> Start:
    """LR planes (P, h, w) to HR (P, H, W) by the slice's own spectrum."""
    return _by_model(
        operator, y, slice_model(operator, y.detach().cpu().double(), settings), settings
    )


def _by_model(
    operator: Degradation, y: torch.Tensor, model: SliceModel, settings: WienerSettings
) -> Start:
    """LR planes (P, h, w) to HR (P, H, W) by a model of them."""
    found = slice_filter(operator, model, settings)
    expected, products = found.expected, found.apply(y.detach())
    del found  # its matrices are large in double precision, and no longer needed
    two_sided = all(spectrum.down is not None for spectrum in model.spectra)
    sure = two_sided and _left(operator, model.spectra) < settings.left_sure
    return Start(products.whole(), expected, two_sided=two_sided, sure=sure)


def _error_of_root(error: float, image: torch.Tensor) -> float:
    """Mean-square error of a root (P, H, W) whose square is wrong by ``error`` (mean square): an
    error e of the square is one of e / 2x of the root x, but not more than sqrt(e)."""
    if error <= 0:
        return 0.0
    parts = (image[:, band].square().add_(error**0.5) for band in bands(image))
    total = sum(float(part.reciprocal_().sum(dtype=torch.float64)) for part in parts)
    return error / 4 * total / image.numel()


def promising(
    operator: Degradation, magnitude: torch.Tensor, values: SliceModel, settings: WienerSettings
) -> SliceModel | None:
    """The model of the squares of LR magnitudes (1, h, w), float64, where by the two spectra alone
    they could be interpolated with less error than the ``values``; None elsewhere."""
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
    estimate, and repeat until that settles, reading the spectrum anew now and then, while the
    expected error falls or, where it is small, does not rise; not where it begins above ``limit``.
    """
    known_y, how = y.detach().clamp(min=0), settings.intensity
    squares = known_y.cpu().double().square()
    sure = how.sure * float(squares.mean())
    rounds = how.rounds if operator.sampling is Sampling.BICUBIC else 0
    for done in range(1 + rounds):
        fresh = done < 2 or done % how.reread == 0
        if fresh:
            model = model or slice_model(operator, squares, settings)
            found, model = slice_filter(operator, model, settings), None
        root = found.apply(squares.to(known_y)).whole().clamp_(min=0).sqrt_()
        image = consistency.restore_(known_y, root)
        if fresh:
            expected = _error_of_root(found.expected, image)
            if expected > limit:
                break
            limit = expected * (how.settles if expected < sure else how.falls)
        if done == rounds:
            break
        sampled = operator.map.apply_to(image.shape, partial(_squares, image)).cpu().double()
        change, squares = float((sampled - squares).square().mean()), sampled
        if done and change < how.settled * found.expected:
            break
    return Start(image, expected)


def _squares(image: torch.Tensor, rows: slice) -> torch.Tensor:
    """Squares of rows of magnitudes (1, H, W)."""
    return image[:, rows].clamp(min=0).square_()


def starting_image(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    zero: float | None = None,
) -> Start:
    """LR planes (P, h, w) to the starting image (P, H, W), which explains y but for its rounding.

    Without a blur kernel the Wiener interpolation, through the squares where the planes are
    magnitudes (``zero`` is what 0 has become in units of y, None for signed data) and the squares
    promise more; with one the cubic B-spline, made consistent (deblurred) by the regularised
    projection (measured: README, design notes). Where consistency is switched off, the cubic
    B-spline alone.
    """
    if not consistency.settings.enabled:
        return Start(operator.interpolate(y, Method.SPLINE, consistency.damping), None)
    if operator.kernel.size > 1:
        return Start(consistency.explained(y, Method.SPLINE).whole(), None)
    if operator.sampling is Sampling.BICUBIC:  # others are samples of whole numbers themselves
        y = unrounded(y, consistency.noise, settings.rounding)
    values = slice_model(operator, y.detach().cpu().double(), settings)
    plain = _by_model(operator, y, values, settings)
    if zero is None or not settings.intensity.enabled:
        return plain
    return _of_magnitudes(operator, y, consistency, settings, zero, values, plain)


def _of_magnitudes(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    zero: float,
    values: SliceModel,
    plain: Start,
) -> Start:
    """The interpolation of squares alone where it surely expects less error than ``plain``, that
    of ``values``; the mean of the two, by the inverse of their expected errors (optimal where
    errors are independent), where the squares are plausible. Elsewhere ``plain`` where it expects
    little error; where not, cusps or aliases mislead the spectrum: then a mean of interpolations.
    The image of ``plain`` is worked on in its place."""
    how, direct = settings.intensity, operator.sampling is Sampling.DIRECT
    assert plain.expected is not None
    magnitude = (y - zero).detach().cpu().double().clamp(min=0)
    power = float(magnitude.square().mean())
    model = promising(operator, magnitude, values, settings)
    if model is not None:
        limit = how.hopeful * plain.expected
        root = intensity(operator, y - zero, consistency, settings, model, limit)
        assert root.expected is not None
        root.image.add_(zero)
        if root.expected < min(how.clear * plain.expected, how.sure * power):
            return replace(root, complete=True)
        if root.expected < how.plausible * power:
            share = min(0.5, plain.expected / (plain.expected + root.expected + 1e-30))
            image = plain.image.lerp_(root.image, share)
            expected = min(plain.expected, root.expected)
            return Start(image, expected, direct and expected <= how.silent_direct * power)
    if plain.expected <= power * (how.believed_direct if direct else how.believed_antialiased):
        return replace(plain, complete=direct and plain.expected <= how.silent_direct * power)
    methods = (Method.SPLINE, Method.BICUBIC if direct else Method.BANDLIMITED)
    total = plain.image.zero_() if direct else plain.image
    for method in methods:
        consistency.explained(y, method).add_to(total)
    return Start(total.div_(2 if direct else 3), plain.expected)


@dataclass(frozen=True)
class Carried:
    """What the network ``added`` (P, h, w) to the linear answer of the stage before, interpolated
    to positions ``rows`` and ``cols`` of this stage's grid; evaluated where it is wanted."""

    added: torch.Tensor
    rows: Array
    cols: Array

    def at(self, rows: slice, cols: slice, planes: slice = slice(None)) -> torch.Tensor:
        """A rectangle of it, (P, r, c)."""
        return resize.cubic_resample(self.added[planes], self.rows[rows], self.cols[cols])

    def add_to(self, image: torch.Tensor) -> torch.Tensor:
        """``image`` (P, H, W) += this, in place."""
        for band in bands(image):
            image[:, band] += self.at(band, slice(None))
        return image


def carried(
    added: torch.Tensor,
    shape: tuple[int, int],
    factor: tuple[float, float],
    sampling: Sampling,
) -> Carried:
    """What was ``added`` (P, h, w), on a grid of ``shape`` (H, W) that is finer by ``factor``."""
    rows, cols = (resize.positions(n, f, sampling) for n, f in zip(shape, factor, strict=True))
    return Carried(added, rows, cols)
