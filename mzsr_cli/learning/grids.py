"""The grids between a slice and its result, with what relates each to the given samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mzsr_cli.imaging import degrade, kernels, resize
from mzsr_cli.imaging.stages import stage_scales
from mzsr_cli.settings import UpscaleSettings


@dataclass(frozen=True)
class Stage:
    """One grid on the way: LR to this grid (cumulative scale), and the factor from the last."""

    operator: degrade.Degradation
    consistency: degrade.Consistency
    factor: tuple[float, float]


class Grids:
    """The stages from LR slices (h, w) to HR slices (H, W), and those of windows to their own
    sons; kept until a slice of another noise level (rounding, in units of the slice) comes.

    ``longest`` are the largest factors of a stage: of gradual ones, and of those in one jump.
    """

    def __init__(
        self,
        lr_shape: tuple[int, int],
        scale: tuple[float, float],
        hr_shape: tuple[int, int],
        kernel: kernels.Kernel,
        longest: tuple[float, float],
        settings: UpscaleSettings,
        device: torch.device,
    ) -> None:
        self.lr_shape, self.scale, self.hr_shape, self.kernel = lr_shape, scale, hr_shape, kernel
        self.gradual, self.long = longest
        self.settings, self.device = settings, device
        self._stages: dict[tuple[float, bool], list[Stage]] = {}
        self._pairs: dict[float, dict[tuple[int, int], Stage]] = {}

    def stages(self, noise: float, gradual: bool = True) -> list[Stage]:
        """The grids from LR to HR, ``gradual`` or in the longest steps that the weights know."""
        if (noise, True) not in self._stages:
            self._stages = {(noise, True): self._made(noise, self.gradual)}
        if gradual or self.long <= self.gradual:
            return self._stages[noise, True]
        if (noise, False) not in self._stages:
            self._stages[noise, False] = self._made(noise, self.long)
        return self._stages[noise, False]

    def of_pair(self, shape: tuple[int, int], stage: Stage, noise: float) -> Stage:
        """From the son of a window of LR pixels, ``shape``, to the window, as the ``stage`` goes
        from its grid to the next."""
        if noise not in self._pairs:
            self._pairs = {noise: {}}
        pairs = self._pairs[noise]
        if shape not in pairs:
            operator = degrade.degradation(
                stage.operator.kernel, self.settings.sampling, stage.factor, shape, self.device
            )
            consistency = degrade.Consistency(operator, self.settings.consistency, noise)
            pairs[shape] = Stage(operator, consistency, stage.factor)
        return pairs[shape]

    def stretch(self, pair: Stage) -> float:
        """How much longer the first of the long stages is than the stage of a ``pair``, in
        octaves."""
        long = self.stages(pair.consistency.noise, gradual=False)[0]
        return math.log(max(long.factor)) / math.log(max(pair.factor))

    def _made(self, noise: float, longest: float) -> list[Stage]:
        scales = stage_scales(self.scale, longest)
        made: list[Stage] = []
        before = (1.0, 1.0)
        for scale in scales:
            shape = self.hr_shape if scale == scales[-1] else self._shape(scale)
            kernel = kernels.shrunk(self.kernel, max(self.scale) / max(scale))
            operator = degrade.Degradation(
                kernel, self.settings.sampling, scale, shape, self.lr_shape, self.device
            )
            consistency = degrade.Consistency(operator, self.settings.consistency, noise)
            factor = (scale[0] / before[0], scale[1] / before[1])
            made.append(Stage(operator, consistency, factor))
            before = scale
        return made

    def _shape(self, scale: tuple[float, float]) -> tuple[int, int]:
        rows, cols = (resize.enlarged(n, s) for n, s in zip(self.lr_shape, scale, strict=True))
        return rows, cols
