"""What ``pretrain`` and ``meta-train`` share on the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from mzsr_cli.cli import show
from mzsr_cli.cli.backbone import STRUCTURAL, given, lrfnet_options, new_network
from mzsr_cli.cli.batch import Batch
from mzsr_cli.cli.options import (
    Duration,
    FiniteRange,
    device_option,
    precision_option,
    seed_option,
    slice_axis_option,
    variable_option,
)
from mzsr_cli.errors import UsageError
from mzsr_cli.settings import (
    HELD_OUT_EVERY,
    RECURSIONS_MAX,
    Backbone,
    ConsistencySettings,
    DataSettings,
    DegradationMix,
    GradientSettings,
    KernelDraw,
    Loss,
    MetaSettings,
    NetworkSettings,
    Optimizer,
    Precision,
    TaskSettings,
    TrainSettings,
)

_TRAIN = TrainSettings()
_TASKS = TaskSettings()
_DRAW = KernelDraw()

Command = Callable[..., Any]


def shared_options(command: Command) -> Command:
    """The options of both training commands."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
    click.argument("data", nargs=-1, required=True),
    click.option("-o", "--output", type=click.Path(), required=True,
                 help="Weights file to write (.safetensors); log and checkpoint beside it. With "
                 "--each a folder."),
    click.option("--each", is_flag=True, help="Train a network for each cube by itself, named "
                 "after it in the folder -o; --max-time is that of each. With --resume finished "
                 "ones are skipped."),
    click.option("--init", metavar="NAME|PATH", help="Weights to start from; with --each also a "
                 "folder with those of each cube."),
    variable_option,
    slice_axis_option,
    click.option("--held-out", metavar="N|P%|A:B[:STEP]|none", help="Slices of each cube (images "
                 "of each folder) that are kept for validation: every N-th, a share, or those. "
                 f"Smaller cubes keep the middle one. [{HELD_OUT_EVERY}]"),
    click.option("--iterations", type=click.IntRange(1), default=_TRAIN.iterations,
                 help="Outer updates."),
    click.option("--max-time", type=Duration(), help="Stop after this time (90, 45m, 2h); the "
                 "learning rate decays over it."),
    click.option("--batch", type=click.IntRange(1), help="Crops (pretrain) or tasks (meta-train) "
                 "per update, of all processes. "
                 f"[{_TRAIN.batch}; {MetaSettings().tasks_per_iteration}]"),
    click.option("--patch", type=click.IntRange(16), default=_TASKS.patch,
                 help="Side of an HR crop in pixels, at least 8 times the largest scale; cut to "
                 "smaller slices where other ones hold it."),
    click.option("--scale", type=FiniteRange(1.1, 32), multiple=True,
                 default=_TASKS.scales, help="Scale to train for; repeat for more, also to "
                 "weigh one."),
    click.option("--degradations", type=click.Choice([m.value for m in DegradationMix]),
                 help="Which degradations to draw. [pretrain: bicubic, meta-train: random]"),
    click.option("--no-blur", type=FiniteRange(0, 1),
                 default=round(1 - _DRAW.published_fraction - _DRAW.narrow_fraction, 6),
                 help="Share of random tasks without a blur kernel."),
    click.option("--direct", type=FiniteRange(0, 1), default=_TASKS.direct_fraction,
                 help="Share of random tasks with direct sampling."),
    click.option("--backbone", type=click.Choice([b.value for b in Backbone]),
                 help=f"Architecture of a new network; mzsr is the published one. "
                 f"[that of --init; {_TRAIN.network.backbone}]"),
    click.option("--recursions", type=click.IntRange(1, RECURSIONS_MAX),
                 help="How often a strided network's blocks are applied. [those of --init; 1]"),
    click.option("--modulated", is_flag=True, help="Let facts of the degradation scale and shift "
                 "features within a strided network's blocks (those of --init too, which begin "
                 "without)."),
    click.option("--guides", is_flag=True, help="Show a new strided or spsr network "
                 "other interpolations beside the starting image."),
    lrfnet_options,
    click.option("--loss", type=click.Choice([m.value for m in Loss]), default=_TRAIN.loss.value,
                 help="Mean absolute error, root mean square, or its logarithm; in shares of the "
                 "start's."),
    click.option("--gradient-loss", type=FiniteRange(0), default=_TRAIN.gradient.weight,
                 help="Weight of the gradient maps' mean absolute difference beside the loss, in "
                 "shares of the start's."),
    click.option("--passes", type=click.IntRange(1), help="How often the network is applied, "
                 "consistency after each. [those of --init; 1]"),
    click.option("--optimizer", type=click.Choice([m.value for m in Optimizer]),
                 default=_TRAIN.optimizer.value, help="Adam for everything, or Muon for the "
                 "convolutions between features."),
    click.option("--learning-rate", type=FiniteRange(0, 1, min_open=True),
                 default=_TRAIN.learning_rate, help="Adam's step size at the start."),
    click.option("--consistency", type=click.Choice(["0", "1"]), default="1",
                 help="1: the network fills in only what the LR slice does not determine; 0: as "
                 "published."),
    click.option("--checkpoint-every", type=Duration(), default=_TRAIN.checkpoint_every,
                 help="Time between checkpoints."),
    click.option("--validate-every", type=Duration(), default=_TRAIN.validate_every,
                 help="Time between validations."),
    click.option("--resume", is_flag=True, help="Continue from the checkpoint."),
    click.option("--overwrite", is_flag=True, help="Replace an existing weights file."),
    device_option,
    precision_option,
    seed_option,
    click.option("--threads", type=click.IntRange(1), help="Processor threads. [all cores]"),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors."),
)  # fmt: skip


