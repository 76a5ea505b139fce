"""The starting image: the best linear answer, on which the network learns the residual."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from mzsr_cli.imaging import resize
from mzsr_cli.imaging.degrade import Consistency, Degradation, back_projection
from mzsr_cli.imaging.levels import of_levels
from mzsr_cli.imaging.models import SliceModel, left_at_end, slice_filter, slice_model
from mzsr_cli.imaging.powers import Estimate, settled
from mzsr_cli.imaging.products import bands
from mzsr_cli.imaging.rounding import unrounded
from mzsr_cli.imaging.spectra import Array
from mzsr_cli.settings import BACK_PROJECTIONS, Method, Sampling, WienerSettings

TINY = 1e-30
"""Keeps variances of constant slices from dividing by zero."""


@dataclass(frozen=True)
class Start:
    """A starting image (P, H, W), and the mean-square error that its own model expects of it
    (None where there is no such model). ``complete`` says that it leaves nothing to learn,
    ``two_sided`` that it models both sides of a complex slice's spectrum, ``sure`` that they end
    before the band does, so that the model may be believed. ``claimed`` is what a model expects
    that an image without one is not made by, ``gain`` that of the filter for the variance of white
    noise."""

    image: torch.Tensor
    expected: float | None
    complete: bool = False
    two_sided: bool = False
    sure: bool = False
    claimed: float | None = None
    gain: float = 1.0


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
    expected, gain, products = found.expected, found.gain, found.apply(y.detach())
    del found  # its matrices are large in double precision, and no longer needed
    two_sided = all(spectrum.down is not None for spectrum in model.spectra)
    sure = two_sided and left_at_end(operator, model.spectra) < settings.left_sure
    return Start(products.whole(), expected, two_sided=two_sided, sure=sure, gain=gain)


class Magnitudes:
    """Magnitudes are roots of powers (powers.Meaning)."""

    least = 0.0

    def powers(self, values: torch.Tensor) -> torch.Tensor:
        """Squares, float64."""
        return values.detach().cpu().double().square()

    def values(self, powers: torch.Tensor) -> torch.Tensor:
        """Roots of powers >= 0, in their place."""
        return powers.sqrt_()

    def error(self, error: float, powers: torch.Tensor) -> float:
        """An error e of a square x^2 is one of e / 2x of x, but not more than half its root."""
        if error <= 0:
            return 0.0
        inverse = powers.add(error**0.5).reciprocal_()
        return error / 4 * float(inverse.mean(dtype=torch.float64))

    def moved(
        self, values: torch.Tensor, missing: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """Magnitudes and a part of what is missing, not below 0."""
        return torch.addcmul(values, missing, step).clamp_(min=0)


class _Falling:
    """Ends rounds where the expected error does not fall enough, unless it is small."""

    def __init__(self, limit: float, sure: float, falls: float) -> None:
        self.limit, self.sure, self.falls = limit, sure, falls

    def __call__(self, now: Estimate) -> bool:
        """Whether the last round was one too many."""
        ended = now.expected > self.limit
        self.limit = self.falls * now.expected
        return ended and now.expected >= self.sure


def promising(
    operator: Degradation, magnitude: torch.Tensor, values: SliceModel, settings: WienerSettings
) -> SliceModel | None:
    """The model of the squares of LR magnitudes (1, h, w), float64, where by the two spectra alone
    they could be interpolated with less error than the ``values``; None elsewhere."""
    powers = Magnitudes().powers(magnitude)
    squares = slice_model(operator, powers, settings)
    missed = Magnitudes().error(squares.variance * squares.missing, powers)
    hopeful = settings.intensity.hopeful * values.variance * values.missing
    return squares if missed < hopeful else None


def intensity(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    model: SliceModel | None = None,
    limit: float = math.inf,
    power: float | None = None,
) -> Start:
    """LR magnitudes (1, h, w) >= 0 to HR (1, H, W) through their squares, whose ``model`` may be
    known and whose ``power`` may count as less than it is. Roots, made consistent with y. After
    antialiased sampling in rounds (imaging.powers): while the expected error falls, or is small;
    not where it begins above ``limit``.
    """
    known_y, how = y.detach().clamp(min=0), settings.intensity
    powers = Magnitudes().powers(known_y)
    sure = how.sure * (float(powers.mean()) if power is None else power)
    model = model or slice_model(operator, powers, settings)
    ends = _Falling(limit, sure, how.falls)
    best = settled(
        operator, known_y, Magnitudes(), settings, how.settling, model, ends, sure
    )  # fmt: skip
    image = consistency.restore_(known_y, best.image)
    return Start(image, _error_of_root(best.power_error, image))


def _error_of_root(error: float, image: torch.Tensor) -> float:
    """Mean-square error of a root (P, H, W) whose square is wrong by ``error`` (mean square)."""
    parts = (image[:, band] for band in bands(image))
    total = sum(Magnitudes().error(error, part.square()) * part.numel() for part in parts)
    return total / image.numel()


def starting_image(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    zero: float | None = None,
    span: float | None = None,
) -> Start:
    """LR planes (P, h, w) to the starting image (P, H, W), which explains y but for its rounding.

    Without a blur kernel the Wiener interpolation, through the squares where the planes are
    magnitudes (``zero`` is what 0 has become in units of y, None for signed data) and the squares
    promise more, through the powers where they may be levels in dB (``span`` is what one unit of y
    is in the data's own, None where they cannot be) and those do; with one the cubic B-spline, made
    consistent (deblurred) by the regularised projection, unless the same interpolation is
    expected to leave little (measured: README, design notes). Where consistency is switched off,
    the cubic B-spline alone.
    """
    if not consistency.settings.enabled:
        return Start(operator.interpolate(y, Method.SPLINE, consistency.damping), None)
    if operator.kernel.size > 1:
        return _blurred(operator, y, consistency, settings, zero, span)
    if operator.sampling is Sampling.BICUBIC:  # others are samples of whole numbers themselves
        y = unrounded(y, consistency.noise, settings.rounding)
    values = slice_model(operator, y.detach().cpu().double(), settings)
    found = _by_model(operator, y, values, settings)
    return _by_spectra(operator, y, consistency, settings, zero, span, values, found)


def _blurred(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    zero: float | None,
    span: float | None,
) -> Start:
    """LR planes (P, h, w) that a kernel has blurred to HR (P, H, W).

    By their spectra, squares or powers where the spectra have ended before the limit and next to no
    error is expected (``settings.deblurred``), of complex slices also where little is; what the
    filter makes of white noise, rounding or more, counts among the error. By back-projection where
    that holds but the kernel is no product of axes. Else by the cubic B-spline, with what was
    expected of the filter as its ``claimed`` error.
    """
    spline = consistency.explained(y, Method.SPLINE)
    if not operator.leads:
        return Start(spline.whole(), None)
    values = slice_model(operator, y.detach().cpu().double(), settings)
    unknown = len(y) == 1 and zero is None and span is None
    if unknown and values.missing > settings.deblurred.sure:  # photographs, spared the filters
        return Start(spline.whole(), None)
    noise = consistency.noise**2 / max(values.variance, TINY)
    noisy = replace(settings, damping=max(settings.damping, noise))
    plain = _by_model(operator, y, values, noisy)
    noise = plain.gain * max(noise, settings.deblurred.noise)
    found = _by_spectra(operator, y, consistency, noisy, zero, span, values, plain)
    assert found.expected is not None
    wrong = found.expected / max(values.variance, TINY) + noise
    ended = found.complete or left_at_end(operator, values.spectra) < settings.left_sure
    sure = ended and wrong <= settings.deblurred.sure
    taken = sure or (len(y) == 2 and wrong <= settings.deblurred.likely)
    if taken and (found.complete or operator.rank == 1):
        settled = found.complete or (sure and zero is None)  # cusps are claimed to be less
        return replace(found, complete=settled)
    most = settings.deblurred.sure * values.variance
    image = _projected(operator, y, most) if taken else None
    return Start(
        spline.whole() if image is None else image,
        None,
        complete=sure and image is not None,
        two_sided=found.two_sided,
        sure=found.sure,
        claimed=found.expected,
    )


def _projected(operator: Degradation, y: torch.Tensor, most: float) -> torch.Tensor | None:
    """Blurred planes by back-projection, as where the kernel is no product of axes, which filters
    have to be; None where it leaves more than ``most`` of them (mean square): off-centre kernels
    make it diverge."""
    first = operator.interpolate(y, Method.BICUBIC, 0.0)
    image = back_projection(operator, y, first, BACK_PROJECTIONS)
    misfit = float((y - operator.apply(image)).double().square().mean())
    return image if misfit <= most else None


def _by_spectra(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    zero: float | None,
    span: float | None,
    values: SliceModel,
    found: Start,
) -> Start:
    """The image by the model of the ``values`` y (that is ``found``), of their squares or of their
    powers."""
    if span is not None and len(y) == 1 and found.expected is not None:
        levels = of_levels(operator, y, consistency, settings, span, found.expected)
        if levels is not None:
            return Start(*levels, complete=True)
    if zero is None or not settings.intensity.enabled:
        return found
    return _of_magnitudes(operator, y, consistency, settings, zero, values, found)


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
    how, direct = settings.intensity, not operator.mixes
    assert plain.expected is not None
    magnitude = (y - zero).detach().cpu().double().clamp(min=0)
    whole = float(magnitude.square().mean())
    power = min(whole, how.spread * float(magnitude.var(correction=0)))
    model = promising(operator, magnitude, values, settings)
    if model is not None:
        limit = how.given_up * plain.expected
        root = intensity(operator, y - zero, consistency, settings, model, limit, power)
        assert root.expected is not None
        root.image.add_(zero)
        if root.expected < min(how.clear * plain.expected, how.sure * power):
            return replace(root, complete=True)
        if root.expected < how.plausible * power:
            share = min(0.5, plain.expected / (plain.expected + root.expected + 1e-30))
            image = plain.image.lerp_(root.image, share)
            expected = min(plain.expected, root.expected)
            return Start(image, expected, direct and expected <= how.silent_direct * power)
    if plain.expected <= whole * (how.believed_direct if direct else how.believed_antialiased):
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
