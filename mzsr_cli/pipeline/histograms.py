"""``mzsr info --histograms``: the values of each slice before and after range expansion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.cube import CubeReader
from mzsr_cli.cubes.open import open_cube
from mzsr_cli.errors import InputError, UsageError
from mzsr_cli.imaging.histograms import expanded_shares, finite_planes, shares
from mzsr_cli.pipeline.figures import check_figure, new_figure, write_figure
from mzsr_cli.pipeline.slices import parse_slices
from mzsr_cli.settings import HistogramSettings

OPTION, EXTRA = "--histograms", "figures"

Counted = NDArray[np.float64]
"""(planes, rows, bins): shares of the samples; NaN where a row has none."""


@dataclass(frozen=True)
class Histograms:
    """Distributions of ``slices`` in equal bins: ``before`` over ``limits``, the extremes of all of
    them in the cube's units, ``after`` over [0, 1]. A row is a slice, or the mean of neighbours.

    ``left_out`` counts NaN and Inf samples, ``constant`` the slices without a range.
    """

    slices: range
    limits: tuple[float, float]
    before: Counted
    after: Counted
    left_out: int
    constant: int


def histograms(reader: CubeReader, slices: range, settings: HistogramSettings) -> Histograms:
    """Distributions of a cube's slices, in two passes with one slice in memory at a time.

    Raises InputError where no sample is finite.
    """
    low, high = math.inf, -math.inf
    left_out = constant = 0
    for k in slices:
        image = reader.read(k)
        values = finite_planes(image)
        left_out += image.size - values.shape[1]
        if values.size:
            least, most = float(values.min()), float(values.max())
            low, high = min(low, least), max(high, most)
            constant += bool((values.min(1) == values.max(1)).all())
    if low > high:
        raise InputError(
            f"{reader.info.path}: no finite sample in these slices, nothing to draw. Name others "
            f"with --slices, or leave {OPTION} out."
        )
    limits = _limits(low, high)
    before, after = _counted(reader, slices, limits, settings)
    return Histograms(slices, limits, before, after, left_out, constant)


def _limits(low: float, high: float) -> tuple[float, float]:
    """The extremes, or about half their size around them where bins would be too narrow for
    double precision."""
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * size:
        return low, high
    return low - (size / 2 or 0.5), high + (size / 2 or 0.5)


def _counted(
    reader: CubeReader, slices: range, limits: tuple[float, float], settings: HistogramSettings
) -> tuple[Counted, Counted]:
    """The shares before and after, each row the mean over its slices that have some."""
    planes, rows = 2 if reader.info.is_complex else 1, min(len(slices), settings.rows)
    sums = np.zeros((2, planes, rows, settings.bins))
    counts = np.zeros((2, planes, rows, settings.bins))
    for index, k in enumerate(slices):
        row = index * rows // len(slices)
        values = finite_planes(reader.read(k))
        made = shares(values, limits, settings.bins), expanded_shares(values, settings.bins)
        for which, found in enumerate(made):
            counts[which, :, row] += ~np.isnan(found)
            sums[which, :, row] += np.nan_to_num(found)
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means[0], means[1]


def draw_histograms(
    source: Path,
    target: Path,
    variable: str | None,
    slice_axis: int,
    slices: str | None,
    overwrite: bool,
    settings: HistogramSettings | None = None,
) -> dict[str, Any]:
    """Draw the distributions of a cube's slices into ``target``; returns what was left out.

    Raises UsageError (kind of figure, no matplotlib, slices, the input), OutputExistsError,
    OutputError, MissingInputError, InputError.
    """
    settings = settings or HistogramSettings()
    check_figure(target, OPTION, EXTRA)
    if target.resolve() == source.resolve():
        raise UsageError(f"{target}: is the input, and would be replaced. Name another {OPTION}.")
    output = AtomicOutput(target, overwrite)
    with open_cube(source, variable, slice_axis) as reader:
        chosen = parse_slices(slices, reader.info.shape[2])
        found = histograms(reader, chosen, settings)
    write_figure(_drawn(found, source.name, settings), output)
    return {"path": str(target), "left_out": found.left_out, "constant": found.constant}


def _drawn(found: Histograms, name: str, settings: HistogramSettings) -> Any:
    """A row of panels for each plane: before to the left, after to the right."""
    planes = ("real part, ", "imaginary part, ") if len(found.before) == 2 else ("",)
    figure = new_figure(11, 1 + 3.6 * len(planes))
    figure.suptitle(_title(found, name), fontsize=10, parse_math=False)
    panels = figure.subplots(len(planes), 2, squeeze=False)
    draw = _lines if len(found.slices) <= settings.lines else _image
    for plane, pair in zip(planes, panels, strict=True):
        number = planes.index(plane)
        parts = (
            ("as stored", "value in the cube's units", found.before, found.limits),
            ("each slice from its range to [0, 1]", "value", found.after, (0.0, 1.0)),
        )
        for panel, (what, axis, counted, limits) in zip(pair, parts, strict=True):
            panel.set_title(plane + what, fontsize=9)
            panel.set_xlabel(axis, fontsize=8)
            panel.tick_params(labelsize=7)
            draw(figure, panel, counted[number], limits, found.slices, settings)
    return figure


def _title(found: Histograms, name: str) -> str:
    """The file's name, and what is not in the figure."""
    parts = [f"{name}: values of {len(found.slices)} slices"]
    if found.left_out:
        parts.append(f"{found.left_out} samples that are NaN or Inf left out")
    if found.constant:
        parts.append(f"{found.constant} constant slices, which have no range (grey)")
    return "; ".join(parts)


def _lines(
    figure: Any,
    panel: Any,
    counted: Counted,
    limits: tuple[float, float],
    slices: range,
    settings: HistogramSettings,
) -> None:
    """A line for each slice, (slices, bins), shares on a logarithmic axis."""
    edges = np.linspace(*limits, settings.bins + 1)
    for k, row in zip(slices, counted, strict=True):
        if not np.isnan(row).any():
            panel.stairs(np.maximum(row, settings.share_min / 2), edges, label=f"slice {k}")
    panel.set_yscale("log")
    panel.set_ylim(settings.share_min, 1.5)
    panel.set_ylabel("share of the slice's samples", fontsize=8)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7)


def _image(
    figure: Any,
    panel: Any,
    counted: Counted,
    limits: tuple[float, float],
    slices: range,
    settings: HistogramSettings,
) -> None:
    """Slices downwards, values to the right, shares as colours; grey where there are none."""
    from matplotlib.colors import LogNorm

    half = slices.step / 2
    shown = np.ma.masked_invalid(np.maximum(counted, settings.share_min))
    image = panel.imshow(
        shown,
        norm=LogNorm(settings.share_min, 1),
        aspect="auto",
        interpolation="nearest",
        extent=(*limits, slices[-1] + half, slices[0] - half),
    )
    panel.set_facecolor("0.6")
    panel.set_ylabel("slice", fontsize=8)
    bar = figure.colorbar(image, ax=panel, extend="min")
    bar.set_label("share of the slice's samples", fontsize=8)
    bar.ax.tick_params(labelsize=7)
