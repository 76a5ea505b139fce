"""imaging.degrade against scipy.ndimage and dense linear algebra; consistency's properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mzsr_cli.imaging import degrade, kernels
from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.settings import ConsistencySettings, Method, Sampling

BICUBIC, DIRECT = Sampling.BICUBIC, Sampling.DIRECT
SHAPE = (37, 31)
F64 = torch.float64


def from_file(shape: tuple[int, int] = (7, 5)) -> np.ndarray:
    """A kernel as a file may hold it: asymmetric, off centre, with negative taps, sum 1."""
    kernel = np.random.default_rng(3).normal(0.3, 1, shape)
    kernel *= np.hanning(shape[0] + 2)[1:-1, None]
    return kernel / kernel.sum()


KERNELS = {
    "none": kernels.delta(),
    "isotropic": kernels.gaussian(2.0),
    "along axes": kernels.gaussian(4.0, 1.0, 0.0),
    "rotated": kernels.gaussian(4.0, 1.0, -0.5),
    "file": from_file(),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


def operator(
    kernel: np.ndarray,
    sampling: Sampling,
    scale: tuple[float, float] = (2.0, 3.0),
    shape: tuple[int, int] = SHAPE,
) -> Degradation:
    return degrade.degradation(kernel, sampling, scale, shape, dtype=F64)


def dense(op: Degradation) -> np.ndarray:
    """A as a matrix, one unit image at a time."""
    units = torch.eye(op.hr_shape[0] * op.hr_shape[1], dtype=F64).reshape(-1, *op.hr_shape)
    return op.apply(units).flatten(1).T.numpy()


def tensor(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.as_tensor(rng.standard_normal(shape))


# -- A ---------------------------------------------------------------------------------------


@every_kernel
@pytest.mark.parametrize("scale", [(2.0, 2.0), (2.0, 3.0), (4.0, 1.0)])
def test_direct_is_blur_then_slicing(
    rng: np.random.Generator, kernel: np.ndarray, scale: tuple[float, float]
) -> None:
    image = rng.random(SHAPE)
    low = operator(kernel, DIRECT, scale).apply(torch.as_tensor(image)).numpy()
    blurred = ndimage.correlate(image, kernel, mode="reflect")
    reference = blurred[:: int(scale[0]), :: int(scale[1])]
    np.testing.assert_allclose(low, reference, atol=1e-4 * np.abs(kernel).max())


def test_even_kernels_are_centred_as_by_imfilter(rng: np.random.Generator) -> None:
    """MATLAB's centre is floor((n + 1) / 2) from 1: the upper left of the middle four."""
    image = rng.random(SHAPE)
    kernel = np.array([[0.4, 0.3, 0.0, 0.0], [0.2, 0.1, 0.0, 0.0]])
    low = operator(kernel, DIRECT, (1.0, 1.0)).apply(torch.as_tensor(image)).numpy()
    padded = np.pad(image, ((0, 1), (1, 2)), mode="symmetric")
    reference = sum(
        kernel[i, j] * padded[i : i + 37, j : j + 31] for i in range(2) for j in range(4)
    )
    np.testing.assert_allclose(low, reference, atol=1e-12)


