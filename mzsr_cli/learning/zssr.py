"""ZSSR: a network trained from random weights on the slice alone (Shocher et al., CVPR 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from mzsr_cli.imaging import degrade, kernels, resize
from mzsr_cli.imaging.products import bands
from mzsr_cli.imaging.symmetries import SYMMETRIES, turned, turned_back
from mzsr_cli.learning.adapt import tiled_residual
from mzsr_cli.learning.inner import Pair, pair_loss
from mzsr_cli.learning.networks import Network
from mzsr_cli.learning.seen import Whole
from mzsr_cli.settings import Method, Precision, Sampling, TileSettings, ZssrSettings


@dataclass
class Schedule:
    """The learning-rate policy: a linear fit to the reconstruction error, cut when it stalls."""

    settings: ZssrSettings
    rate: float
    iterations: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    last_cut: int = 0

    def record(self, iteration: int, error: float) -> None:
        """Note the reconstruction error after ``iteration``."""
        self.iterations.append(iteration)
        self.errors.append(error)

    def check(self, iteration: int) -> None:
        """Cut the rate when scatter about the fit exceeds ``stall_ratio`` times its fall."""
        s = self.settings
        if iteration - self.last_cut < s.fit_span:
            return
        recent = [i for i, at in enumerate(self.iterations) if at > iteration - s.fit_span]
        if len(recent) < 3:
            return
        at = np.array([self.iterations[i] for i in recent], dtype=np.float64)
        errors = np.array([self.errors[i] for i in recent])
        slope, intercept = np.polyfit(at, errors, 1)
        scatter = float(np.std(errors - (slope * at + intercept)))
        fall = -float(slope) * s.test_every
        if scatter > s.stall_ratio * fall:
            self.rate /= s.learning_rate_ratio
            self.last_cut = iteration

    @property
    def finished(self) -> bool:
        """Whether the rate has reached its floor."""
        return self.rate < self.settings.learning_rate_min


class Zssr:
    """One slice's training and inference. Planes are (P, h, w) in [0, 1]."""

    def __init__(
        self,
        network: Network,
        kernel: kernels.Kernel,
        sampling: Sampling,
        settings: ZssrSettings,
        precision: Precision,
        tiles: TileSettings,
        rng: np.random.Generator,
    ) -> None:
        self.network = network
        self.kernel, self.sampling = kernel, sampling
        self.settings, self.precision, self.tiles = settings, precision, tiles
        self.rng = rng
        self.iterations = 0
        self._operators: dict[tuple[tuple[int, int], tuple[float, float]], degrade.Degradation] = {}

    def _operator(
        self, hr_shape: tuple[int, int], scale: tuple[float, float], device: torch.device
    ) -> degrade.Degradation:
        key = (hr_shape, scale)
        if key not in self._operators:
            self._operators[key] = degrade.degradation(
                self.kernel, self.sampling, scale, hr_shape, device
            )
        return self._operators[key]

    def father(self, images: list[torch.Tensor]) -> torch.Tensor:
        """A random HR example (1, h, w): turned, mirrored, shrunk and cropped (section 3.1)."""
        s, rng = self.settings, self.rng
        planes = images[int(rng.integers(len(images)))]
        image = planes[int(rng.integers(len(planes)))][None]
        draw = rng.random()
        if draw >= s.leave_probability:
            image = turned(image, int(rng.integers(8)))
        if draw >= s.leave_probability + s.symmetry_probability:
            image = self._shrunk(image, float(rng.uniform(s.father_scale_min, 1.0)))
        height, width = (min(s.crop, n) for n in image.shape[-2:])
        top = int(rng.integers(image.shape[-2] - height + 1))
        left = int(rng.integers(image.shape[-1] - width + 1))
        return image[..., top : top + height, left : left + width].contiguous()

    @staticmethod
    def _shrunk(image: torch.Tensor, factor: float) -> torch.Tensor:
        sides = [max(8, round(n * factor)) for n in image.shape[-2:]]
        rows, cols = (
            resize.as_matrix(resize.antialiased_matrix(n, m, n / m), image)
            for n, m in zip(image.shape[-2:], sides, strict=True)
        )
        return resize.separable(image, rows, cols)

    def _pair(self, father: torch.Tensor, scale: tuple[float, float]) -> Pair:
        operator = self._operator((father.shape[-2], father.shape[-1]), scale, father.device)
        son = operator.apply(father)
        if self.settings.noise > 0:
            noise = self.rng.standard_normal(tuple(son.shape)) * self.settings.noise
            son = son + torch.as_tensor(noise).to(son)
        start = operator.interpolate(son, Method.BICUBIC, 0.0)
        return Pair(start[:, None], father[:, None], None, 1.0)

    def train(self, images: list[torch.Tensor], scale: tuple[float, float]) -> None:
        """Adam until the learning rate has been cut to its floor (section 3.2)."""
        s = self.settings
        parameters = dict(self.network.named_parameters())
        adam = torch.optim.Adam(parameters.values(), lr=s.learning_rate)
        schedule = Schedule(s, s.learning_rate)
        whole = self._pair(images[-1][:1], scale)
        for iteration in range(s.iterations_max):
            for group in adam.param_groups:
                group["lr"] = schedule.rate
            adam.zero_grad(set_to_none=True)
            pair = self._pair(self.father(images), scale)
            pair_loss(
                self.network, parameters, pair, self.precision, s.gradient_loss, s.supervision
            ).backward()
            adam.step()
            self.iterations += 1
            if iteration % s.test_every == 0:
                schedule.record(iteration, self._error(whole))
            if iteration % s.check_every == 0 and iteration > 0:
                schedule.check(iteration)
            if schedule.finished:
                break

    @torch.no_grad()
    def _error(self, pair: Pair) -> float:
        """Reconstruction error (RMS) of the LR planes from their son."""
        start = pair.start[:, 0]
        output = start + self._residual(start)
        return math.sqrt(float((output - pair.truth[:, 0]).square().mean()))

    def _residual(self, start: torch.Tensor) -> torch.Tensor:
        parameters = {name: p.detach() for name, p in self.network.named_parameters()}
        seen = Whole(start)
        return tiled_residual(self.network, parameters, seen, self.tiles, self.precision, None)

    def enlarge(self, planes: torch.Tensor, operator: degrade.Degradation) -> torch.Tensor:
        """LR planes to HR: median over the eight symmetries, each back-projected (3.3)."""
        start = operator.interpolate(planes, Method.BICUBIC, 0.0)
        outputs = []
        for which in SYMMETRIES if self.settings.self_ensemble else SYMMETRIES[:1]:
            output = start + turned_back(self._residual(turned(start, which)), which)
            outputs.append(self._back_projected(operator, planes, output))
        middle = torch.empty_like(outputs[0])
        for band in bands(middle):
            middle[:, band] = torch.stack([one[:, band] for one in outputs]).quantile(0.5, dim=0)
        del outputs
        return self._back_projected(operator, planes, middle)

    def _back_projected(
        self, operator: degrade.Degradation, planes: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        return degrade.back_projection(operator, planes, image, self.settings.back_projections)
