"""``mzsr evaluate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from mzsr_cli.cli import options as opt
from mzsr_cli.cli import show
from mzsr_cli.cli.batch import Batch

FIGURES = {"psnr": "PSNR dB", "ssim": "SSIM", "nmse": "NMSE dB"}


@click.command("evaluate")
@click.argument("sr", nargs=-1, required=True, metavar="SR...")
@click.argument("hr", metavar="HR")
@click.option("--shave", type=click.IntRange(0), default=0, help="Border left out, in pixels.")
@click.option("--y", is_flag=True, help="Images protocol: luma, rounded to 8 bits, peak 255.")
@click.option(
    "--peak",
    type=opt.FiniteRange(0, min_open=True),
    help="Peak of PSNR and SSIM. [range of the HR slice, 1 if constant; 255 with --y]",
)
@opt.variable_option
@opt.slice_axis_option
@opt.slices_option
@opt.json_option
@opt.quiet_option
def command(**options: Any) -> int:
    """Compare SR cubes with their HR truth, the last argument, slice by slice.

    PSNR and NMSE in dB, SSIM with a Gaussian window of 11 (- under 11 pixels). The cube's PSNR
    and SSIM are means over slices, exact slices (PSNR inf) not counted; its NMSE is of all
    samples together. In JSON, null is undefined and "inf", "-inf" are infinite.
    """
    from mzsr_cli.cubes.open import list_variables
    from mzsr_cli.pipeline.evaluate import EvaluateSettings, evaluate

    names = ("shave", "peak", "variable", "slice_axis", "slices")
    settings = EvaluateSettings(luma=options["y"], **{name: options[name] for name in names})
    batch, hr = Batch(), Path(options["hr"])
    list_variables(hr)  # a bad HR cube is one error, not one for each SR cube
    for path in batch.expand(options["sr"]):
        report = batch.add(str(path), partial(evaluate, path, hr, settings))
        for note in report["notes"] if report and not options["quiet"] else ():
            show.line(f"{path.name}: {note}")
    if options["json"]:
        show.json_result(batch.as_json())
    else:
        _tables(batch.results)
    return batch.finish(options["quiet"])


def _tables(reports: list[dict[str, Any]]) -> None:
    """Each slice of a single SR cube; a line for each SR cube."""
    if len(reports) == 1:
        slices = [_row({"slice": str(s["slice"])}, s) for s in reports[0]["slices"]]
        show.table(reports[0]["sr"], slices)
    rows = []
    for report in reports:
        worst = report["worst"]
        row = _row({"cube": report["sr"]}, report)
        rows.append(row | {"worst slice": str(worst["slice"]), "its PSNR dB": worst["psnr"]})
    if rows:
        show.table("", rows)


def _row(first: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    return first | {title: figures[name] for name, title in FIGURES.items()}