@every_kernel
def test_bicubic_is_blur_then_imresize(rng: np.random.Generator, kernel: np.ndarray) -> None:
    """Against PIL's antialiased cubic, which is MATLAB's away from the borders."""
    from PIL import Image

    image = rng.random((36, 30))
    low = operator(kernel, BICUBIC, (2.0, 3.0), (36, 30)).apply(torch.as_tensor(image)).numpy()
    blurred = ndimage.correlate(image, kernel, mode="reflect").astype(np.float32)
    pil = np.asarray(Image.fromarray(blurred).resize((10, 18), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(low[2:-2, 2:-2], pil[2:-2, 2:-2], atol=1e-4)


@every_kernel
@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("scale", [(2.0, 3.0), (1.5, 2.7)])
def test_adjoint_is_the_transpose(
    rng: np.random.Generator, kernel: np.ndarray, sampling: Sampling, scale: tuple[float, float]
) -> None:
    op = operator(kernel, sampling, scale)
    x, y = tensor(rng, *op.hr_shape), tensor(rng, *op.lr_shape)
    left, right = float((op.apply(x) * y).sum()), float((x * op.adjoint(y)).sum())
    assert left == pytest.approx(right, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize("scale", [(2.0, 2.0), (1.5, 2.7), (4.0, 1.1)])
def test_shapes_round_up(sampling: Sampling, scale: tuple[float, float]) -> None:
    down = operator(kernels.gaussian(1.0), sampling, scale)
    assert down.lr_shape == tuple(int(np.ceil(n / s)) for n, s in zip(SHAPE, scale, strict=True))
    up = degrade.enlargement(kernels.gaussian(1.0), sampling, scale, SHAPE, dtype=F64)
    assert up.hr_shape == tuple(int(np.ceil(n * s)) for n, s in zip(SHAPE, scale, strict=True))
    assert up.apply(torch.ones(2, *up.hr_shape, dtype=F64)).shape == (2, *SHAPE)


@every_kernel
@pytest.mark.parametrize("sampling", Sampling)
def test_constants_stay(kernel: np.ndarray, sampling: Sampling, device: torch.device) -> None:
    op = degrade.degradation(kernel, sampling, (2.0, 3.0), SHAPE, device)
    low = op.apply(torch.full(SHAPE, 0.75, device=device))
    assert float((low - 0.75).abs().max()) < 1e-4


def test_interpolation_obeys_its_damping(rng: np.random.Generator) -> None:
    """The same operator asked twice with different dampings answers both."""
    low = tensor(rng, 19, 16)
    op = degrade.enlargement(kernels.gaussian(2.0), DIRECT, (2.0, 2.0), (19, 16), dtype=F64)
    strong = op.interpolate(low, Method.BANDLIMITED, 0.3)
    weak = op.interpolate(low, Method.BANDLIMITED, 1e-3)
    fresh = degrade.enlargement(kernels.gaussian(2.0), DIRECT, (2.0, 2.0), (19, 16), dtype=F64)
    torch.testing.assert_close(weak, fresh.interpolate(low, Method.BANDLIMITED, 1e-3))
    assert float((weak - strong).abs().max()) > 0.1


# -- consistency -----------------------------------------------------------------------------

EXACT = ConsistencySettings(damping=1e-12)
separable_kernels = pytest.mark.parametrize("name", ["none", "isotropic", "along axes"])


@pytest.mark.parametrize("name", ["none", "narrow"])
@pytest.mark.parametrize("sampling", Sampling)
def test_restored_explains_the_slice(
    rng: np.random.Generator, name: str, sampling: Sampling
) -> None:
    kernel = kernels.delta() if name == "none" else kernels.gaussian(0.5)
    op = operator(kernel, sampling)
    y = tensor(rng, 3, *op.lr_shape)
    x = Consistency(op, EXACT).restore(y, tensor(rng, 3, *op.hr_shape))
    torch.testing.assert_close(op.apply(x), y, atol=1e-6, rtol=0)


@every_kernel
@pytest.mark.parametrize("sampling", Sampling)
def test_restore_never_moves_away_from_the_truth(
    rng: np.random.Generator, kernel: np.ndarray, sampling: Sampling
) -> None:
    """For exact data and any damping, with any start."""
    op = operator(kernel, sampling)
    for damping in (1e-10, 1e-6, 1e-2, 1.0):
        consistency = Consistency(op, ConsistencySettings(damping=damping))
        truth, start = tensor(rng, 5, *op.hr_shape), tensor(rng, 5, *op.hr_shape)
        restored = consistency.restore(op.apply(truth), start)
        before = (start - truth).flatten(1).norm(dim=1)
        after = (restored - truth).flatten(1).norm(dim=1)
        assert bool((after <= before * (1 + 1e-9)).all())


@pytest.mark.parametrize("seed", range(6))
def test_free_never_grows_for_sharpening_kernels(seed: int) -> None:
    """Difference kernels have their largest response far from the mean, where the bound on the
    spectrum must hold too."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(0, 1, (5, 7))
    kernel += (1 - kernel.sum()) / kernel.size
    op = operator(kernel, BICUBIC if seed % 2 else DIRECT)
    v = tensor(rng, 4, *op.hr_shape)
    a = dense(op)
    top = float(np.linalg.eigvalsh(a @ a.T)[-1])
    consistency = Consistency(op, ConsistencySettings())
    assert consistency._top >= top * (1 - 1e-9), "bound below the largest eigenvalue"
    assert float(consistency.free(v).norm()) <= float(v.norm()) * (1 + 1e-9)


@separable_kernels
@pytest.mark.parametrize("sampling", Sampling)
def test_separable_is_the_dense_solution(
    rng: np.random.Generator, name: str, sampling: Sampling
) -> None:
    op = operator(KERNELS[name], sampling, (2.0, 1.5), (17, 13))
    a = dense(op)
    mu = 1e-3
    consistency = Consistency(op, ConsistencySettings(damping=mu))
    v = tensor(rng, *op.hr_shape)
    solved = np.linalg.solve(a @ a.T + mu * np.eye(len(a)), a @ v.flatten().numpy())
    reference = v.flatten().numpy() - a.T @ solved
    np.testing.assert_allclose(consistency.free(v).flatten().numpy(), reference, atol=1e-9)


@pytest.mark.parametrize("name", ["rotated", "file"])
@pytest.mark.parametrize("sampling", Sampling)
def test_chebyshev_approaches_the_dense_solution(
    rng: np.random.Generator, name: str, sampling: Sampling
) -> None:
    op = operator(KERNELS[name], sampling, (2.0, 3.0), (17, 13))
    a = dense(op)
    mu = 0.05
    v = tensor(rng, *op.hr_shape)
    solved = np.linalg.solve(a @ a.T + mu * np.eye(len(a)), a @ v.flatten().numpy())
    reference = torch.as_tensor(v.flatten().numpy() - a.T @ solved).reshape(op.hr_shape)
    errors = [
        float((Consistency(op, ConsistencySettings(damping=mu, iterations=n)).free(v)
               - reference).norm() / reference.norm())
        for n in (3, 12, 40)
    ]  # fmt: skip
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.02
    assert errors[2] < 1e-3


@pytest.mark.parametrize("sampling", Sampling)
def test_default_chebyshev_keeps_its_bound(rng: np.random.Generator, sampling: Sampling) -> None:
    """n iterations on a spectrum [top / n^2, top] leave at most 1 / T_n of the misfit, and lower
    that of a smooth slice by 10 dB from an empty start."""
    op = operator(KERNELS["rotated"], sampling, (2.0, 2.0), (37, 31))
    settings = ConsistencySettings()
    consistency = Consistency(op, settings)
    a = dense(op)
    values, vectors = np.linalg.eigh(a @ a.T)
    n = settings.iterations
    ratio = (n - 1) / (n + 1)
    bound = 2 * ratio**n / (1 + ratio ** (2 * n))
    strong = vectors[:, values > consistency._top / n**2]
    assert 10 < strong.shape[1] < len(a)
    y = torch.as_tensor(strong.T.copy()).reshape(-1, *op.lr_shape)
    restored = consistency.restore(y, torch.zeros(len(y), *op.hr_shape, dtype=F64))
    misfit = (op.apply(restored) - y).flatten(1).norm(dim=1)
    assert float(misfit.max()) < bound * 1.05
    truth = torch.as_tensor(ndimage.gaussian_filter(rng.standard_normal((37, 31)), 2))
    y = op.apply(truth)
    restored = consistency.restore(y, torch.zeros_like(truth))
    assert float((op.apply(restored) - y).norm()) < 10 ** (-10 / 20) * float(y.norm())


@every_kernel
@pytest.mark.parametrize("sampling", Sampling)
def test_free_is_linear_and_self_adjoint(
    rng: np.random.Generator, kernel: np.ndarray, sampling: Sampling
) -> None:
    consistency = Consistency(operator(kernel, sampling), ConsistencySettings())
    u, v = tensor(rng, 2, *SHAPE)
    combined = consistency.free(2.5 * u - 0.3 * v)
    torch.testing.assert_close(combined, 2.5 * consistency.free(u) - 0.3 * consistency.free(v))
    left, right = float((consistency.free(u) * v).sum()), float((u * consistency.free(v)).sum())
    assert left == pytest.approx(right, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("sampling", Sampling)
def test_free_is_idempotent(rng: np.random.Generator, sampling: Sampling) -> None:
    consistency = Consistency(operator(kernels.gaussian(0.5), sampling), EXACT)
    once = consistency.free(tensor(rng, *SHAPE))
    torch.testing.assert_close(consistency.free(once), once, atol=1e-8, rtol=0)
    assert float(consistency.operator.apply(once).abs().max()) < 1e-6
    assert float(once.norm()) > 1, "something is left to predict"


def test_noise_adds_damping() -> None:
    op = operator(kernels.delta(), DIRECT)
    settings = ConsistencySettings(damping=1e-6, residual_variance=1e-4)
    assert Consistency(op, settings, 1e-3).damping == pytest.approx(1e-6 + 1e-2)


@pytest.mark.parametrize("name", ["isotropic", "rotated"])
@pytest.mark.parametrize("sampling", Sampling)
def test_gradients_of_free(name: str, sampling: Sampling) -> None:
    op = operator(KERNELS[name], sampling, (2.0, 1.5), (5, 7))
    consistency = Consistency(op, ConsistencySettings())
    v = torch.randn(1, 1, 5, 7, dtype=F64, generator=torch.Generator().manual_seed(0))
    v.requires_grad_()
    assert torch.autograd.gradcheck(consistency.free, v)

    def curved(u: torch.Tensor) -> torch.Tensor:
        return consistency.free(u.sin()).square()

    assert torch.autograd.gradgradcheck(curved, v)


@pytest.mark.parametrize("name", ["isotropic", "rotated"])
def test_float32_agrees_on_every_device(
    rng: np.random.Generator, name: str, device: torch.device
) -> None:
    v = tensor(rng, 1, 1, *SHAPE)
    wide = Consistency(operator(KERNELS[name], DIRECT), ConsistencySettings()).free(v)
    narrow = degrade.degradation(KERNELS[name], DIRECT, (2.0, 3.0), SHAPE)
    kept = Consistency(narrow, ConsistencySettings())
    moved = kept.to(device)
    assert kept.to(device) is moved and kept.to(device, F64) is kept.to(device, F64)
    result = moved.free(v.to(device, torch.float32))
    assert result.device.type == device.type
    assert float((result.cpu().double() - wide).abs().max()) < 0.02
    residual = moved.operator.apply(result).cpu().double()
    reference = operator(KERNELS[name], DIRECT).apply(wide)
    assert float((residual - reference).abs().max()) < 1e-3


@pytest.mark.parametrize("scale", [(1.5, 1.2), (2.0, 3.0), (7.0, 9.0)])
@pytest.mark.parametrize("kernel", [kernels.delta(), kernels.gaussian(4.0, 1.0, -0.5)])
def test_normal_map(
    rng: np.random.Generator, kernel: np.ndarray, scale: tuple[float, float]
) -> None:
    """A A^T, on whichever grid is less work."""
    op = degrade.enlargement(kernel, DIRECT, scale, (19, 21), dtype=torch.float64)
    y = torch.as_tensor(rng.random((2, 19, 21)))
    torch.testing.assert_close(op.normal(y), op.apply(op.adjoint(y)))
    torch.testing.assert_close(op.map.gram().apply(y), op.apply(op.adjoint(y)))


@pytest.mark.parametrize("iterations", [1, 3, 50])
@pytest.mark.parametrize("kernel", [kernels.delta(), kernels.gaussian(2.0, 0.7, 0.4)])
def test_back_projection_is_the_published_iteration(
    rng: np.random.Generator, kernel: np.ndarray, iterations: int
) -> None:
    """On the LR grid as on the HR grid: x <- x + up(y - A x) while the misfit falls."""
    op = degrade.degradation(kernel, Sampling.BICUBIC, (2.0, 3.0), (37, 62), dtype=torch.float64)
    y = torch.as_tensor(rng.random((2, 19, 21)))
    x = start = op.interpolate(y, Method.SPLINE, 0.0)
    misfit = torch.inf
    for _ in range(iterations):
        residual = y - op.apply(x)
        if not float(residual.square().mean()) < misfit:
            break
        misfit = float(residual.square().mean())
        x = x + op.interpolate(residual, Method.BICUBIC, 0.0)
    torch.testing.assert_close(degrade.back_projection(op, y, start, iterations), x)


def test_back_projection_lowers_the_misfit_and_the_error(rng: np.random.Generator) -> None:
    op = operator(kernels.gaussian(2.0), DIRECT, (2.0, 2.0), (38, 32))
    truth = torch.as_tensor(ndimage.gaussian_filter(rng.standard_normal((38, 32)), 1.5))
    y = op.apply(truth)
    start = op.interpolate(y, Method.BICUBIC, 0.0)
    better = degrade.back_projection(op, y, start, 50)
    assert float((op.apply(better) - y).norm()) < 0.05 * float((op.apply(start) - y).norm())
    assert float((better - truth).norm()) < 0.7 * float((start - truth).norm())
    torch.testing.assert_close(degrade.back_projection(op, y, start, 0), start)


@pytest.mark.parametrize("sampling", list(Sampling))
@pytest.mark.parametrize(("scale", "shape"), [(2.0, (49, 61)), (2.5, (64, 50))])
@pytest.mark.parametrize("turn", [0.6, -0.5, 1.0])
def test_largest_eigenvalue_is_an_upper_bound(
    sampling: Sampling, scale: float, shape: tuple[int, int], turn: float
) -> None:
    """Also where symmetric borders gather a turned kernel's weight in a corner."""
    kernel = kernels.gaussian(4.0, 1.0, turn)
    operator = degrade.degradation(kernel, sampling, (scale, scale), shape, dtype=torch.float64)
    count = operator.lr_shape[0] * operator.lr_shape[1]
    units = torch.eye(count, dtype=torch.float64).reshape(count, *operator.lr_shape)
    top = float(torch.linalg.eigvalsh(operator.normal(units).reshape(count, count))[-1])
    assert top <= degrade.largest_eigenvalue(operator) <= 1.3 * top
