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
from mzsr_cli.imaging.models import slice_filter, slice_model
from mzsr_cli.imaging.powers import Estimate, settled
from mzsr_cli.settings import LevelSettings, WienerSettings

NEPERS = math.log(10) / 10
"""Of power, in a decibel."""


@dataclass(frozen=True)
class Levels:
    """Levels are logarithms of powers, log x = rate * level - top: ``rate`` is negative for losses
    (powers.Meaning)."""

    rate: float
    top: float
    least: float
    """Power below which no level is looked for: where they have been cut, else ``below`` the lowest
    sample."""
    how: LevelSettings

    @staticmethod
    def of(y: torch.Tensor, rate: float, how: LevelSettings) -> Levels:
        """With powers of y that are 1 at most."""
        heights = (rate * y.detach().cpu().double()).flatten().sort().values
        top, lowest = float(heights[-1]), float(heights[0])
        low = heights[: math.ceil(how.cut_share * len(heights))]
        same = low[how.cut_samples - 1 :] - low[: 1 - how.cut_samples] < how.cut * NEPERS
        if len(same) > 0 and bool(same.any()):
            return Levels(rate, top, math.exp(float(low[int(same.int().argmax())]) - top), how)
        return Levels(rate, top, math.exp(lowest - top) / 10 ** (how.below / 10), how)

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
        known = powers.clamp(min=self.least)
        squares = known.square()
        side = self.how.around
        around = ndimage.uniform_filter(squares.numpy(), (0, side, side))
        share = torch.from_numpy(around).clamp_(min=squares / side**2)  # running sums are rounded
        filled = share.mul_(error / (float(share.mean()) or 1.0)).clamp_(min=0).sqrt_() / known
        return float(filled.log1p_().square_().mean()) / self.rate**2

    def moved(
        self, values: torch.Tensor, missing: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """Levels and a part of what is missing, which counts as ``notch`` at most: notches are not
        deepened at will."""
        deep, high = (NEPERS * level for level in self.how.notch)
        return values + (missing * self.rate).clamp_(deep, high).mul_(step).div_(self.rate)


class _Done:
    """Ends rounds where next to nothing is missing, or too much is expected for too long."""

    def __init__(self, most: float, how: LevelSettings) -> None:
        self.most, self.how, self.rounds = most, how, 0

    def __call__(self, now: Estimate) -> bool:
        """Whether it has ended."""
        self.rounds += 1
        if now.misfit < self.how.settled * now.expected:
            return True
        return self.rounds > self.how.patience and now.expected > self.how.hopeful * self.most


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
    that error is neither small nor less than that of a ``rival``, the interpolation of y itself, or
    not borne out.

    1. Levels or losses, whichever promise less. 2. Interpolate the powers, until the levels of
    their samples settle. 3. Compare y with what is made of its own samples, so as to know what the
    expected error is worth. 4. Make the image consistent with y.
    """
    how = settings.levels
    if not how.enabled or not how.least <= span * float(y.max() - y.min()) <= how.most:
        return None
    most = min(how.clear * rival, how.sure * float(y.double().var()))
    best = _estimate(operator, y, settings, span * NEPERS, most)
    if best is None or best.expected + best.misfit >= most:
        return None
    if not _borne_out(operator, y, settings, span * NEPERS):
        return None
    return consistency.restore_(y, best.image), best.expected + best.misfit


def _estimate(
    operator: Degradation, y: torch.Tensor, settings: WienerSettings, rate: float, most: float
) -> Estimate | None:
    """The interpolation of the powers of y, or of inverse powers where those promise less; None
    where the spectra alone promise an error of the levels of ``most`` by far or more."""
    how, tried = settings.levels, []
    for meaning in (Levels.of(y, rate, how), Levels.of(y, -rate, how)):
        powers = meaning.powers(y)
        model = slice_model(operator, powers, settings)
        error = meaning.error(model.variance * model.missing, powers)
        tried.append((error, meaning, model))
    error, meaning, model = min(tried, key=lambda one: one[0])
    if error >= how.hopeful * most:
        return None
    ends = _Done(most, how)
    return settled(operator, y, meaning, settings, how.settling, model, ends, math.inf)


def _borne_out(
    operator: Degradation, y: torch.Tensor, settings: WienerSettings, rate: float
) -> bool:
    """Whether levels y (1, h, w) are found from their own samples with less error than without
    powers, or with about the error that is expected: a field that is smooth where it is loud alone
    is found with much more."""
    own = operator.son
    if min(own.lr_shape) < settings.levels.son_least:
        return True
    son = own.apply(y)
    found = _estimate(own, son, settings, rate, math.inf)
    assert found is not None
    values = slice_filter(own, slice_model(own, son.cpu().double(), settings), settings)
    wrong, rival = (
        float((image - y).double().square().mean())
        for image in (found.image, values.apply(son).whole())
    )
    claim = found.expected + found.misfit
    return wrong < max(rival, settings.levels.believed * claim)
