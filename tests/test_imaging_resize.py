"""imaging.resize against direct loops, PIL, scipy.ndimage and scipy.fft."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage

from mzsr_cli.imaging import resize
from mzsr_cli.settings import Sampling

SIZES = [5, 31, 37]
SCALES = [1.5, 2.0, 3.0, 2.7]
BICUBIC, DIRECT = Sampling.BICUBIC, Sampling.DIRECT


def keys_weight(t: float) -> float:
    """Keys 1981, equation 15 (a = -1/2), one argument at a time."""
    t = abs(t)
    if t < 1:
        return 3 / 2 * t**3 - 5 / 2 * t**2 + 1
    if t < 2:
        return -1 / 2 * t**3 + 5 / 2 * t**2 - 4 * t + 2
    return 0.0


def folded(index: int, n: int) -> int:
    """Half-sample symmetric border, by walking back inside."""
    while not 0 <= index < n:
        index = -1 - index if index < 0 else 2 * n - 1 - index
    return index


def imresize_line(line: np.ndarray, n_out: int, factor: float) -> np.ndarray:
    """MATLAB's imresize of a vector by ``factor`` (output over input), sample by sample.

    One-based output u sits at input x = u / f + (1 - 1 / f) / 2; reductions use h(f t) f.
    """
    shrink = min(1.0, factor)
    result = np.zeros(n_out)
    for u in range(1, n_out + 1):
        centre = u / factor + 0.5 * (1 - 1 / factor)
        reach = 2 / shrink
        total = value = 0.0
        for x in range(math.floor(centre - reach) - 1, math.ceil(centre + reach) + 2):
            weight = keys_weight(shrink * (centre - x))
            value += weight * line[folded(x - 1, len(line))]
            total += weight
        result[u - 1] = value / total
    return result


def by_columns(matrix: np.ndarray, operation: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The matrix of a linear ``operation`` on vectors as long as ``matrix`` has columns."""
    return np.stack([operation(unit) for unit in np.eye(matrix.shape[1])], axis=1)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", SCALES)
def test_reduction_is_imresize(n: int, scale: float) -> None:
    n_lr = resize.reduced(n, scale)
    matrix = resize.antialiased_matrix(n, n_lr, scale)
    reference = by_columns(matrix, lambda line: imresize_line(line, n_lr, 1 / scale))
    np.testing.assert_allclose(matrix, reference, atol=1e-12)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", [*SCALES, 20.0])
