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
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

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
) -> bool:
    """Make ``image`` (P, H, W), which explains LR y (P, h, w), the nearest one within ``bounds``
    that does (as far as ``rounds`` go), in place. Where there is none, or consistency is switched
    off, bounds that were given win, and those that were found are given up: False.

    x = P(image + A^T z) with P the cut to the bounds; z maximises the dual, a concave function
    whose gradient is y - A x - mu z. Of noisy y, which ``image`` explains only as far as it should,
    A ``image`` takes the place.
    """
    if not bounds:
        return True
    if consistency.settings.enabled and _exceeds(image, bounds, settings):
        z, reached = _multipliers(consistency, y, image, bounds, settings)
        if not (reached or settings.given):
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
    """The multipliers z (P, h, w) of ``keep_``, and whether there is an image within bounds: by
    conjugate gradients (Polak and Ribiere, preconditioned with (A A^T + mu)^-1, one secant step a
    line)."""
    operator = consistency.operator
    wanted = operator.apply(image) if consistency.noise > 0 else y
    blocks = _blocks(operator)

    def gradient(z: torch.Tensor) -> torch.Tensor:
        return wanted - _sampled(blocks, image, z, bounds) - consistency.damping * z

    def met(g: torch.Tensor) -> bool:
        return _dot(g, g) <= settings.negligible**2 * g.numel()

    z = torch.zeros_like(wanted)
    g = gradient(z)
    d = s = consistency.inverse(g)
    size = first = _dot(g, s)
    for _ in range(settings.rounds):
        if met(g) or not settings.enough * first < size < settings.hopeless * first:
            break
        ahead = gradient(z + settings.trial * d)
        slope, change = _dot(g, d), _dot(g - ahead, d)
        step = settings.trial * (slope / change if change > 0 else settings.longest)
        z = z + min(max(step, settings.shortest), settings.longest) * d
        g_next = gradient(z)
        s_next = consistency.inverse(g_next)
        size_next = _dot(g_next, s_next)
        d = s_next + max(0.0, (size_next - _dot(g, s_next)) / size) * d
        g, size = g_next, size_next
    return z, met(g) or size < settings.reached * first


BLOCK = 128
"""Side in HR pixels of the blocks in which A and A^T are applied."""


@dataclass(frozen=True)
class _Run:
    """A run of HR pixels of an axis, the LR pixels that they have a part in, and of each separable
    term the matrix (LR, HR) between them."""

    high: slice
    low: slice
    parts: tuple[torch.Tensor, ...]


def _runs(matrices: tuple[torch.Tensor, ...]) -> list[_Run]:
    """The runs of an axis of matrices (h, H)."""
    taken = sum((matrix.abs() for matrix in matrices), torch.zeros_like(matrices[0])) > 0
    runs = []
    for first in range(0, taken.shape[1], BLOCK):
        high = slice(first, min(first + BLOCK, taken.shape[1]))
        rows = taken[:, high].any(1).nonzero()
        low = slice(int(rows.min()), int(rows.max()) + 1) if len(rows) else slice(0, 1)
        parts = tuple(matrix[low, high].contiguous() for matrix in matrices)
        runs.append(_Run(high, low, parts))
    return runs


def _blocks(operator: Degradation) -> list[tuple[_Run, _Run]]:
    """A in blocks: few LR samples have a part in a block of HR pixels."""
    rows, cols = (tuple(term[axis].matrix for term in operator.map.terms) for axis in (0, 1))
    return list(product(_runs(rows), _runs(cols)))


def _sampled(
    blocks: list[tuple[_Run, _Run]], image: torch.Tensor, z: torch.Tensor, bounds: Bounds
) -> torch.Tensor:
    """A P(image + A^T z) of (P, H, W) and (P, h, w), block by block."""
    total = torch.zeros_like(z)
    for rows, cols in blocks:
        near = z[:, rows.low, cols.low]
        part = image[:, rows.high, cols.high].clone()
        for r, c in zip(rows.parts, cols.parts, strict=True):
            part += r.mT @ (near @ c)
        bounds.clamp_(part)
        for r, c in zip(rows.parts, cols.parts, strict=True):
            total[:, rows.low, cols.low] += r @ (part @ c.mT)
    return total


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() * b.double()).sum())
