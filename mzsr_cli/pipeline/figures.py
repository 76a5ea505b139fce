"""Figures: which can be drawn here, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.checks import writing
from mzsr_cli.errors import UsageError

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")
"""Kinds of figures that are written."""

DOTS_PER_INCH = 150
"""Resolution of PNGs."""


def check_figure(path: Path, option: str, extra: str) -> None:
    """Raise UsageError where no figure can be drawn there: another suffix, no matplotlib, which the
    ``extra`` of the package brings. ``option`` is the one that wants it."""
    if path.suffix.lower() not in FIGURE_SUFFIXES:
        raise UsageError(
            f"{option} {path}: no kind of figure that mzsr draws. Name a file that ends in "
            f"{', '.join(FIGURE_SUFFIXES)}."
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{option}: needs matplotlib, which is not installed. Type "
            f"pip install 'mzsr[{extra}]', or leave {option} out."
        ) from error


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Any, output: AtomicOutput) -> None:
    """Write a figure under its name, whole or not at all. Raises OutputError, OutputExistsError."""
    try:
        with writing(output.target):
            kind = output.target.suffix[1:].lower()
            figure.savefig(output.part, format=kind, dpi=DOTS_PER_INCH)
        output.commit()
    except BaseException:
        output.discard()
        raise
