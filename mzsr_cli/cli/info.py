"""``mzsr info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mzsr_cli.cli import options as opt
from mzsr_cli.cli import show
from mzsr_cli.errors import UsageError


@click.command("info")
@click.argument("path", required=False, metavar="[PATH]")
@opt.variable_option
@opt.slice_axis_option
@opt.slices_option
@click.option("--histograms", type=click.Path(dir_okay=False), metavar="FILE",
              help="Draw each slice's distribution of values before and after its range is mapped "
              "to [0, 1] (.png, .pdf, .svg; needs mzsr[figures]).")  # fmt: skip
@opt.overwrite_option
@opt.json_option
def command(path: str | None, **options: Any) -> None:
    """Describe a cube, a weights file, or (without PATH) this machine and the shipped weights.

    PATH is a cube's file, a .safetensors file or the name of shipped weights. For a cube:
    its variables, and of each slice the extremes and the mean of the finite samples (of
    magnitudes when complex), the fraction that is exactly 0, and counts of NaN and Inf.
    """
    from mzsr_cli.pipeline.info import describe

    drawn = _histograms(path, options) if options["histograms"] else None
    facts = describe(path, options["variable"], options["slice_axis"], options["slices"])
    if drawn is not None:
        facts["histograms"] = drawn
    if options["json"]:
        show.json_result(facts)
        return
    tables = {"machine": _machine, "weights": _weights, "cube": _cube}
    tables[facts["kind"]](facts)


def _histograms(path: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Draw them; where they are and what is not in them. Raises UsageError without a cube."""
    from mzsr_cli.pipeline.histograms import draw_histograms
    from mzsr_cli.pipeline.info import is_weights

    if path is None or is_weights(path):
        raise UsageError("--histograms: of a cube only. Name the cube's file.")
    target, how = Path(options["histograms"]), (options["variable"], options["slice_axis"])
    drawn = draw_histograms(Path(path), target, *how, options["slices"], options["overwrite"])
    show.line(f"{target}: histograms before and after range expansion")
    return drawn


def _machine(facts: dict[str, Any]) -> None:
    machine = dict(facts["machine"])
    devices = machine.pop("cuda")
    show.facts_table("machine", machine | {"cuda": len(devices) or "none"})
    if devices:
        show.table("devices", devices)
    rows = [_summary(weights) for weights in facts["weights"]]
    if rows:
        show.table("shipped weights", rows)
    else:
        show.facts_table("shipped weights", {"weights": "none"})


def _summary(weights: dict[str, Any]) -> dict[str, Any]:
    """One line about shipped weights."""
    training = weights.get("facts", {})
    return {
        "name": weights["name"],
        "kind": str(training.get("kind", weights.get("error", "?"))),
        "parameters": weights.get("parameters"),
        "scales": str(training.get("scales", "?")),
        "degradations": str(training.get("degradations", "?")),
    }


def _weights(facts: dict[str, Any]) -> None:
    shown = {k: v for k, v in facts.items() if k not in ("kind", "facts", "network")}
    show.facts_table("weights", shown)
    show.facts_table("network", facts["network"])
    training = dict(facts["facts"])
    held_out = training.pop("held_out", [])
    show.facts_table("training", training)
    if held_out:
        rows = [{"data": name, "--slices": slices or "none"} for name, slices in held_out]
        show.table("held out of training", rows)


def _cube(facts: dict[str, Any]) -> None:
    variables = [
        {**v, "name": v["name"] or "-", "shape": _shape(v["shape"])} for v in facts["variables"]
    ]
    show.table(facts["path"], variables)
    for note in facts["notes"]:
        show.line(note)
    cube = facts["cube"]
    if cube is not None:
        shown = {k: v for k, v in cube.items() if k != "slices"}
        show.facts_table("cube", shown | {"shape": _shape(cube["shape"])})
        show.table("slices", [{**s, "slice": str(s["slice"])} for s in cube["slices"]])


def _shape(sides: list[int]) -> str:
    return "x".join(map(str, sides)) or "scalar"
