"""Bounds: plateaus are found where there are some and nowhere else; the nearest image within
bounds is nearer to the truth and has the same samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize

from mzsr_cli.imaging import degrade, kernels
from mzsr_cli.imaging.bounds import UNBOUNDED, Bounds, Grain, keep_, plateaus
from mzsr_cli.imaging.normalize import Range
from mzsr_cli.settings import (
    BoundsSettings,
    ConsistencySettings,
    Method,
    PlateauSettings,
    Sampling,
)

SETTINGS = BoundsSettings()
PLATEAU = PlateauSettings()
BLURS = {"none": kernels.delta(), "gaussian": kernels.gaussian(2.0, 2.0, 0.0),
         "turned": kernels.gaussian(4.0, 1.0, 0.6)}  # fmt: skip


def shadow_map(rng: np.random.Generator, shape: tuple[int, int] = (98, 122)) -> np.ndarray:
    """Smooth values above 0 with shadows of exactly 0, in [0, 1]."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), 4)
    lit = ndimage.gaussian_filter(rng.standard_normal(shape), 3) > 0
    image = np.where(lit, 1 + 5 * smooth, 0).clip(0)
    return np.asarray(image / image.max())


def degraded(
    image: np.ndarray, sampling: Sampling, scale: float, kernel: kernels.Kernel
) -> tuple[degrade.Consistency, torch.Tensor]:
    """The projection and the LR planes (1, h, w), in double precision."""
    operator = degrade.degradation(
        kernel, sampling, (scale, scale), (image.shape[0], image.shape[1]), dtype=torch.float64
    )
    return degrade.Consistency(operator, ConsistencySettings()), operator.apply(
        torch.from_numpy(image)[None]
    )


@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize(("scale", "kernel", "sampling"), [
    (2.0, "none", Sampling.BICUBIC),
    (2.0, "gaussian", Sampling.DIRECT),
    (2.5, "none", Sampling.BICUBIC),
])  # fmt: skip
def test_plateaus_are_found(
    rng: np.random.Generator, scale: float, kernel: str, sampling: Sampling, upside_down: bool
) -> None:
    _, low = degraded(shadow_map(rng), sampling, scale, BLURS[kernel])
    rings = sampling is Sampling.BICUBIC
    assert bool((low < -1e-3).any()) is rings  # so the lowest LR sample is not the bound
    planes = low.numpy()
    mapping = Range(float(planes.min()), float(np.ptp(planes)))
    seen = mapping.forward(planes)
    found = plateaus(1 - seen if upside_down else seen, rings, Grain(), PLATEAU)
    floor = mapping.forward(np.zeros(1))[0]
    assert found.low == (None if upside_down else pytest.approx(floor, abs=1e-6))
    assert found.high == (pytest.approx(1 - floor, abs=1e-6) if upside_down else None)


@pytest.mark.parametrize("offset", [-110.0, 1e3])
def test_plateaus_of_rounded_floats_are_found(rng: np.random.Generator, offset: float) -> None:
    _, low = degraded(40 * shadow_map(rng) + offset, Sampling.BICUBIC, 2.0, BLURS["none"])
    planes = low.numpy().astype(np.float32).astype(np.float64)
    mapping = Range(float(planes.min()), float(np.ptp(planes)))
    error = float(np.finfo(np.float32).eps) * abs(offset) / mapping.span
    found = plateaus(mapping.forward(planes), True, Grain(error=error), PLATEAU)
    assert found.low is not None
    assert found.in_units(mapping).low == pytest.approx(offset, rel=1e-6)


def silent(rng: np.random.Generator) -> np.ndarray:
    """Waves that have not reached everything yet: exactly 0 there, both signs elsewhere."""
    rows, cols = np.mgrid[:48, :59]
    radius = np.hypot(rows - 20, cols - 30)
    wave = np.sin(0.9 * radius + rng.random()) * np.exp(-radius / 20)
    return np.where(radius < 22, wave, 0.0)


