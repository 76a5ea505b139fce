"""From LR planes to HR planes, by any method: the stages, the starts, the network, the check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from mzsr_cli.imaging import degrade, gate, hints, kernels, resize, start
from mzsr_cli.imaging.bounds import UNBOUNDED, Bounds, keep_, share_beside
from mzsr_cli.imaging.products import Products
from mzsr_cli.imaging.symmetries import ensemble
from mzsr_cli.learning import networks, runtime
from mzsr_cli.learning.adapt import (
    NETWORK,
    START,
    Adapted,
    Verdict,
    adapt,
    cosine,
    informs,
    learned,
    no_verdict,
    prefers,
    share_of,
    tiled_residual,
    verdict,
    window_side,
)
from mzsr_cli.learning.grids import Grids, Stage
from mzsr_cli.learning.inner import Pair, Parameters, predict_pair
from mzsr_cli.learning.patches import Physics, detailed_window, rounded, son_pair
from mzsr_cli.learning.seen import Answered, Changed, OnStage, Seen, Whole
from mzsr_cli.learning.trust import Claim, audible_share, hopeful_share, kept_share
from mzsr_cli.learning.weights import Weights
from mzsr_cli.learning.zssr import Zssr
from mzsr_cli.settings import (
    BACK_PROJECTIONS,
    Adapting,
    Method,
    Precision,
    Sampling,
    UpscaleSettings,
)

CLASSICAL = (
    Method.WIENER,
    Method.BANDLIMITED,
    Method.SPLINE,
    Method.BICUBIC,
    Method.BACK_PROJECTION,
)
"""Methods without learning, in order of preference."""


TILE_MIN = 32
"""Smallest side of a tile that is tried, in pixels of the network's grid."""


def classical(
    method: Method,
    operator: degrade.Degradation,
    planes: torch.Tensor,
    consistency: degrade.Consistency,
    settings: UpscaleSettings,
    zero: float | None = None,
    span: float | None = None,
) -> torch.Tensor:
    """LR planes (P, h, w) to HR (P, H, W) by one of CLASSICAL. ``zero`` is what 0 has become
    where the planes are magnitudes, ``span`` their unit where they may be levels."""
    if method is Method.WIENER:
        how = settings.wiener
        return start.starting_image(operator, planes, consistency, how, zero, span).image
    if method is Method.BACK_PROJECTION:
        first = operator.interpolate(planes, Method.BICUBIC, 0.0)
        return degrade.back_projection(operator, planes, first, BACK_PROJECTIONS)
    return operator.interpolate(planes, method, consistency.damping)


@dataclass(frozen=True)
class Sample:
    """LR planes (P, h, w) in [0, 1], the standard deviation of their rounding in the same units,
    what 0 has become where they are magnitudes, between what the fine slice lies, whether it
    is complex or has both signs (waves), and what one unit of the planes is in the data's own
    (None where those cannot be levels in dB)."""

    planes: torch.Tensor
    noise: float
    zero: float | None = None
    bounds: Bounds = UNBOUNDED
    signed: bool = False
    span: float | None = None


@dataclass
class SliceReport:
    """What happened to a slice (goes into the provenance)."""

    method: str
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    check: Verdict | None = None
    trust: float = 1.0
    tile: int | None = None
    """Side of the tiles where memory did not suffice for those asked for."""
    bounds: Bounds = UNBOUNDED
    """Between what the result was kept, in units of the planes, then in the cube's own."""
    refined: float | None = None
    """Part of what a second look changed that was taken."""
    weights: str | None = None
    """Name of the second weights where these have answered."""
    beyond: bool = False
    """Whether samples lie clearly beyond the bounds that were given."""

    @property
    def answered(self) -> bool:
        """Whether a network has added something."""
        return self.method == str(Method.MZSR) and self.trust > 0

    @property
    def did(self) -> str:
        """The method, and the second weights where these have answered."""
        return self.method if self.weights is None else f"{self.method} ({self.weights})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        report: dict[str, Any] = {"method": self.method}
        if self.weights is not None:
            report["weights"] = self.weights
        if self.losses:
            report |= {"steps": self.steps, "loss": [self.losses[0], min(self.losses)]}
        if self.losses or self.check is not None:
            report["trust"] = round(self.trust, 4)
        if self.bounds:
            report["bounds"] = [self.bounds.low, self.bounds.high]
        if self.beyond:
            report["beyond"] = True
        if self.refined is not None:
            report["refined"] = round(self.refined, 3)
        if self.tile is not None:
            report["tile"] = self.tile
        if self.check is not None:
            report["check"] = {
                "informative": self.check.informative,
                "hopeless": self.check.hopeless,
                "share": round(self.check.share, 3),
                "nmse_db": {name: round(v, 2) for name, v in self.check.nmse.items()},
            }
        return report


