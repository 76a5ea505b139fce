"""imaging.kernels: variances, rotation, sums, refusals, the training distribution."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from mzsr_cli.errors import KernelError, UsageError
from mzsr_cli.imaging import kernels
from mzsr_cli.settings import KernelDraw


def moments(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (x, y) about the centre tap and covariance [[xx, xy], [xy, yy]] of a kernel."""
    rows, cols = (np.arange(n) - (n - 1) // 2 for n in kernel.shape)
    points = np.stack([a.ravel() for a in np.meshgrid(cols, rows)])
    weight = kernel.ravel()
    mean = points @ weight
    return mean, (points - mean[:, None]) * weight @ (points - mean[:, None]).T


@pytest.mark.parametrize("variance", [1.0, 1.3, 2.0, 5.0, 31.0])
def test_variance_is_lambda(variance: float) -> None:
    kernel = kernels.gaussian(variance)
    mean, covariance = moments(kernel)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(covariance, variance * np.eye(2), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("theta", [-0.5, 0.0, 0.3, 1.2, math.pi / 2, 2.5])
def test_rotation_is_theta(theta: float) -> None:
    """The principal axis of variance 4 points along (cos theta, sin theta) in (x, y)."""
    mean, covariance = moments(kernels.gaussian(4.0, 1.0, theta))
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(values, [1, 4], rtol=2e-3)
    direction = np.array([math.cos(theta), math.sin(theta)])
    assert abs(vectors[:, 1] @ direction) == pytest.approx(1, abs=1e-5)


def test_narrow_kernel_tends_to_no_blur() -> None:
    centre = [k[k.shape[0] // 2, k.shape[1] // 2] for k in map(kernels.gaussian, (0.2, 0.1, 0.01))]
    assert centre == sorted(centre)
    assert centre[-1] == pytest.approx(1)
    np.testing.assert_array_equal(kernels.delta(), [[1.0]])


def test_published_kernel(data: Path) -> None:
    kernel = loadmat(data / "mzsr_g20" / "Input" / "g20" / "kernel.mat")
    (published,) = (v for k, v in kernel.items() if not k.startswith("__") and np.ndim(v) == 2)
    assert published.shape == (21, 21)
    ours = kernels.gaussian(2.0)
    padded = np.zeros((41, 41))
    margin = (41 - len(ours)) // 2
    padded[margin : margin + len(ours), margin : margin + len(ours)] = ours
    cropped = padded[10:31, 10:31]
    np.testing.assert_allclose(published, cropped / cropped.sum(), atol=1e-3 * published.max())
    np.testing.assert_allclose(moments(published / published.sum())[1], 2 * np.eye(2), atol=0.01)


@pytest.mark.parametrize(
    "numbers",
    [(0.0,), (-1.0,), (math.nan,), (math.inf,), (2.0, 0.0), (2.0, math.nan), (2.0, 1.0, math.inf)],
)
def test_bad_variances_are_refused(numbers: tuple[float, ...]) -> None:
    with pytest.raises(KernelError, match="positive and finite"):
        kernels.gaussian(*numbers)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("gaussian:2.0", (2.0,)), ("gaussian:4,1", (4.0, 1.0)), ("gaussian:4,1,-0.5", (4, 1, -0.5))],
)
def test_parse_gaussian(text: str, numbers: tuple[float, ...]) -> None:
    np.testing.assert_array_equal(kernels.parse_gaussian(text), kernels.gaussian(*numbers))


@pytest.mark.parametrize(
    "text", ["gaussian", "gaussian:", "gaussian:two", "gaussian:1,2,3,4", "gaussian:1;2", "box"]
)
def test_unparsable_kernels_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="gaussian:VARIANCE") as caught:
        kernels.parse_gaussian(text)
    assert caught.value.exit_code == 2
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.full((3, 3), 1.0), "sums to 9"),
        (np.zeros((5, 5)), "sums to 0"),
        (np.array([[np.nan, 1.0]]), "NaN"),
        (np.array([[np.inf, 1.0]]), "Inf"),
        (np.array([[0.5 + 0j, 0.5]]), "complex"),
        (np.full((3, 1, 3), 1 / 9), "2-D"),
        (np.full(3, 1 / 3), "2-D"),
        (np.zeros((0, 3)), "2-D"),
        (np.array([["a"]]), "numeric"),
        (np.array([[True]]), "numeric"),
    ],
)
def test_unusable_kernel_files_are_refused(array: np.ndarray, why: str) -> None:
    with pytest.raises(KernelError, match=why) as caught:
        kernels.checked(array, "blur.mat")
    assert str(caught.value).startswith("blur.mat:")
    assert caught.value.exit_code == 3


