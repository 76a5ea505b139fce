"""``mzsr evaluate``: quality of an SR cube against its HR truth, one slice in memory at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mzsr_cli.cubes.checks import format_shape
from mzsr_cli.cubes.cube import CubeInfo, CubeReader
from mzsr_cli.cubes.open import open_cube
from mzsr_cli.errors import InputError, UsageError
from mzsr_cli.imaging import metrics
from mzsr_cli.imaging.normalize import planes_of, slice_range
from mzsr_cli.pipeline.slices import parse_slices
from mzsr_cli.settings import SCALE_MAX, Normalize

LUMA_PEAK = 255.0
"""Peak of the images protocol."""

LR_SIDE_MIN = 4
"""Shapes may differ by what a scale leaves over only for LR sides of at least this."""


@dataclass(frozen=True)
class EvaluateSettings:
    """How SR and HR are compared.

    ``shave`` is the border in pixels that is left out; ``luma`` the images protocol (8-bit
    rounding, peak 255); ``peak`` the PSNR's and SSIM's peak in the cube's units, None for each
    HR slice's own range (1 for a constant slice); ``slices`` a range of HR slices.
    """

    shave: int
    luma: bool
    peak: float | None
    variable: str | None
    slice_axis: int
    slices: str | None


@dataclass(frozen=True)
class _Pairing:
    """Which samples are compared: (SR slice, HR slice) pairs and the common top-left part."""

    slices: list[tuple[int, int]]
    rows: int
    columns: int
    notes: list[str]


def evaluate(sr: Path, hr: Path, settings: EvaluateSettings) -> dict[str, Any]:
    """Figures of ``sr`` against ``hr``: of each slice (``slices``) and of the cube.

    PSNR and NMSE in dB; complex slices count |error|^2, and the range of both planes as peak.
    SSIM is NaN for sides under 11. ``psnr`` and ``ssim`` are means over slices (PSNR over those
    that are not exact), ``nmse`` is that of the whole cube, ``worst`` the slice of lowest PSNR.
    Shapes may differ by what a scale leaves over: the common top-left part is compared then.
    Raises InputError (file, shapes, NaN or Inf), UsageError (settings do not fit the cubes).
    """
    variable, axis = settings.variable, settings.slice_axis
    with open_cube(sr, variable, axis) as sr_reader, open_cube(hr, variable, axis) as hr_reader:
        pairing = _pair(sr_reader.info, hr_reader.info, settings)
        tally = Tally(settings)
        for i, k in pairing.slices:
            estimate = _prepared(sr_reader, i, pairing, settings)
            tally.add(k, estimate, _prepared(hr_reader, k, pairing, settings))
        compared = [pairing.rows, pairing.columns, len(tally.slices)]
        notes = [*sr_reader.notes, *hr_reader.notes, *pairing.notes]
    return {"sr": str(sr), "hr": str(hr), "compared": compared, **tally.figures(), "notes": notes}


class Tally:
    """Figures of one slice after the other (``slices``), and of all of them together."""

    def __init__(self, settings: EvaluateSettings) -> None:
        self.settings = settings
        self.slices: list[dict[str, Any]] = []
        self._sums = (0.0, 0.0, 0.0)

    def add(self, k: int, estimate: NDArray[Any], truth: NDArray[Any]) -> dict[str, Any]:
        """Compare SR slice ``k`` with its truth, both (H, W) from :func:`prepared`; its figures."""
        peak = _peak(truth, self.settings)
        a, b = (metrics.shave(image, self.settings.shave) for image in (estimate, truth))
        figures = {
            "slice": k,
            "psnr": metrics.psnr(a, b, peak),
            "ssim": metrics.ssim(a, b, peak),
            "nmse": metrics.nmse(a, b),
            "peak": peak,
        }
        self.slices.append(figures)
        self._sums = _added(self._sums, a, b)
        return figures

    def figures(self) -> dict[str, Any]:
        """``psnr`` and ``ssim`` (means), ``nmse`` (of all samples), ``exact_slices``, ``worst``
        (the slice of lowest PSNR) and ``slices``; see :func:`evaluate`."""
        psnr = [s["psnr"] for s in self.slices if s["psnr"] != math.inf]
        worst = min(self.slices, key=lambda s: s["psnr"])
        return {
            "psnr": float(np.mean(psnr)) if psnr else math.inf,
            "ssim": float(np.mean([s["ssim"] for s in self.slices])),
            "nmse": _decibels(*self._sums[:2]),
            "exact_slices": len(self.slices) - len(psnr),
            "worst": {name: worst[name] for name in ("slice", "psnr", "ssim", "nmse")},
            "slices": self.slices,
        }


def _added(
    sums: tuple[float, float, float], estimate: NDArray[Any], truth: NDArray[Any]
) -> tuple[float, float, float]:
    """Energies of error and truth with those of one more slice, and the largest unit so far, in
    whose squares they are (metrics.unit)."""
    error, energy, before = sums
    one = max(before, metrics.unit(estimate, truth) if truth.any() or estimate.any() else 0.0)
    share = (before / one) ** 2 if one else 0.0
    more = metrics.energies(estimate, truth, one or 1.0)
    return error * share + more[0], energy * share + more[1], one


def _decibels(error: float, energy: float) -> float:
    if error == 0:
        return -math.inf
    return 10 * math.log10(error / energy) if energy > 0 else math.inf


def _peak(truth: NDArray[Any], settings: EvaluateSettings) -> float:
    """``--peak``, 255 for the images protocol, or the slice's range (1 where that is 0)."""
    if settings.peak is not None:
        return settings.peak
    if settings.luma:
        return LUMA_PEAK
    return slice_range(planes_of(truth), Normalize.SLICE).span or 1.0


