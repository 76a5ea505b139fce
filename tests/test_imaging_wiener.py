"""imaging.wiener and imaging.start: interpolation from a slice's own spectrum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from mzsr_cli.imaging import degrade, kernels, metrics, spectra, start, wiener
from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.settings import ConsistencySettings, Method, Sampling, WienerSettings

SETTINGS = WienerSettings()
F64 = torch.float64


def operator(
    sampling: Sampling,
    lr_shape: tuple[int, int] = (37, 31),
    scale: tuple[float, float] = (2.0, 2.0),
) -> Degradation:
    return degrade.enlargement(kernels.delta(), sampling, scale, lr_shape, dtype=F64)


def photo_like(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """A field whose spectrum falls but does not end."""
    field = sum(ndimage.gaussian_filter(rng.standard_normal(shape), s) * s for s in (0.6, 2, 5))
    return torch.as_tensor(np.asarray(field))[None]


def plane_waves(rng: np.random.Generator, shape: tuple[int, int], top: float) -> np.ndarray:
    """Forty plane waves with random directions and per-axis frequencies below ``top`` rad/pixel."""
    rows, cols = (np.arange(n) for n in shape)
    field = np.zeros(shape)
    for _ in range(40):
        angle, size = rng.uniform(0, 2 * np.pi), top * rng.uniform(0, 1)
        field += rng.normal() * np.cos(
            size * (np.cos(angle) * rows[:, None] + np.sin(angle) * cols)
            + rng.uniform(0, 2 * np.pi)
        )
    return field


def test_keeps_the_samples_of_direct_sampling(rng: np.random.Generator) -> None:
    op = operator(Sampling.DIRECT, scale=(2.0, 3.0))
    y = photo_like(rng, 37, 31)
    high = start.wiener(op, y, replace(SETTINGS, damping=1e-12)).image
    torch.testing.assert_close(high[:, ::2, ::3], y, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("scale", [(2.0, 2.0), (4.0, 4.0), (1.5, 2.7)])
def test_explains_the_slice(
    rng: np.random.Generator, sampling: Sampling, scale: tuple[float, float]
) -> None:
    op = operator(sampling, scale=scale)
    y = photo_like(rng, 37, 31)
    misfit = op.apply(start.wiener(op, y, SETTINGS).image) - y
    assert float(misfit.norm()) < 1e-3 * float((y - y.mean()).norm())


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -2.7e6, 1e-9])
def test_constants_stay(sampling: Sampling, value: float) -> None:
    y = torch.full((2, 5, 31), value, dtype=F64)
    high = start.wiener(operator(sampling, (5, 31), (2.0, 3.0)), y, SETTINGS).image
    torch.testing.assert_close(high, torch.full((2, 10, 93), value, dtype=F64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sampling", Sampling)
def test_mean_of_a_varying_slice_stays(rng: np.random.Generator, sampling: Sampling) -> None:
    """Adding ten standard deviations to the slice adds them to the answer, to a few percent of
    one (the unknown mean has the prior variance of one)."""
    op = operator(sampling)
    y = photo_like(rng, 37, 31)
    level = 10 * float(y.std())
    shifted = start.wiener(op, y + level, SETTINGS).image - level
    shifted = shifted - start.wiener(op, y, SETTINGS).image
    assert float(shifted.square().mean().sqrt()) < 0.1 * float(y.std())


@pytest.mark.parametrize("sampling", Sampling)
def test_oversampled_waves_are_recovered(rng: np.random.Generator, sampling: Sampling) -> None:
    """Waves below half the LR Nyquist limit: better than -50 dB, classical ones 15 dB behind."""
    shape = (126, 94)
    truth = plane_waves(rng, shape, np.pi / 2 / 2)
    op = degrade.degradation(kernels.delta(), sampling, (2.0, 2.0), shape, dtype=F64)
    y = op.apply(torch.as_tensor(truth))[None]
    ours = metrics.nmse(start.wiener(op, y, SETTINGS).image[0].numpy(), truth)
    assert ours < -50
    for method in (Method.BICUBIC, Method.SPLINE, Method.BANDLIMITED):
        classical = metrics.nmse(op.interpolate(y, method, 1e-3)[0].numpy(), truth)
        assert ours < classical - 15, method


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("scale", [(2.0, 2.0), (4.0, 4.0)])
def test_white_noise_is_not_amplified(
    rng: np.random.Generator, sampling: Sampling, scale: tuple[float, float]
) -> None:
    op = operator(sampling, scale=scale)
    y = torch.as_tensor(rng.standard_normal((1, 37, 31)))
    high = start.wiener(op, y, SETTINGS).image
    assert bool(torch.isfinite(high).all())
    bandlimited = op.interpolate(y, Method.BANDLIMITED, 0.0)
    assert float(high.square().mean()) <= 1.02 * float(bandlimited.square().mean())


@pytest.mark.parametrize("sampling", Sampling)
def test_extreme_slices_stay_finite(sampling: Sampling) -> None:
    op = operator(sampling, (9, 31), (4.0, 2.0))
    impulse = torch.zeros(1, 9, 31, dtype=F64)
    impulse[0, 4, 7] = 1
    stripes = torch.zeros(1, 9, 31, dtype=F64)
    stripes[:, ::2] = 1
    ramp = torch.arange(31, dtype=F64).expand(1, 9, 31) * 1e-12
    for y in (impulse, stripes, ramp, impulse * 1e12):
        high = start.wiener(op, y, SETTINGS).image
        assert bool(torch.isfinite(high).all())
        assert float(high.abs().max()) < 5 * float(y.abs().max())


@pytest.mark.parametrize("sampling", Sampling)
def test_linear_in_the_slices_size(rng: np.random.Generator, sampling: Sampling) -> None:
    op = operator(sampling)
    y = photo_like(rng, 37, 31)
    scaled = start.wiener(op, y * 1e-7, SETTINGS).image
    plain = start.wiener(op, y, SETTINGS).image
    torch.testing.assert_close(scaled, plain * 1e-7, rtol=1e-5, atol=1e-12)


def test_axes_are_treated_alike(rng: np.random.Generator) -> None:
    y = photo_like(rng, 37, 31)
    high = start.wiener(operator(Sampling.DIRECT, (37, 31), (2.0, 3.0)), y, SETTINGS).image
    turned = start.wiener(operator(Sampling.DIRECT, (31, 37), (3.0, 2.0)), y.mT, SETTINGS).image
    torch.testing.assert_close(turned.mT, high, atol=1e-9, rtol=0)


def test_spectral_model_is_seen_through_the_reduction(rng: np.random.Generator) -> None:
    """The HR spectrum's decimation gives the periodogram back (aliases folded in, by hand)."""
    op = operator(Sampling.BICUBIC, (41, 31))
    y = photo_like(rng, 41, 31).numpy()
    power = spectra.periodogram(y, 1, SETTINGS.padding)
    assert power.mean() == pytest.approx(1)
    reduction = op.reduction(0)
    spectrum = spectra.spectral_model(power, op.reductions[0], 2.0, SETTINGS).up
    taps = reduction[20]
    omega = np.linspace(0, np.pi, len(spectrum))
    response = np.abs(np.exp(-1j * np.outer(omega, np.arange(len(taps)))) @ taps) ** 2
    product = response * spectrum
    half = len(power) - 1
    folded = product[: half + 1] + product[half:][::-1]
    np.testing.assert_allclose(folded[:half], power[:half], rtol=0.05, atol=0.01)


