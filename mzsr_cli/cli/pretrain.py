"""``mzsr pretrain``."""

from __future__ import annotations

from typing import Any

import click

from mzsr_cli.cli.training import run_training, shared_options, train_settings
from mzsr_cli.settings import DegradationMix, TrainSettings


@click.command("pretrain")
@shared_options
def command(**options: Any) -> int:
    """Train a network on HR/LR pairs made from DATA: folders of images, and cubes.

    Algorithm 1, lines 1-7: L1 loss, bicubic pairs (or --degradations random); Muon's steps, or
    Adam's as published (--optimizer adam).
    """
    settings = train_settings(options, DegradationMix.BICUBIC, TrainSettings().batch)
    return run_training(options, settings, None)