@dataclass(frozen=True)
class Evidence:
    """The pairs (son, LR) of a slice: its ``own``, to adapt to, and a larger one that is
    ``checked``, at a ``stage`` of its own, with what the start and classical methods, its
    ``rivals``, make of the son. ``heard`` says whether the network is listened to at all."""

    own: Pair
    checked: Pair
    stage: Stage
    rivals: dict[str, torch.Tensor]
    heard: bool


@dataclass(frozen=True)
class Lesson:
    """What a network has taken from a slice's pair: its ``parameters``, what it adds with them to
    the start of the pair that is checked (P, h, w; 0 where it is not listened to), after how many
    ``steps``, and the loss before each."""

    parameters: Parameters
    change: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    steps: int = 0
    losses: list[float] = field(default_factory=list)

    @staticmethod
    def of(adapted: Adapted) -> Lesson:
        """What steps have come to."""
        return Lesson(adapted.parameters, steps=adapted.kept, losses=adapted.losses)


class Solver:
    """Everything that is the same for all slices of a cube; ``solve`` does one slice.

    A slice's result depends on the slice, the settings, the seed and the slice index alone.
    ``second`` weights answer in the place of the first where they are nearer to the slice's pair.
    """

    def __init__(
        self,
        lr_shape: tuple[int, int],
        scale: tuple[float, float],
        hr_shape: tuple[int, int],
        kernel: kernels.Kernel,
        method: Method,
        weights: Weights | None,
        settings: UpscaleSettings,
        precision: Precision,
        device: torch.device,
        second: Weights | None = None,
    ) -> None:
        self.lr_shape, self.hr_shape, self.scale = lr_shape, hr_shape, scale
        self.kernel = kernel
        self.method = method
        self.weights = weights
        self.settings = settings
        self.precision = precision
        self.device = device
        self.tiles = settings.tiles
        """Smaller than the settings' once memory did not suffice."""
        self.grids = Grids(
            lr_shape, scale, hr_shape, kernel, self._longest_factors(), settings, device
        )
        self._parameters: Parameters = weights.parameters() if weights is not None else {}
        self._together: Adapted | None = None
        self.second: Solver | None = None
        if second is not None:
            self.second = type(self)(
                lr_shape, scale, hr_shape, kernel, method, second, settings, precision, device
            )

    def _longest_factors(self) -> tuple[float, float]:
        """The largest factor of gradual stages (what the settings allow and the weights know), and
        the largest that the weights have been trained for."""
        allowed = self.settings.stages.factor_max
        known = self.weights.facts.get("scales") if self.weights is not None else None
        longest = max(float(s) for s in known or [allowed])
        if self.method is Method.ZSSR:
            return self.settings.zssr.factor_max, longest
        if self.weights is None:
            return max(self.scale), longest
        return min(allowed, longest), longest

    def beside(self) -> Solver:
        """Another solver with the same parameters, to solve other slices at the same time."""
        weights = self.weights
        if weights is not None:
            weights = replace(weights, network=deepcopy(weights.network))
        other = Solver(
            self.lr_shape, self.scale, self.hr_shape, self.kernel, self.method, weights,
            self.settings, self.precision, self.device,
        )  # fmt: skip
        other.second = self.second.beside() if self.second is not None else None
        other._parameters, other._together = self._parameters, self._together
        return other

    @property
    def _untouched(self) -> Parameters:
        assert self.weights is not None
        return self.weights.parameters()

    @property
    def _network(self) -> networks.Network:
        assert self.weights is not None
        return self.weights.network

    # -- one slice --------------------------------------------------------------------------

    def solve(self, sample: Sample, index: int) -> tuple[torch.Tensor, SliceReport]:
        """A sample's planes to HR (P, H, W); ``index`` is the slice's number (for the seed)."""
        planes, noise, zero = sample.planes.to(self.device), sample.noise, sample.zero
        if self.method is Method.ZSSR:
            return self._zssr(planes, index, noise)
        if self.method is Method.MZSR:
            return self._mzsr(replace(sample, planes=planes))
        last = self.grids.stages(noise)[-1]
        image = classical(
            self.method, last.operator, planes, last.consistency, self.settings, zero, sample.span
        )
        return image, SliceReport(str(self.method))

    def _zssr(
        self, planes: torch.Tensor, index: int, noise: float
    ) -> tuple[torch.Tensor, SliceReport]:
        rng = np.random.default_rng([self.settings.seed, index])
        network = networks.build(self.settings.network, int(rng.integers(2**31)))
        network.to(self.device)
        zssr = Zssr(
            network,
            kernels.shrunk(self.kernel, max(self.scale) / max(self.grids.stages(noise)[0].factor)),
            self.settings.sampling,
            self.settings.zssr,
            self.precision,
            self.settings.tiles,
            rng,
        )
        fathers, image = [planes], planes
        for stage in self.grids.stages(noise):
            zssr.train(fathers, stage.factor)
            step = degrade.Degradation(
                zssr.kernel,
                self.settings.sampling,
                stage.factor,
                stage.operator.hr_shape,
                (image.shape[-2], image.shape[-1]),
                self.device,
            )
            image = zssr.enlarge(image, step)
            fathers.append(image)
        return image, SliceReport("zssr", steps=zssr.iterations)

    def _mzsr(self, sample: Sample) -> tuple[torch.Tensor, SliceReport]:
        """Algorithm 2 through the stages, within the sample's bounds."""
        if self.weights is None:
            raise ValueError("the method mzsr needs weights")
        planes, stages = sample.planes, self.grids.stages(sample.noise)
        # 1. The linear answer on the last grid; done where it leaves nothing to learn.
        final = self._start(stages[-1], planes, sample.zero, sample.span)
        if final.complete:
            report = SliceReport("mzsr", trust=0.0)
            return self._bounded(stages[-1], sample, final.image, report), report
        # 2. What can be learned of the slice from its pair (son, LR), and the network to do so.
        heard = self._heard(final, sample, stages)
        evidence = self._evidence(sample, stages[0], heard)
        # 3. Adapt to the pair of the most detailed window.
        nearer, lesson = self, self._lesson(evidence)
        if self._gives_way(evidence, sample, final, lesson) and self.second is not None:
            nearer, lesson = self.second, self.second._lesson(evidence)
        image, report = nearer._answer(sample, final, evidence, lesson)
        if nearer is not self and nearer.weights is not None and report.answered:
            report.weights = nearer.weights.name
        return image, report

    def _answer(
        self, sample: Sample, final: start.Start, evidence: Evidence | None, lesson: Lesson
    ) -> tuple[torch.Tensor, SliceReport]:
        """What the network makes of a sample and the ``final`` linear answer after a ``lesson``."""
        planes, noise, zero = sample.planes, sample.noise, sample.zero
        stages, parameters = self.grids.stages(noise), lesson.parameters
        report = SliceReport("mzsr", steps=lesson.steps, losses=lesson.losses)
        # 4. Check on a larger pair.
        report.check = self._check(evidence, lesson.change, final.two_sided)
        if report.check is not None and report.check.overruled:
            image, report.method = self._classical(report.check.chosen, stages[-1], planes, zero)
            return self._bounded(stages[-1], sample, image, report), report
        # 5. Super-resolve, gradually where the slice resembles its son.
        gradual = report.check is None or report.check.gradual
        stages = self.grids.stages(noise, gradual)
        added = self._added(parameters, sample, stages, final, report)
        # 6. Keep within bounds; where there are some, let a network that gains see that once more.
        image = self._bounded(stages[-1], sample, added.add_(final.image), report)
        if report.bounds and gradual and self._refines and report.trust > 0:
            report.refined = report.trust * self._refinement(parameters, sample, stages[0])
            seen = self._seen(planes, final, None, stages[-1])
            facts = hints.facts(stages[-1].operator, final.expected, noise)
            looks = self.settings.bounds.refinements if report.refined > 0 else 0
            for _ in range(looks):
                self._refine_(parameters, sample, stages[-1], seen, facts, image, report.refined)
        if self.tiles != self.settings.tiles:
            report.tile = self.tiles.side
        return image, report

    def _bounded(
        self, stage: Stage, sample: Sample, image: torch.Tensor, report: SliceReport
    ) -> torch.Tensor:
        """The ``image`` (P, H, W) within the sample's bounds, in place; notes them."""
        if self._keep_(stage, sample, image):
            report.bounds = sample.bounds
        return image

    def _keep_(self, stage: Stage, sample: Sample, image: torch.Tensor, sure: bool = False) -> bool:
        """Keep a stage's ``image`` (P, H, W) within the sample's bounds, in place, where it can
        be or they are ``sure``."""
        how = self.settings.bounds
        return keep_(stage.consistency, sample.planes, image, sample.bounds, how, sure)

    @property
    def _refines(self) -> bool:
        """Whether the network has learned to see its answer within bounds, and gains by it."""
        known = self.weights is not None and self.weights.facts.get("refines")
        worth = max(self.scale) <= self.settings.bounds.refined_scale
        return bool(known) and worth and self.settings.consistency.enabled

    def _refine_(
        self,
        parameters: Parameters,
        sample: Sample,
        stage: Stage,
        seen: Seen,
        facts: torch.Tensor | None,
        image: torch.Tensor,
        share: float,
    ) -> None:
        """Make of an answer within bounds, ``image`` (P, H, W), what the network makes of that,
        within bounds, in place. ``seen`` is what it saw before, the linear answer."""
        change = self._change(parameters, Answered(seen, image), stage, facts).mul_(share)
        linear = seen.image(*[slice(None)] * 3)
        image.sub_(linear).add_(change)
        stage.consistency.free_(image)  # bounds are kept to, samples nearly
        self._keep_(stage, sample, image.add_(linear), sure=True)

    def _refinement(self, parameters: Parameters, sample: Sample, stage: Stage) -> float:
        """Part of what a second look changes that is right on the pair (son, LR), 0 to 1: its
        least-squares share, as with the first."""
        check = self.settings.check
        larger = detailed_window(sample.planes, check.window)
        checked = self._son_pair(larger, stage, sample.noise, sample.zero)
        if checked is None or not check.enabled:
            return 1.0
        pair, own = checked
        truth, begin = pair.truth[:, 0], pair.start[:, 0]
        son = replace(sample, planes=rounded(own.operator.apply(truth), sample.noise))
        seen, facts = Whole(begin, pair.hints.guides), pair.hints.facts
        once = begin + pair.trust * self._change(parameters, seen, own, facts)
        self._keep_(own, son, once, sure=True)
        twice = once.clone()
        self._refine_(parameters, son, own, seen, facts, twice, pair.trust)
        return min(1.0, share_of(twice - once, truth - once) / check.share_full)

    # -- several slices ---------------------------------------------------------------------

    def learn(self, slices: Iterable[Sample]) -> None:
        """Adapt the parameters to the pairs (son, LR) of ``slices`` together; every slice that is
        solved after begins and ends with them. Does nothing for methods without weights."""
        if self.weights is None or self.settings.adapt.steps == 0:
            return
        pairs = [pair for pair in map(self._pair_of, slices) if pair is not None]
        if pairs:
            self._together = self._adapt(self._parameters, pairs)
            self._parameters = self._together.parameters

    def follow(self, sample: Sample) -> None:
        """Let the parameters go on from a slice that needs no solving any more (``warm``)."""
        pair = self._pair_of(sample) if self.weights is not None else None
        if pair is not None and self.settings.adapt.steps > 0:
            self._parameters = self._adapt(self._parameters, [pair]).parameters

    def _pair_of(self, sample: Sample) -> Pair | None:
        """What a slice is adapted to; None where its start leaves nothing to learn, the son is
        too small or steps are not worthwhile."""
        sample = replace(sample, planes=sample.planes.to(self.device))
        planes, stages = sample.planes, self.grids.stages(sample.noise)
        final = self._start(stages[-1], planes, sample.zero, sample.span)
        if final.complete or not self._heard(final, sample, stages):
            return None
        evidence = self._evidence(sample, stages[0], heard=True)
        if evidence is None:
            return None
        direct = self.settings.sampling is Sampling.DIRECT
        if self.settings.check.enabled and direct and not self._tells(evidence):
            return None  # aliases change from scale to scale
        return evidence.own

    # -- one stage after the other ----------------------------------------------------------

    def _added(
        self,
        parameters: Parameters,
        sample: Sample,
        stages: list[Stage],
        final: start.Start,
        report: SliceReport,
    ) -> torch.Tensor:
        """What the network adds (P, H, W) to ``final``, the linear answer on the last grid: linear
        answer, network, consistency, bounds, stage by stage (no bounds on the last). Notes the
        trust."""
        planes, zero, check = sample.planes, sample.zero, report.check
        share = check.share if check is not None else 1.0
        before: torch.Tensor | None = None
        for stage in stages:
            linear = final if stage is stages[-1] else self._start(stage, planes, zero)
            carried = self._carried(before, stage)
            trust = self._trust(linear, sample, stage)
            if share * trust > 0:
                seen = self._seen(planes, linear, carried, stage)
                facts = hints.facts(stage.operator, linear.expected, stage.consistency.noise)
                added = self._change(parameters, seen, stage, facts).mul_(share * trust)
            else:
                added = torch.zeros_like(linear.image)
            if carried is not None:
                carried.add_to(added)
                if self.settings.consistency.enabled:
                    stage.consistency.free_(added)
            if check is not None and check.unsupported:
                claim, where = Claim.of(linear, planes), stage.operator
                how = where.sampling, max(where.scale), self.settings.check
                kept = kept_share(added, claim, check.hopeless, *how)
                if sample.signed and not check.hopeless:
                    kept *= hopeful_share(claim, self.settings.check)
                added, share = added.mul_(kept), share * kept
            report.trust = share * trust
            if sample.bounds and stage is not stages[-1]:
                image = added + linear.image
                if self._keep_(stage, sample, image):
                    added.lerp_(image.sub_(linear.image), self.settings.bounds.between)
            before = added
        return added

    def _trust(self, linear: start.Start, sample: Sample, stage: Stage) -> float:
        """Share, 0 to 1, of what the network says to the ``linear`` answer of a stage that is
        listened to: none where the slice's spectrum leaves nothing to predict, or, of waves, where
        next to no error is expected."""
        trust = gate.slice_trust(linear.image, stage.operator.scale, self.settings.gate)
        if not sample.signed:
            return trust
        claim, where = Claim.of(linear, sample.planes), stage.operator
        return trust * audible_share(claim, where.sampling, max(where.scale), self.settings.check)

    def _heard(self, final: start.Start, sample: Sample, stages: list[Stage]) -> bool:
        """Whether the network is listened to in one stage; in several it is not known yet."""
        return len(stages) > 1 or self._trust(final, sample, stages[-1]) > 0

    def _carried(self, before: torch.Tensor | None, stage: Stage) -> start.Carried | None:
        """What was added in the stage ``before``, on the grid of ``stage``."""
        if before is None:
            return None
        return start.carried(before, stage.operator.hr_shape, stage.factor, self.settings.sampling)

    def _seen(
        self,
        planes: torch.Tensor,
        linear: start.Start,
        carried: start.Carried | None,
        stage: Stage,
    ) -> OnStage:
        """What the network is shown of a stage's ``linear`` answer from LR planes (P, h, w)."""
        shown: tuple[Products, ...] = ()
        if self._network.guides:
            shown = hints.guide_images(stage.operator, planes, stage.consistency)
        return OnStage(linear.image, carried, shown)

    def _classical(
        self, chosen: str, stage: Stage, planes: torch.Tensor, zero: float | None
    ) -> tuple[torch.Tensor, str]:
        """The answer (P, H, W) of the method that the check has ``chosen``, and its name."""
        name = Method.WIENER if chosen == START else Method(chosen)
        operator, consistency = stage.operator, stage.consistency
        return classical(name, operator, planes, consistency, self.settings, zero), str(name)

    def _start(
        self, stage: Stage, planes: torch.Tensor, zero: float | None, span: float | None = None
    ) -> start.Start:
        return start.starting_image(
            stage.operator, planes, stage.consistency, self.settings.wiener, zero, span
        )

    def _lesson(self, evidence: Evidence | None) -> Lesson:
        """Lines 2-4 of Algorithm 2, where the network is heard at all and as far as the pair is
        worth it: one that tells something is, others where what they have taught is kept. A slice
        alone may try: one that others learn from has to tell something, after direct sampling."""
        if evidence is None or not evidence.heard:
            return Lesson(self._untouched)
        if not self.settings.check.enabled:
            return self._stepped(evidence.own)
        pair, stage, how = evidence.checked, evidence.stage, self.settings
        alone, antialiased = how.adapt.mode is Adapting.SLICE, how.sampling is Sampling.BICUBIC
        if self._tells(evidence) or (antialiased and not alone):
            lesson = self._stepped(evidence.own)
            return replace(lesson, change=self._pair_change(lesson.parameters, pair, stage))
        before = Lesson(self._untouched, self._pair_change(self._untouched, pair, stage))
        if not alone or how.adapt.steps == 0:
            return before
        lesson = self._stepped(evidence.own)
        after = replace(lesson, change=self._pair_change(lesson.parameters, pair, stage))
        return after if self._keeps(before, after, pair) else before

    def _tells(self, evidence: Evidence) -> bool:
        """Whether the pair that is checked tells anything."""
        return informs(evidence.rivals, evidence.checked.truth[:, 0], self.settings.check)

    def _keeps(self, before: Lesson, after: Lesson, pair: Pair) -> bool:
        """Whether what steps have taught of a ``pair`` that tells classical methods nothing is
        true of the slice: after antialiased sampling where the network adds much the same as
        ``before``, after direct sampling where it sees the pair now."""
        if self.settings.sampling is Sampling.BICUBIC:
            return cosine(before.change, after.change) >= self.settings.check.steps_alike
        begin, truth = pair.start[:, 0], pair.truth[:, 0]
        return learned(
            begin, begin + before.change, begin + after.change, truth, self.settings.check
        )

    def _stepped(self, pair: Pair) -> Lesson:
        """The parameters after the steps on a slice's ``pair``, or those of the whole cube."""
        how = self.settings.adapt
        if how.mode is Adapting.CUBE and self._together is not None:
            return Lesson.of(self._together)
        if how.mode is Adapting.CUBE or how.steps == 0:
            return Lesson(self._parameters)
        adapted = self._adapt(self._parameters, [pair])
        if how.mode is Adapting.WARM:
            self._parameters = adapted.parameters
        return Lesson.of(adapted)

    def _change(
        self,
        parameters: Parameters,
        seen: Seen,
        stage: Stage,
        facts: torch.Tensor | None,
    ) -> torch.Tensor:
        """What the network adds to a stage's start (P, H, W), data consistency after each pass."""
        change: torch.Tensor | None = None
        for _ in range(self._network.passes):
            shown = seen if change is None else Changed(seen, change)
            added = self._residual(parameters, shown, facts, stage.operator.scale)
            if self.settings.consistency.enabled:
                stage.consistency.free_(added)
            change = added if change is None else change.add_(added)
        assert change is not None
        return change

    def _residual(
        self,
        parameters: Parameters,
        seen: Seen,
        facts: torch.Tensor | None,
        scale: tuple[float, float],
    ) -> torch.Tensor:
        """The network's output (P, H, W), or its mean over symmetries that the sampling allows;
        over smaller tiles from then on where memory does not suffice."""
        direct = self.settings.sampling is Sampling.DIRECT
        views = ensemble(self.settings.adapt.views(False), direct, self._network.stride, scale)
        while True:
            try:
                return tiled_residual(
                    self._network, parameters, seen, self.tiles, self.precision, facts, views
                )
            except (RuntimeError, MemoryError) as error:
                if not runtime.is_out_of_memory(error) or self.tiles.side < 2 * TILE_MIN:
                    raise
            self.tiles = replace(self.tiles, side=self.tiles.side // 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    # -- the pair (son, LR) -----------------------------------------------------------------

    def _evidence(self, sample: Sample, stage: Stage, heard: bool) -> Evidence | None:
        """The pairs of a slice at the factor of its first ``stage``; None where a son is too small.
        Without a self-check the slice's own pair alone."""
        planes, how = sample.planes, self.settings
        assert self.weights is not None
        window = detailed_window(planes, window_side(self.weights.facts, how.adapt))
        own = self._son_pair(window, stage, sample.noise, sample.zero)
        if own is None:
            return None
        if not how.check.enabled:
            return Evidence(own[0], *own, {}, heard)
        larger = detailed_window(planes, how.check.window)
        checked = self._son_pair(larger, stage, sample.noise, sample.zero) or own
        return Evidence(own[0], *checked, self._rivals(*checked, sample.zero), heard)

    @torch.no_grad()
    def _gives_way(
        self, evidence: Evidence | None, sample: Sample, final: start.Start, lesson: Lesson
    ) -> bool:
        """Whether a slice's pair speaks for the ``second`` network, both as they are before any
        step, and this one after its ``lesson``, too."""
        second = self.second
        if second is None or evidence is None or not self._may_give_way(evidence, sample, final):
            return False
        pair, check = evidence.checked, self.settings.check
        mine, other = (one._pair_answer(one._untouched, pair) for one in (self, second))
        begin, truth, tells = pair.start[:, 0], pair.truth[:, 0], self._tells(evidence)
        level, scale = Claim.of(final, sample.planes).level, max(self.scale)
        if not prefers(begin, mine, other, truth, tells, level, scale, check):
            return False
        if lesson.steps > 0:
            mine = self._pair_answer(lesson.parameters, pair)
        missed, left = ((image - truth).square().sum() for image in (mine, other))
        return bool(left < missed)

    def _may_give_way(self, evidence: Evidence, sample: Sample, final: start.Start) -> bool:
        """Whether another network may answer: not at large scales, where slices share what they
        learn, much of the slice lies beside bounds that it is kept within, or nothing is known of
        its ``final`` linear answer."""
        how, small = self.settings, max(self.scale) <= self.settings.check.second_scale
        known = Claim.of(final, sample.planes).expected is not None
        checked = evidence.heard and how.check.enabled and known
        if not (checked and small) or how.adapt.mode is not Adapting.SLICE:
            return False
        beside = share_beside(sample.planes, sample.bounds, how.bounds.plateau)
        return beside <= how.check.second_beside

    def _pair_answer(self, parameters: Parameters, pair: Pair) -> torch.Tensor:
        """The network's answer (P, h, w) to a pair, seen once."""
        return predict_pair(self._network, parameters, pair, self.precision).image[:, 0]

    def _son_pair(
        self, window: torch.Tensor, stage: Stage, noise: float, zero: float | None
    ) -> tuple[Pair, Stage] | None:
        """The window's own pair at the first stage's factor; None where the son is too small."""
        shape = (window.shape[-2], window.shape[-1])
        sons = [resize.reduced(n, f) for n, f in zip(shape, stage.factor, strict=True)]
        if min(sons) < self.settings.adapt.son_min:
            return None
        own = self.grids.of_pair(shape, stage, noise)
        physics = Physics(
            self.settings.consistency, self.settings.wiener, self.settings.gate,
            self._network.guides > 0,
        )  # fmt: skip
        return son_pair(window, own.consistency, zero, physics), own

    def _adapt(self, parameters: Parameters, pairs: Sequence[Pair]) -> Adapted:
        assert self.weights is not None
        default = torch.tensor([self.settings.adapt.rate], device=self.device)
        rates = {name: self.weights.rates.get(name, default) for name in parameters}
        return adapt(
            self.weights.network, parameters, rates, pairs, self.settings.adapt, self.precision
        )

    def _rivals(self, pair: Pair, stage: Stage, zero: float | None) -> dict[str, torch.Tensor]:
        """What the start and every classical method make of the pair's son (P, h, w)."""
        operator, consistency = stage.operator, stage.consistency
        son = rounded(operator.apply(pair.truth[:, 0]), consistency.noise)
        made = {
            str(method): classical(method, operator, son, consistency, self.settings, zero)
            for method in CLASSICAL[1:]
        }
        return {START: pair.start[:, 0]} | made

    def _pair_change(self, parameters: Parameters, pair: Pair, stage: Stage) -> torch.Tensor:
        """What the network adds to the pair's start."""
        seen = Whole(pair.start[:, 0], pair.hints.guides)
        return pair.trust * self._change(parameters, seen, stage, pair.hints.facts)

    def _check(
        self, evidence: Evidence | None, change: torch.Tensor, two_sided: bool
    ) -> Verdict | None:
        """Compare the start of the pair that is checked, with the adapted network's ``change`` (0
        where that is not listened to), with its rivals; ``two_sided`` is the model of the slice
        itself. None without a self-check."""
        check, hopeless = self.settings.check, None
        if evidence is None or not check.enabled:
            return no_verdict(check) if check.enabled else None
        truth, begin = evidence.checked.truth[:, 0], evidence.checked.start[:, 0]
        oversampled = gate.slice_trust(truth, (1.0, 1.0), self.settings.gate) < 1
        candidates = {NETWORK: begin + change.to(begin)} | evidence.rivals
        if two_sided and self.settings.sampling is Sampling.DIRECT:
            hopeless = check.hopeless_two_sided_direct
        stretch = self.grids.stretch(evidence.stage)
        return verdict(candidates, truth, oversampled, check, stretch, hopeless)