def test_starting_image_explains_blurred_slices(rng: np.random.Generator) -> None:
    """With a kernel: consistent, and nearer to the truth than the spline alone."""
    shape = (62, 74)
    truth = photo_like(rng, *shape)
    kernel = kernels.gaussian(2.0)
    op = degrade.degradation(kernel, Sampling.DIRECT, (2.0, 2.0), shape, dtype=F64)
    y = op.apply(truth)
    image = start.starting_image(op, y, Consistency(op, ConsistencySettings()), SETTINGS).image
    spline = op.interpolate(y, Method.SPLINE, 0.0)
    assert float((op.apply(image) - y).norm()) < 0.01 * float((op.apply(spline) - y).norm())
    assert float((image - truth).norm()) < 0.8 * float((spline - truth).norm())


def test_starting_image_without_kernel_is_the_wiener_answer(rng: np.random.Generator) -> None:
    op = operator(Sampling.BICUBIC)
    y = photo_like(rng, 37, 31)
    image = start.starting_image(op, y, Consistency(op, ConsistencySettings()), SETTINGS).image
    torch.testing.assert_close(image, start.wiener(op, y, SETTINGS).image)


@pytest.mark.parametrize("sampling", Sampling)
def test_carried_adds_on_the_right_grid(sampling: Sampling) -> None:
    """A ramp that the stage before added lies where that stage's grid lies, inside."""
    before = torch.arange(20, dtype=F64).expand(1, 18, 20)
    found = start.carried(before, (36, 50), (2.0, 2.5), sampling)
    carried = found.add_to(torch.ones(1, 36, 50, dtype=F64))
    part = found.at(slice(5, 30), slice(11, 42))
    torch.testing.assert_close(carried[:, 5:30, 11:42], 1 + part)
    index = np.arange(50)
    at = index / 2.5 if sampling is Sampling.DIRECT else (index + 0.5) / 2.5 - 0.5
    inside = slice(6, 42)
    np.testing.assert_allclose(carried[0, 17].numpy()[inside], 1 + at[inside], atol=1e-9)