def test_enlargement_is_imresize(n: int, scale: float) -> None:
    n_hr = resize.enlarged(n, scale)
    matrix = resize.bicubic_matrix(n, n_hr, scale, BICUBIC)
    reference = by_columns(matrix, lambda line: imresize_line(line, n_hr, scale))
    np.testing.assert_allclose(matrix, reference, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("enlarge", [False, True])
def test_cubic_is_pils_inside(rng: np.random.Generator, scale: int, enlarge: bool) -> None:
    image = rng.random((12 * scale, 15 * scale)).astype(np.float32)
    h, w = image.shape
    h_out, w_out = (h * scale, w * scale) if enlarge else (h // scale, w // scale)
    pil = np.asarray(Image.fromarray(image).resize((w_out, h_out), Image.Resampling.BICUBIC))
    if enlarge:
        rows, cols = (resize.bicubic_matrix(n, n * scale, scale, BICUBIC) for n in (h, w))
    else:
        rows, cols = (resize.antialiased_matrix(n, n // scale, scale) for n in (h, w))
    inside = (slice(2 * scale, -2 * scale),) * 2 if enlarge else (slice(2, -2),) * 2
    np.testing.assert_allclose((rows @ image @ cols.T)[inside], pil[inside], atol=2e-6)


def every_enlargement(n_lr: int, n_hr: int, scale: float, sampling: Sampling) -> list[np.ndarray]:
    reduction = resize.decimation_matrix(n_hr, n_lr, scale, sampling)
    return [
        resize.bicubic_matrix(n_lr, n_hr, scale, sampling),
        resize.spline_matrix(n_lr, n_hr, scale, sampling),
        resize.bandlimited_matrix(n_lr, n_hr, scale, sampling, reduction, 0.0),
    ]


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("n", [1, *SIZES])
@pytest.mark.parametrize("scale", [*SCALES, 20.0])
def test_constants_stay(sampling: Sampling, n: int, scale: float) -> None:
    n_hr = resize.enlarged(n, scale)
    for matrix in every_enlargement(n, n_hr, scale, sampling):
        assert matrix.shape == (n_hr, n)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)  # scipy's spline filter at n = 5
    down = resize.decimation_matrix(n_hr, n, scale, sampling)
    assert down.shape == (n, n_hr)
    np.testing.assert_allclose(down.sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("scale", SCALES)
def test_ramps_stay_inside(sampling: Sampling, scale: float) -> None:
    """The HR image of an LR ramp is the ramp at the HR positions, away from the borders."""
    n = 31
    n_hr = resize.enlarged(n, scale)
    at = resize.positions(n_hr, scale, sampling)
    ramp = 3.0 * np.arange(n) - 7
    inside = (at > 2) & (at < n - 3)
    cubic = resize.bicubic_matrix(n, n_hr, scale, sampling) @ ramp
    np.testing.assert_allclose(cubic[inside], (3 * at - 7)[inside], atol=1e-11)
    deep = (at > 12) & (at < n - 13)
    spline = resize.spline_matrix(n, n_hr, scale, sampling) @ ramp
    np.testing.assert_allclose(spline[deep], (3 * at - 7)[deep], atol=1e-4)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("scale", SCALES)
def test_reduced_ramp_lies_on_the_grid(sampling: Sampling, scale: float) -> None:
    """LR samples of the ramp x = i are the HR positions that ``positions`` inverts (a widened
    cubic bends ramps by a hundredth of a pixel where the scale is fractional)."""
    n_hr = 61
    n_lr = resize.reduced(n_hr, scale)
    low = resize.decimation_matrix(n_hr, n_lr, scale, sampling) @ np.arange(n_hr)
    seen_at = np.interp(low, np.arange(n_hr), resize.positions(n_hr, scale, sampling))
    inside = slice(3, -3)
    tolerance = 1e-9 if sampling is DIRECT or scale == int(scale) else 0.02
    np.testing.assert_allclose(seen_at[inside], np.arange(n_lr)[inside], atol=tolerance)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", SCALES)
def test_direct_spline_is_map_coordinates(n: int, scale: float) -> None:
    n_hr = resize.enlarged(n, scale)
    matrix = resize.spline_matrix(n, n_hr, scale, DIRECT)
    at = np.arange(n_hr) / scale

    def spline(line: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(line, [at], order=3, mode="mirror")

    np.testing.assert_allclose(matrix, by_columns(matrix, spline), atol=1e-9)


@pytest.mark.parametrize("n", SIZES)
def test_bicubic_spline_is_map_coordinates(n: int) -> None:
    matrix = resize.spline_matrix(n, 2 * n, 2.0, BICUBIC)
    at = (np.arange(2 * n) + 0.5) / 2 - 0.5

    def spline(line: np.ndarray) -> np.ndarray:
        return ndimage.map_coordinates(line, [at], order=3, mode="reflect")

    np.testing.assert_allclose(matrix, by_columns(matrix, spline), atol=1e-9)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", [2, 3])
def test_bandlimited_is_zero_padded_dct2(n: int, scale: int) -> None:
    """DCT-II, zeros appended, inverse DCT-II; every LR cosine comes back from its own reduction."""
    n_hr = n * scale
    reduction = resize.antialiased_matrix(n_hr, n, scale)
    matrix = resize.bandlimited_matrix(n, n_hr, scale, BICUBIC, reduction, 0.0)

    def zero_padded(line: np.ndarray) -> np.ndarray:
        return fft.idct(np.append(fft.dct(line, 2, norm="forward"), np.zeros(n_hr - n)), 2,
                        norm="forward")  # fmt: skip

    plain = by_columns(matrix, zero_padded)
    spectrum = fft.dct(reduction @ plain, 2, norm="ortho", axis=0)
    response = np.diag(spectrum @ fft.idct(np.eye(n), 2, norm="ortho", axis=0))
    divided = plain @ fft.idct(
        fft.dct(np.eye(n), 2, norm="ortho", axis=0) / response[:, None], 2, norm="ortho", axis=0
    )
    np.testing.assert_allclose(matrix, divided, atol=1e-9)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", [2, 3])
def test_bandlimited_is_dct1_interpolant(n: int, scale: int) -> None:
    """Direct sampling: zero-padded DCT-I, whose grid is ``scale`` times finer between the ends."""
    n_grid = (n - 1) * scale + 1
    reduction = resize.decimation_matrix(n * scale, n, scale, DIRECT)
    matrix = resize.bandlimited_matrix(n, n * scale, scale, DIRECT, reduction, 0.0)

    def zero_padded(line: np.ndarray) -> np.ndarray:
        spectrum = fft.dct(line, 1)
        spectrum[-1] /= 2
        padded = np.append(spectrum, np.zeros(n_grid - n))
        return fft.idct(padded, 1) * scale

    reference = by_columns(matrix, zero_padded)
    np.testing.assert_allclose(matrix[:n_grid], reference, atol=1e-9)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("scale", [2.0, 3.0])
def test_cosine_below_nyquist_is_recovered(sampling: Sampling, scale: float) -> None:
    n_lr = 31
    n_hr = int(n_lr * scale)
    reduction = resize.decimation_matrix(n_hr, n_lr, scale, sampling)
    matrix = resize.bandlimited_matrix(n_lr, n_hr, scale, sampling, reduction, 0.0)
    for k in (1, 7, 24):
        if sampling is DIRECT:
            high = np.cos(np.pi * k * np.arange(n_hr) / scale / (n_lr - 1))
        else:
            high = np.cos(np.pi * k * (np.arange(n_hr) + 0.5) / n_hr)
        np.testing.assert_allclose(matrix @ reduction @ high, high, atol=1e-8)


@pytest.mark.parametrize("sampling", Sampling)
def test_damping_bounds_the_gain(sampling: Sampling) -> None:
    """Damping d limits each cosine's gain to (1 + d) / (2 sqrt d), and is exact at response 1."""
    n_lr, scale = 31, 4.0
    n_hr = 124
    reduction = resize.decimation_matrix(n_hr, n_lr, scale, sampling)
    reduction = reduction @ ndimage.gaussian_filter1d(np.eye(n_hr), 6.0, axis=0, mode="reflect")
    damping = 1e-2
    matrix = resize.bandlimited_matrix(n_lr, n_hr, scale, sampling, reduction, damping)
    basis = resize.cosine_basis(n_lr, np.arange(float(n_lr)), sampling)
    high = resize.cosine_basis(n_lr, resize.positions(n_hr, scale, sampling), sampling)
    gain = np.linalg.lstsq(high, matrix @ basis, rcond=None)[0].diagonal()
    assert np.abs(gain).max() <= (1 + damping) / (2 * math.sqrt(damping)) + 1e-6
    assert gain[0] == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("n", [1, 2, *SIZES])
def test_analysis_inverts_the_basis(sampling: Sampling, n: int) -> None:
    basis = resize.cosine_basis(n, np.arange(float(n)), sampling)
    np.testing.assert_allclose(resize.analysis_matrix(n, sampling) @ basis, np.eye(n), atol=1e-11)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_direct_interpolators_keep_the_samples(scale: int) -> None:
    n = 31
    for matrix in every_enlargement(n, n * scale, float(scale), DIRECT):
        np.testing.assert_allclose(matrix[::scale], np.eye(n), atol=1e-9)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_direct_decimation_picks_samples(scale: int) -> None:
    n = 37
    n_lr = resize.reduced(n, scale)
    matrix = resize.decimation_matrix(n, n_lr, float(scale), DIRECT)
    np.testing.assert_array_equal(matrix, np.eye(n)[::scale])


def test_positions_known_values() -> None:
    np.testing.assert_allclose(resize.positions(5, 2.0, DIRECT), [0, 0.5, 1, 1.5, 2])
    np.testing.assert_allclose(resize.positions(4, 2.0, BICUBIC), [-0.25, 0.25, 0.75, 1.25])
    difference = resize.positions(37, 20.0, DIRECT) - resize.positions(37, 20.0, BICUBIC)
    np.testing.assert_allclose(difference * 20, 9.5)


@pytest.mark.parametrize(
    ("n", "scale", "up", "down"),
    [(5, 2.0, 10, 3), (37, 1.5, 56, 25), (31, 1.1, 35, 29), (10, 1.1, 11, 10), (3, 20.0, 60, 1),
     (29, 4 / 3, 39, 22), (30, 1.2, 36, 25), (7, 0.1 * 30, 21, 3)],
)  # fmt: skip
def test_sides_round_up(n: int, scale: float, up: int, down: int) -> None:
    assert resize.enlarged(n, scale) == up
    assert resize.reduced(n, scale) == down


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("scale", [1.1, 1.5, 2.0, 2.7, 7.3, 20.0])
def test_reduction_undoes_enlargement_of_the_side(n: int, scale: float) -> None:
    assert resize.reduced(resize.enlarged(n, scale), scale) in (n, n + 1)
    if scale == int(scale):
        assert resize.reduced(resize.enlarged(n, scale), scale) == n


def test_axes_have_their_own_scales(rng: np.random.Generator, device: torch.device) -> None:
    image = rng.random((2, 5, 37))
    rows = resize.bicubic_matrix(5, 15, 3.0, BICUBIC)
    cols = resize.bicubic_matrix(37, 56, 1.5, BICUBIC)
    tensor = torch.as_tensor(image, device=device)
    high = (
        resize.separable(tensor, resize.as_matrix(rows, tensor), resize.as_matrix(cols, tensor))
        .cpu()
        .numpy()
    )
    assert high.shape == (2, 15, 56)
    for plane in range(2):
        half = np.stack([imresize_line(c, 15, 3.0) for c in image[plane].T], axis=1)
        reference = np.stack([imresize_line(r, 56, 1.5) for r in half])
        np.testing.assert_allclose(high[plane], reference, atol=1e-12)


def test_cubic_resample_is_the_dense_product(
    rng: np.random.Generator, device: torch.device
) -> None:
    image = torch.as_tensor(rng.random((2, 5, 31)), device=device)
    rows, cols = np.linspace(-1.3, 5.9, 17), np.linspace(0, 30, 37)
    sparse = resize.cubic_resample(image, rows, cols)
    dense = resize.cubic_matrix(5, rows) @ image.cpu().numpy() @ resize.cubic_matrix(31, cols).T
    np.testing.assert_allclose(sparse.cpu().numpy(), dense, atol=1e-12)
    corner = sum(
        keys_weight(rows[3] - i) * keys_weight(cols[4] - j) * float(image[1, folded(i, 5), j])
        for i in range(-6, 10)
        for j in range(31)
    )
    assert float(sparse[1, 3, 4]) == pytest.approx(corner, abs=1e-12)
