"""``mzsr benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mzsr_cli.cli import options as opt
from mzsr_cli.cli import show
from mzsr_cli.errors import UsageError
from mzsr_cli.settings import (
    CUBE_DEGRADATIONS,
    IMAGE_DEGRADATIONS,
    BenchmarkSettings,
    Precision,
)

_DEFAULTS = BenchmarkSettings()
_FILE = click.Path(dir_okay=False)


@click.command("benchmark")
@click.argument("data", nargs=-1, metavar="DATA...")
@click.option("--speed", is_flag=True, help="Instead, without DATA: the network's "
              "operations a second beside the machine's matrix product, and its share of a "
              "slice's time.")  # fmt: skip
@click.option("--scale", type=opt.Scale(), default=f"{_DEFAULTS.scale[0]:g}",
              help="Factor, 1.1 to 32; 4x1.5 is rows x columns, of which one may be "
              "1.")  # fmt: skip
@click.option("--degradation", multiple=True, metavar="NAME|KERNEL/SAMPLING",
              help="bicubic, direct, ganid, g2.0d (Gaussian of that variance, direct sampling), "
              "g1.3b (bicubic sampling), or gaussian:4,1,-0.5/direct, kernel.mat/direct; repeat "
              f"for more. [images: {' '.join(IMAGE_DEGRADATIONS)}; cubes: "
              f"{' '.join(CUBE_DEGRADATIONS)}]")  # fmt: skip
@click.option("--method", multiple=True, metavar="METHOD",
              help="Methods of upscale, with mzsr:N for N steps; mzsr-paper:N (Algorithm 2 alone: "
              "no consistency, no self-check, one view), mzsr+:N (eight views, or as many as the "
              "sampling allows), bicubic-paper "
              "(pixel-centred whatever the sampling), tv (total variation), "
              "nyquist (no method: the truth without what the LR grid cannot carry); repeat for "
              "more. "
              f"[{' '.join(_DEFAULTS.methods)}]")  # fmt: skip
@click.option("--weights", metavar="NAME|PATH", help="[the shipped ones that fit best]")
@click.option("--json", type=_FILE, metavar="FILE",
              help="Write all figures to this file, after every cell (not to stdout).")  # fmt: skip
@click.option("--markdown", type=_FILE, metavar="FILE", help="Write the table to this file.")
@click.option("--figure", type=_FILE, metavar="FILE", help="Draw quality against seconds, a panel "
              "for each degradation (.png, .pdf, .svg).")  # fmt: skip
@opt.self_ensemble_option
@opt.variable_option
@opt.slices_option
@opt.slice_axis_option
@opt.device_option
@opt.precision_option
@opt.seed_option
@click.option("--resume", is_flag=True, help="Take the finished cells of --json and go on.")
@opt.overwrite_option
@opt.quiet_option
def command(**options: Any) -> None:
    """Compare methods on known degradations: degrade, upscale, evaluate, in one table.

    DATA is a folder of images (one data set: PSNR/SSIM on Y, borders of the scale left out) or
    cubes (each one data set: NMSE in dB over the cube and of the worst slice; PSNR and SSIM of
    each slice in the JSON). HR data are degraded as by mzsr degrade, and nothing is written but
    the files that are named. The tv method and the figure need the extra mzsr[benchmark].
    """
    from mzsr_cli.pipeline.benchmark import Outputs, benchmark
    from mzsr_cli.pipeline.benchmark_report import caption, rows

    if options["speed"]:
        return _speed(options)
    if not options["data"]:
        raise UsageError("no DATA. Name folders of images or cubes, or type --speed.")
    names = {"record": "json", "markdown": "markdown", "figure": "figure"}
    paths = {key: Path(options[name]) if options[name] else None for key, name in names.items()}
    with show.benchmark_ticker(options["quiet"]) as ticker:
        record = benchmark(
            list(options["data"]),
            _settings(options),
            Outputs(**paths),
            ticker,
            resume=options["resume"],
            overwrite=options["overwrite"],
        )
    if not options["quiet"]:
        show.line(caption(record))
    show.table("", rows(record))


def _speed(options: dict[str, Any]) -> None:
    """Measure and show; with --json the figures go to that file."""
    import json

    from mzsr_cli.pipeline.benchmark import Outputs, check_outputs
    from mzsr_cli.pipeline.speed import measure
    from mzsr_cli.pipeline.targets import write_whole

    record = Path(options["json"]) if options["json"] else None
    check_outputs(Outputs(record), resume=False, overwrite=options["overwrite"])
    found = measure(_settings(options))
    if record is not None:
        write_whole(record, json.dumps(found, indent=2) + "\n")
    one, side = found["slice"], found["slice"]["side"]
    show.table("", found["rows"])
    show.line(
        f"{found['device']}, {found['precision']}, {found['weights']}: a {side}x{side} slice at x2 "
        f"takes {one['seconds']:.2f} s, {one['network_share']:.0%} of it in the network"
    )


def _settings(options: dict[str, Any]) -> BenchmarkSettings:
    return BenchmarkSettings(
        scale=options["scale"],
        degradations=tuple(options["degradation"]),
        methods=tuple(options["method"]) or _DEFAULTS.methods,
        weights=options["weights"],
        self_ensemble=opt.self_ensemble(options),
        variable=options["variable"],
        slices=options["slices"],
        slice_axis=options["slice_axis"],
        precision=Precision(options["precision"]),
        device=options["device"],
        seed=options["seed"],
    )
