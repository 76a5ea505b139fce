"""Value ranges: a slice mapped to [0, 1] and exactly back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mzsr_cli.settings import PERCENTILES, Normalize


@dataclass(frozen=True)
class Range:
    """The affine map (v - low) / span. ``span`` 0 marks a constant slice, which passes through."""

    low: float
    span: float

    def forward(self, planes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Own units to [0, 1]."""
        return (planes.astype(np.float64) - self.low) / (self.span or 1.0)

    def zero(self, planes: NDArray[np.floating]) -> float | None:
        """What 0 is mapped to where ``planes`` (P, H, W) are magnitudes: real and nowhere
        negative. None for other data."""
        if len(planes) > 1 or planes.min() < 0 or self.span == 0:
            return None
        return -self.low / self.span

    def inverse(self, planes: NDArray[np.floating]) -> NDArray[np.float64]:
        """[0, 1] to own units."""
        return planes.astype(np.float64) * (self.span or 1.0) + self.low


def planes_of(image: NDArray[np.generic]) -> NDArray[np.float64]:
    """A slice (H, W) as its planes: (1, H, W), or (2, H, W) real and imaginary when complex."""
    if np.iscomplexobj(image):
        return np.stack([image.real, image.imag]).astype(np.float64)
    return np.asarray(image, dtype=np.float64)[None]


def slice_of(planes: NDArray[np.floating]) -> NDArray[np.generic]:
    """Inverse of :func:`planes_of`."""
    if len(planes) == 2:
        return np.asarray(planes[0] + 1j * planes[1])
    return np.asarray(planes[0])


def slice_range(planes: NDArray[np.floating], how: Normalize) -> Range:
    """The map of one slice; both planes of a complex slice share it so that phase is not bent.

    ``cube`` needs the whole cube's extremes: see :func:`merged`.
    """
    if how is Normalize.NONE:
        return Range(0.0, 1.0)
    if how is Normalize.PERCENTILE:
        low, high = (float(v) for v in np.percentile(planes, PERCENTILES))
        if high <= low:
            low, high = float(planes.min()), float(planes.max())
    else:
        low, high = float(planes.min()), float(planes.max())
    return Range(low, high - low)


def merged(ranges: list[Range]) -> Range:
    """The smallest range that holds all of ``ranges``."""
    low = min(r.low for r in ranges)
    high = max(r.low + r.span for r in ranges)
    return Range(low, high - low)


def filled(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """NaN and Inf samples replaced by the nearest finite sample (Euclidean, in pixels)."""
    from scipy import ndimage

    bad = ~np.isfinite(image)
    if not bad.any() or bad.all():
        return image
    nearest = ndimage.distance_transform_edt(bad, return_distances=False, return_indices=True)
    return np.asarray(image[tuple(nearest)])


def _saturated(image: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Whole numbers to an integer dtype; its ends where they do not fit (also for 64 bits, whose
    ends are no floats)."""
    info = np.iinfo(dtype)
    low, high = image <= float(info.min), image >= float(info.max)
    result = np.where(low | high, 0, image).astype(dtype)
    result[low], result[high] = info.min, info.max
    return result


def _narrowed(image: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers to a floating dtype; its ends where finite ones (or parts of them) do not fit."""
    most = float(np.finfo(dtype).max)
    if np.abs(image).max(initial=0) <= most:
        return image.astype(dtype)
    held = np.array(image)
    for part in (held.real, held.imag) if np.iscomplexobj(held) else (held,):
        np.clip(part, -most, most, out=part, where=np.isfinite(part))
    return held.astype(dtype)


def cast(image: NDArray[np.generic], dtype: np.dtype) -> NDArray[np.generic]:
    """To ``dtype``; integers are rounded, what does not fit is saturated, complex to real drops
    nothing silently.

    Raises ValueError for complex values and a real dtype.
    """
    if np.iscomplexobj(image) and dtype.kind != "c":
        raise ValueError(f"complex values do not fit into {dtype}")
    if dtype.kind in "iu":
        return _saturated(np.rint(image.real), dtype)
    return _narrowed(image, dtype)


ROWS = 64
"""Rows of an HR slice that are brought back to their own units at a time."""


def restored(
    planes: NDArray[np.floating],
    mapping: Range,
    dtype: np.dtype[Any],
    limits: tuple[float, float] | None = None,
) -> NDArray[Any]:
    """Planes (P, H, W) in [0, 1] as a slice (H, W) in its own units and of ``dtype`` (see
    :func:`cast`), cut to ``limits``; in double precision, band by band."""
    height, width = planes.shape[1:]
    image = np.empty((height, width), dtype)
    for top in range(0, height, ROWS):
        rows = slice(top, top + ROWS)
        band = mapping.inverse(planes[:, rows])
        if limits is not None:
            band = np.clip(band, *limits)
        image[rows] = cast(slice_of(band), dtype)
    return image
