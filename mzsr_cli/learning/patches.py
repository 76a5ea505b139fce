"""Training data: HR slices in memory, and the tasks that are drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor

import numpy as np
import torch
from numpy.typing import NDArray

from mzsr_cli.errors import InputError
from mzsr_cli.imaging import degrade, gate, hints, kernels, start
from mzsr_cli.imaging.bounds import UNBOUNDED, Bounds
from mzsr_cli.imaging.resize import enlarged
from mzsr_cli.imaging.stages import stage_scales
from mzsr_cli.learning.inner import Pair
from mzsr_cli.settings import (
    LR_PATCH_MIN,
    ConsistencySettings,
    DegradationMix,
    GateSettings,
    Sampling,
    StageSettings,
    TaskSettings,
    WienerSettings,
)

Planes = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """One folder of images or one cube: HR slices (P, H, W), float32 in [0, 1].

    ``rounded`` says that the values are 8-bit levels, so that LR ones are rounded too; ``zeros``
    is, for each slice of magnitudes, what 0 has become (None for other data), ``bounds`` between
    what each slice lies. ``numbers`` are the slices' places in the cube, which has ``count``: some
    may be unusable.
    """

    name: str
    slices: list[Planes]
    rounded: bool
    zeros: list[float | None] = field(default_factory=list)
    bounds: list[Bounds] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    count: int = 0

    @property
    def places(self) -> list[int]:
        """``numbers``, or those of slices that are all of them."""
        return self.numbers or list(range(len(self.slices)))

    def zero(self, index: int) -> float | None:
        """What 0 has become in slice ``index``."""
        return self.zeros[index] if self.zeros else None

    def bound(self, index: int) -> Bounds:
        """Between what slice ``index`` lies."""
        return self.bounds[index] if self.bounds else UNBOUNDED


@dataclass(frozen=True)
class Task:
    """A degradation, the query pair (LR to HR) and, for meta-training, the support pair (son
    to LR), both of one crop. Of the starting image, ``base_error`` is the mean absolute error and
    ``base_square`` the mean square. ``before`` are the stages before the query's, whose truth is
    not known (their start takes its place); the query itself where it is to be refined."""

    source: str
    query: Pair
    support: Pair | None
    base_error: float
    base_square: float = 0.0
    before: tuple[Pair, ...] = ()


@dataclass(frozen=True)
class Physics:
    """The settings that turn an LR image into a pair."""

    consistency: ConsistencySettings
    wiener: WienerSettings
    gate: GateSettings
    guides: bool = False
    """Whether the network wants guides."""


def pair_from(
    high: torch.Tensor,
    low: torch.Tensor,
    consistency: degrade.Consistency,
    zero: float | None,
    p: Physics,
) -> Pair:
    """The pair of LR planes ``low`` (P, h, w) and their truth ``high`` (P, H, W). Where the
    starting image leaves nothing to learn, the network is not trusted."""
    operator = consistency.operator
    begin = start.starting_image(operator, low, consistency, p.wiener, zero)
    trust = 0.0 if begin.complete else gate.slice_trust(begin.image, operator.scale, p.gate)
    used = consistency if p.consistency.enabled else None
    told = told_of(begin, low, consistency, p.guides)
    return Pair(begin.image[:, None], high[:, None], used, trust, told)


def told_of(
    begin: start.Start, low: torch.Tensor, consistency: degrade.Consistency, guides: bool
) -> hints.Hints:
    """The hints that go with a starting image of LR planes ``low`` (P, h, w)."""
    operator = consistency.operator
    shown = hints.guides(operator, low, consistency, begin.image) if guides else None
    return hints.Hints(shown, hints.facts(operator, begin.expected, consistency.noise))


def son_pair(
    low: torch.Tensor, consistency: degrade.Consistency, zero: float | None, p: Physics
) -> Pair:
    """The pair that a slice gives of itself: its son by the operator of ``consistency``, and the
    LR planes (P, h, w) as truth."""
    son = rounded(consistency.operator.apply(low), consistency.noise)
    return pair_from(low, son, consistency, zero, p)


ROUNDING = 12**-0.5
"""Standard deviation of rounding to whole levels, in levels."""


def rounded(planes: torch.Tensor, noise: float) -> torch.Tensor:
    """Planes rounded to the levels whose rounding noise is ``noise``; 0 leaves them alone."""
    level = noise / ROUNDING
    return (planes / level).round() * level if level > 0 else planes


EIGHT_BIT_NOISE = ROUNDING / 255
"""Rounding noise of 8-bit images in units of their range."""


class TaskMaker:
    """Draws tasks; a task depends on (seed, iteration, index) alone."""

    def __init__(
        self, sources: list[Source], settings: TaskSettings, physics: Physics, seed: int
    ) -> None:
        if not any(source.slices for source in sources):
            raise InputError("training data: no usable slices. Name folders of images or cubes.")
        self.sources = [source for source in sources if source.slices]
        self.settings = settings
        self.physics = physics
        self.seed = seed
        self.stages = StageSettings()
        self._known = lru_cache(4 * settings.kernel_pool)(self._consistency)

    def _consistency(
        self, drawn: tuple[float, int], sampling: Sampling, side: tuple[int, int], noise: float
    ) -> degrade.Consistency:
        """The projection for kernel ``drawn`` = (scale, number in the pool; -1: none)."""
        scale, number = drawn
        rng = np.random.default_rng([self.seed, number + 1, round(scale * 1000)])
        draw = self.settings.kernels
        kernel = kernels.random_blur(rng, scale, draw) if number >= 0 else kernels.delta()
        operator = degrade.degradation(kernel, sampling, (scale, scale), side)
        return degrade.Consistency(operator, self.physics.consistency, noise)

    def task(self, iteration: int, index: int, support: bool) -> Task:
        """Task ``index`` of ``iteration``; with the support pair if ``support``."""
        rng = np.random.default_rng([self.seed, iteration, index])
        source = self.sources[rng.integers(len(self.sources))]
        which = int(rng.integers(len(source.slices)))
        planes, zero = source.slices[which], source.zero(which)
        scale = float(rng.choice(self.settings.scales))
        crop = _augmented(_crop(planes, scale, self.settings.patch, rng), rng)
        number, sampling = self._degradation(rng)
        levels = source.rounded and rng.random() < self.settings.rounded_fraction
        noise = EIGHT_BIT_NOISE if levels else 0.0

        def known(side: tuple[int, int]) -> degrade.Consistency:
            return self._known((scale, number), sampling, side, noise)

        kept = rng.random() < self.settings.bounded_fraction
        bounds = source.bound(which) if kept else UNBOUNDED
        task = self._made(source.name, crop, known, zero, support, bounds)
        if task.query.trust == 0 or not self.physics.consistency.enabled:
            return task
        if number < 0 and rng.random() < self.settings.staged_fraction:
            task = self._staged(task, zero)
        if bounds and task.query.bounds and rng.random() < self.settings.refined_fraction:
            task = replace(task, before=(*task.before, task.query))
        return task

    def _staged(self, task: Task, zero: float | None) -> Task:
        """A task without blur whose scale is reached in stages, as at test time."""
        query = task.query
        assert query.consistency is not None
        final = query.consistency.operator
        low = rounded(final.apply(query.truth[:, 0]), query.consistency.noise)
        before = []
        for scale in stage_scales(final.scale, self.stages.factor_max)[:-1]:
            sides = [enlarged(n, s) for n, s in zip(low.shape[-2:], scale, strict=True)]
            consistency = self._known(
                (scale[0], -1), final.sampling, (sides[0], sides[1]), query.consistency.noise
            )
            pair = pair_from(low, low, consistency, zero, self.physics)
            before.append(replace(pair, truth=pair.start, bounds=query.bounds))
        return replace(task, before=tuple(before))

    def _degradation(self, rng: np.random.Generator) -> tuple[int, Sampling]:
        """A kernel's number in the pool (-1: no blur) and a sampling."""
        if self.settings.mix is DegradationMix.BICUBIC:
            return -1, Sampling.BICUBIC
        direct = rng.random() < self.settings.direct_fraction
        blurred = rng.random() < self.settings.kernels.blurred_fraction
        number = int(rng.integers(self.settings.kernel_pool)) if blurred else -1
        return number, Sampling.DIRECT if direct else Sampling.BICUBIC

    def make(
        self,
        name: str,
        crop: Planes,
        kernel: kernels.Kernel,
        sampling: Sampling,
        scale: float,
        noise: float,
        zero: float | None,
        support: bool,
        bounds: Bounds = UNBOUNDED,
    ) -> Task:
        """The task of one HR crop (P, H, W) with a kernel of one's own."""

        def known(side: tuple[int, int]) -> degrade.Consistency:
            operator = degrade.degradation(kernel, sampling, (scale, scale), side)
            return degrade.Consistency(operator, self.physics.consistency, noise)

        return self._made(name, crop, known, zero, support, bounds)

    def _made(
        self,
        name: str,
        crop: Planes,
        known: Callable[[tuple[int, int]], degrade.Consistency],
        zero: float | None,
        support: bool,
        bounds: Bounds,
    ) -> Task:
        """The task of an HR crop (P, H, W); ``known`` gives the projection for HR sides. Only the
        query keeps within bounds (LR samples ring beyond them), where samples are means."""
        high = torch.from_numpy(np.ascontiguousarray(crop))
        consistency = known((high.shape[-2], high.shape[-1]))
        low = rounded(consistency.operator.apply(high), consistency.noise)
        query = pair_from(high, low, consistency, zero, self.physics)
        if consistency.operator.mixes:
            query = replace(query, bounds=bounds)
        own = None
        if support:
            own = son_pair(low, known((low.shape[-2], low.shape[-1])), zero, self.physics)
        error = query.start - query.truth
        return Task(name, query, own, float(error.abs().mean()), float(error.square().mean()))


