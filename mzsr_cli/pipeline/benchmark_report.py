"""What ``mzsr benchmark`` shows of its record: rows of a table, Markdown, a figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from itertools import chain, combinations
from pathlib import Path
from typing import Any, TypeAlias

from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.pipeline.figures import new_figure, write_figure
from mzsr_cli.pipeline.plain import number

Record: TypeAlias = dict[str, Any]
"""``facts`` (of the machine, the data and the settings), ``methods`` and ``cells``."""

NONE = "-"


def score(cell: Mapping[str, Any], kind: str) -> str:
    """Quality of a cell: ``33.65/.9295`` (PSNR in dB, SSIM) of images, ``-24.10 (-20.31)`` (NMSE
    in dB, and of the worst slice) of cubes."""
    if kind == "cubes":
        return f"{_decibels(cell['nmse'])} ({_decibels(cell['worst_nmse'])})"
    similar = number(cell["ssim"])
    ssim = "-" if math.isnan(similar) else f"{similar:.4f}".removeprefix("0")
    return f"{_decibels(cell['psnr'])}/{ssim}"


def _decibels(value: Any) -> str:
    figure = number(value)
    return f"{figure:.2f}" if math.isfinite(figure) else str(figure)


def quality(cell: Mapping[str, Any], kind: str) -> float:
    """What ranks methods, in dB, more is better: PSNR of images, -NMSE of cubes."""
    return -number(cell["nmse"]) if kind == "cubes" else number(cell["psnr"])


def by_place(record: Record) -> dict[tuple[str, str], dict[str, Mapping[str, Any]]]:
    """Cells by method of each (data, degradation) that has some, in the order of the facts."""
    facts = record["facts"]
    places: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {
        (data, case): {} for data in facts["data"] for case in facts["degradations"]
    }
    for cell in record["cells"]:
        places[cell["data"], cell["degradation"]][cell["method"]] = cell
    return {place: cells for place, cells in places.items() if cells}


def rows(record: Record) -> list[dict[str, str]]:
    """One row a data set and degradation, one column a method; the last row has the seconds."""
    kind, methods = record["facts"]["kind"], record["methods"]
    found = []
    for (data, case), cells in by_place(record).items():
        row = {"data": data, "degradation": case}
        scores = {m: score(cells[m], kind) if m in cells else NONE for m in methods}
        found.append(row | scores)
    return [*found, {"data": "s/slice", "degradation": ""} | _seconds(record)]


def _seconds(record: Record) -> dict[str, str]:
    """Median seconds a slice (or image) of each method, over all its cells."""
    spent: dict[str, list[float]] = {method: [] for method in record["methods"]}
    for cell in record["cells"]:
        spent[cell["method"]] += [s["seconds"] for s in cell["slices"]]
    return {m: f"{statistics.median(s):.3g}" if s else NONE for m, s in spent.items()}


def caption(record: Record) -> str:
    """What the figures are, and of what version, weights and machine."""
    facts = record["facts"]
    rows_by, cols_by = facts["scale"]
    scale = f"x{rows_by:g}" if rows_by == cols_by else f"x{rows_by:g}x{cols_by:g}"
    what = "NMSE in dB of all slices together (of the worst slice)"
    if facts["kind"] == "images":
        what = "PSNR/SSIM on Y, 8-bit RGB, borders of the scale left out, mean over images"
    used = chain.from_iterable(facts["weights"].values())
    weights = dict.fromkeys(f"{w['name']} ({w['sha256'][:8]})" for w in used)
    parts = [
        f"mzsr {facts['mzsr']}",
        *([f"weights {', '.join(weights)}"] if weights else []),
        f"torch {facts['torch']}",
        f"{facts['device']}, {facts['precision']}",
        facts["machine"],
    ]
    return f"{scale}; {what}; median seconds a slice. {'; '.join(parts)}."


def markdown(record: Record) -> str:
    """The table in Markdown, the best of each row bold, under its caption."""
    kind, methods = record["facts"]["kind"], record["methods"]
    lines = [["data", "degradation", *methods], ["---"] * (2 + len(methods))]
    places = by_place(record)
    for row, cells in zip(rows(record), [*places.values(), {}], strict=True):
        best = max((round(quality(c, kind), 2) for c in cells.values()), default=math.nan)
        bold = {m for m, c in cells.items() if round(quality(c, kind), 2) == best}
        scores = [f"**{row[m]}**" if m in bold else row[m] for m in methods]
        lines.append([row["data"], row["degradation"], *scores])
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([caption(record), "", *table]) + "\n"


# -- the figure -------------------------------------------------------------------------------


def draw(record: Record, path: Path) -> None:
    """Draw quality (dB, up is better) against seconds a slice (log), a panel for each degradation
    (and data set), a labelled point a method. Raises OutputError."""
    places = by_place(record)
    columns = min(5, len(record["facts"]["degradations"]), len(places))
    lines = math.ceil(len(places) / columns)
    figure = new_figure(3.6 * columns, 3.2 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, ((data, case), cells) in zip(panels, places.items(), strict=False):
        panel.set_title(f"{data}, {case}", fontsize=9)
        _draw_panel(panel, cells, record["facts"]["kind"])
    for panel in panels[len(places) :]:
        panel.set_axis_off()
    write_figure(figure, AtomicOutput(path, overwrite=True))


def _draw_panel(panel: Any, cells: Mapping[str, Mapping[str, Any]], kind: str) -> None:
    points = {
        method: (max(number(cell["seconds"]), 1e-4), quality(cell, kind))
        for method, cell in cells.items()
        if math.isfinite(quality(cell, kind))
    }
    panel.set_xscale("log")
    panel.set_xlabel("seconds a slice", fontsize=8)
    panel.set_ylabel("-NMSE in dB" if kind == "cubes" else "PSNR in dB", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(True, which="major", alpha=0.3)
    if not points:
        return
    places = _label_places(list(points.values()))
    for (method, (seconds, value)), height in zip(points.items(), places, strict=True):
        colour = "C1" if method.startswith("mzsr") else "C0"
        panel.plot(seconds, value, "o", color=colour, markersize=4)
        panel.annotate(
            method, (seconds, value), (seconds * 1.2, height), fontsize=7, va="center",
            color=colour,
        )  # fmt: skip
    times = [seconds for seconds, _ in points.values()]
    panel.set_xlim(min(times) / 2, max(times) * (max(times) / min(times)) ** 0.45 * 3)
    panel.margins(y=0.1)


def _label_places(points: list[tuple[float, float]]) -> list[float]:
    """Heights of the labels to the right of (seconds, quality): apart where they would meet."""
    values = [value for _, value in points]
    times = [math.log10(seconds) for seconds, _ in points]
    height = max(values) - min(values) or 0.1
    return spread(times, values, 0.45 * (max(times) - min(times)) + 0.3, 0.07 * height)


def spread(across: list[float], values: list[float], reach: float, gap: float) -> list[float]:
    """Heights near ``values``, ``gap`` apart where two lie within ``reach`` of each other."""
    heights = list(values)
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    for _ in range(100):
        for below, above in combinations(order, 2):
            lacking = gap - (heights[above] - heights[below])
            if lacking > 0 and abs(across[above] - across[below]) < reach:
                heights[below] -= lacking / 2
                heights[above] += lacking / 2
    return heights
