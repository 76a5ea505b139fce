"""The starting image: the best linear answer, on which the network learns the residual."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mzsr_cli.imaging import resize
from mzsr_cli.imaging.degrade import Consistency, Degradation
from mzsr_cli.imaging.wiener import axis_filter
from mzsr_cli.settings import Method, Sampling, WienerSettings


@dataclass(frozen=True)
class Start:
    """A starting image (P, H, W), and the mean-square error that its own model expects of it
    (None where there is no such model)."""

    image: torch.Tensor
    expected: float | None


def wiener(operator: Degradation, y: torch.Tensor, settings: WienerSettings) -> Start:
    """LR planes (P, h, w) to HR (P, H, W) by the slice's own spectrum, both axes apart."""
    if operator.sampling is Sampling.BICUBIC:
        settings = replace(settings, slope_factor=settings.slope_factor_antialiased)
    planes = y.detach().cpu().double().numpy()
    mean = planes.mean((1, 2), keepdims=True)
    planes = planes - mean
    rows, cols = (
        axis_filter(planes, axis + 1, operator.reduction(axis), operator.scale[axis], settings)
        for axis in (0, 1)
    )
    left, right = torch.as_tensor(rows.matrix), torch.as_tensor(cols.matrix)
    high = resize.separable(torch.as_tensor(planes), left, right) + torch.as_tensor(mean)
    expected = float(planes.var()) * (1 - rows.explained * cols.explained)
    return Start(high.to(y), expected)


def starting_image(
    operator: Degradation, y: torch.Tensor, consistency: Consistency, settings: WienerSettings
) -> Start:
    """LR planes (P, h, w) to the starting image (P, H, W), which explains y.

    Without a blur kernel the Wiener interpolation; with one the cubic B-spline, made consistent
    (deblurred) by the regularised projection (measured: README, design notes). Where consistency
    is switched off, the cubic B-spline alone.
    """
    if not consistency.settings.enabled:
        return Start(operator.interpolate(y, Method.SPLINE, consistency.damping), None)
    if operator.kernel.size == 1:
        return wiener(operator, y, settings)
    spline = operator.interpolate(y, Method.SPLINE, consistency.damping)
    return Start(consistency.restore(y, spline), None)


def carried(
    start: torch.Tensor,
    added: torch.Tensor,
    factor: tuple[float, float],
    sampling: Sampling,
) -> torch.Tensor:
    """A stage's start: the linear answer (P, H, W) from the LR slice itself, plus what the
    network ``added`` (P, h, w) to the linear answer of the stage before, interpolated."""
    rows, cols = (
        resize.positions(n, f, sampling) for n, f in zip(start.shape[-2:], factor, strict=True)
    )
    return start + resize.cubic_resample(added, rows, cols)