def train_settings(
    options: dict[str, Any], default_mix: DegradationMix, default_batch: int
) -> TrainSettings:
    """The options as settings."""
    blurred = 1 - options["no_blur"]
    share = _DRAW.published_fraction / (_DRAW.published_fraction + _DRAW.narrow_fraction)
    draw = KernelDraw(published_fraction=blurred * share, narrow_fraction=blurred * (1 - share))
    tasks = TaskSettings(
        mix=DegradationMix(options["degradations"] or default_mix),
        kernels=draw,
        scales=tuple(options["scale"]),
        direct_fraction=options["direct"],
        patch=options["patch"],
    )
    return TrainSettings(
        iterations=options["iterations"],
        batch=options["batch"] or default_batch,
        learning_rate=options["learning_rate"],
        optimizer=Optimizer(options["optimizer"]),
        seed=options["seed"],
        max_time=options["max_time"],
        checkpoint_every=options["checkpoint_every"],
        validate_every=options["validate_every"],
        data=DataSettings(options["variable"], options["slice_axis"], options["held_out"]),
        tasks=tasks,
        consistency=ConsistencySettings(enabled=options["consistency"] == "1"),
        precision=Precision(options["precision"]),
        passes=options["passes"],
        recursions=options["recursions"],
        modulated=options["modulated"],
        loss=Loss(options["loss"]),
        gradient=GradientSettings(weight=options["gradient_loss"]),
        network=_network(options),
    )


def _network(options: dict[str, Any]) -> NetworkSettings:
    """The architecture of a new network. Raises UsageError where --init brings one already, and
    for options that do not go together."""
    brought = given(options, STRUCTURAL) if options["init"] else []
    if brought:
        raise UsageError(f"--init brings its own backbone. Leave out {' and '.join(brought)}.")
    if options["init"]:
        return _TRAIN.network
    return new_network(options, _TRAIN.network.backbone)


def run_training(
    options: dict[str, Any], settings: TrainSettings, meta: MetaSettings | None
) -> int:
    """Train with the options and settings, under torchrun as one of the processes; with --each one
    network after the other. Returns the exit code."""
    import torch

    from mzsr_cli.learning.ranks import joined
    from mzsr_cli.pipeline.each import Job
    from mzsr_cli.pipeline.slices import check_held_out

    check_held_out(settings.data.held_out)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    output, init = Path(options["output"]), Path(options["init"]) if options["init"] else None
    with joined(os.environ, options["device"], settings.batch) as ranks:
        if options["each"]:
            return _each(options, settings, meta, output, init, ranks)
        job = Job(list(options["data"]), output, init, options["resume"])
        _train(job, options, settings, meta, ranks)
    return 0


def _each(
    options: dict[str, Any],
    settings: TrainSettings,
    meta: MetaSettings | None,
    folder: Path,
    init: Path | None,
    ranks: Any,
) -> int:
    """A network for each cube; one that fails does not stop the rest. Returns the exit code."""
    from mzsr_cli.pipeline.each import each_job

    if ranks.count > 1:
        raise UsageError("--each: trains in one process. Leave torchrun out.")
    batch = Batch()
    for job in each_job(batch.expand(options["data"]), folder, init, options["resume"]):
        if not options["quiet"]:
            show.line(f"{job.data[0]} -> {job.output}")
        work = partial(_train, job, options, settings, meta, ranks)
        batch.add(job.data[0], work)
    return batch.finish(options["quiet"])


def _train(
    job: Any,
    options: dict[str, Any],
    settings: TrainSettings,
    meta: MetaSettings | None,
    ranks: Any,
) -> dict[str, float]:
    """One training, with lines or a bar; of several ranks the first speaks."""
    from mzsr_cli.pipeline.training import train

    with show.progress(ranks.first and not options["quiet"]) as bar:
        report = show.training_reporter(bar, options["quiet"])
        return train(
            "pretrain" if meta is None else "meta-train",
            job.data,
            job.output,
            settings,
            meta,
            job.init,
            ranks,
            job.resume,
            options["overwrite"],
            report,
            (lambda parts: None) if options["quiet"] else show.held_out,
        )
