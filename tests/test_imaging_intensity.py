"""imaging.start: magnitudes interpolated through their squares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from mzsr_cli.imaging import kernels, start
from mzsr_cli.imaging.normalize import Range
from mzsr_cli.learning.superresolve import Sample, Solver
from mzsr_cli.learning.weights import load_weights
from mzsr_cli.settings import (
    AdaptSettings,
    Method,
    Precision,
    Sampling,
    UpscaleSettings,
    WienerSettings,
)
from tests.interference import SHAPE, error, interference, known
from tests.upscale_files import tiny_weights

SETTINGS = WienerSettings()
PLAIN = replace(SETTINGS, intensity=replace(SETTINGS.intensity, enabled=False))


@pytest.mark.parametrize("sampling", Sampling)
def test_interference_is_band_limited_in_its_square(
    rng: np.random.Generator, sampling: Sampling
) -> None:
    """Its zeros are cusps: by values 20 to 30 dB are lost."""
    op, consistency = known(sampling)
    truth = interference(rng, 0.5)
    y = op.apply(truth)
    plain = start.starting_image(op, y, consistency, PLAIN, 0.0)
    found = start.starting_image(op, y, consistency, SETTINGS, 0.0)
    assert found.complete
    assert not plain.complete
    assert error(found.image, truth) < error(plain.image, truth) - 10


@pytest.mark.parametrize(("sampling", "ahead"), [(Sampling.DIRECT, 10), (Sampling.BICUBIC, 0)])
def test_blurred_magnitudes_are_no_worse_than_splines(
    rng: np.random.Generator, sampling: Sampling, ahead: float
) -> None:
    """Through their squares where samples are means of few; blur and averages hide them."""
    op, consistency = known(sampling, kernel=kernels.gaussian(1.3))
    truth = interference(rng, 0.4)
    y = op.apply(truth)
    found = start.starting_image(op, y, consistency, SETTINGS, 0.0)
    spline = consistency.explained(y, Method.SPLINE).whole()
    assert found.complete == (sampling is Sampling.DIRECT)
    assert error(found.image, truth) <= error(spline, truth) - ahead


@pytest.mark.parametrize(("scale", "top"), [(2.0, 0.5), (4.0, 0.3)])
def test_sampled_squares_settle(rng: np.random.Generator, scale: float, top: float) -> None:
    """After antialiased sampling the squares of the samples are not the sampled squares."""
    op, consistency = known(Sampling.BICUBIC, scale)
    few = replace(
        SETTINGS,
        intensity=replace(
            SETTINGS.intensity, settling=replace(SETTINGS.intensity.settling, rounds=1)
        ),
    )
    truth = interference(rng, top)
    y = op.apply(truth)
    found = start.intensity(op, y, consistency, SETTINGS)
    sooner = start.intensity(op, y, consistency, few)
    assert error(found.image, truth) < error(sooner.image, truth) - 1
    again, wanted = op.apply(found.image.square()), op.apply(truth.square())
    assert error(again, wanted) < error(op.apply(sooner.image.square()), wanted) - 1


@pytest.mark.parametrize("sampling", Sampling)
def test_explains_the_samples(rng: np.random.Generator, sampling: Sampling) -> None:
    op, consistency = known(sampling)
    y = op.apply(interference(rng, 0.9))
    image = start.starting_image(op, y, consistency, SETTINGS, 0.0).image
    assert float((op.apply(image) - y).abs().max()) < 2e-3 * float(y.max())


def test_knows_where_zero_went(rng: np.random.Generator) -> None:
    """The map to [0, 1] moves zero; the answer does not depend on it."""
    op, consistency = known(Sampling.DIRECT)
    y = op.apply(interference(rng, 0.5))
    high = start.starting_image(op, y, consistency, SETTINGS, 0.0).image
    moved = start.starting_image(op, y / 3 - 0.2, consistency, SETTINGS, -0.2).image
    torch.testing.assert_close((moved + 0.2) * 3, high, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sampling", Sampling)
def test_other_positive_fields_lose_nothing(rng: np.random.Generator, sampling: Sampling) -> None:
    """Edges and texture are not smoother in their squares."""
    op, consistency = known(sampling)
    texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 0.7)
    steps = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 6) > 0
    truth = torch.from_numpy(texture - texture.min() + 3 * steps)[None]
    y = op.apply(truth)
    plain = start.starting_image(op, y, consistency, PLAIN, 0.0)
    found = start.starting_image(op, y, consistency, SETTINGS, 0.0)
    assert not found.complete
    assert error(found.image, truth) < error(plain.image, truth) + 0.2


def test_signed_data_keep_their_values(rng: np.random.Generator) -> None:
    op, consistency = known(Sampling.DIRECT)
    y = op.apply(interference(rng, 0.5))
    found = start.starting_image(op, y, consistency, SETTINGS, None)
    torch.testing.assert_close(found.image, start.wiener(op, y, SETTINGS).image)


def test_expects_its_error(rng: np.random.Generator) -> None:
    """Not less than the real one, where the square is not aliased (from 0.79 rad/pixel on)."""
    op, consistency = known(Sampling.DIRECT)
    for top in (0.3, 0.5, 0.7):
        truth = interference(rng, top)
        found = start.intensity(op, op.apply(truth), consistency, SETTINGS)
        assert found.expected is not None
        assert found.expected > 0.5 * float((found.image - truth).square().mean())


def test_zero_of_magnitudes_only() -> None:
    planes = np.array([[[2.0, 4.0], [3.0, 6.0]]])
    assert Range(2.0, 4.0).zero(planes) == -0.5
    assert Range(0.0, 1.0).zero(planes) == 0
    assert Range(-1.0, 4.0).zero(planes - 3) is None
    assert Range(2.0, 4.0).zero(np.concatenate([planes, planes])) is None


def test_network_is_silent_where_nothing_is_left(rng: np.random.Generator, tmp_path: Path) -> None:
    op, consistency = known(Sampling.DIRECT)
    y = op.apply(interference(rng, 0.5)).float()
    weights = load_weights(tiny_weights(tmp_path / "tiny.safetensors"))
    settings = UpscaleSettings(
        scale=(2.0, 2.0), sampling=Sampling.DIRECT, adapt=AdaptSettings(steps=2)
    )
    solver = Solver(
        op.lr_shape, op.scale, SHAPE, kernels.delta(), Method.MZSR, weights, settings,
        Precision.FP32, torch.device("cpu"),
    )  # fmt: skip
    image, report = solver.solve(Sample(y, 0.0, 0.0), 0)
    assert report.method == "mzsr"
    assert report.trust == 0
    assert not report.losses
    expected = start.starting_image(op, y.double(), consistency, SETTINGS, 0.0).image
    torch.testing.assert_close(image.double(), expected, atol=1e-4, rtol=1e-3)


def test_aliased_squares_lose_little(rng: np.random.Generator) -> None:
    op, consistency = known(Sampling.DIRECT)
    truth = interference(rng, 1.2)
    y = op.apply(truth)
    plain = start.starting_image(op, y, consistency, PLAIN, 0.0)
    found = start.starting_image(op, y, consistency, SETTINGS, 0.0)
    assert error(found.image, truth) < error(plain.image, truth) + 0.5
