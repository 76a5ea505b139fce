"""Total variation: the objective falls, and the answer has the symmetries of the problem."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_tv_chambolle

from mzsr_cli.errors import UsageError
from mzsr_cli.imaging import degrade, kernels, tv
from mzsr_cli.settings import BACK_PROJECTIONS, Method, Sampling, TvSettings

SHAPE = (37, 31)
SHORT = TvSettings(iterations=40)
BLURS = [
    (kernels.gaussian(2.0), Sampling.DIRECT),
    (kernels.gaussian(4.0, 1.0, -0.5), Sampling.DIRECT),
    (kernels.delta(), Sampling.BICUBIC),
]


def blocks() -> torch.Tensor:
    """A piecewise constant image in [0, 1]: (1, 37, 31)."""
    image = torch.full((1, *SHAPE), 0.2)
    image[:, 5:22, 4:17] = 0.9
    image[:, 17:33, 11:28] = 0.5
    return image


def operator(
    kernel: kernels.Kernel, sampling: Sampling, shape: tuple[int, int] = SHAPE
) -> degrade.Degradation:
    return degrade.degradation(kernel, sampling, (2.0, 2.0), shape)


def error(estimate: torch.Tensor, truth: torch.Tensor) -> float:
    return float((estimate - truth).square().mean())


def test_variation_of_a_step_and_of_a_corner() -> None:
    image = torch.zeros(2, 5, 4)
    image[0, :, 2:] = 3.0
    image[1, 2, 1] = 1.0
    assert tv.variation(image).tolist() == pytest.approx([15.0, 2 + 2**0.5])


@pytest.mark.parametrize(("kernel", "sampling"), BLURS)
def test_the_objective_falls(kernel: kernels.Kernel, sampling: Sampling) -> None:
    """From the start on, and with more iterations; back-projection does not reach it."""
    op = operator(kernel, sampling)
    y = op.apply(blocks())
    start = op.interpolate(y, Method.SPLINE, 0.0)
    back = degrade.back_projection(op, y, start, BACK_PROJECTIONS)
    weight = 1e-3
    costs = [float(tv.objective(op, y, image, weight)) for image in (start, back)]
    for iterations in (5, 20, 80):
        made = tv.total_variation(op, y, replace(SHORT, iterations=iterations), weight)
        cost = float(tv.objective(op, y, made, weight))
        assert cost < min(costs)
        costs.append(cost)


@pytest.mark.parametrize(("kernel", "sampling"), BLURS)
def test_blocks_are_found_better_than_by_back_projection(
    kernel: kernels.Kernel, sampling: Sampling
) -> None:
    op, truth = operator(kernel, sampling), blocks()
    y = op.apply(truth)
    start = op.interpolate(y, Method.BICUBIC, 0.0)
    back = degrade.back_projection(op, y, start, BACK_PROJECTIONS)
    made = tv.total_variation(op, y, TvSettings())
    assert made.shape == truth.shape and made.dtype == truth.dtype
    assert error(made, truth) < 0.7 * error(back, truth)
    assert error(op.apply(made), y) < 1e-5, "it explains the LR image"


@pytest.mark.parametrize(("factor", "offset"), [(0.25, 3.0), (7.0, -2.0), (-1.0, 0.5)])
def test_affine_equivariance(rng: np.random.Generator, factor: float, offset: float) -> None:
    """Where the weight goes with the factor, as it does with a slice's range."""
    op = operator(*BLURS[0])
    op = replace(op, dtype=torch.float64)
    y = torch.from_numpy(rng.random((1, *op.lr_shape)))
    plain = tv.total_variation(op, y, SHORT, 1e-3)
    bent = tv.total_variation(op, factor * y + offset, SHORT, 1e-3 * abs(factor))
    assert torch.allclose(bent, factor * plain + offset, atol=1e-6 * abs(factor))


def test_planes_are_independent(rng: np.random.Generator) -> None:
    op = operator(*BLURS[1])
    y = torch.from_numpy(rng.random((2, *op.lr_shape)).astype(np.float32))
    both = tv.total_variation(op, y, SHORT)
    alone = torch.cat([tv.total_variation(op, y[k : k + 1], SHORT) for k in (0, 1)])
    assert torch.allclose(both, alone, atol=1e-5)


def test_a_constant_stays() -> None:
    op = operator(*BLURS[0])
    y = torch.full((1, *op.lr_shape), 0.7)
    assert torch.allclose(tv.total_variation(op, y, SHORT), torch.tensor(0.7), atol=1e-5)


def test_without_a_degradation_it_is_denoising(rng: np.random.Generator) -> None:
    """A = I: the minimiser is the proximal point, here by many of Chambolle's iterations."""
    op = degrade.degradation(kernels.delta(), Sampling.DIRECT, (1.0, 1.0), SHAPE)
    noisy = blocks()[0].numpy() + 0.1 * rng.standard_normal(SHAPE).astype(np.float32)
    wanted = denoise_tv_chambolle(noisy, weight=0.03, eps=0.0, max_num_iter=3000)
    settings = TvSettings(iterations=100, proximal_iterations=200, tolerance=0.0)
    made = tv.total_variation(op, torch.from_numpy(noisy)[None], settings, 0.03)
    assert np.abs(made[0].numpy() - wanted).max() < 2e-3


def test_missing_scikit_image_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    with pytest.raises(UsageError, match=r"mzsr\[benchmark\]"):
        tv.denoiser()
