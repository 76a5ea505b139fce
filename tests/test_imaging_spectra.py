"""imaging.spectra and imaging.start on complex slices, whose spectra have two different sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from mzsr_cli.imaging import degrade, kernels, spectra, start, wiener
from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.settings import ConsistencySettings, Method, Sampling, WienerSettings

SETTINGS = WienerSettings()
F64 = torch.float64
SHAPE = (96, 82)


def operator(sampling: Sampling, shape: tuple[int, int] = SHAPE, scale: float = 2.0) -> Degradation:
    return degrade.degradation(kernels.delta(), sampling, (scale, scale), shape, dtype=F64)


def planes(field: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([field.real, field.imag]))


def channel(
    rng: np.random.Generator, low: float, high: float, shape: tuple[int, int] = SHAPE
) -> np.ndarray:
    """Forty paths with delays of ``low`` to ``high`` cycles per row and slow fading along columns;
    the power falls with the delay."""
    delay = np.sort(rng.uniform(0, 1, 40))
    gain = np.exp(-3 * delay) * np.exp(2j * np.pi * rng.random(40))
    rows, cols = (np.arange(n)[:, None] for n in shape)
    down = np.exp(-2j * np.pi * (low + (high - low) * delay) * rows)
    across = np.exp(2j * np.pi * rng.uniform(-0.1, 0.1, 40) * cols)
    return np.asarray((down * gain) @ across.T)


def nmse(found: torch.Tensor, truth: torch.Tensor) -> float:
    return 10 * float(torch.log10((found - truth).square().sum() / truth.square().sum()))


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("turn", [1, -1])
def test_delays_of_one_sign_use_the_whole_band(
    rng: np.random.Generator, sampling: Sampling, turn: int
) -> None:
    """0 to 0.35 cycles a row: at x2 beyond the limit (0.25) of a band about 0, within one that
    begins at 0. Each plane by itself knows nothing of signs."""
    truth = planes(channel(rng, 0.0, turn * 0.35))
    op = operator(sampling)
    y = op.apply(truth)
    together = start.wiener(op, y, SETTINGS).image
    apart = torch.cat([start.wiener(op, plane[None], SETTINGS).image for plane in y])
    assert nmse(together, truth) < -40
    assert nmse(apart, truth) > -25


@pytest.mark.parametrize("sampling", Sampling)
def test_two_sides_are_better_than_their_mean(rng: np.random.Generator, sampling: Sampling) -> None:
    truth = planes(channel(rng, -0.05, 0.2))
    op = operator(sampling)
    y = op.apply(truth)
    together = start.wiener(op, y, SETTINGS)
    apart = torch.cat([start.wiener(op, plane[None], SETTINGS).image for plane in y])
    assert nmse(together.image, truth) < nmse(apart, truth) - 2
    error = float((together.image - truth).square().mean())
    assert together.expected is not None
    assert together.expected > 0.5 * error


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("scale", [1.5, 2.0, 4.0])
def test_noise_is_not_amplified(rng: np.random.Generator, sampling: Sampling, scale: float) -> None:
    """Where every frequency has power nothing is taken for the other side's."""
    white = rng.standard_normal(SHAPE) + 1j * rng.standard_normal(SHAPE)
    truth, op = planes(white), operator(sampling, scale=scale)
    y = op.apply(truth)
    apart = torch.cat([start.wiener(op, plane[None], SETTINGS).image for plane in y])
    together = start.wiener(op, y, SETTINGS).image
    assert float(together.square().mean()) < 1.05 * float(apart.square().mean())


@pytest.mark.parametrize("sampling", Sampling)
def test_a_real_slice_turned_in_phase_is_one(rng: np.random.Generator, sampling: Sampling) -> None:
    """x e^(i p) has the spectrum of the real x: it comes back as the real result, turned."""
    field = rng.standard_normal(SHAPE).cumsum(0).cumsum(1)
    op, phase = operator(sampling), np.exp(0.7j)
    real = start.wiener(op, op.apply(torch.from_numpy(field)[None]), SETTINGS)
    found = start.wiener(op, op.apply(planes(field * phase)), SETTINGS)
    expected = planes(real.image[0].numpy() * phase)
    largest = float(expected.abs().max())
    torch.testing.assert_close(found.image, expected, rtol=0, atol=1e-5 * largest)
    assert found.expected == pytest.approx(real.expected / 2, rel=0.01)


