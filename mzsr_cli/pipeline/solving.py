"""From a slice of the input, in its own units, to its place in the result."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mzsr_cli.cubes.cube import CubeReader
from mzsr_cli.errors import (
    InputError,
)
from mzsr_cli.imaging.bounds import UNBOUNDED, Bounds, plateaus
from mzsr_cli.imaging.normalize import (
    Range,
    cast,
    filled,
    planes_of,
    restored,
    slice_of,
    slice_range,
)
from mzsr_cli.learning.superresolve import Sample, SliceReport
from mzsr_cli.pipeline.plan import Plan
from mzsr_cli.pipeline.slices import spread_over
from mzsr_cli.settings import (
    Adapting,
    Method,
    NanPolicy,
)


@dataclass(frozen=True)
class Task:
    """Slice ``k`` of the input, to be solved: its place in the result, its samples (h, w)."""

    position: int
    k: int
    image: NDArray[Any]


@dataclass(frozen=True)
class Solved:
    """Slice ``k`` of the input, done: its place in the result, its samples (H, W) in the result's
    dtype, what happened to it, and the seconds it took."""

    position: int
    k: int
    image: NDArray[Any]
    report: SliceReport
    seconds: float


@dataclass(frozen=True)
class Job:
    """The slices of a plan that are still to do (all but the positions in ``done``)."""

    plan: Plan
    reader: CubeReader
    cube_range: Range | None
    done: frozenset[int]

    def todo(self) -> list[tuple[int, int]]:
        """(position in the result, slice of the input) of each slice that is to be solved."""
        return [(i, k) for i, k in enumerate(self.plan.slices) if i not in self.done]

    def image(self, k: int) -> NDArray[Any]:
        """Slice ``k`` (h, w) of the input, finite. Raises InputError."""
        return finite(self.reader.read(k), self.plan, k)

    def sample(self, k: int) -> Sample | None:
        """Slice ``k``, normalised; None where it is constant. Raises InputError."""
        return _sample(self.image(k), self.plan, self.cube_range)

    def shared(self) -> Iterator[Sample]:
        """The slices that ``--adapt cube`` takes its steps on; none with another ``--adapt``."""
        adapting = self.plan.settings.adapt
        if adapting.mode is Adapting.CUBE:
            samples = map(self.sample, spread_over(self.plan.slices, adapting.cube_slices))
            yield from (sample for sample in samples if sample is not None)


class Executor(Protocol):
    """What solves the slices of a job: this process, or workers (pipeline.workers)."""

    def host(self, name: str) -> torch.device:
        """The device on which this process keeps weights where ``name`` is asked for. Raises
        DeviceError."""
        ...

    def adopted(self, plan: Plan) -> Plan:
        """The plan with the device and the precision of where it will be carried out."""
        ...

    def facts(self, plan: Plan) -> dict[str, Any]:
        """Where it was carried out, for the provenance."""
        ...

    def solve(self, job: Job) -> Generator[Solved]:
        """Each slice that is still to do, once, in any order. Raises MzsrError."""
        ...


class PlaneSolver(Protocol):
    """What turns LR planes into HR planes: a Solver, or a method of the benchmark."""

    def solve(self, sample: Sample, index: int) -> tuple[torch.Tensor, SliceReport]:
        """See Solver.solve."""
        ...


def solve_one(solver: PlaneSolver, task: Task, plan: Plan, cube_range: Range | None) -> Solved:
    """A slice to its result in the dtype of the result."""
    begin = time.monotonic()
    result, report = solve_slice(solver, task.image, task.k, plan, cube_range)
    return Solved(task.position, task.k, result, report, time.monotonic() - begin)


def solve_slice(
    solver: PlaneSolver, image: NDArray[Any], k: int, plan: Plan, cube_range: Range | None
) -> tuple[NDArray[Any], SliceReport]:
    """One LR slice (h, w) in its own units to HR (H, W) of the plan's dtype, normalised there and
    back."""
    planes = planes_of(image)
    sample = _sample(image, plan, cube_range)
    if sample is None:
        constant = np.broadcast_to(planes[:, :1, :1], (len(planes), *plan.shape[:2]))
        return cast(slice_of(constant), plan.out.dtype), SliceReport(
            "constant", beyond=_beyond(planes, plan)
        )
    tensor, report = solver.solve(sample, k)
    mapping = _mapping(planes, plan, cube_range)
    report.bounds = report.bounds.in_units(mapping)
    report.beyond = _beyond(planes, plan)
    limits = _limits(planes, report, plan)
    high = tensor.cpu().numpy()
    _check_result(high, plan, k)
    return restored(high, mapping, plan.out.dtype, limits), report


def _limits(
    planes: NDArray[np.float64], report: SliceReport, plan: Plan
) -> tuple[float, float] | None:
    """What a result is cut to in its own units: the slice's range (``--clip``) and bounds that were
    given and kept, beyond which it lies by its mapping's rounding. None where there are none."""
    low, high = -math.inf, math.inf
    if plan.settings.clip:
        low, high = float(planes.min()), float(planes.max())
    given = plan.settings.bounds
    if report.bounds and given.low is not None:
        low = max(low, given.low)
    if report.bounds and given.high is not None:
        high = min(high, given.high)
    return None if (low, high) == (-math.inf, math.inf) else (low, high)


