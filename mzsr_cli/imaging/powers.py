"""Values that are functions of a power (magnitudes, levels), interpolated through that power.

The power |p|^2 of a band-limited complex field p is band-limited. Its magnitude |p| is not: zeros
of p are its cusps; its level 10 log10 |p|^2 is even less: they are its notches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from mzsr_cli.imaging.degrade import Degradation
from mzsr_cli.imaging.models import SliceFilter, SliceModel, slice_filter, slice_model
from mzsr_cli.imaging.products import bands
from mzsr_cli.settings import SettlingSettings, WienerSettings


class Meaning(Protocol):
    """What values are of powers."""

    @property
    def least(self) -> float:
        """What interpolated powers may be at least."""
        ...

    def powers(self, values: torch.Tensor) -> torch.Tensor:
        """Powers of values, float64."""
        ...

    def values(self, powers: torch.Tensor) -> torch.Tensor:
        """Values of powers, in their place."""
        ...

    def error(self, error: float, powers: torch.Tensor) -> float:
        """Mean-square error of the values of ``powers`` (1, h, w) that are wrong by ``error`` (mean
        square)."""
        ...

    def moved(
        self, values: torch.Tensor, missing: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """``values`` and a part, ``step``, of what is ``missing`` of them."""
        ...


@dataclass
class Estimate:
    """Values (1, H, W) of interpolated powers, the mean-square errors that the model expects of
    these, ``power_error``, and of the values, and what they leave of the samples, ``missing``, and
    of their mean square."""

    image: torch.Tensor
    power_error: float
    expected: float
    missing: torch.Tensor
    misfit: float


def estimate(
    operator: Degradation,
    y: torch.Tensor,
    meaning: Meaning,
    found: SliceFilter,
    values: torch.Tensor,
    dtype: torch.dtype,
) -> Estimate:
    """The interpolation of the powers of ``values`` by the filter ``found``, in the precision
    ``dtype``, band by band."""
    powers = meaning.powers(values)
    products = found.apply(powers.to(y.device, dtype))
    image = y.new_empty(products.shape)
    for band in bands(image):
        part = products.at(band, slice(None)).clamp_(min=meaning.least)
        image[:, band] = meaning.values(part).to(y)
    expected = meaning.error(found.expected, powers)
    missing = (y - operator.apply(image)).cpu().double()
    misfit = float(missing.square().mean())
    return Estimate(image, found.expected, expected, missing, misfit)


def settled(
    operator: Degradation,
    y: torch.Tensor,
    meaning: Meaning,
    settings: WienerSettings,
    how: SettlingSettings,
    model: SliceModel,
    ends: Callable[[Estimate], bool],
    sure: float,
) -> Estimate:
    """The estimate of LR values y (1, h, w) that leaves least of them: the first one after direct
    sampling without blur, whose samples are values themselves.

    After antialiased sampling or blur they are means. 1. Interpolate the powers of the samples, by
    the filter of their ``model``. 2. Move each sample by a part of what the values of the estimate
    miss it by. 3. Repeat, reading the spectrum anew now and then; until the estimate ``ends`` it.
    Zeros answer more than other places: every sample has a step of its own, which grows while what
    is missing keeps its sign and shrinks where it turns (Riedmiller and Braun, "A direct adaptive
    method for faster backpropagation learning: the RPROP algorithm", 1993). In double precision
    where an error less than ``sure`` is expected.
    """
    values = y.detach().cpu().double()
    found = slice_filter(operator, model, settings)
    dtype = torch.float64 if sure == math.inf else y.dtype
    best = estimate(operator, y, meaning, found, values, dtype)
    missing, expected, ended = best.missing, best.expected, ends(best)
    step = torch.full_like(values, how.step)
    rounds = how.rounds if operator.mixes else 0
    for done in range(rounds):
        if ended:
            break
        values = meaning.moved(values, missing, step)
        if done % how.reread == 0:
            model = slice_model(operator, meaning.powers(values), settings)
            found = slice_filter(operator, model, settings)
        dtype = torch.float64 if expected < sure else y.dtype
        now = estimate(operator, y, meaning, found, values, dtype)
        turned = missing * now.missing < 0
        step = torch.where(turned, step * how.shrinks, (step * how.grows).clamp_(max=1))
        missing, expected, ended = now.missing, now.expected, ends(now)
        best = min(best, now, key=lambda one: one.misfit)
    return best
