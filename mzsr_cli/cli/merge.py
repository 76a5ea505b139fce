"""``mzsr merge``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from mzsr_cli.cli import options as opt
from mzsr_cli.cli import show
from mzsr_cli.cli.batch import Batch


@click.command("merge")
@click.argument("parts", nargs=-1, required=True, metavar="PART...")
@click.option("-o", "--output", required=True, metavar="FILE", help="Result.")
@opt.slices_option
@opt.overwrite_option
@opt.json_option
@opt.quiet_option
def command(**options: Any) -> int:
    """Join results that mzsr upscale made with --slices of one cube.

    PART is a result with its NAME.json beside it, a folder or a quoted glob. All must come from
    the same input and settings, and hold every slice of the cube (or of --slices) once, in any
    order. The result is what one run would have written, with all other variables of the file.
    """
    from mzsr_cli.cubes.open import expand_inputs
    from mzsr_cli.pipeline.merge import merge_cubes

    batch, quiet, target = Batch(), options["quiet"], Path(options["output"])
    paths = expand_inputs(options["parts"])
    with show.progress(not quiet) as bar:
        tick = show.slice_ticker(bar, target.name)
        work = partial(merge_cubes, paths, target, options["slices"], options["overwrite"], tick)
        report = batch.add(str(target), work)
    if report is not None and not quiet:
        for note in report["notes"]:
            show.line(f"{target.name}: {note}")
        shape = "x".join(map(str, report["shape"]))
        show.line(f"{target}: {shape} {report['dtype']} from {len(paths)} parts")
    if options["json"]:
        show.json_result(batch.as_json())
    return batch.finish(quiet)
