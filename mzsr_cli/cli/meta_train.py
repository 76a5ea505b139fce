"""``mzsr meta-train``."""

from __future__ import annotations

from typing import Any

import click

from mzsr_cli.cli.options import FiniteRange
from mzsr_cli.cli.training import run_training, shared_options, train_settings
from mzsr_cli.settings import DegradationMix, MetaSettings

_META = MetaSettings()


@click.command("meta-train")
@shared_options
@click.option("--inner-steps", type=click.IntRange(0), default=_META.inner_steps,
              help="Gradient steps on a task's support pair.")  # fmt: skip
@click.option("--inner-rate", type=FiniteRange(0, min_open=True), default=_META.inner_rate,
              help="Inner step size at the start; learned, one a tensor.")  # fmt: skip
@click.option("--first-order", type=FiniteRange(0, 1), default=_META.first_order_fraction,
              help="Share of the run with first-order outer gradients.")  # fmt: skip
def command(**options: Any) -> int:
    """Meta-train over random degradations of DATA: folders of images, and cubes.

    Algorithm 1, lines 8-17: tasks are one random kernel, sampling and scale each; the query
    loss after adapting to the support pair is differentiated through the adaptation.
    """
    settings = train_settings(options, DegradationMix.RANDOM, _META.tasks_per_iteration)
    meta = MetaSettings(
        tasks_per_iteration=settings.batch,
        inner_steps=options["inner_steps"],
        inner_rate=options["inner_rate"],
        first_order_fraction=options["first_order"],
    )
    return run_training(options, settings, meta)
