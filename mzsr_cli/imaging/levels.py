"""Levels in decibels, interpolated through the powers that they are levels of.

Losses are levels with the other sign. Whether a slice holds either is not known: its powers say it,
where they can be interpolated with less error of the levels than the levels themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import ndimage

from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.imaging.models import SliceModel, slice_model
from mzsr_cli.imaging.powers import Estimate, settled
from mzsr_cli.settings import WienerSettings

NEPERS = math.log(10) / 10
"""Of power, in a decibel."""

NOTCH = (-20 * NEPERS, 10 * NEPERS)
"""Missing levels count as no less and no more than this (nepers of power): notches are not deepened
at will."""

AROUND = 15
"""Samples across a neighbourhood."""

CUT, CUT_SAMPLES = 1e-4, 3
"""Levels were cut where so many are no more than this (nepers of power) above the lowest."""


@dataclass(frozen=True)
class Levels:
    """Levels are logarithms of powers, log x = rate * level - top: ``rate`` is negative for losses
    (powers.Meaning)."""

    rate: float
    top: float
    least: float
    """Power below which no level is looked for: that of the lowest samples where several have been
    cut there, else 20 dB less."""

    @staticmethod
    def of(y: torch.Tensor, rate: float) -> Levels:
        """With powers of y that are 1 at most."""
        heights = rate * y.detach().double()
        top, lowest = float(heights.max()), float(heights.min())
        cut = int((heights < lowest + CUT).sum()) >= CUT_SAMPLES
        return Levels(rate, top, math.exp(lowest - top) / (1 if cut else 100))

    def powers(self, values: torch.Tensor) -> torch.Tensor:
        """Powers of levels, float64."""
        return (values.detach().cpu().double() * self.rate - self.top).exp_()

    def values(self, powers: torch.Tensor) -> torch.Tensor:
        """Levels of powers > 0, in their place."""
        return powers.log_().add_(self.top).div_(self.rate)

    def error(self, error: float, powers: torch.Tensor) -> float:
        """As of powers that are too high by the root of their mean-square ``error``, which is
        shared out by the power of the neighbourhood: where that is small, e / x^2; where notches
        are filled, the squared logarithm."""
        around = ndimage.uniform_filter(powers.square().numpy(), (0, AROUND, AROUND))
        share = torch.from_numpy(around).div_(around.mean() or 1.0)
        filled = share.mul_(error).clamp_(min=0).sqrt_() / powers
        return float(filled.log1p_().square_().mean()) / self.rate**2

    def moved(
        self, values: torch.Tensor, missing: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """Levels and a part of what is missing."""
        return values + (missing * self.rate).clamp_(*NOTCH).mul_(step).div_(self.rate)


def of_levels(
    operator: Degradation,
    y: torch.Tensor,
    consistency: Consistency,
    settings: WienerSettings,
    span: float,
    rival: float,
) -> tuple[torch.Tensor, float] | None:
    """The image (1, H, W) of LR levels y (1, h, w), of which one unit is ``span`` dB, through
    their powers, and its expected mean-square error; None where the range is not one of levels, or
    that error is neither small nor clearly less than that of a ``rival``.

    1. Levels or losses, whichever promise less. 2. Interpolate the powers, until the levels of
    their samples settle. 3. Make them consistent with y.
    """
    how = settings.levels
    if not how.enabled or not how.least <= span * float(y.max() - y.min()) <= how.most:
        return None
    most = min(how.clear * rival, how.sure * float(y.double().var()))
    found = _promising(operator, y, settings, span * NEPERS, how.hopeful * most)
    if found is None:
        return None
    best = settled(operator, y, found[0], settings, how.settling, found[1], _never, math.inf)
    expected = best.expected + best.misfit
    return (consistency.restore_(y, best.image), expected) if expected < most else None


def _never(_: Estimate) -> bool:
    """All rounds."""
    return False


def _promising(
    operator: Degradation, y: torch.Tensor, settings: WienerSettings, rate: float, most: float
) -> tuple[Levels, SliceModel] | None:
    """The better of the models of powers and of inverse powers, where its spectra alone promise an
    error of the levels of less than ``most``."""
    tried = []
    for meaning in (Levels.of(y, rate), Levels.of(y, -rate)):
        powers = meaning.powers(y)
        model = slice_model(operator, powers, settings)
        error = meaning.error(model.variance * model.missing, powers)
        tried.append((error, meaning, model))
    error, meaning, model = min(tried, key=lambda one: one[0])
    return (meaning, model) if error < most else None