def test_checked_normalises_within_tolerance(rng: np.random.Generator) -> None:
    array = rng.random((5, 7)).astype(np.float32)
    array *= 1.0005 / array.sum()
    kernel = kernels.checked(array, "blur.npy")
    assert kernel.dtype == np.float64
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(kernel, array / array.sum(), rtol=1e-5)
    with pytest.raises(KernelError):
        kernels.checked(array * 1.002, "blur.npy")


def drawn(draw: KernelDraw, scale: float, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [kernels.random_blur(rng, scale, draw) for _ in range(count)]


def test_random_blurs_follow_the_shares() -> None:
    """Published kernels have variances of 1 and more, narrow ones of 0.3 and less here."""
    draw = KernelDraw(published_fraction=0.5, narrow_fraction=0.2, narrow_max=0.3)
    sample = drawn(draw, 2.0, 400)
    narrow = np.mean([k.max() > kernels.gaussian(0.3).max() - 1e-12 for k in sample])
    assert draw.blurred_fraction == pytest.approx(0.7)
    assert narrow == pytest.approx(0.2 / 0.7, abs=0.07)
    assert all(k.sum() == pytest.approx(1, abs=1e-9) for k in sample)


@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_published_kernels_stay_in_the_published_range(scale: float) -> None:
    draw = KernelDraw(published_fraction=1.0, narrow_fraction=0.0)
    values = np.array([np.linalg.eigvalsh(moments(k)[1]) for k in drawn(draw, scale, 200)])
    top = 2.5 * scale
    assert values.min() > 0.99 and values.max() < top * 1.001
    assert values[:, 1].max() > 0.9 * top, "the range is used to its end"
    isotropic = np.mean(values[:, 1] - values[:, 0] < 1e-6 * values[:, 1])
    assert isotropic == pytest.approx(draw.isotropic_fraction, abs=0.1)


def test_narrow_kernels_stay_narrow() -> None:
    draw = KernelDraw(published_fraction=0.0, narrow_fraction=1.0)
    sample = drawn(draw, 2.0, 200)
    # Peaks of the sampled Gaussians with the smallest and the largest variance bound all others.
    low, high = kernels.gaussian(draw.narrow_max).max(), kernels.gaussian(draw.narrow_min).max()
    peaks = np.array([k.max() for k in sample])
    assert peaks.min() >= low - 1e-12 and peaks.max() <= high + 1e-12
    assert len(np.unique(peaks)) == 200


def test_rotations_cover_the_half_turn() -> None:
    draw = KernelDraw(published_fraction=1.0, narrow_fraction=0.0, isotropic_fraction=0.0)
    angles = []
    for kernel in drawn(draw, 4.0, 300):
        vector = np.linalg.eigh(moments(kernel)[1])[1][:, 1]
        angles.append(math.atan2(vector[1], vector[0]) % math.pi)
    counts = np.histogram(angles, 4, (0, math.pi))[0]
    assert counts.min() > 45


def test_random_blurs_depend_on_the_generator_alone() -> None:
    first, again = (drawn(KernelDraw(), 2.0, 5) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_shrunk_kernel(factor: float) -> None:
    """Sums to 1, centred; variance / factor^2, and at most 1/6 pixel^2 more for the weights."""
    kernel = kernels.gaussian(31.0, 12.0, 0.3)
    small = kernels.shrunk(kernel, factor)
    mean, covariance = moments(small)
    assert small.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(mean, 0, atol=1e-9)
    added = covariance - moments(kernel)[1] / factor**2
    assert abs(added[0, 1]) < 1e-9
    for extra in np.diag(added):
        assert -1e-9 < extra < 1 / 6 + 1e-3


def test_shrunk_by_one_is_the_kernel() -> None:
    kernel = kernels.gaussian(2.0)
    np.testing.assert_array_equal(kernels.shrunk(kernel, 1.0), kernel)
    np.testing.assert_array_equal(kernels.shrunk(kernels.delta(), 3.0), [[1.0]])
