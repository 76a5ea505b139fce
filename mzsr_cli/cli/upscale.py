"""``mzsr upscale``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from mzsr_cli.cli import options as opt
from mzsr_cli.cli import show
from mzsr_cli.cli.backbone import STRUCTURAL, given, lrfnet_options, new_network
from mzsr_cli.cli.batch import Batch
from mzsr_cli.errors import UsageError
from mzsr_cli.settings import (
    PERCENTILES,
    Adapting,
    AdaptSettings,
    Backbone,
    CheckSettings,
    ConsistencySettings,
    Method,
    NanPolicy,
    NetworkSettings,
    Normalize,
    Precision,
    Sampling,
    StageSettings,
    TileSettings,
    UpscaleSettings,
    ZssrSettings,
)

_DEFAULTS = UpscaleSettings()
_ADAPT = AdaptSettings()


@click.command("upscale")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--scale", type=opt.Scale(), help="Factor, 1.1 to 32; 4x1.5 is rows x columns, of "
              "which one may be 1.")  # fmt: skip
@click.option("--size", type=opt.Size(), metavar="ROWSxCOLS", help="Instead: size of a slice.")
@click.option("--steps", type=click.IntRange(0), default=_ADAPT.steps,
              help="Gradient steps, taken on the pair (son, LR slice).")  # fmt: skip
@click.option("--adapt", type=click.Choice([a.value for a in Adapting]),
              default=_ADAPT.mode.value, help="slice: to each slice by itself; cube: once, in "
              f"rounds of steps over {_ADAPT.cube_slices} slices at most; warm: each on from the "
              "slice before. cube and warm see only the slices of this run: parts made with "
              "--slices and merged are not the bytes of one run.")  # fmt: skip
@click.option("--gradient-loss", type=opt.FiniteRange(0), default=_ADAPT.gradient_loss,
              help="Weight of the gradient maps' mean absolute difference in the loss of "
              "steps.")  # fmt: skip
@click.option("--method", type=click.Choice([m.value for m in Method]),
              help="[mzsr; zssr where no weights fit]")  # fmt: skip
@click.option("--weights", metavar="NAME|PATH", help="[the shipped ones that fit best]")
@click.option("--backbone", type=click.Choice([b.value for b in Backbone]),
              help="Architecture that --method zssr trains. "
              f"[{_DEFAULTS.network.backbone}]")  # fmt: skip
@lrfnet_options
@opt.kernel_option
@opt.sampling_option
@click.option("-o", "--output", metavar="FILE|DIR", help="[cube_x4.mat beside the input]")
@opt.variable_option
@opt.slices_option
@opt.slice_axis_option
@click.option(
    "--normalize",
    type=click.Choice([n.value for n in Normalize]),
    default=_DEFAULTS.normalize.value,
    help="What is mapped to [0, 1]. slice: each slice's range; cube: that of all slices of this "
    "run (parts made with --slices and merged are not the bytes of one run); percentile: from the "
    f"slice's percentile {PERCENTILES[0]:g} to {PERCENTILES[1]:g}; none: values stay as they are.",
)
@click.option("--nan", type=click.Choice([n.value for n in NanPolicy]),
              default=_DEFAULTS.nan.value, help="NaN and Inf are an error, or each takes the "
              "nearest finite sample of its slice.")  # fmt: skip
@click.option("--clip", is_flag=True, help="Clip the result to the range of the LR slice.")
@click.option("--out-dtype", metavar="DTYPE", help="[the input's]")
@click.option("--consistency", type=click.Choice(["0", "1"]), default="1",
              help="1: the result explains the input; 0: as published.")  # fmt: skip
@click.option("--bounds", type=opt.Bounds(), metavar="auto|none|LOW:HIGH", default="auto",
              help="Values that the result keeps within: plateaus at a slice's lowest or highest "
              "value, or those that are known (0: is nothing below 0). LOW:HIGH is an error for "
              "complex cubes.")  # fmt: skip
@click.option("--self-check/--no-self-check", default=True,
              help="Let a classical method win where it does so on the pair (son, LR "
              "slice).")  # fmt: skip
@opt.self_ensemble_option
@click.option("--stage-max", type=opt.FiniteRange(1.1, 32), default=StageSettings().factor_max,
              help="Largest factor of one stage.")  # fmt: skip
@click.option("--tile", type=click.IntRange(32), default=TileSettings().side,
              help="Side of a tile in pixels of the network's grid (memory).")  # fmt: skip
@opt.device_option
@opt.precision_option
@opt.seed_option
@opt.workers_option
@opt.scheduler_option
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@opt.overwrite_option
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@opt.json_option
@opt.quiet_option
@click.option("-v", "--verbose", is_flag=True, help="A line for every slice.")
def command(**options: Any) -> int:
    """Super-resolve cubes, slice by slice.

    INPUT is a file (.mat .h5 .npy .npz .zarr .tif .png .jpg), a folder or a quoted glob. The
    result keeps variable, dtype, units and format, and goes to cube_xSCALE.mat beside the input;
    NAME.json beside it says how it was made.
    """
    from mzsr_cli.pipeline.plan import check_request
    from mzsr_cli.pipeline.targets import plan_targets

    batch = Batch()
    settings = _settings(options)
    check_request(settings, here=options["scheduler"] is None or options["dry_run"])
    sources = batch.expand(options["inputs"])
    pairs = plan_targets(sources, options["output"], _tag(settings))
    with _executor(settings, options) as executor:
        for source, target in pairs:
            report = _one(batch, source, target, settings, options, executor)
            if report is not None and not options["quiet"]:
                _say(report)
    if options["json"]:
        show.json_result(batch.as_json())
    return batch.finish(options["quiet"])


def _executor(settings: UpscaleSettings, options: dict[str, Any]) -> AbstractContextManager[Any]:
    """What solves slices: None is this process. Raises UsageError, ResourceError."""
    count, address = options["workers"], options["scheduler"]
    if count is None and address is None:
        return nullcontext()
    if count is not None and address is not None:
        raise UsageError("type either --workers or --scheduler, not both.")
    if find_spec("distributed") is None:
        name = "--workers" if count else "--scheduler"
        raise UsageError(f"{name}: needs dask.distributed; type pip install 'mzsr[distributed]'.")
    from mzsr_cli.pipeline import workers

    workers.check_request(settings)
    if options["dry_run"]:
        return nullcontext()
    return workers.local_workers(count) if count else workers.scheduler_workers(address)


def _one(
    batch: Batch,
    source: Path,
    target: Path,
    settings: UpscaleSettings,
    options: dict[str, Any],
    executor: Any,
) -> dict[str, Any] | None:
    """Do, or plan, one input; its report, or None where it failed."""
    from mzsr_cli.pipeline.dry_run import dry_run
    from mzsr_cli.pipeline.upscale import upscale_cube

    if options["dry_run"]:
        plan = _bound(dry_run, source, target, settings, options["overwrite"])
        return batch.add(str(source), plan)
    with show.progress(not options["quiet"]) as bar:
        ticker = show.upscale_ticker(bar, source.name, options["quiet"], options["verbose"])
        work = _bound(
            upscale_cube,
            source,
            target,
            settings,
            resume=options["resume"],
            overwrite=options["overwrite"],
            on_plan=ticker.plan,
            on_slice=ticker.slice,
            executor=executor,
        )
        return batch.add(str(source), work)


def _bound(function: Any, *args: Any, **kwargs: Any) -> Any:
    return lambda: function(*args, **kwargs)


def _tag(settings: UpscaleSettings) -> str:
    if settings.size is not None:
        return f"{settings.size[0]}x{settings.size[1]}"
    rows, cols = (f"{factor:g}" for factor in settings.scale or (1, 1))
    return f"x{rows}" if rows == cols else f"x{rows}x{cols}"


def _settings(options: dict[str, Any]) -> UpscaleSettings:
    return UpscaleSettings(
        scale=options["scale"],
        size=options["size"],
        method=Method(options["method"]) if options["method"] else None,
        weights=options["weights"],
        kernel=options["kernel"],
        sampling=Sampling(options["sampling"]),
        variable=options["variable"],
        slices=options["slices"],
        slice_axis=options["slice_axis"],
        normalize=Normalize(options["normalize"]),
        nan=NanPolicy(options["nan"]),
        clip=options["clip"],
        out_dtype=options["out_dtype"],
        precision=Precision(options["precision"]),
        device=options["device"],
        seed=options["seed"],
        network=_network(options),
        adapt=AdaptSettings(
            steps=options["steps"],
            mode=Adapting(options["adapt"]),
            self_ensemble=opt.self_ensemble(options),
            gradient_loss=options["gradient_loss"],
        ),
        zssr=ZssrSettings(gradient_loss=options["gradient_loss"]),
        check=CheckSettings(enabled=options["self_check"]),
        consistency=ConsistencySettings(enabled=options["consistency"] == "1"),
        bounds=options["bounds"],
        tiles=TileSettings(side=options["tile"]),
        stages=StageSettings(factor_max=options["stage_max"]),
    )


def _network(options: dict[str, Any]) -> NetworkSettings:
    """The architecture for ZSSR. Raises UsageError where another method brings its own or has
    none, and for options that do not go together."""
    chosen = given(options, STRUCTURAL)
    if chosen and options["method"] != Method.ZSSR:
        raise UsageError(
            f"{' and '.join(chosen)}: weights bring their own backbone. Type --method zssr, which "
            "trains a new one, or leave it out."
        )
    return new_network(options, _DEFAULTS.network.backbone)


def _say(report: dict[str, Any]) -> None:
    """What was done and what should be known about it, on stderr."""
    name = Path(report["input"]).name
    for note in report["notes"]:
        show.line(f"{name}: {note}")
    shapes = ("x".join(map(str, report[key])) for key in ("lr_shape", "shape"))
    weights = report["weights"]["name"] if report["weights"] else "no weights"
    count = report.get("workers")
    verb = "would be written" if report.get("dry_run") else f"{report['seconds']:.1f} s"
    show.line(
        f"{report['output']}: {' -> '.join(shapes)} {report['dtype']}, {report['method']} "
        f"({weights}), {verb}" + (f", {count} workers" if count else "")
    )
