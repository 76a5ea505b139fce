"""The benchmark protocol, end to end: the published baselines on Set5 x2 (DESIGN, part 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mzsr_cli.imaging import degrade, kernels, metrics
from mzsr_cli.settings import ConsistencySettings, Method, Sampling

SCALE = (2.0, 2.0)
DIRECT, BICUBIC = Sampling.DIRECT, Sampling.BICUBIC

PUBLISHED = {
    "bicubic": (kernels.delta(), BICUBIC, 33.64, 0.9293),
    "g_0.2^d": (kernels.gaussian(0.2), DIRECT, 30.24, 0.8976),
    "g_2.0^d": (kernels.gaussian(2.0), DIRECT, 28.73, 0.8449),
    "g_ani^d": (kernels.gaussian(4.0, 1.0, -0.5), DIRECT, 28.15, 0.8265),
    "g_1.3^b": (kernels.gaussian(1.3), BICUBIC, 30.54, 0.8773),
}


def luma(path: Path) -> np.ndarray:
    """Y of BT.601 in the studio range 16 to 235, not rounded."""
    red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB"), dtype=float), -1, 0)
    return 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255


@pytest.fixture(scope="module")
def set5(data: Path) -> list[np.ndarray]:
    images = [luma(path) for path in sorted((data / "Set5" / "x2").glob("*.png"))]
    if len(images) != 5:
        pytest.skip(f"{data}/Set5/x2 has {len(images)} images, not 5")
    return images


def reduced(
    image: np.ndarray, kernel: np.ndarray, sampling: Sampling
) -> tuple[degrade.Degradation, torch.Tensor]:
    """The degradation and its 8-bit LR image."""
    operator = degrade.degradation(kernel, sampling, SCALE, image.shape, dtype=torch.float64)
    return operator, operator.apply(torch.as_tensor(image)).round().clip(0, 255)


def figures(estimate: torch.Tensor, truth: np.ndarray) -> tuple[float, float]:
    pair = metrics.shave(estimate.numpy(), 2), metrics.shave(truth, 2)
    return metrics.psnr(*pair, 255), metrics.ssim(*pair, 255)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_baseline(set5: list[np.ndarray], name: str) -> None:
    """Plain imresize of the 8-bit LR image, whatever the sampling was, rounded and clipped."""
    kernel, sampling, psnr, ssim = PUBLISHED[name]
    rows = []
    for truth in set5:
        _, low = reduced(truth, kernel, sampling)
        plain = degrade.enlargement(
            kernels.delta(), BICUBIC, SCALE, (low.shape[0], low.shape[1]), dtype=torch.float64
        )
        high = plain.interpolate(low, Method.BICUBIC, 0.0).round().clip(0, 255)
        rows.append(figures(high, truth))
    mean = np.mean(rows, axis=0)
    assert mean[0] == pytest.approx(psnr, abs=0.05)
    assert mean[1] == pytest.approx(ssim, abs=0.005)


@pytest.mark.parametrize(("name", "psnr"), [("g_0.2^d", 33.9), ("g_2.0^d", 29.8)])
def test_right_grid_lifts_direct_sampling(set5: list[np.ndarray], name: str, psnr: float) -> None:
    kernel, sampling, published, _ = PUBLISHED[name]
    rows = []
    for truth in set5:
        operator, low = reduced(truth, kernel, sampling)
        rows.append(figures(operator.interpolate(low, Method.BICUBIC, 0.0), truth)[0])
    assert np.mean(rows) == pytest.approx(psnr, abs=0.15)
    assert np.mean(rows) > published + 0.9


def test_knowing_the_kernel_beats_every_interpolation(set5: list[np.ndarray]) -> None:
    """g_2.0: 50 back-projections reach 33.7 dB; the regularised projection is as good."""
    kernel, sampling, *_ = PUBLISHED["g_2.0^d"]
    back, projected = [], []
    for truth in set5:
        operator, low = reduced(truth, kernel, sampling)
        start = operator.interpolate(low, Method.SPLINE, 0.0)
        back.append(figures(degrade.back_projection(operator, low, start, 50), truth)[0])
        noise = 12**-0.5 / 255
        consistency = degrade.Consistency(operator, ConsistencySettings(), noise)
        projected.append(figures(consistency.restore(low, start), truth)[0])
    assert np.mean(back) == pytest.approx(33.7, abs=0.2)
    assert np.mean(projected) > np.mean(back) - 0.2


def test_published_low_images_are_ours(data: Path) -> None:
    """The LR images of g_2.0 that the authors published: same grid, same kernel, luma to 1.5
    levels (theirs were rounded as RGB)."""
    folder = data / "mzsr_g20"
    names = sorted((folder / "Input" / "g20" / "Set5").glob("*.png"))
    if not names:
        pytest.skip(f"no published LR images in {folder}")
    for path in names:
        truth = luma(folder / "GT" / "Set5" / f"{path.stem}_GT.png")
        theirs = luma(path)
        operator = degrade.degradation(
            kernels.gaussian(2.0), DIRECT, SCALE, truth.shape, dtype=torch.float64
        )
        ours = operator.apply(torch.as_tensor(truth)).numpy()
        rows, cols = (min(a, b) for a, b in zip(ours.shape, theirs.shape, strict=True))
        difference = np.abs(ours[:rows, :cols] - theirs[:rows, :cols])[8:-8, 8:-8]
        assert difference.max() < 1.5, path.name
        assert np.sqrt(np.mean(difference**2)) < 0.35, path.name
