"""``mzsr upscale --dry-run``: shape, bytes, stages, memory and time; writes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.cube import Array, CubeReader
from mzsr_cli.cubes.open import open_cube
from mzsr_cli.imaging import resize
from mzsr_cli.imaging.normalize import filled, planes_of, slice_of
from mzsr_cli.imaging.stages import stage_scales
from mzsr_cli.learning import networks, runtime
from mzsr_cli.learning.inner import Pair, gradient
from mzsr_cli.learning.patches import detailed_window
from mzsr_cli.pipeline.lanes import Lanes, lane_count, threads_each
from mzsr_cli.pipeline.plan import Plan, make_plan
from mzsr_cli.pipeline.slices import spread_over
from mzsr_cli.pipeline.solving import Task
from mzsr_cli.settings import Method, UpscaleSettings

Scale = tuple[float, float]


def dry_run(
    source: Path, target: Path, settings: UpscaleSettings, overwrite: bool = False
) -> dict[str, Any]:
    """What ``upscale_cube`` would do. Raises the errors that it would raise before work."""
    with open_cube(source, settings.variable, settings.slice_axis) as reader:
        plan = make_plan(reader.info, target, settings)
        AtomicOutput(target, overwrite, nbytes=plan.out.nbytes)
        seconds, stages = estimated_seconds(plan, _typical(reader, plan))
        beside = lane_count(plan, torch.get_num_threads()) - 1
        memory = plan.memory + beside * plan.lane_memory
        return {
            "dry_run": True,
            "input": str(source),
            "output": str(target),
            "lr_shape": list(reader.info.shape),
            **plan.facts(),
            "format": plan.out.format,
            "bytes": plan.out.nbytes,
            "memory_bytes": memory,
            "stages": [list(stage) for stage in stages],
            "seconds_per_slice": float(f"{seconds:.3g}"),
            "estimated_seconds": float(f"{seconds * len(plan.slices):.3g}"),
            "notes": [
                *plan.notes,
                *plan.out.notes,
                f"{plan.out.nbytes / 2**20:.1f} MiB, stages "
                + " -> ".join(f"x{max(stage):g}" for stage in stages)
                + f", about {seconds * len(plan.slices):.3g} s and {memory / 2**30:.1f} GiB of "
                "memory",
            ],
        }


def _typical(reader: CubeReader, plan: Plan) -> list[Array]:
    """Some slices, evenly spread, their gaps filled; without those that are constant."""
    chosen = spread_over(plan.slices, plan.settings.calibration.slices)
    images = [filled(reader.read(k)) for k in chosen]
    return [image for image in images if (image != image[0, 0]).any()] or images[:1]


@dataclass(frozen=True)
class Trial:
    """Timed solutions of a part of some slices: the pixels of all their stages, and seconds."""

    pixels: float
    seconds: float


def estimated_seconds(plan: Plan, images: list[Array]) -> tuple[float, list[Scale]]:
    """Seconds for a slice like LR ``images`` (h, w), on average, and the stages it would go
    through, from two timed solutions of their most detailed parts: of a small one through one
    stage, of a larger one through some."""
    stages = stage_scales(plan.scale, plan.solver().grids.gradual)
    if plan.method is Method.ZSSR:
        return _zssr_seconds(plan, images[0], stages), stages
    how = plan.settings.calibration
    sides = (how.side_small, how.side)
    scales = (stages[0], stages[min(how.stages, len(stages)) - 1])
    trials = []
    for side, scale in zip(sides, scales, strict=True):
        trial, gradual = _trial(plan, images, side, scale)
        trials.append(trial)
    longer = stage_scales(plan.scale, plan.solver().grids.long)
    shape = (images[0].shape[0], images[0].shape[1])
    pixels = gradual * _pixels(plan, shape, stages) + (1 - gradual) * _pixels(plan, shape, longer)
    seconds = _extrapolated(trials[0], trials[1], pixels) + how.byte * _slice_bytes(plan)
    return seconds, stages if gradual >= 0.5 else longer


def _extrapolated(short: Trial, long: Trial, pixels: float) -> float:
    """Seconds for ``pixels`` on the line through two trials, or through zero and the longer one."""
    if long.pixels == short.pixels:
        return min(short.seconds, long.seconds) * pixels / long.pixels
    slope = max(0.0, long.seconds - short.seconds) / (long.pixels - short.pixels)
    return max(long.seconds + slope * (pixels - long.pixels), short.seconds)


def _trial(plan: Plan, images: list[Array], side: int, scale: Scale) -> tuple[Trial, float]:
    """Solve the most detailed ``side`` x ``side`` parts of LR ``images`` by ``scale``: a mean
    slice, and the share of those that went through gradual stages; as many at once as the run would
    solve. The first is solved before in every lane: what is made once for a cube does not count."""
    parts = [_part(image, side) for image in images]
    shape = (parts[0].shape[0], parts[0].shape[1])
    rows, cols = (resize.enlarged(n, s) for n, s in zip(shape, scale, strict=True))
    small = replace(plan, lr_shape=shape, scale=scale, shape=(rows, cols, 1))
    solver, count = small.solver(), lane_count(plan, torch.get_num_threads())
    tasks = [Task(i, 0, part) for i, part in enumerate(parts * count)]
    with runtime.threads(threads_each(plan)):
        lanes = Lanes(solver, small, None, count)
        list(lanes.solve([tasks[0]] * count))
        begin = time.perf_counter()
        solved = list(lanes.solve(tasks))
        seconds = (time.perf_counter() - begin) / len(tasks)
    checks = [one.report.check for one in solved]
    gradual = sum(check is None or check.gradual for check in checks) / len(checks)
    many = _pixels(small, shape, stage_scales(scale, solver.grids.gradual))
    few = _pixels(small, shape, stage_scales(scale, solver.grids.long))
    return Trial(gradual * many + (1 - gradual) * few, seconds), gradual


def _part(image: Array, side: int) -> Array:
    """The most detailed ``side`` x ``side`` part: a smooth one may leave nothing to the network."""
    return slice_of(detailed_window(torch.from_numpy(planes_of(image)), side).numpy())


def _pixels(plan: Plan, shape: tuple[int, int], stages: list[Scale]) -> int:
    """Pixels of all grids from LR ``shape`` on; of the last alone for methods without stages."""
    if plan.method is not Method.MZSR:
        stages = stages[-1:]
    return sum(round(shape[0] * rows) * round(shape[1] * cols) for rows, cols in stages)


def _slice_bytes(plan: Plan) -> float:
    return plan.out.nbytes / max(1, len(plan.slices))


def _zssr_seconds(plan: Plan, image: Array, stages: list[Scale]) -> float:
    """Seconds that ZSSR typically takes to its stop, by the time of its gradient steps."""
    zssr, how = plan.settings.zssr, plan.settings.calibration
    network = networks.build(plan.settings.network, 0).to(plan.device)
    parameters = {n: p.detach().requires_grad_() for n, p in network.named_parameters()}
    crop = torch.zeros(
        2 if np.iscomplexobj(image) else 1, 1,
        *(min(zssr.crop, n) for n in image.shape), device=plan.device,
    )  # fmt: skip
    pair = Pair(crop, crop, None, 1.0)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        loss, _ = gradient(network, parameters, pair, plan.precision, create_graph=False)
        float(loss.detach())  # waits for a GPU
        seconds.append(time.perf_counter() - begin)
    step = min(seconds)
    enlarging = step / 3 * 8 * _pixels(replace(plan, method=Method.MZSR), plan.lr_shape, stages)
    return len(stages) * how.zssr_iterations * step + enlarging / crop[0].numel()
