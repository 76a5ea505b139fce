"""``mzsr upscale --dry-run``: shape, bytes, stages and estimated time; writes nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.open import open_cube
from mzsr_cli.imaging.hints import Hints
from mzsr_cli.imaging.stages import stage_scales
from mzsr_cli.learning import networks
from mzsr_cli.learning.inner import Pair, gradient, residual
from mzsr_cli.pipeline.upscale import Plan, make_plan
from mzsr_cli.settings import Method, UpscaleSettings

ZSSR_ITERATIONS = 1500
"""Iterations that a ZSSR run typically takes to its stop, for the estimate."""


def dry_run(
    source: Path, target: Path, settings: UpscaleSettings, overwrite: bool = False
) -> dict[str, Any]:
    """What ``upscale_cube`` would do. Raises the errors that it would raise before work."""
    with open_cube(source, settings.variable, settings.slice_axis) as reader:
        plan = make_plan(reader.info, target, settings)
        AtomicOutput(target, overwrite, nbytes=plan.out.nbytes)
        planes = 2 if reader.info.is_complex else 1
        stages = stage_scales(plan.scale, plan.solver().factor_max)
        seconds = estimated_seconds(plan, planes, stages)
        return {
            "dry_run": True,
            "input": str(source),
            "output": str(target),
            "lr_shape": list(reader.info.shape),
            **plan.facts(),
            "format": plan.out.format,
            "bytes": plan.out.nbytes,
            "stages": [list(stage) for stage in stages],
            "seconds_per_slice": float(f"{seconds:.3g}"),
            "estimated_seconds": float(f"{seconds * len(plan.slices):.3g}"),
            "notes": [
                *plan.notes,
                *plan.out.notes,
                f"{plan.out.nbytes / 2**20:.1f} MiB, stages "
                + " -> ".join(f"x{max(stage):g}" for stage in stages)
                + f", about {seconds * len(plan.slices):.3g} s",
            ],
        }


def estimated_seconds(plan: Plan, planes: int, stages: list[tuple[float, float]]) -> float:
    """Seconds for one slice, from the network's measured speed on this machine."""
    pixels = [planes * plan.lr_shape[0] * rows * plan.lr_shape[1] * cols for rows, cols in stages]
    if plan.method not in (Method.MZSR, Method.ZSSR):
        return 2e-8 * pixels[-1]
    forward, backward = _seconds_per_pixel(plan)
    window = plan.settings.adapt.window
    pair = planes * min(window, plan.lr_shape[0]) * min(window, plan.lr_shape[1])
    if plan.method is Method.ZSSR:
        crop = min(plan.settings.zssr.crop, *plan.lr_shape) ** 2
        return len(stages) * ZSSR_ITERATIONS * crop * backward + 8 * sum(pixels) * forward
    return (plan.settings.adapt.steps + 1) * pair * backward + sum(pixels) * forward


def _seconds_per_pixel(plan: Plan) -> tuple[float, float]:
    """Forward, and forward with backward, of the network on a 128 x 128 image."""
    network = plan.weights.network if plan.weights else networks.build(plan.settings.network, 0)
    parameters = {n: p.detach().requires_grad_() for n, p in network.named_parameters()}
    image = torch.zeros(1, 1, 128, 128, device=plan.device)
    pair = Pair(image, image, None, 1.0)
    times = []
    for work in (
        lambda: residual(network, parameters, image, plan.precision, Hints()),
        lambda: gradient(network, parameters, pair, plan.precision, create_graph=False),
    ):
        work()
        begin = time.monotonic()
        work()
        times.append((time.monotonic() - begin) / image.numel())
    return times[0] * network.passes, times[1]