def _crop(planes: Planes, scale: float, side: int, rng: np.random.Generator) -> Planes:
    """A random crop of at most ``side``, whose sides are whole numbers of LR pixels where that
    does not cost one of the LR_PATCH_MIN."""
    extent = [_extent(min(side, n), scale) for n in planes.shape[1:]]
    corner = [rng.integers(n - e + 1) for n, e in zip(planes.shape[1:], extent, strict=True)]
    plane = rng.integers(len(planes))
    rows, cols = (slice(c, c + e) for c, e in zip(corner, extent, strict=True))
    return planes[plane : plane + 1, rows, cols]


def _extent(side: int, scale: float) -> int:
    """The largest whole number of LR pixels in ``side``, or all of it."""
    unit = Fraction(scale).limit_denominator(8).numerator
    whole, least = side // unit * unit, LR_PATCH_MIN * scale
    return side if whole == 0 or whole < least <= side else whole


def _augmented(planes: Planes, rng: np.random.Generator) -> Planes:
    """One of the eight symmetries of the square."""
    turned = np.rot90(planes, int(rng.integers(4)), axes=(1, 2))
    return turned[:, :, ::-1] if rng.random() < 0.5 else turned


def detailed_window(planes: torch.Tensor, side: int) -> torch.Tensor:
    """The window of planes (P, H, W) with the most detail (largest sum of squared differences), of
    at most ``side`` pixels along each axis."""
    height, width = (min(side, n) for n in planes.shape[-2:])
    if (height, width) == tuple(planes.shape[-2:]):
        return planes
    detail = torch.zeros(planes.shape[-2:], dtype=torch.float64, device=planes.device)
    detail[1:] += (planes[:, 1:] - planes[:, :-1]).double().square().sum(0)
    detail[:, 1:] += (planes[:, :, 1:] - planes[:, :, :-1]).double().square().sum(0)
    table = torch.nn.functional.pad(detail.cumsum(0).cumsum(1), (1, 0, 1, 0))
    sums = (
        table[height:, width:] - table[:-height, width:]
        - table[height:, :-width] + table[:-height, :-width]
    )  # fmt: skip
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return planes[:, top : top + height, left : left + width]