@pytest.mark.parametrize("sampling", list(Sampling))
def test_expected_error_is_the_real_one(rng: np.random.Generator, sampling: Sampling) -> None:
    """Of a stationary field with a falling spectrum, to 3 dB; after antialiased sampling, whose
    continuation is steep on purpose, it may only be lower (a tighter bound on the network)."""
    white = rng.standard_normal((148, 124))
    rows, cols = (np.fft.fftfreq(n)[:, None] for n in white.shape)
    fall = 1 / ((1 + (rows / 0.05) ** 2) * (1 + (cols.T / 0.05) ** 2))
    truth = torch.from_numpy(np.fft.ifft2(np.fft.fft2(white) * fall).real)[None]
    op = operator(sampling, (74, 62), (2.0, 2.0))
    found = start.wiener(op, op.apply(truth), SETTINGS)
    error = float((found.image - truth).square().mean())
    assert found.expected is not None
    excess = 10 * np.log10(found.expected / error)
    assert excess < 3
    assert excess > (-3 if sampling is Sampling.DIRECT else -10)


def test_share_beyond_counts_what_lies_above_the_limit() -> None:
    spectrum = spectra.Spectrum(np.r_[np.ones(11), np.full(10, 0.1)])
    assert spectra.share_beyond(spectrum, 2.0) == pytest.approx(1 / 12)
    assert spectra.share_beyond(spectrum, 1.0) == 0
    assert spectra.share_beyond(spectra.Spectrum(np.zeros(0)), 2.0) == 0


def test_filter_solves_the_normal_equations(rng: np.random.Generator) -> None:
    """Against dense matrices: X = C R^T (R C R^T + mu I)^-1, mean removed by a rank-one term."""
    op = operator(Sampling.BICUBIC)
    y = photo_like(rng, 37, 31).numpy()
    reduction = op.reduction(0)
    power = spectra.axis_power(y - y.mean(), 1, SETTINGS.padding)
    spectrum = spectra.axis_spectrum(power, False, op.reductions[0], 2.0, SETTINGS)
    lags = spectra.covariance(spectrum, reduction.shape[1])
    dense = lags[np.abs(np.subtract.outer(*[np.arange(len(lags))] * 2))]
    damping = SETTINGS.damping * np.trace(reduction @ dense @ reduction.T) / len(reduction)
    dense = dense + SETTINGS.mean_variance
    gram = reduction @ dense @ reduction.T + damping * np.eye(len(reduction))
    expected = dense @ reduction.T @ np.linalg.inv(gram)
    found = wiener.axis_filter(spectrum, op.reductions[0], SETTINGS).matrix.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def without_continuum() -> WienerSettings:
    nothing = replace(SETTINGS.continuum, share=0.0)
    return replace(SETTINGS, continuum=nothing, continuum_antialiased=nothing)


@pytest.mark.parametrize("sampling", Sampling)
def test_a_flat_continuum_is_taken_for_aliased(
    rng: np.random.Generator, sampling: Sampling
) -> None:
    """White noise keeps 3/4 of its power beyond the limit: what the spectrum's edge says of that
    brings the answer closer, and the model knows how little it explains."""
    op = operator(sampling)
    truth = torch.as_tensor(rng.standard_normal((1, *op.hr_shape)))
    y = op.apply(truth)
    error, expected = {}, {}
    for name, settings in (("cut", without_continuum()), ("goes on", SETTINGS)):
        found = start.wiener(op, y, settings)
        error[name] = float((found.image - truth).square().mean())
        expected[name] = found.expected
    assert error["goes on"] < 0.97 * error["cut"]
    assert abs(expected["goes on"] - error["goes on"]) < abs(expected["cut"] - error["cut"])


