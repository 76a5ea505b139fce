"""Large HR images without copies of them: sums of matrix products that are evaluated where they
are wanted, and sums over an image by bands of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mzsr_cli.imaging.banded import Banded

BAND = 1 << 21
"""Samples of a band of rows: 8 MiB in float32."""


def bands(image: torch.Tensor) -> Iterator[slice]:
    """Rows of an image (P, H, W) in bands of about ``BAND`` samples."""
    planes, height, width = image.shape
    return row_bands(planes, height, width)


def row_bands(planes: int, height: int, width: int) -> Iterator[slice]:
    """The same of an image that is not there."""
    rows = max(1, BAND // max(1, planes * width))
    for top in range(0, height, rows):
        yield slice(top, min(height, top + rows))


def mean_square(image: torch.Tensor) -> float:
    """Mean square of an image (P, H, W), summed in double precision."""
    total = sum(float(image[:, band].double().square().sum()) for band in bands(image))
    return total / image.numel()


@dataclass(frozen=True)
class Products:
    """An image (P, H, W) = sum of L M over ``terms`` (L, M): L (H, n) and M (P, n, W)."""

    terms: tuple[tuple[Banded, torch.Tensor], ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(P, H, W)."""
        left, right = self.terms[0]
        return right.shape[0], len(left), right.shape[2]

    def __add__(self, other: Products) -> Products:
        return Products(self.terms + other.terms)

    def at(self, rows: slice, cols: slice, planes: slice = slice(None)) -> torch.Tensor:
        """A rectangle of the image, of all planes or of some."""
        first, *rest = (left.times(right[planes, :, cols], rows) for left, right in self.terms)
        for other in rest:
            first += other
        return first

    def whole(self) -> torch.Tensor:
        """The image (P, H, W), made band by band."""
        _, right = self.terms[0]
        image = right.new_empty(self.shape)
        for band in bands(image):
            image[:, band] = self.at(band, slice(None))
        return image

    def add_to(self, image: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        """``image`` (P, H, W) += factor * this, in place."""
        for band in bands(image):
            image[:, band].add_(self.at(band, slice(None)), alpha=factor)
        return image