def _prepared(
    reader: CubeReader, k: int, pairing: _Pairing, settings: EvaluateSettings
) -> NDArray[Any]:
    """The compared part of slice ``k`` in float64 or complex128, checked."""
    image = reader.read(k)[: pairing.rows, : pairing.columns]
    if not np.isfinite(image).all():
        raise InputError(
            f"{reader.info.path}: slice {k} has NaN or Inf samples. "
            "Replace them in the file, or leave the slice out with --slices."
        )
    return prepared(image, settings.luma)


def prepared(image: NDArray[Any], luma: bool) -> NDArray[Any]:
    """A slice (H, W) as it is compared: in float64 or complex128, and for the images protocol
    rounded to 8 bits."""
    wide = image.astype(np.complex128 if np.iscomplexobj(image) else np.float64)
    return np.clip(np.rint(wide), 0, LUMA_PEAK) if luma else wide


def _pair(sr: CubeInfo, hr: CubeInfo, settings: EvaluateSettings) -> _Pairing:
    if sr.is_complex != hr.is_complex:
        raise InputError(
            f"{sr.path} is {sr.dtype}, {hr.path} is {hr.dtype}: complex and real cubes cannot be "
            "compared. Name two of a kind, or another --variable."
        )
    if settings.luma:
        _check_luma(sr)
        _check_luma(hr)
    rows, columns = (_common(sr, hr, axis) for axis in (0, 1))
    if min(rows, columns) <= 2 * settings.shave:
        raise UsageError(
            f"--shave {settings.shave}: leaves nothing of slices of {rows}x{columns}. "
            "Type a smaller border."
        )
    notes = []
    if sr.shape[:2] != hr.shape[:2]:
        notes.append(
            f"SR is {format_shape(sr.shape)}, HR is {format_shape(hr.shape)}: "
            f"the common {rows}x{columns} (top left) is compared"
        )
    return _Pairing(_paired_slices(sr, hr, settings), rows, columns, notes)


def _paired_slices(sr: CubeInfo, hr: CubeInfo, settings: EvaluateSettings) -> list[tuple[int, int]]:
    """Slice for slice; an SR cube of just the ``--slices`` of HR fits too."""
    chosen = parse_slices(settings.slices, hr.shape[2])
    if sr.shape[2] == hr.shape[2]:
        return [(k, k) for k in chosen]
    if sr.shape[2] == len(chosen):
        return list(enumerate(chosen))
    raise _mismatch(sr, hr, "Name the HR cube last, or say which of its slices with --slices.")


def _common(sr: CubeInfo, hr: CubeInfo, axis: int) -> int:
    """Side of the compared part along an axis, if some scale explains the difference."""
    found, wanted = sr.shape[axis], hr.shape[axis]
    explained = _rounded_up(found, wanted) if found > wanted else _cut_down(found, wanted)
    if found != wanted and not explained:
        raise _mismatch(sr, hr, "Name the HR cube last, and the SR cubes made from its LR.")
    return min(found, wanted)


def _rounded_up(found: int, wanted: int) -> bool:
    """Whether found = ceil(n s) for an LR side n = ceil(wanted / s) and a scale s <= SCALE_MAX.

    That asks for an s with found - 1 < n s and s < wanted / (n - 1); the smallest n that
    is allowed leaves most room.
    """
    n = max(LR_SIDE_MIN, math.floor((found - 1) / SCALE_MAX) + 1)
    return (found - 1) * (n - 1) < wanted * n


def _cut_down(found: int, wanted: int) -> bool:
    """Whether found is the largest multiple of an integer scale up to SCALE_MAX in wanted."""
    largest = min(int(SCALE_MAX), found // LR_SIDE_MIN)
    return any(wanted - wanted % s == found for s in range(2, largest + 1))


def _mismatch(sr: CubeInfo, hr: CubeInfo, remedy: str) -> InputError:
    return InputError(
        f"{sr.path} is {format_shape(sr.shape)}, {hr.path} is {format_shape(hr.shape)}: "
        f"not the same grid. {remedy}"
    )


def _check_luma(info: CubeInfo) -> None:
    if info.dtype == np.uint8 or (info.format in ("png", "jpeg") and info.dtype == np.float32):
        return
    raise UsageError(
        f"--y: {info.path} holds {info.dtype}, the images protocol is for 8-bit images. "
        "Leave --y out; --peak and --shave work for every cube."
    )