OTHERS = {
    "noise": lambda rng: rng.standard_normal((48, 59)),
    "smooth": lambda rng: ndimage.gaussian_filter(rng.standard_normal((48, 59)), 3),
    "silent waves": silent,
    "few echoes": lambda rng: np.where(rng.random((48, 59)) < 0.02, rng.random((48, 59)), 0.0),
    "levels in between": lambda rng: np.where(
        rng.random((48, 59)) < 0.3, 0.05, ndimage.gaussian_filter(rng.standard_normal((48, 59)), 3)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("rings", [False, True])
def test_other_data_have_no_plateau(rng: np.random.Generator, name: str, rings: bool) -> None:
    image = OTHERS[name](rng)
    mapping = Range(float(image.min()), float(np.ptp(image)))
    assert plateaus(mapping.forward(image)[None], rings, Grain(), PLATEAU) == UNBOUNDED


def test_common_levels_of_integers_are_no_plateau(rng: np.random.Generator) -> None:
    levels = np.rint(20 + 6 * ndimage.gaussian_filter(rng.standard_normal((64, 71)), 2) / 0.14)
    planes = ((levels - levels.min()) / np.ptp(levels))[None]
    grain = Grain(level=1 / np.ptp(levels))
    assert plateaus(planes, True, grain, PLATEAU) == UNBOUNDED
    floored = np.maximum(levels, 20)
    planes = ((floored - 20) / np.ptp(floored))[None]
    assert plateaus(planes, True, Grain(level=1 / np.ptp(floored)), PLATEAU) == Bounds(0.0)


def test_of_large_slices_some_samples_are_looked_at(rng: np.random.Generator) -> None:
    image = shadow_map(rng, (120, 131))[None]
    some = replace(PLATEAU, looked_at=5000)
    assert plateaus(image, False, Grain(), some) == Bounds(0.0)


def test_small_slices_and_complex_ones_show_nothing(rng: np.random.Generator) -> None:
    image = shadow_map(rng, (64, 70))[::4, ::4]
    assert plateaus(image[None], False, Grain(), PLATEAU) == UNBOUNDED
    pair = np.stack([shadow_map(rng), shadow_map(rng)])
    assert plateaus(pair, False, Grain(), PLATEAU) == UNBOUNDED


def test_units() -> None:
    mapping = Range(-110.0, 40.0)
    bounds = Bounds(-100.0, None)
    assert bounds.normalised(mapping) == Bounds(0.25, None)
    assert bounds.normalised(mapping).in_units(mapping) == bounds
    assert Bounds(0.0, 5.0).within(Bounds(None, 4.0)) == Bounds(0.0, 4.0)
    assert Bounds(1.0, None).within(Bounds(0.0, None)) == Bounds(1.0, None)
    assert not UNBOUNDED
    assert Bounds(0.0)


@pytest.mark.parametrize(("scale", "kernel", "sampling"), [
    (2.0, "none", Sampling.BICUBIC),
    (3.0, "gaussian", Sampling.BICUBIC),
    (2.0, "turned", Sampling.DIRECT),
    (2.5, "none", Sampling.BICUBIC),
])  # fmt: skip
def test_within_bounds_is_nearer_to_the_truth(
    rng: np.random.Generator, scale: float, kernel: str, sampling: Sampling
) -> None:
    truth = shadow_map(rng)
    consistency, low = degraded(truth, sampling, scale, BLURS[kernel])
    method = degrade.default_interpolation(sampling)
    begin = consistency.restore(low, consistency.operator.interpolate(low, method, 1e-6))
    image = begin.clone()
    assert keep_(consistency, low, image, Bounds(0.0, 1.0), SETTINGS)
    error, cut_error, before = (
        float((torch.from_numpy(truth) - x).square().mean())
        for x in (image, begin.clamp(0, 1), begin)
    )
    assert error < cut_error < before
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1
    misfits = [
        float((consistency.operator.apply(x) - low).square().mean())
        for x in (image, begin.clamp(0, 1))
    ]
    assert misfits[0] < 0.1 * misfits[1]


def test_the_image_is_the_nearest_one(rng: np.random.Generator) -> None:
    """Against scipy's bounded quadratic programme on a small slice."""
    truth = shadow_map(rng, (12, 14))
    consistency, low = degraded(truth, Sampling.BICUBIC, 2.0, BLURS["none"])
    begin = consistency.restore(low, consistency.operator.interpolate(low, Method.SPLINE, 1e-6))
    many = BoundsSettings(rounds=400, enough=0.0)
    image = begin.clone()
    assert keep_(consistency, low, image, Bounds(0.0), many)

    rows, cols = (np.asarray(part) for part in consistency.operator.leading)
    matrix = np.kron(rows, cols)
    x0 = begin.numpy().ravel()
    penalty = 1e4
    stacked = np.concatenate([np.eye(len(x0)), penalty * matrix])
    target = np.concatenate([x0, penalty * (matrix @ x0)])
    nearest = optimize.lsq_linear(stacked, target, (0, np.inf), tol=1e-14).x
    assert np.abs(nearest - image.numpy().ravel()).max() < 2e-3
    assert np.abs(nearest - x0).max() > 0.02


def test_an_image_within_bounds_is_left_alone(rng: np.random.Generator) -> None:
    consistency, low = degraded(shadow_map(rng), Sampling.BICUBIC, 2.0, BLURS["none"])
    inside = torch.from_numpy(rng.random((1, 98, 122)))
    for bounds in (UNBOUNDED, Bounds(0.0, 1.0), Bounds(-1.0)):
        image = inside.clone()
        assert keep_(consistency, low, image, bounds, SETTINGS)
        assert torch.equal(image, inside)


def test_bounds_that_no_image_keeps(rng: np.random.Generator) -> None:
    """Found ones are given up; given ones win over the samples."""
    consistency, low = degraded(shadow_map(rng), Sampling.BICUBIC, 2.0, BLURS["none"])
    begin = consistency.restore(low, consistency.operator.interpolate(low, Method.SPLINE, 1e-6))
    image = begin.clone()
    wrong = Bounds(0.5)
    assert not keep_(consistency, low, image, wrong, SETTINGS)
    assert torch.equal(image, begin)
    assert keep_(consistency, low, image, wrong, BoundsSettings(low=1.0))
    assert float(image.min()) >= 0.5


def test_without_consistency_values_are_cut(rng: np.random.Generator) -> None:
    operator = degrade.degradation(BLURS["none"], Sampling.BICUBIC, (2.0, 2.0), (21, 26))
    consistency = degrade.Consistency(operator, ConsistencySettings(enabled=False))
    begin = torch.from_numpy(rng.standard_normal((1, 21, 26)).astype(np.float32))
    low, image = operator.apply(begin), begin.clone()
    assert keep_(consistency, low, image, Bounds(0.0), SETTINGS)
    assert torch.equal(image, begin.clamp(min=0))