@pytest.mark.parametrize("sampling", Sampling)
def test_lines_up_to_the_limit_are_not(rng: np.random.Generator, sampling: Sampling) -> None:
    op = operator(sampling)
    rows, cols = (np.arange(n)[:, None] for n in op.hr_shape)
    waves = [np.cos(f * rows) * np.sin(f * cols.T + 1) for f in (0.3, 0.8, 1.3, 1.5)]
    y = op.apply(torch.as_tensor(np.sum(waves, 0))[None])
    both = [start.wiener(op, y, s).image for s in (SETTINGS, without_continuum())]
    assert torch.equal(*both)


@pytest.mark.parametrize("sampling", Sampling)
def test_short_axes_say_nothing_of_a_continuum(
    rng: np.random.Generator, sampling: Sampling
) -> None:
    op = operator(sampling, (15, 11))
    y = op.apply(torch.as_tensor(rng.standard_normal((1, *op.hr_shape))))
    both = [start.wiener(op, y, s).image for s in (SETTINGS, without_continuum())]
    assert torch.equal(*both)


@pytest.mark.parametrize(("hr", "scale"), [(96, 2.0), (98, 2.0), (34, 2.0), (258, 3.0), (51, 3.0)])
def test_halves_solve_the_whole(rng: np.random.Generator, hr: int, scale: float) -> None:
    """Even and odd numbers of rows and of columns, against dense matrices."""
    operator = degrade.degradation(kernels.delta(), Sampling.BICUBIC, (scale, scale), (hr, hr))
    reduction = operator.reductions[0]
    reduce, ones = torch.from_numpy(reduction.matrix), reduction.sums
    assert reduction.mirrored
    lags = torch.from_numpy(np.exp(-np.arange(hr) / (3 + rng.random())))
    index = torch.arange(hr)
    cross = reduce @ lags[(index[:, None] - index).abs()]
    gram = cross @ reduce.mT
    upper = reduction.cross(lags)
    torch.testing.assert_close(upper, cross[: reduction.rows], rtol=0, atol=1e-12)
    turned = upper.mT.contiguous()
    torch.testing.assert_close(reduction.gram(turned), gram[: reduction.rows], rtol=0, atol=1e-12)
    trace = float(gram.trace())
    assert reduction.summed(gram.diagonal()[: reduction.rows]) == pytest.approx(trace, rel=1e-12)
    gram.diagonal().add_(1e-6)
    found, constant = wiener._solved_by_halves(gram[: reduction.rows], turned, ones[:, 0])
    expected = torch.linalg.solve(gram, torch.cat([cross, ones], 1))
    torch.testing.assert_close(found, expected[:, :-1].mT, rtol=0, atol=1e-10)
    torch.testing.assert_close(constant, expected[:, -1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1)])
@pytest.mark.parametrize("sampling", Sampling)
def test_axes_of_one_sample(
    rng: np.random.Generator, shape: tuple[int, int], sampling: Sampling
) -> None:
    op = degrade.enlargement(kernels.delta(), sampling, (2.0, 3.0), shape, dtype=torch.float64)
    y = torch.as_tensor(rng.random((1, *shape)))
    image = start.wiener(op, y, SETTINGS).image
    assert image.shape == (1, 2 * shape[0], 3 * shape[1])
    torch.testing.assert_close(op.apply(image), y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 3, 31, 40])
@pytest.mark.parametrize("padding", [1, 4])
def test_periodogram_is_that_of_padded_lines(
    rng: np.random.Generator, n: int, padding: int
) -> None:
    planes = rng.standard_normal((2, 7, n))
    lines = (planes - planes.mean((1, 2), keepdims=True)).reshape(-1, n)
    window = np.hanning(n + 2)[1:-1]
    power = (np.abs(np.fft.rfft(lines * window, 2 * padding * n)) ** 2).mean(0)
    found = spectra.periodogram(planes, 2, padding)
    np.testing.assert_allclose(found, power / power.mean(), atol=1e-12)
