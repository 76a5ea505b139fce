"""``mzsr degrade``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mzsr_cli.cli import options as opt
from mzsr_cli.cli import show
from mzsr_cli.cli.batch import Batch
from mzsr_cli.settings import Sampling

if TYPE_CHECKING:
    from mzsr_cli.pipeline.degrade import DegradeSettings


@click.command("degrade")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--scale", type=opt.Scale(), required=True,
              help="Factor, 1 to 32; 4x1.5 is rows x columns.")  # fmt: skip
@opt.kernel_option
@opt.sampling_option
@click.option("-o", "--output", metavar="FILE|DIR", help="Result. [cube_d4.mat beside the input]")
@click.option(
    "--noise",
    type=opt.FiniteRange(0),
    default=0.0,
    metavar="SIGMA",
    help="Gaussian noise added to the LR slice, in units of the HR slice's range.",
)
@click.option(
    "--crop/--no-crop",
    default=True,
    help="Cut HR slices to whole LR pixels first (axes with an integer factor).",
)
@opt.variable_option
@opt.slice_axis_option
@opt.seed_option
@opt.overwrite_option
@opt.json_option
@opt.quiet_option
def command(**options: Any) -> int:
    """Make LR cubes from HR ones, with a known degradation: blur, then sampling.

    INPUT is a file, a folder or a quoted glob. Each slice (each plane of a complex one) is
    degraded on its own, in double precision; dtype, variable and format are kept. The settings
    go to NAME.json beside the result.
    """
    from mzsr_cli.pipeline.degrade import degrade_cube
    from mzsr_cli.pipeline.kernel_files import load_kernel
    from mzsr_cli.pipeline.targets import plan_targets

    batch, quiet = Batch(), options["quiet"]
    settings = _settings(options)
    kernel = load_kernel(settings.kernel)
    pairs = plan_targets(batch.expand(options["inputs"]), options["output"], settings.tag)
    for source, target in pairs:
        with show.progress(not quiet) as bar:
            tick = show.slice_ticker(bar, source.name)
            work = partial(
                degrade_cube, source, target, settings, kernel, options["overwrite"], tick
            )
            report = batch.add(str(source), work)
        if report is not None and not quiet:
            _say(report)
    if options["json"]:
        show.json_result(batch.as_json())
    return batch.finish(quiet)


def _settings(options: dict[str, Any]) -> DegradeSettings:
    from mzsr_cli.pipeline.degrade import DegradeSettings

    return DegradeSettings(
        scale=options["scale"],
        kernel=options["kernel"],
        sampling=Sampling(options["sampling"]),
        variable=options["variable"],
        slice_axis=options["slice_axis"],
        noise=options["noise"],
        seed=options["seed"],
        crop=options["crop"],
    )


def _say(report: dict[str, Any]) -> None:
    """What was done and what should be known about it, on stderr."""
    for note in report["notes"]:
        show.line(f"{Path(report['input']).name}: {note}")
    shapes = ("x".join(map(str, report[name])) for name in ("hr_used", "lr_shape"))
    show.line(f"{report['output']}: {' -> '.join(shapes)} {report['dtype']}")
