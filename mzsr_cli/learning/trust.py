"""How much of what the network adds is plausible, given what the Wiener model claims."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mzsr_cli.imaging.products import mean_square
from mzsr_cli.imaging.spectra import ramp
from mzsr_cli.imaging.start import Start
from mzsr_cli.settings import CheckSettings, Sampling


@dataclass(frozen=True)
class Claim:
    """What a Wiener model says of a start: the mean-square error that it expects (None where there
    is no model) beside the slice's ``variance``; whether it knows both sides of a complex slice's
    spectrum, and whether these end before the band does (imaging.start.Start)."""

    expected: float | None
    variance: float
    two_sided: bool = False
    sure: bool = False

    @staticmethod
    def of(start: Start, planes: torch.Tensor) -> Claim:
        """What is claimed of the ``start`` of LR planes (P, h, w)."""
        expected = start.claimed if start.expected is None else start.expected
        return Claim(expected, float(planes.var()), start.two_sided, start.sure)

    @property
    def level(self) -> float:
        """The expected error in dB of the variance."""
        assert self.expected is not None
        return 10 * math.log10(max(self.expected, 1e-30) / max(self.variance, 1e-30))


def kept_share(
    added: torch.Tensor,
    claim: Claim,
    hopeless: bool,
    sampling: Sampling,
    scale: float,
    settings: CheckSettings,
) -> float:
    """Part of what the network added (P, H, W) at ``scale`` that is plausible, 0 to 1, where the
    pair says nothing, or was ``hopeless``. 1 where nothing is claimed.

    Ramps down where the energies' ratio, added over expected, goes from ``added_full`` to
    ``added_none``, as far as the model counts: earlier where it has ``two_sided`` spectra, in full
    where it is ``sure``. However little it counts, no more than ``added_most_direct`` above the
    expected error is kept after direct sampling.
    """
    if claim.expected is None or not settings.enabled:
        return 1.0
    ratio = mean_square(added) / max(claim.expected, 1e-30)
    one_sided = at_scale(settings.certain, settings.certain_long, scale)
    certain = settings.certain_two_sided if claim.two_sided else one_sided
    counts = ramp(claim.level, *(settings.certain_hopeless if hopeless else certain))
    counts = 1.0 if claim.sure else counts
    plausible = 1 - counts * ramp(ratio, settings.added_full, settings.added_none)
    if sampling is not Sampling.DIRECT:
        return plausible
    short, long = settings.added_most_direct
    most = short + octaves(scale) * (long - short)
    return min(plausible, 10 ** (most / 20) / math.sqrt(max(ratio, 1e-30)))


def octaves(scale: float) -> float:
    """Where a ``scale`` lies between x2 (and below: 0) and x4 (and beyond: 1), in octaves."""
    return ramp(math.log2(max(scale, 1.0)), 1.0, 2.0)


def at_scale(
    short: tuple[float, float], long: tuple[float, float], scale: float
) -> tuple[float, float]:
    """Limits at a ``scale``: ``short`` up to x2, ``long`` from x4 on, between them in octaves."""
    part = octaves(scale)
    return short[0] + part * (long[0] - short[0]), short[1] + part * (long[1] - short[1])


def audible_share(claim: Claim, sampling: Sampling, scale: float, settings: CheckSettings) -> float:
    """Share of what the network adds to a signed or complex slice at ``scale``, 0 to 1: none where
    its starting image is expected to have next to no error."""
    if claim.expected is None or not settings.enabled:
        return 1.0
    direct = at_scale(settings.silent_direct, settings.silent_direct_long, scale)
    silent = direct if sampling is Sampling.DIRECT else settings.silent
    return ramp(claim.level, *silent)


def hopeful_share(claim: Claim, settings: CheckSettings) -> float:
    """The same where the pair is neither informative nor hopeless: none from larger expected errors
    on."""
    if claim.expected is None or not settings.enabled:
        return 1.0
    return ramp(claim.level, *settings.silent_hopeful)
