"""Bounds of the values: where a slice lies on a plateau at its lowest or highest value, nothing of
the fine slice lies beyond it, which says more about edges than any prior.

A map of path gain above a floor is flat in the shadow; antialiased sampling of it rings, and
any result without bounds rings too. The set of images within bounds that have the coarse slice's
samples is convex and holds the truth, so that the nearest of them is nearer to the truth than what
one started from.

Source: L. C. Potter and K. S. Arun, "A dual approach to linear inverse problems with convex
constraints", SIAM J. Control and Optimization 31, 1993.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.imaging.normalize import Range
from mzsr_cli.imaging.products import bands
from mzsr_cli.settings import BoundsSettings, PlateauSettings

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """Lowest and highest value of the fine slice; None where it is not known."""

    low: float | None = None
    high: float | None = None

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self.low is not None or self.high is not None

    def within(self, other: Bounds) -> Bounds:
        """The narrower one on each side."""
        lows = [b for b in (self.low, other.low) if b is not None]
        highs = [b for b in (self.high, other.high) if b is not None]
        return Bounds(max(lows, default=None), min(highs, default=None))

    def normalised(self, mapping: Range) -> Bounds:
        """Own units to [0, 1]."""
        low, high = (
            None if b is None else (b - mapping.low) / (mapping.span or 1.0)
            for b in (self.low, self.high)
        )
        return Bounds(low, high)

    def in_units(self, mapping: Range) -> Bounds:
        """[0, 1] to own units."""
        low, high = (
            None if b is None else b * (mapping.span or 1.0) + mapping.low
            for b in (self.low, self.high)
        )
        return Bounds(low, high)

    def clamp_(self, image: torch.Tensor) -> torch.Tensor:
        """``image`` cut to the bounds, in place."""
        return image.clamp_(self.low, self.high) if self else image

    def inside(self, image: torch.Tensor) -> torch.Tensor:
        """Where the values of ``image`` are between the bounds, not at one."""
        below = image < (torch.inf if self.high is None else self.high)
        return below & (image > (-torch.inf if self.low is None else self.low))


UNBOUNDED = Bounds()


def share_beside(planes: torch.Tensor, bounds: Bounds, how: PlateauSettings) -> float:
    """Share of LR samples (P, h, w) in [0, 1] that lie on a bound or beyond it and have one near
    that is well within: much in maps full of shadows, little beside the background of a picture."""
    found, side = 0.0, how.window
    for bound, sign in ((bounds.low, 1.0), (bounds.high, -1.0)):
        if bound is None:
            continue
        above = sign * (planes - bound)
        near = functional.max_pool2d(above[:, None], side, 1, side // 2)[:, 0]
        at = (above <= how.tolerance) & (near > how.beside)
        found += float(at.double().mean())
    return found


# -- finding them -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Grain:
    """How finely LR samples in [0, 1] are stored: the distance of the ``level``s that integers can
    take (0 for floating point), and the rounding ``error`` of floating point."""

    level: float = 0.0
    error: float = 0.0

    def tolerance(self, settings: PlateauSettings) -> float:
        """By how much samples on a plateau may differ."""
        return max(settings.tolerance, settings.roundings * self.error)


def plateaus(planes: Values, rings: bool, grain: Grain, settings: PlateauSettings) -> Bounds:
    """The bounds that LR planes (P, h, w) in [0, 1] show by a plateau; none for several planes.

    ``rings`` says that the degradation has negative weights, so that LR samples may lie beyond
    the bounds beside an edge.
    """
    if len(planes) != 1 or planes.size < settings.slice_min:
        return UNBOUNDED
    every = 1 + planes.size // settings.looked_at
    ordered = np.sort(planes.ravel()[::every])
    low = _floor(planes[0], ordered, rings, grain, settings)
    high = _floor(1 - planes[0], 1 - ordered[::-1], rings, grain, settings)
    return Bounds(low, None if high is None else 1 - high)


def _floor(
    image: Values, ordered: Values, rings: bool, grain: Grain, settings: PlateauSettings
) -> float | None:
    """The most frequent value of an image, of which some samples are ``ordered``, that can be the
    lowest of what was sampled."""
    for value in _frequent(ordered, grain, settings):
        if _is_lowest(image, value, rings, grain.tolerance(settings), settings):
            return value
    return None


def _frequent(ordered: Values, grain: Grain, settings: PlateauSettings) -> list[float]:
    """Values that far more of the ``ordered`` samples share than chance would have it, the most
    frequent one first."""
    tolerance = grain.tolerance(settings)
    width = max(2 * tolerance, grain.level)
    least = max(settings.samples_min, settings.share_min * len(ordered))
    together = math.ceil(least) - 1
    if not (ordered[together:] <= ordered[: len(ordered) - together] + tolerance).any():
        return []
    ends = np.searchsorted(ordered, ordered + tolerance, side="right")
    counts = ends - np.arange(len(ordered))
    found: list[float] = []
    while len(found) < settings.candidates:
        at = int(counts.argmax())
        if counts[at] < least:
            break
        begin, end = at, int(ends[at])
        value = float(ordered[(begin + end) // 2])
        if end - begin >= settings.excess * _usual(ordered, value, width, settings):
            found.append(value)
        counts[max(0, begin - (end - begin)) : end] = 0
    return found


def _usual(ordered: Values, value: float, width: float, settings: PlateauSettings) -> float:
    """How many samples a value has just above ``value``, on an interval of ``width``."""
    span = max(settings.beside, 4 * width)
    edges = value + width / 2 + np.array([0.0, span])
    begin, end = np.searchsorted(ordered, edges)
    return float(end - begin) * width / span


def _is_lowest(
    image: Values, value: float, rings: bool, tolerance: float, settings: PlateauSettings
) -> bool:
    """Whether many samples are above ``value``, and those below it no more than the ringing of an
    edge beside them."""
    from scipy import ndimage

    height = image - value
    below, above = height < -tolerance, height > tolerance
    if above.sum() < settings.above_min:
        return False
    if not below.any() or not rings:
        return not below.any()
    allowed = settings.ringing * ndimage.maximum_filter(height, settings.window, mode="nearest")
    unexplained = (-height > allowed)[below].mean()
    beyond = -height[below].sum() / height[above].sum()
    return bool(unexplained <= settings.unexplained and beyond <= settings.beyond_max)


# -- keeping to them --------------------------------------------------------------------------


def keep_(
    consistency: Consistency,
    y: torch.Tensor,
    image: torch.Tensor,
    bounds: Bounds,
    settings: BoundsSettings,
    sure: bool = False,
) -> bool:
    """Make ``image`` (P, H, W), which explains LR y (P, h, w), the nearest one within ``bounds``
    that does (as far as ``rounds`` go), in place. Where there is none, or consistency is switched
    off, bounds that are given or ``sure`` win, and others that were found are given up: False.

    x = P(image + A^T z) with P the cut to the bounds; z maximises the dual, a concave function
    whose gradient is y - A x - mu z. Of noisy y, which ``image`` explains only as far as it should,
    A ``image`` takes the place.
    """
    if not bounds:
        return True
    if consistency.settings.enabled and _exceeds(image, bounds, settings):
        z, reached = _multipliers(consistency, y, image, bounds, settings)
        if not (reached or settings.given or sure):
            return False
        consistency.operator.map.adjoint_products(z).add_to(image)
    for band in bands(image):
        bounds.clamp_(image[:, band])
    return True


def _exceeds(image: torch.Tensor, bounds: Bounds, settings: BoundsSettings) -> bool:
    """Whether an image is beyond its bounds by more than would be seen."""
    total = 0.0
    for band in bands(image):
        part = image[:, band]
        total += float((part - bounds.clamp_(part.clone())).double().square().sum())
    return total > settings.negligible**2 * image.numel()


def _multipliers(
    consistency: Consistency,
    y: torch.Tensor,
    image: torch.Tensor,
    bounds: Bounds,
    settings: BoundsSettings,
) -> tuple[torch.Tensor, bool]:
    """The multipliers z (P, h, w) of ``keep_``, and whether there is an image within bounds: by the
    limited-memory method of Broyden, Fletcher, Goldfarb and Shanno, (A A^T + mu)^-1 for the inverse
    Hessian to begin with and steps of length 1 but for the first. The gradient wavers while the
    image comes nearer; multipliers with one far above the least are left out."""
    operator = consistency.operator
    wanted = operator.apply(image) if consistency.noise > 0 else y

    def gradient(z: torch.Tensor) -> _Gradient:
        g = wanted - _sampled(operator, image, z, bounds) - consistency.damping * z
        s = consistency.inverse(g)
        return _Gradient(g, s, _dot(g, s))

    z = torch.zeros_like(wanted)
    now = gradient(z)
    first = now.size
    best, least = z, first
    memory = _Memory(settings.memory)
    step = settings.trial * now.preconditioned
    for _ in range(settings.rounds):
        if _met(now, settings) or not (
            settings.enough * first < now.size < settings.hopeless * first
        ):
            break
        z = z + step
        after = gradient(z)
        memory.add(step, now, after)
        now, step = after, memory.direction(after)
        if now.size < settings.wavers * least:
            best, least = z, min(least, now.size)
    return best, _met(now, settings) or least < settings.reached * first


def _met(at: _Gradient, settings: BoundsSettings) -> bool:
    """Whether the samples are met as nearly as would be seen."""
    return _dot(at.plain, at.plain) <= settings.negligible**2 * at.plain.numel()


@dataclass(frozen=True)
class _Gradient:
    """The dual's gradient (P, h, w), (A A^T + mu)^-1 times it, and the product of the two."""

    plain: torch.Tensor
    preconditioned: torch.Tensor
    size: float


