"""imaging.rounding: means of whole numbers without most of what rounding added."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from mzsr_cli.imaging import degrade, kernels, start
from mzsr_cli.imaging.degrade import Consistency
from mzsr_cli.imaging.rounding import unrounded
from mzsr_cli.settings import ConsistencySettings, RoundingSettings, Sampling, WienerSettings

SETTINGS = RoundingSettings()
STEP = 0.04
NOISE = STEP / 12**0.5


def field(rng: np.random.Generator, planes: int, smooth: float) -> torch.Tensor:
    """Planes of filtered noise, 61 x 44, unit variance."""
    made = ndimage.gaussian_filter(rng.standard_normal((planes, 61, 44)), (0, smooth, smooth))
    return torch.from_numpy(made / made.std())


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("smooth", [1.5, 3.0])
def test_most_of_the_rounding_is_taken_out(
    rng: np.random.Generator, planes: int, smooth: float
) -> None:
    truth = field(rng, planes, smooth)
    seen = (truth / STEP).round() * STEP
    found = unrounded(seen, NOISE, SETTINGS)
    before, after = (float((x - truth).square().mean()) for x in (seen, found))
    assert before == pytest.approx(NOISE**2, rel=0.2)
    assert after < 0.6 * before
    assert found.dtype == seen.dtype and found.shape == seen.shape
    torch.testing.assert_close(found.mean((1, 2)), seen.mean((1, 2)))


def test_detail_above_the_rounding_stays(rng: np.random.Generator) -> None:
    """White noise of ten times its power, and a single bright sample."""
    seen = (torch.from_numpy(rng.standard_normal((1, 43, 31))) / STEP).round() * STEP
    found = unrounded(seen, NOISE, SETTINGS)
    assert float((found - seen).square().mean()) < 0.1 * NOISE**2
    spike = torch.zeros(1, 43, 31, dtype=torch.float64)
    spike[0, 20, 11] = 40 * STEP
    assert float((unrounded(spike, NOISE, SETTINGS) - spike).abs().max()) < STEP


def test_nothing_is_done_without_rounding(rng: np.random.Generator) -> None:
    seen = field(rng, 1, 2.0).float()
    assert unrounded(seen, 0.0, SETTINGS) is seen
    assert unrounded(seen, NOISE, replace(SETTINGS, enabled=False)) is seen


def test_constant_and_tiny_planes() -> None:
    for shape in ((1, 1, 1), (2, 3, 1), (1, 2, 5)):
        torch.testing.assert_close(
            unrounded(torch.full(shape, 0.3), NOISE, SETTINGS), torch.full(shape, 0.3)
        )


@pytest.mark.parametrize("sampling", list(Sampling))
def test_starts_of_rounded_means_gain_by_it(rng: np.random.Generator, sampling: Sampling) -> None:
    """By 1 dB and more; samples of whole numbers are themselves what is looked for."""
    truth = ndimage.gaussian_filter(rng.standard_normal((120, 92)), 4.0)
    high = torch.from_numpy(np.round(truth / truth.std() / STEP) * STEP)[None].float()
    operator = degrade.degradation(
        kernels.delta(), sampling, (2, 2), (120, 92), torch.device("cpu")
    )
    low = (operator.apply(high) / STEP).round() * STEP
    error = []
    for enabled in (True, False):
        settings = WienerSettings(rounding=RoundingSettings(enabled=enabled))
        known = Consistency(operator, ConsistencySettings(), NOISE)
        image = start.starting_image(operator, low, known, settings).image
        error.append(float((image - high).square().mean()))
    if sampling is Sampling.DIRECT:
        assert error[0] == error[1]
    else:
        assert error[0] < 10**-0.1 * error[1]
