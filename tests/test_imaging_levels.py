"""imaging.levels: levels in dB interpolated through powers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from mzsr_cli.imaging import start
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import Method, Sampling, UpscaleSettings, WienerSettings
from tests.interference import SHAPE, error, interference, known

SETTINGS = WienerSettings()
PLAIN = replace(SETTINGS, levels=replace(SETTINGS.levels, enabled=False))

LEVEL, LOSS = 1.0, -1.0


def levels(rng: np.random.Generator, top: float, sign: float = LEVEL) -> torch.Tensor:
    """Levels or losses in dB of an interference field, notches cut at 80 dB below its highest."""
    found = 20 * torch.log10(interference(rng, top))
    return sign * found.clamp(min=float(found.max()) - 80)


def image(
    y: torch.Tensor, sampling: Sampling, scale: float, settings: WienerSettings = SETTINGS
) -> start.Start:
    """The start of LR levels in dB, made in units of 1 as slices are."""
    op, consistency = known(sampling, scale)
    low, span = float(y.min()), float(y.max() - y.min())
    zero = -low / span if low >= 0 else None
    found = start.starting_image(op, (y - low) / span, consistency, settings, zero, span)
    assert found.expected is not None
    return replace(found, image=found.image * span + low, expected=found.expected * span**2)


@pytest.mark.parametrize("sign", [LEVEL, LOSS])
@pytest.mark.parametrize(
    ("sampling", "scale", "top"),
    [
        (Sampling.DIRECT, 2.0, 0.5),
        (Sampling.DIRECT, 4.0, 0.25),
        (Sampling.BICUBIC, 2.0, 0.3),
        (Sampling.BICUBIC, 4.0, 0.15),
    ],
)
def test_interference_is_band_limited_in_its_powers(
    rng: np.random.Generator, sampling: Sampling, scale: float, top: float, sign: float
) -> None:
    op, _ = known(sampling, scale)
    truth = levels(rng, top, sign)
    y = op.apply(truth)
    plain, found = image(y, sampling, scale, PLAIN), image(y, sampling, scale)
    assert found.complete
    assert not plain.complete
    assert error(found.image, truth) < error(plain.image, truth) - 8
    assert float((op.apply(found.image) - y).square().mean()) < 1e-6 * float(y.var())


def test_expects_its_error(rng: np.random.Generator) -> None:
    for top in (0.2, 0.3, 0.4):
        truth = levels(rng, top)
        found = image(known(Sampling.DIRECT)[0].apply(truth), Sampling.DIRECT, 2.0)
        assert found.complete
        assert found.expected > 0.5 * float((found.image - truth).square().mean())


@pytest.mark.parametrize("sampling", Sampling)
def test_levels_that_lie_elsewhere_are_the_same_fields(
    rng: np.random.Generator, sampling: Sampling
) -> None:
    """Gains in dB are added; a loss is a level with the other sign."""
    y = known(sampling)[0].apply(levels(rng, 0.3))
    here = image(y, sampling, 2.0)
    assert here.complete
    for shift in (150, -150, -float(y.min())):
        moved = image(y + shift, sampling, 2.0).image - shift
        torch.testing.assert_close(moved, here.image, atol=1e-6, rtol=0)
    torch.testing.assert_close(-image(-y, sampling, 2.0).image, here.image, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("span", [25.0, 60.0, 190.0])
def test_other_fields_keep_their_values(
    rng: np.random.Generator, sampling: Sampling, span: float
) -> None:
    """Texture, edges and hills are no levels, whatever their range."""
    op, _ = known(sampling)
    hills = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 5)
    texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 0.8)
    for field in (texture, 1.0 * (hills > 0), hills + 0.02 * texture):
        truth = torch.from_numpy(span * (field - field.min()) / np.ptp(field))[None]
        y = op.apply(truth)
        plain, found = image(y, sampling, 2.0, PLAIN), image(y, sampling, 2.0)
        assert error(found.image, truth) < error(plain.image, truth) + 0.1


@pytest.mark.parametrize("height", [30.0, 60.0])
def test_smooth_where_loud_is_no_level(rng: np.random.Generator, height: float) -> None:
    """The powers' spectrum is that of the hill; the rough rest is what is to be found."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    hill = height * np.exp(-((rows - 60) ** 2 + (cols - 50) ** 2) / 1800)
    rough = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5)
    truth = torch.from_numpy(hill + 2 / rough.std() * rough * (hill < height / 3))[None]
    y = known(Sampling.DIRECT)[0].apply(truth)
    plain, found = (image(y, Sampling.DIRECT, 2.0, how) for how in (PLAIN, SETTINGS))
    assert error(found.image, truth) < error(plain.image, truth) + 0.1


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("depth", [15, 30, 50])
def test_levels_that_were_cut(rng: np.random.Generator, sampling: Sampling, depth: float) -> None:
    """Images show so many dB and no more: nothing is looked for below."""
    truth = levels(rng, 0.3)
    truth = truth.clamp(min=float(truth.max()) - depth)
    y = known(sampling)[0].apply(truth)
    plain, found = image(y, sampling, 2.0, PLAIN), image(y, sampling, 2.0)
    assert error(found.image, truth) < error(plain.image, truth) - (3 if depth >= 30 else -0.1)
    if sampling is Sampling.DIRECT and depth == 30:
        assert float(found.image.min()) > float(truth.min()) - 0.01 * depth


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_noisy_levels_lose_nothing(rng: np.random.Generator, noise: float) -> None:
    op, _ = known(Sampling.DIRECT)
    truth = levels(rng, 0.5)
    y = op.apply(truth)
    y = y + noise * torch.from_numpy(rng.standard_normal(y.shape))
    plain, found = (image(y, Sampling.DIRECT, 2.0, how) for how in (PLAIN, SETTINGS))
    assert error(found.image, truth) < error(plain.image, truth) + 0.1


def test_of_a_file(rng: np.random.Generator, tmp_path: Path) -> None:
    truth = levels(rng, 0.5)
    low = known(Sampling.DIRECT)[0].apply(truth)
    np.save(tmp_path / "low.npy", low[0].numpy().astype(np.float32)[..., None])
    settings = UpscaleSettings(scale=(2.0, 2.0), sampling=Sampling.DIRECT)
    found = {}
    for method in (Method.WIENER, Method.MZSR, Method.SPLINE):
        out = tmp_path / f"{method}.npy"
        upscale_cube(tmp_path / "low.npy", out, replace(settings, method=method))
        found[method] = torch.from_numpy(np.load(out)[..., 0].astype(np.float64))[None]
    assert torch.equal(found[Method.WIENER], found[Method.MZSR])
    assert error(found[Method.MZSR], truth) < error(found[Method.SPLINE], truth) - 8