@pytest.mark.parametrize("sampling", Sampling)
def test_conjugates_and_phases_pass_through(rng: np.random.Generator, sampling: Sampling) -> None:
    op = operator(sampling)
    y = op.apply(planes(channel(rng, 0.0, 0.45))).numpy()
    y = y[0] + 1j * y[1]
    found = start.wiener(op, planes(y), SETTINGS).image.numpy()
    found = found[0] + 1j * found[1]
    for changed, expected in ((y.conj(), found.conj()), (y * 1j, found * 1j)):
        image = start.wiener(op, planes(changed), SETTINGS).image
        torch.testing.assert_close(image, planes(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("sides", [(97, 66), (40, 51)])
def test_complex_starts_explain_the_slice(
    rng: np.random.Generator, sampling: Sampling, sides: tuple[int, int]
) -> None:
    op = operator(sampling, sides, 3.0 if sides[1] == 51 else 1.5)
    y = op.apply(planes(channel(rng, 0.0, 0.3, sides)))
    image = start.starting_image(op, y, Consistency(op, ConsistencySettings()), SETTINGS).image
    torch.testing.assert_close(op.apply(image), y, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("n", [62, 63])
def test_complex_filter_solves_the_normal_equations(
    rng: np.random.Generator, sampling: Sampling, n: int
) -> None:
    op = operator(sampling, (n, n))
    lines = channel(rng, 0.0, 0.4, (n, n))[None]
    low = op.apply(planes(lines[0])).numpy()
    reduction = op.reduction(0)
    power = spectra.axis_power(low[:1] + 1j * low[1:], 1, SETTINGS.padding)
    spectrum = spectra.axis_spectrum(power, True, op.reductions[0], 2.0, SETTINGS)
    lags = spectra.covariance(spectrum, n)
    distance = np.subtract.outer(np.arange(n), np.arange(n))
    dense = np.where(distance < 0, lags[np.abs(distance)].conj(), lags[np.abs(distance)])
    assert np.linalg.eigvalsh(dense).min() > -1e-9
    damping = SETTINGS.damping * np.trace(reduction @ dense @ reduction.T).real / len(reduction)
    dense = dense + SETTINGS.mean_variance
    gram = reduction @ dense @ reduction.T + damping * np.eye(len(reduction))
    expected = dense @ reduction.T @ np.linalg.inv(gram)
    found = wiener.axis_filter(spectrum, op.reductions[0], SETTINGS).matrix.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 31, 40])
@pytest.mark.parametrize("padding", [1, 4])
def test_two_sided_periodogram_is_that_of_padded_lines(
    rng: np.random.Generator, n: int, padding: int
) -> None:
    field = rng.standard_normal((1, 7, n)) + 1j * rng.standard_normal((1, 7, n))
    lines = (field - field.mean()).reshape(-1, n)
    window = np.hanning(n + 2)[1:-1]
    power = (np.abs(np.fft.fft(lines * window, 2 * padding * n)) ** 2).mean(0)
    found = spectra.two_sided_periodogram(field, 2, padding)
    np.testing.assert_allclose(found, power / power.mean(), atol=1e-12)


def lump(first: int, last: int, period: int = 640, floor: float = 1e-6) -> np.ndarray:
    """Power from bin ``first`` to ``last`` of a circle, falling outward from 0."""
    power = np.full(period, floor)
    bins = np.arange(first, last + 1)
    power[bins % period] = np.exp(-np.abs(bins) / 150)
    return power


@pytest.mark.parametrize(
    ("power", "wrapped"),
    [
        (lump(0, 420), True),
        (lump(-5, 400), True),
        (lump(0, 300), False),  # ends before the limit
        (lump(-200, 200), False),  # two sides
        (lump(-200, 380), False),  # mostly, but not nearly all on one
        (lump(0, 600), False),  # no gap worth the name
        (lump(0, 420, floor=0.1), False),  # nor one that is deep
        (lump(40, 420), True),  # a gap about 0 is cut on the other side
        (np.ones(640), False),
    ],
)
def test_band_edge(power: np.ndarray, wrapped: bool) -> None:
    """Beyond the limit (bin 320) only where it is sure, and the same mirrored."""
    edge = spectra.band_edge(power, SETTINGS)
    assert (edge != 320) == wrapped
    if wrapped:
        assert 420 < edge < 625 and power[edge] < 1e-5
    assert spectra.band_edge(np.roll(power[::-1], 1), SETTINGS) == 640 - edge


def test_what_sampling_cannot_have_let_through_is_something_else() -> None:
    """Next to nothing of what lies beyond the limit is left after antialiased sampling. Power
    there is something else's: to undo the attenuation would amplify it."""
    period, bins = 640, 1281
    strong, weak = lump(0, 420), lump(0, 420)
    weak[321:421] *= 1e-3
    edge = spectra.band_edge(strong, SETTINGS)
    through = {s: operator(s, (640, 64), 4.0).reductions[0] for s in Sampling}
    direct, antialiased = (through[s].response(bins) for s in (Sampling.DIRECT, Sampling.BICUBIC))
    assert edge != period // 2
    assert spectra._plausible(strong, edge, direct, SETTINGS)
    assert not spectra._plausible(strong, edge, antialiased, SETTINGS)
    assert spectra._plausible(weak, edge, antialiased, SETTINGS)
    model = spectra.two_sided_model(strong, through[Sampling.BICUBIC], 4.0, SETTINGS)
    assert model.down is not None and model.down[220:300].min() > 1e-3
    model = spectra.two_sided_model(strong, through[Sampling.DIRECT], 4.0, SETTINGS)
    assert model.down is not None and model.down[220:300].max() < 1e-3


@pytest.mark.parametrize("scale", [2.0, 3.0])
def test_any_delays(scale: float) -> None:
    """Profiles with a least delay leave a gap about 0; mirrored ones mirrored results."""
    op = operator(Sampling.DIRECT, (round(48 * scale), round(64 * scale)), scale)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        low, high = rng.uniform(0.05, 0.3), rng.uniform(0.6, 1.1)
        x = np.sort(rng.uniform(low, high, 40))
        gains = np.exp(-2.4 * x) * np.exp(2j * np.pi * rng.random(40))
        down = np.exp(-2j * np.pi * x * np.arange(48)[:, None])
        across = np.exp(2j * np.pi * rng.uniform(-0.1, 0.1, 40) * np.arange(64)[:, None])
        y = (down * gains) @ across.T
        found = [start.wiener(op, planes(z), SETTINGS).image.numpy() for z in (y, y.conj())]
        np.testing.assert_allclose(found[1][1], -found[0][1], atol=1e-6)


@pytest.mark.parametrize("sampling", Sampling)
def test_axes_that_are_not_enlarged_say_nothing(
    rng: np.random.Generator, sampling: Sampling
) -> None:
    """Subcarriers x independent antennas, x2 along the first alone."""
    delay = rng.uniform(0, 0.35, (40, 1))
    gain = np.exp(-3 * delay) * (rng.standard_normal((40, 64)) + 1j * rng.standard_normal((40, 64)))
    truth = planes(np.exp(-2j * np.pi * np.arange(96)[:, None] * delay.T) @ gain)
    op = degrade.degradation(kernels.delta(), sampling, (2.0, 1.0), (96, 64), dtype=F64)
    assert nmse(start.wiener(op, op.apply(truth), SETTINGS).image, truth) < -35


def sinking(rng: np.random.Generator, width: float) -> torch.Tensor:
    """A wrapped phase: steps of 2 pi, whose spectrum falls slowly and is aliased at x2."""
    parts = [ndimage.gaussian_filter(rng.standard_normal((128, 112)), width) for _ in range(2)]
    return torch.from_numpy(np.arctan2(*parts))[None]


@pytest.mark.parametrize(("sampling", "width"), [(Sampling.BICUBIC, 0.9), (Sampling.DIRECT, 1.2)])
def test_sinking_spectra_go_on(rng: np.random.Generator, sampling: Sampling, width: float) -> None:
    """Real slices whose spectra are flat at the limit, but higher at 0, are aliased: they come
    nearer to the truth, and what is expected nearer to the error."""
    truth, op = sinking(rng, width), operator(sampling, (128, 112))
    y = op.apply(truth)
    never = replace(SETTINGS.continuum, smooth_sinking=(2.0, 3.0))
    before = replace(SETTINGS, continuum=never, continuum_antialiased=never)
    error, expected = [], []
    for settings in (before, SETTINGS):
        found = start.wiener(op, y, settings)
        error.append(float((found.image - truth).square().mean()))
        expected.append(found.expected)
    assert error[1] < error[0]
    assert abs(np.log(expected[1] / error[1])) < abs(np.log(expected[0] / error[0]))


@pytest.mark.parametrize("sampling", Sampling)
def test_what_has_died_at_the_limit_does_not_go_on(
    rng: np.random.Generator, sampling: Sampling
) -> None:
    """Waves up to 0.93 of the limit: they are recovered, and known to be."""
    op = operator(sampling, (160, 144))
    rows, cols = (np.arange(n)[:, None] for n in op.hr_shape)
    waves = [
        np.exp(2j * np.pi * (f * rows + g * cols.T + rng.random()))
        for f, g in [*rng.uniform(-0.15, 0.15, (11, 2)), (0.232, -0.232)]
    ]
    truth = planes(np.sum(waves, 0))
    found = start.wiener(op, op.apply(truth), SETTINGS)
    assert nmse(found.image, truth) < -35
    assert found.expected is not None
    assert 10 * np.log10(found.expected / float(truth.square().mean())) < -28


BLURS = {"isotropic": kernels.gaussian(1.3), "along axes": kernels.gaussian(2.0, 0.7)}


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("blur", BLURS)
def test_blurred_waves_that_are_oversampled_leave_nothing_to_learn(
    rng: np.random.Generator, sampling: Sampling, blur: str
) -> None:
    op = degrade.degradation(BLURS[blur], sampling, (2.0, 2.0), SHAPE, dtype=F64)
    truth = planes(channel(rng, 0.0, 0.2))
    known = Consistency(op, ConsistencySettings())
    found = start.starting_image(op, op.apply(truth), known, SETTINGS)
    assert found.complete
    assert nmse(found.image, truth) < -55


@pytest.mark.parametrize("sampling", Sampling)
def test_what_blur_or_rounding_hide_is_left_to_the_spline(
    rng: np.random.Generator, sampling: Sampling
) -> None:
    smooth, rough = (planes(channel(rng, *band)) for band in ((0.0, 0.2), (-0.5, 0.5)))
    for noise, truth in ((0.3, smooth), (0.0, rough)):
        op = degrade.degradation(kernels.gaussian(1.3), sampling, (2.0, 2.0), SHAPE, dtype=F64)
        known, y = Consistency(op, ConsistencySettings(), noise), op.apply(truth)
        found = start.starting_image(op, y, known, SETTINGS)
        assert not found.complete and found.expected is None and found.claimed is not None
        torch.testing.assert_close(found.image, known.explained(y, Method.SPLINE).whole())


@pytest.mark.parametrize("sampling", Sampling)
def test_waves_that_a_turned_kernel_blurs_are_projected_back(
    rng: np.random.Generator, sampling: Sampling
) -> None:
    turned = kernels.gaussian(4.0, 1.0, -0.5)
    op = degrade.degradation(turned, sampling, (2.0, 2.0), SHAPE, dtype=F64)
    truth = planes(channel(rng, 0.0, 0.15))
    known, y = Consistency(op, ConsistencySettings()), op.apply(truth)
    found = start.starting_image(op, y, known, SETTINGS)
    assert found.complete and found.expected is None and found.claimed is not None
    assert nmse(found.image, truth) < nmse(known.explained(y, Method.SPLINE).whole(), truth) - 2


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("variance", [1.3, 2.0, 3.0, 4.0, 6.0])
def test_noise_is_not_amplified_beyond_the_spline(
    rng: np.random.Generator, sampling: Sampling, variance: float
) -> None:
    op = degrade.degradation(kernels.gaussian(variance), sampling, (2.0, 2.0), SHAPE, dtype=F64)
    truth = planes(channel(rng, 0.0, 0.2))
    y = op.apply(truth)
    y = y + 1e-3 * y.std() * torch.from_numpy(rng.standard_normal(y.shape))
    known = Consistency(op, ConsistencySettings())
    found = start.starting_image(op, y, known, SETTINGS)
    assert nmse(found.image, truth) < nmse(known.explained(y, Method.SPLINE).whole(), truth) + 2


@pytest.mark.parametrize("sampling", Sampling)
def test_kernels_that_no_axes_stand_for(rng: np.random.Generator, sampling: Sampling) -> None:
    """Off-centre, of motion along a diagonal, and one whose leading term sums to nothing."""
    turned, edge = kernels.gaussian(4.0, 1.0, -0.5), np.array([1.0, 0.0, -1.0])
    odd = 3 * np.outer(edge, edge)
    odd[1, 1] += 1
    truth = planes(channel(rng, 0.0, 0.15))
    for kernel in (np.pad(turned, ((4, 0), (4, 0))), np.eye(9) / 9, odd):
        op = degrade.degradation(kernel, sampling, (2.0, 2.0), SHAPE, dtype=F64)
        y, known = op.apply(truth), Consistency(op, ConsistencySettings())
        found = start.starting_image(op, y, known, SETTINGS)
        spline = known.explained(y, Method.SPLINE).whole()
        assert not found.complete
        assert nmse(found.image, truth) < nmse(spline, truth) + 0.1
