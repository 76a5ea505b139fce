"""Options that several commands share, each declared once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import click

from mzsr_cli.settings import ENSEMBLES, BoundsSettings, Precision, Sampling, UpscaleSettings

_DEFAULTS = UpscaleSettings()


class Duration(click.ParamType):
    """Seconds, from 90, 90s, 45m or 2h."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds as a float."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
        if not match:
            self.fail(f"{value!r} is no time. Type seconds, or 45m, or 2h.", param, ctx)
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


class FiniteRange(click.FloatRange):
    """Numbers of a range; neither nan, which lies outside no range, nor inf."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number as a float."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


device_option = click.option(
    "--device", default=_DEFAULTS.device, metavar="auto|cpu|cuda[:N]", help="Where to compute."
)
precision_option = click.option(
    "--precision",
    type=click.Choice([p.value for p in Precision]),
    default=_DEFAULTS.precision.value,
    help="Arithmetic of the convolutions.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(0), default=_DEFAULTS.seed, help="Random seed."
)
self_ensemble_option = click.option(
    "--self-ensemble",
    type=click.Choice([str(n) for n in ENSEMBLES]),
    help="Turned and mirrored views that the network's answer is the mean over; for strided "
    "networks after direct sampling two at most, but at x2, x4 and so on. "
    f"[{_DEFAULTS.adapt.ensemble_images} for images, {_DEFAULTS.adapt.ensemble_cubes} for cubes]",
)


def self_ensemble(options: Mapping[str, Any]) -> int | None:
    """What ``--self-ensemble`` says."""
    return int(options["self_ensemble"]) if options["self_ensemble"] else None


class Scale(click.ParamType):
    """Factors of rows and columns, from 4, 1.5 or 4x1.5 (in TOML also a number or a pair)."""

    name = "scale"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """(rows, columns)."""
        parts = value if isinstance(value, (list, tuple)) else str(value).lower().split("x")
        try:
            factors = [float(part) for part in parts]
        except (TypeError, ValueError):
            factors = []
        if not 1 <= len(factors) <= 2 or not all(0 < f < float("inf") for f in factors):
            self.fail(f"{value!r} is no scale. Type 4, or 4x1.5 for rows x columns.", param, ctx)
        return factors[0], factors[-1]


class Bounds(click.ParamType):
    """``auto``, ``none``, or LOW:HIGH of which one may be left out (in TOML also a pair)."""

    name = "bounds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> BoundsSettings:
        """The settings of bounds."""
        if isinstance(value, BoundsSettings):
            return value
        if value in ("auto", "none"):
            return BoundsSettings(search=value == "auto")
        parts = value if isinstance(value, (list, tuple)) else str(value).split(":")
        try:
            low, high = (None if str(part).strip() == "" else float(part) for part in parts)
        except (TypeError, ValueError):
            low = high = None
        finite = all(b is None or math.isfinite(b) for b in (low, high))
        if (low is None and high is None) or not finite:
            self.fail(f"{value!r} are no bounds. Type auto, none, 0: or -120:30.", param, ctx)
        if low is not None and high is not None and low >= high:
            self.fail(f"{value!r}: the first must be less than the second.", param, ctx)
        return BoundsSettings(low=low, high=high)


kernel_option = click.option(
    "--kernel",
    default=_DEFAULTS.kernel,
    metavar="none|gaussian:L1[,L2[,THETA]]|FILE.mat|FILE.npy",
    help="Blur in HR pixels; L1, L2 are variances, THETA radians.",
)
sampling_option = click.option(
    "--sampling",
    type=click.Choice([s.value for s in Sampling]),
    default=_DEFAULTS.sampling.value,
    help="bicubic: antialiased, as imresize; direct: keeps rows and columns 0, s, 2s, ...",
)
variable_option = click.option(
    "--variable", default=_DEFAULTS.variable, help="Variable of the file. [the only 3-D one]"
)
slice_axis_option = click.option(
    "--slice-axis",
    type=click.IntRange(0, 2),
    default=_DEFAULTS.slice_axis,
    help="Axis of the stored array that counts the slices.",
)
slices_option = click.option(
    "--slices", default=_DEFAULTS.slices, metavar="A:B[:STEP]|N", help="Only these. [all]"
)
workers_option = click.option(
    "--workers", type=click.IntRange(1), help="Solve on so many worker processes of this machine."
)
scheduler_option = click.option(
    "--scheduler", metavar="tcp://HOST:PORT", help="Solve on the workers of a dask scheduler."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing results.")
json_option = click.option("--json", is_flag=True, help="Result as JSON on stdout.")
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="Say nothing but results and errors."
)


class Size(click.ParamType):
    """Rows and columns of a slice, from 256x200 or 256."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """(rows, columns)."""
        parts = value if isinstance(value, (list, tuple)) else str(value).lower().split("x")
        try:
            sides = [int(part) for part in parts]
        except (TypeError, ValueError):
            sides = []
        if not 1 <= len(sides) <= 2 or min(sides) < 1:
            self.fail(f"{value!r} is no size. Type 256x200 for rows x columns.", param, ctx)
        return sides[0], sides[-1]