def check_patch(settings: TaskSettings, sources: Sequence[Source] = ()) -> None:
    """Raises InputError where an LR patch would be too small to learn from, because of the patch or
    of a source's slices, and where no slice holds a patch. Patches are cut to smaller slices."""
    for scale in settings.scales:
        if settings.patch < LR_PATCH_MIN * scale:
            raise InputError(
                f"--patch {settings.patch}: LR patches at scale {scale:g} have fewer than "
                f"{LR_PATCH_MIN} pixels. Type --patch {ceil(LR_PATCH_MIN * scale)} or more."
            )
    sides = {s.name: [min(p.shape[1:]) for p in s.slices] for s in sources if s.slices}
    for name, found in sides.items():
        _check_sides(name, min(found), max(settings.scales))
    largest = max((max(found) for found in sides.values()), default=settings.patch)
    if settings.patch > largest:
        raise InputError(
            f"--patch {settings.patch}: larger than the slices of {', '.join(sides)}. Type --patch "
            f"{largest} or less."
        )


def _check_sides(name: str, side: int, scale: float) -> None:
    """Raises InputError where slices of a ``side`` are too small at the largest ``scale``."""
    if side < LR_PATCH_MIN * scale:
        raise InputError(
            f"{name}: slices with a side of {side} have fewer than {LR_PATCH_MIN} LR pixels at "
            f"scale {scale:g}. Type --scale {floor(10 * side / LR_PATCH_MIN) / 10:g} at most, or "
            "leave it out."
        )