class _Memory:
    """The last steps of an ascent and the changes of the gradient along them (J. Nocedal, "Updating
    quasi-Newton matrices with limited storage", 1980)."""

    def __init__(self, length: int) -> None:
        self._kept: deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]]
        self._kept = deque(maxlen=length)

    def add(self, step: torch.Tensor, before: _Gradient, after: _Gradient) -> None:
        """A step, and the gradients on both of its ends; one along which the gradient does not fall
        says nothing."""
        fallen = before.plain - after.plain
        curvature = _dot(step, fallen)
        if curvature > 0:
            preconditioned = before.preconditioned - after.preconditioned
            self._kept.append((step, fallen, preconditioned, curvature))

    def direction(self, at: _Gradient) -> torch.Tensor:
        """The next step from there."""
        if not self._kept:
            return at.preconditioned
        rest, ahead, parts = at.plain, at.preconditioned, []
        for step, fallen, preconditioned, curvature in reversed(self._kept):
            part = _dot(step, rest) / curvature
            parts.append(part)
            rest, ahead = rest - part * fallen, ahead - part * preconditioned
        _, fallen, preconditioned, curvature = self._kept[-1]
        ahead = curvature / _dot(fallen, preconditioned) * ahead
        for (step, fallen, _, curvature), part in zip(self._kept, reversed(parts), strict=True):
            ahead = ahead + (part - _dot(fallen, ahead) / curvature) * step
        return ahead


def _sampled(
    operator: Degradation, image: torch.Tensor, z: torch.Tensor, bounds: Bounds
) -> torch.Tensor:
    """A P(image + A^T z) of (P, H, W) and (P, h, w), band by band."""
    added = operator.map.adjoint_products(z)

    def within(rows: slice) -> torch.Tensor:
        return bounds.clamp_(added.at(rows, slice(None)).add_(image[:, rows]))

    return operator.map.apply_to(image.shape, within)


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))