def _check_result(high: NDArray[np.float32], plan: Plan, k: int) -> None:
    """Raises InputError where the result holds NaN or Inf: its values went beyond what the
    arithmetic holds."""
    if not np.isfinite(high).all():
        raise InputError(
            f"{plan.source}: slice {k} cannot be computed: its values (or their span) are beyond "
            "what single precision holds. Scale them, or leave out --normalize none."
        )


def _beyond(planes: NDArray[np.float64], plan: Plan) -> bool:
    """Whether samples lie farther beyond bounds that were given than antialiasing rings."""
    how = plan.settings.bounds
    if not how.given or plan.method is not Method.MZSR:
        return False
    margin = how.rings * float(np.ptp(planes))
    return bool(
        (how.low is not None and planes.min() < how.low - margin)
        or (how.high is not None and planes.max() > how.high + margin)
    )


def _mapping(planes: NDArray[Any], plan: Plan, cube_range: Range | None) -> Range:
    return cube_range or slice_range(planes, plan.settings.normalize)


def _sample(image: NDArray[Any], plan: Plan, cube_range: Range | None) -> Sample | None:
    """One LR slice (h, w), normalised; None where it is constant."""
    planes = planes_of(image)
    mapping = _mapping(planes, plan, cube_range)
    if mapping.span == 0:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # the result is looked at
        low = torch.from_numpy(mapping.forward(planes).astype(np.float32))
    zero = mapping.zero(planes) if not plan.stored.image else None
    signed = len(planes) > 1 or planes.min() < 0 < planes.max()
    bounds = _bounds(mapping, planes, plan)
    span = mapping.span if not plan.stored.image and len(planes) == 1 else None
    return Sample(low, plan.stored.rounding / mapping.span, zero, bounds, bool(signed), span)


def _bounds(mapping: Range, planes: NDArray[np.float64], plan: Plan) -> Bounds:
    """Between what the fine slice of LR ``planes`` (P, h, w) lies, normalised: bounds that were
    given, or the ends of what its samples can hold and plateaus where samples are means (others
    gain nothing by them). None but for ``mzsr``."""
    how = plan.settings.bounds
    given = Bounds(how.low, how.high)
    if plan.method is not Method.MZSR:
        return UNBOUNDED
    if how.given or not (how.search and plan.settings.consistency.enabled):
        return given.normalised(mapping)
    known = plan.stored.limits.normalised(mapping)
    if plan.stored.image or not plan.mixes:
        return known
    grain = plan.stored.grain(float(np.abs(planes).max()), mapping.span)
    return known.within(plateaus(mapping.forward(planes), plan.rings, grain, how.plateau))


def finite(image: NDArray[Any], plan: Plan, k: int) -> NDArray[Any]:
    """The slice without NaN and Inf. Raises InputError where they are not to be replaced."""
    bad = ~np.isfinite(image)
    if not bad.any():
        return image
    if bad.all():
        raise InputError(
            f"{plan.source}: slice {k} holds no finite sample, so there is nothing to fill it "
            "from. Leave it out with --slices."
        )
    if plan.settings.nan is NanPolicy.ERROR:
        row, column = (int(v[0]) for v in np.nonzero(bad))
        raise InputError(
            f"{plan.source}: slice {k} has {int(bad.sum())} NaN or Inf samples (the first at row "
            f"{row}, column {column}). Type --nan interpolate to fill them from their neighbours."
        )
    return np.asarray(filled(image))
