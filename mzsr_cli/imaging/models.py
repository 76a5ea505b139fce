"""A slice's model (the spectra of its axes) and the filter that this implies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray

from mzsr_cli.imaging.banded import Banded
from mzsr_cli.imaging.degrade import Degradation
from mzsr_cli.imaging.products import Products
from mzsr_cli.imaging.spectra import Array, Spectrum, axis_power, axis_spectrum, share_beyond
from mzsr_cli.imaging.wiener import axis_filter
from mzsr_cli.settings import Sampling, WienerSettings


@dataclass(frozen=True)
class SliceModel:
    """What one slice's spectrum says: HR power spectra of the rows' and of the columns' axis, the
    slice's variance, and about how much of that (0 to 1) interpolation will miss."""

    spectra: tuple[Spectrum, Spectrum]
    variance: float
    missing: float


@dataclass(frozen=True)
class SliceFilter:
    """The Wiener interpolator x = m + L (y - m) R^T, m the mean of y, and the mean-square error
    that its model expects. L and R are complex for the planes of a complex slice."""

    rows: torch.Tensor
    cols: torch.Tensor
    expected: float

    @property
    def gain(self) -> float:
        """Variance that white noise of variance 1 has after the filter."""
        power = self.rows.abs().square().sum() * self.cols.abs().square().sum()
        return float(power) / (len(self.rows) * len(self.cols))

    def apply(self, y: torch.Tensor) -> Products:
        """LR planes (P, h, w) to HR (P, H, W), in their precision."""
        mean = y.mean((1, 2), keepdim=True)
        ones = Banded.whole(y.new_ones(len(self.rows), 1))
        level = (ones, mean.expand(-1, 1, len(self.cols)))
        if self.rows.is_complex() or self.cols.is_complex():
            return Products((*self._complex_terms(y - mean), level))
        rows, cols = Banded.whole(self.rows.to(y)), self.cols.to(y)
        return Products(((rows, (y - mean) @ cols.mT), level))

    def _complex_terms(self, y: torch.Tensor) -> list[tuple[Banded, torch.Tensor]]:
        """L y R^T of a complex slice's two planes (2, h, w): the real part of L times both, and
        its imaginary part times i of both."""
        slices = torch.complex(y[0], y[1])
        rows = self.rows.to(slices)
        across = slices @ self.cols.to(slices).mT
        real, imaginary = across.real, across.imag
        return [
            (Banded.whole(rows.real.contiguous()), torch.stack([real, imaginary])),
            (Banded.whole(rows.imag.contiguous()), torch.stack([-imaginary, real])),
        ]


def _powers(lines: NDArray[Any], settings: WienerSettings) -> tuple[Array, Array]:
    """The LR power spectra of the rows' and of the columns' axis of ``lines`` (P, h, w)."""
    rows, cols = (axis_power(lines, axis, settings.padding) for axis in (1, 2))
    return rows, cols


def _spectra(
    operator: Degradation, powers: tuple[Array, Array], two_sided: bool, settings: WienerSettings
) -> tuple[Spectrum, Spectrum]:
    """The HR spectra of the rows' and of the columns' axis that LR ``powers`` suggest."""
    rows, cols = (
        axis_spectrum(power, two_sided, reduction, scale, settings)
        for power, reduction, scale in zip(powers, operator.reductions, operator.scale, strict=True)
    )
    return rows, cols


def left_at_end(operator: Degradation, spectra: tuple[Spectrum, Spectrum]) -> float:
    """The most that is left at the end of an axis that is enlarged."""
    pairs = zip(spectra, operator.scale, strict=True)
    return max((spectrum.left for spectrum, scale in pairs if scale > 1), default=0.0)


def slice_model(operator: Degradation, y: torch.Tensor, settings: WienerSettings) -> SliceModel:
    """The model of LR planes (P, h, w), float64, both axes apart; two planes are the parts of a
    complex slice."""
    if operator.sampling is Sampling.BICUBIC:
        settings = replace(
            settings,
            slope_factor=settings.slope_factor_antialiased,
            continuum=settings.continuum_antialiased,
        )
    planes = y.numpy()
    planes = planes - planes.mean((1, 2), keepdims=True)
    two_sided = len(planes) == 2
    powers = _powers(planes[:1] + 1j * planes[1:] if two_sided else planes, settings)
    rows, cols = _spectra(operator, powers, two_sided, settings)
    left = left_at_end(operator, (rows, cols))
    if left >= settings.left_sure:  # gaps at one axis' limit say nothing
        settings = replace(settings, end_ratio=None)
        if two_sided and left >= settings.left_alias:
            powers, two_sided, settings = _powers(planes, settings), False, settings.of_waves
        rows, cols = _spectra(operator, powers, two_sided, settings)
    kept = (1 - share_beyond(rows, operator.scale[0])) * (1 - share_beyond(cols, operator.scale[1]))
    return SliceModel((rows, cols), float(planes.var()), 1 - kept)


def slice_filter(operator: Degradation, model: SliceModel, settings: WienerSettings) -> SliceFilter:
    """The filter that a model implies."""
    rows, cols = (
        axis_filter(spectrum, reduction, settings)
        for spectrum, reduction in zip(model.spectra, operator.reductions, strict=True)
    )
    expected = model.variance * (1 - rows.explained * cols.explained)
    return SliceFilter(rows.matrix, cols.matrix, expected)
