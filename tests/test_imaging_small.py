"""imaging.gate, tiles, stages, normalize and metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from mzsr_cli.imaging import gate, metrics, normalize, stages, tiles
from mzsr_cli.learning.networks import build
from mzsr_cli.settings import GateSettings, NetworkSettings, Normalize

SHAPE = (37, 31)

# -- gate ------------------------------------------------------------------------------------

GATE = GateSettings()


def cosine(frequency: float, axis: int, shape: tuple[int, int] = (124, 74)) -> torch.Tensor:
    """A plane wave of amplitude 0.1 on 0.5 along ``axis`` (1 = the Nyquist limit), (1, H, W)."""
    line = 0.5 + 0.1 * np.cos(np.pi * frequency * np.arange(shape[axis]) + 0.3)
    return torch.as_tensor(np.broadcast_to(line[:, None] if axis == 0 else line, shape).copy())[
        None
    ]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("frequency", "rms"), [(0.43, 0.1 / math.sqrt(2)), (0.15, 0.0), (0.62, 0.0), (0.0, 0.0)]
)
def test_tail_measures_its_band_alone(axis: int, frequency: float, rms: float) -> None:
    """A wave of amplitude a in [0.7, 1] of the LR Nyquist limit is a tail of RMS a / sqrt(2)."""
    image = cosine(frequency, axis)
    assert gate.tail(image, axis + 1, 0.5, GATE) == pytest.approx(rms, rel=0.03, abs=2e-4)
    assert gate.tail(image, 2 - axis, 0.5, GATE) < 2e-4, "the other axis is constant"


def test_tail_does_not_count_borders() -> None:
    """A slope ends in steps for a periodic spectrum, in kinks for a cosine series."""
    slope = torch.linspace(0, 1, 124, dtype=torch.float64)[None, :, None].expand(1, 124, 37)
    assert gate.tail(slope, 1, 0.5, GATE) < 0.1 * GATE.tail


def test_tail_scales_with_the_image(rng: np.random.Generator) -> None:
    image = torch.as_tensor(rng.standard_normal((2, 37, 31)))
    once = gate.tail(image, 1, 0.5, GATE)
    assert gate.tail(3 * image + 7, 1, 0.5, GATE) == pytest.approx(3 * once, rel=1e-6)
    assert gate.tail(torch.ones(1, 37, 31), 2, 0.5, GATE) == 0
    assert once == pytest.approx(math.sqrt(0.15), rel=0.2), "white noise: the band's share"


def test_trust_looks_at_each_axis_below_its_own_limit() -> None:
    for axis, scale in ((0, (2.0, 4.0)), (1, (4.0, 2.0))):
        assert gate.slice_trust(cosine(0.43, axis), scale, GATE) == 1.0
        assert gate.slice_trust(cosine(0.43, axis), scale[::-1], GATE) < 0.05


def test_trust_is_full_for_textures_and_less_for_smooth_fields(rng: np.random.Generator) -> None:
    texture = ndimage.gaussian_filter(rng.standard_normal((74, 62)), 0.7)
    smooth = ndimage.gaussian_filter(rng.standard_normal((74, 62)), 6)
    photo, field = (torch.as_tensor((v - v.min()) / np.ptp(v))[None] for v in (texture, smooth))
    assert gate.slice_trust(photo, (2.0, 2.0), GATE) == 1.0
    little = gate.slice_trust(field, (2.0, 2.0), GATE)
    assert 0 <= little < 0.5
    assert gate.slice_trust(torch.cat([field, photo]), (2.0, 2.0), GATE) == 1.0
    assert gate.slice_trust(field, (2.0, 2.0), GateSettings(enabled=False)) == 1.0


def test_trust_grows_with_the_tail() -> None:
    values = [gate.trust(t, GATE) for t in (0.0, 1e-3, 2e-3, 4e-3, 1.0)]
    assert values == pytest.approx([0, 1 / 16, 1 / 4, 1, 1])


# -- tiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 5, 16, 31, 37, 100])
@pytest.mark.parametrize("halo", [0, 3, 8])
def test_tiles_cover_exactly_once(side: int, halo: int) -> None:
    count = np.zeros(SHAPE, dtype=int)
    for tile in tiles.tiles(*SHAPE, side, halo):
        top, bottom, left, right = tile.core
        o_top, o_bottom, o_left, o_right = tile.outer
        count[top:bottom, left:right] += 1
        assert bottom - top <= side and right - left <= side
        assert o_top == max(0, top - halo) and o_left == max(0, left - halo)
        assert o_bottom == min(SHAPE[0], bottom + halo) and o_right == min(SHAPE[1], right + halo)
    np.testing.assert_array_equal(count, 1)


@pytest.mark.parametrize("side", [5, 16, 31, 64])
def test_tiled_is_whole(side: int, device: torch.device) -> None:
    settings = NetworkSettings(width=8)
    network = build(settings, seed=1).to(device)
    image = torch.rand(2, 1, 74, 61, generator=torch.Generator().manual_seed(0)).to(device)
    sides = []

    def function(piece: torch.Tensor) -> torch.Tensor:
        sides.append(max(piece.shape[-2:]))
        return network(piece).residual

    with torch.no_grad():
        whole = network(image).residual
        parts = tiles.tiled(function, image, side, network.reach)
        short = tiles.tiled(lambda piece: network(piece).residual, image, side, network.reach - 3)
    assert len(sides) == -(-74 // side) * -(-61 // side)
    assert max(sides) <= side + 2 * network.reach
    tolerance = 1e-5 * float(whole.abs().max())
    assert float((parts - whole).abs().max()) <= tolerance
    assert float((short - whole).abs().max()) > tolerance, "a shorter halo must show"


def test_small_images_are_not_cut() -> None:
    calls = []
    image = torch.rand(1, 1, 37, 31)
    result = tiles.tiled(lambda piece: calls.append(piece.shape) or piece * 2, image, 30, 8)
    assert calls == [image.shape]
    torch.testing.assert_close(result, image * 2)


# -- stages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [(2.0, 2.0), (20.0, 20.0), (1.1, 1.1), (7.3, 7.3), (4.0, 1.5),
                                   (1.0, 32.0), (4.1, 4.1), (16.2, 9.1), (3.7, 20.0),
                                   (16.0, 16.0)])  # fmt: skip
@pytest.mark.parametrize("factor_max", [2.0, 3.0, 4.0])
def test_stages_multiply_to_the_scale(scale: tuple[float, float], factor_max: float) -> None:
    steps = stages.stage_scales(scale, factor_max)
    assert steps[-1] == scale
    for axis in (0, 1):
        cumulative = [1.0, *(s[axis] for s in steps)]
        factors = np.divide(cumulative[1:], cumulative[:-1])
        assert (factors >= 1 - 1e-12).all()
        assert (factors <= factor_max + 1e-9).all()
    fewest = math.ceil(math.log(max(scale)) / math.log(factor_max) - 1e-9)
    assert len(steps) == max(1, fewest)


def test_stages_known_schedule() -> None:
    assert [s for s, _ in stages.stage_scales((20.0, 20.0), 2.0)] == pytest.approx(
        [2, 4, 8, 16, 20]
    )
    assert stages.stage_scales((4.0, 1.0), 2.0) == [(pytest.approx(2), 1.0), (4.0, 1.0)]


# -- normalize -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [Normalize.SLICE, Normalize.PERCENTILE, Normalize.NONE])
@pytest.mark.parametrize(("low", "span"), [(0.0, 1.0), (-90.0, 60.0), (1e-12, 3e-13), (-4e8, 1e9)])
def test_normalisation_is_inverted(
    rng: np.random.Generator, how: Normalize, low: float, span: float
) -> None:
    planes = low + span * rng.random((1, *SHAPE))
    mapping = normalize.slice_range(planes, how)
    back = mapping.inverse(mapping.forward(planes))
    np.testing.assert_allclose(back, planes, rtol=0, atol=1e-12 * np.abs(planes).max())


def test_ranges(rng: np.random.Generator) -> None:
    planes = rng.normal(3, 2, (1, *SHAPE))
    mapped = normalize.slice_range(planes, Normalize.SLICE).forward(planes)
    assert mapped.min() == 0 and mapped.max() == 1
    np.testing.assert_array_equal(
        normalize.slice_range(planes, Normalize.NONE).forward(planes), planes
    )
    planes[0, 5, 5] = 1e6
    outlier = normalize.slice_range(planes, Normalize.PERCENTILE).forward(planes)
    assert np.median(outlier) == pytest.approx(0.5, abs=0.15)
    assert outlier.max() > 1e4


def test_percentile_of_a_sparse_slice_falls_back_to_its_range() -> None:
    planes = np.zeros((1, 64, 64))
    planes[0, 3, 4] = 7.0
    mapping = normalize.slice_range(planes, Normalize.PERCENTILE)
    assert (mapping.low, mapping.span) == (0.0, 7.0)


def test_constant_slices_pass_through() -> None:
    planes = np.full((1, 5, 7), 0.1)
    mapping = normalize.slice_range(planes, Normalize.SLICE)
    assert mapping.span == 0
    np.testing.assert_array_equal(mapping.inverse(mapping.forward(planes)), planes)


def test_complex_planes_share_one_map(rng: np.random.Generator) -> None:
    """One gain for both planes: differences of samples keep their phase."""
    image = (rng.normal(0, 5, SHAPE) + 1j * rng.normal(2, 0.01, SHAPE)).astype(np.complex64)
    planes = normalize.planes_of(image)
    assert planes.shape == (2, *SHAPE)
    mapping = normalize.slice_range(planes, Normalize.SLICE)
    mapped = normalize.slice_of(mapping.forward(planes))
    wide = image.astype(np.complex128)
    ratio = (mapped - mapped[0, 0]).ravel()[1:] / (wide - wide[0, 0]).ravel()[1:]
    np.testing.assert_allclose(ratio, 1 / mapping.span, rtol=1e-9)
    np.testing.assert_allclose(
        normalize.slice_of(mapping.inverse(mapping.forward(planes))), wide, rtol=1e-12
    )
    np.testing.assert_array_equal(normalize.slice_of(planes), wide)


def test_merged_holds_all_ranges() -> None:
    merged = normalize.merged(
        [normalize.Range(0, 2), normalize.Range(-3, 1), normalize.Range(1, 4)]
    )
    assert (merged.low, merged.low + merged.span) == (-3, 5)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
                                   "uint64"])  # fmt: skip
def test_integers_round_and_saturate(dtype: str) -> None:
    ends = np.iinfo(dtype)
    values = np.array([-1e30, float(ends.max) * 2 + 10, 3.4, 3.6, 5.0])
    result = normalize.cast(values, np.dtype(dtype))
    assert result.dtype == dtype
    assert result.tolist() == [ends.min, ends.max, 3, 4, 5]


def test_casts() -> None:
    values = np.array([1.25 + 2j])
    assert normalize.cast(values, np.dtype("complex64")).dtype == np.complex64
    with pytest.raises(ValueError, match="complex"):
        normalize.cast(values, np.dtype("float32"))
    with pytest.raises(ValueError, match="complex"):
        normalize.cast(values, np.dtype("int16"))
    assert normalize.cast(np.array([1.5]), np.dtype("float32")).tolist() == [1.5]


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
def test_floats_saturate(dtype: str) -> None:
    """What a narrower type does not hold becomes its end; nothing else changes."""
    kind = np.dtype(dtype)
    most = float(np.finfo(kind).max)
    values = np.array([-1e300, -most, 0.25, most, 1e300])
    result = normalize.cast(values, kind)
    assert result.dtype == kind
    assert result.real.tolist() == [-most, -most, 0.25, most, most]
    if kind.kind == "c":
        assert normalize.cast(1j * values, kind).imag.tolist() == result.real.tolist()
    assert not np.isfinite(normalize.cast(np.array([np.inf, np.nan]), kind)).any()


def test_filled_takes_the_nearest_sample(rng: np.random.Generator) -> None:
    image = rng.random((5, 7))
    holed = image.copy()
    holed[2, 3], holed[0, 0], holed[4, 6] = np.nan, np.inf, -np.inf
    result = normalize.filled(holed)
    good = np.isfinite(holed)
    np.testing.assert_array_equal(result[good], image[good])
    assert result[2, 3] in (image[1, 3], image[3, 3], image[2, 2], image[2, 4])
    assert result[0, 0] in (image[0, 1], image[1, 0])
    assert result[4, 6] in (image[4, 5], image[3, 6])
    waves = holed + 1j
    assert np.isfinite(normalize.filled(waves)).all()
    np.testing.assert_array_equal(normalize.filled(image), image)


# -- metrics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_psnr_and_ssim_are_those_of_skimage(rng: np.random.Generator, peak: float) -> None:
    reference = pytest.importorskip("skimage.metrics")
    truth = ndimage.gaussian_filter(rng.random(SHAPE), 1) * peak
    estimate = truth + rng.normal(0, 0.05 * peak, SHAPE)
    assert metrics.psnr(estimate, truth, peak) == pytest.approx(
        reference.peak_signal_noise_ratio(truth, estimate, data_range=peak), abs=1e-9
    )
    assert metrics.ssim(estimate, truth, peak) == pytest.approx(
        reference.structural_similarity(
            truth, estimate, data_range=peak, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, win_size=11,
        ),
        abs=1e-9,
    )  # fmt: skip


def test_known_figures() -> None:
    truth = np.full((5, 37), 2.0)
    assert metrics.nmse(truth * 1.1, truth) == pytest.approx(-20)
    assert metrics.nmse(truth * (1 + 0.01j), truth) == pytest.approx(-40)
    assert metrics.nmse(np.zeros_like(truth), truth) == pytest.approx(0)
    assert metrics.nmse(truth, truth) == -math.inf
    assert metrics.nmse(truth, np.zeros_like(truth)) == math.inf
    assert metrics.psnr(truth + 0.1, truth, 1.0) == pytest.approx(20)
    assert metrics.psnr(truth + 1j, truth, 10.0) == pytest.approx(20)
    assert metrics.psnr(truth, truth, 1.0) == math.inf


@pytest.mark.parametrize("power", [-700, -3, 1000])
def test_figures_do_not_depend_on_the_unit(rng: np.random.Generator, power: int) -> None:
    """In units of a power of two not by a bit, also where squares overflow or vanish."""
    truth, one = rng.standard_normal((13, 17)), 2.0**power
    estimate = truth + 0.1 * rng.standard_normal((13, 17))
    assert metrics.psnr(estimate * one, truth * one, one) == metrics.psnr(estimate, truth, 1.0)
    assert metrics.nmse(estimate * one, truth * one) == metrics.nmse(estimate, truth)
    assert metrics.ssim(estimate * one, truth * one, one) == metrics.ssim(estimate, truth, 1.0)


def test_ssim_edges(rng: np.random.Generator) -> None:
    image = rng.random(SHAPE)
    assert metrics.ssim(image, image, 1.0) == pytest.approx(1)
    assert math.isnan(metrics.ssim(image[:10], image[:10], 1.0))
    other = rng.random(SHAPE)
    both = metrics.ssim(image + 1j * other, image + 1j * image, 1.0)
    assert both == pytest.approx((1 + metrics.ssim(other, image, 1.0)) / 2)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_integers_are_measured_as_numbers(rng: np.random.Generator, dtype: str) -> None:
    top = np.iinfo(dtype).max
    truth = rng.integers(0, top, SHAPE).astype(dtype)
    estimate = rng.integers(0, top, SHAPE).astype(dtype)
    wide = estimate.astype(np.float64), truth.astype(np.float64)
    assert metrics.psnr(estimate, truth, top) == pytest.approx(metrics.psnr(*wide, top))
    assert metrics.nmse(estimate, truth) == pytest.approx(metrics.nmse(*wide))
    assert metrics.ssim(estimate, truth, top) == pytest.approx(metrics.ssim(*wide, top))


def test_shave() -> None:
    image = np.arange(35).reshape(5, 7)
    np.testing.assert_array_equal(metrics.shave(image, 2), [[16, 17, 18]])
    np.testing.assert_array_equal(metrics.shave(image, 0), image)
