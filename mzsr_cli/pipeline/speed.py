"""``mzsr benchmark --speed``: the network beside the machine's own limit, and what is beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mzsr_cli.imaging import kernels
from mzsr_cli.learning import catalog, runtime
from mzsr_cli.learning.adapt import Adapted, tiled_residual, window_side
from mzsr_cli.learning.inner import Pair, Parameters, gradient
from mzsr_cli.learning.seen import Whole
from mzsr_cli.learning.superresolve import Sample, Solver
from mzsr_cli.learning.weights import Weights, load_weights
from mzsr_cli.pipeline.plan import second_weights
from mzsr_cli.settings import (
    BenchmarkSettings,
    LaneSettings,
    Method,
    Precision,
    SpeedSettings,
    UpscaleSettings,
)


@dataclass(frozen=True)
class Measured:
    """One row: what was run, its floating-point operations, the median of its seconds, and its
    share of the matrix product's speed."""

    part: str
    operations: float
    seconds: float
    share: float

    @property
    def gflops(self) -> float:
        """10^9 operations a second."""
        return self.operations / self.seconds / 1e9


def measure(settings: BenchmarkSettings) -> dict[str, Any]:
    """Matrix product, inference and adaptation in the same precision, and one slice as a whole.

    Raises DeviceError, WeightsError.
    """
    how = settings.speed
    device = runtime.pick_device(settings.device)
    precision = runtime.pick_precision(settings.precision, device)
    weights = load_weights(_weights(settings), device)
    peak = _matrix_product(how, precision, device)
    network = _Network(weights, precision, device, how)
    window = window_side(weights.facts, UpscaleSettings().adapt)
    rows = [
        peak,
        network.inference(peak),
        network.adaptation(peak, how.pair_large),
        network.adaptation(peak, window),
        network.adaptations(peak, window),
    ]
    with runtime.threads(1 if device.type == "cpu" else None):
        whole, share = _slice(network, settings)
    return {
        "device": runtime.describe_device(device),
        "precision": str(precision),
        "weights": weights.name,
        "rows": [
            {"part": m.part, "GFLOP": m.operations / 1e9, "seconds": m.seconds,
             "GFLOP/s": m.gflops, "share of matrix product": m.share}
            for m in rows
        ],
        "slice": {"seconds": whole, "network_share": share, "side": how.slice_side},
    }  # fmt: skip


def _weights(settings: BenchmarkSettings) -> Path:
    if settings.weights is not None:
        return catalog.find(settings.weights)
    return next(path for path in catalog.shipped() if path.stem.startswith("channels"))


def _seconds(work: Callable[[], object], device: torch.device, how: SpeedSettings) -> float:
    """Median of the seconds that ``work`` takes, after a first time that does not count."""
    work()
    found: list[float] = []
    while sum(found) < how.seconds or len(found) < how.repeats:
        begin = _now(device)
        work()
        found.append(_now(device) - begin)
    return float(np.median(found))


def _now(device: torch.device) -> float:
    """Seconds, once ``device`` has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _matrix_product(how: SpeedSettings, precision: Precision, device: torch.device) -> Measured:
    dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
    rng, side = torch.Generator().manual_seed(0), how.matrix
    if device.type == "cuda":
        side = how.matrix_cuda
    one, other = (torch.randn(side, side, generator=rng).to(device, dtype) for _ in range(2))
    seconds = _seconds(lambda: one @ other, device, how)
    return Measured(f"matrix product, {side}", 2.0 * side**3, seconds, 1.0)


@dataclass(frozen=True)
class _Network:
    weights: Weights
    precision: Precision
    device: torch.device
    how: SpeedSettings

    def inference(self, peak: Measured) -> Measured:
        """Tiles of a large plane."""
        side = self.how.plane_side
        seen, facts = self._seen(side), torch.zeros(8, device=self.device)
        tiles, network = UpscaleSettings().tiles, self.weights.network
        parameters = self.weights.parameters()

        def work() -> torch.Tensor:
            return tiled_residual(network, parameters, seen, tiles, self.precision, facts)

        return self._measured(f"inference, {side}x{side}", work, peak)

    def adaptation(self, peak: Measured, side: int) -> Measured:
        """A gradient step on a pair of ``side`` pixels."""
        return self._measured(f"gradient step, {side}x{side}", self._step(self._pair(side)), peak)

    def _step(self, pair: Pair) -> Callable[[], object]:
        """A gradient of ``pair``, by a network and parameters of its own."""
        network = deepcopy(self.weights.network)
        parameters: Parameters = {
            name: p.detach().requires_grad_() for name, p in self.weights.parameters().items()
        }
        return lambda: gradient(network, parameters, pair, self.precision, create_graph=False)

    def adaptations(self, peak: Measured, side: int) -> Measured:
        """As many gradient steps on such pairs at once as there are threads, each by one thread
        (pipeline.lanes)."""
        on_gpu = self.device.type == "cuda"
        count = LaneSettings().cuda if on_gpu else torch.get_num_threads()
        pair = self._pair(side)
        streams = [runtime.stream(self.device) for _ in range(count)]
        steps = [self._step(pair) for _ in range(count)]

        def repeated(k: int) -> None:
            with streams[k], runtime.own_backward(self.device):
                for _ in range(self.how.repeats):
                    steps[k]()

        asked = torch.get_num_threads  # takes the number over into a new thread
        with runtime.threads(1), ThreadPoolExecutor(count, initializer=asked) as pool:
            work = partial(_all, pool, repeated, count)
            seconds = _seconds(work, self.device, self.how) / self.how.repeats
        with FlopCounterMode(display=False) as counter:
            steps[0]()
        operations = count * float(counter.get_total_flops())
        part = f"{count} gradient steps at once, {side}x{side}"
        return Measured(part, operations, seconds, operations / seconds / 1e9 / peak.gflops)

    def _measured(self, part: str, work: Callable[[], object], peak: Measured) -> Measured:
        with FlopCounterMode(display=False) as counter:
            work()
        operations = float(counter.get_total_flops())
        seconds = _seconds(work, self.device, self.how)
        return Measured(part, operations, seconds, operations / seconds / 1e9 / peak.gflops)

    def _seen(self, side: int) -> Whole:
        shown = torch.zeros(1, self.weights.network.guides, side, side, device=self.device)
        return Whole(_plane(side).to(self.device), shown if self.weights.network.guides else None)

    def _pair(self, side: int) -> Pair:
        image = _plane(side).to(self.device)[:, None]
        return Pair(image, image, None, 1.0)


def _all(pool: ThreadPoolExecutor, work: Callable[[int], None], count: int) -> None:
    """``work`` of 0 to ``count`` - 1, at the same time."""
    list(pool.map(work, range(count)))


def _plane(side: int) -> torch.Tensor:
    """Blocks and noise (1, side, side) in [0, 1]: a slice that the network has work on."""
    rng = np.random.default_rng(0)
    blocks = rng.random((side // 16 + 1, side // 16 + 1)).repeat(16, 0).repeat(16, 1)
    noisy = 0.9 * blocks[:side, :side] + 0.1 * rng.random((side, side))
    return torch.from_numpy(noisy.astype(np.float32))[None]


class _Clock:
    """Seconds that pass between the outermost ``begin`` and its ``end``."""

    def __init__(self, device: torch.device) -> None:
        self.seconds, self._depth, self._begun, self._device = 0.0, 0, 0.0, device

    def begin(self) -> None:
        """Count from here, unless that is done already."""
        if self._depth == 0:
            self._begun = _now(self._device)
        self._depth += 1

    def end(self) -> None:
        """Close what ``begin`` opened."""
        self._depth -= 1
        if self._depth == 0:
            self.seconds += _now(self._device) - self._begun


class _TimedSolver(Solver):
    """A solver that times its network: the steps, and each inference."""

    clock: _Clock

    def watch(self) -> None:
        """Time from now on. The weights' networks keep the hooks: give them some of their own."""
        self.clock = clock = _Clock(self.device)
        for one in (self, self.second):
            if isinstance(one, _TimedSolver):
                one.clock = clock
                one._network.register_forward_pre_hook(lambda *_: clock.begin())
                one._network.register_forward_hook(lambda *_: clock.end())

    def _adapt(self, parameters: Parameters, pairs: Sequence[Pair]) -> Adapted:
        self.clock.begin()
        adapted = super()._adapt(parameters, pairs)
        self.clock.end()
        return adapted


def _slice(network: _Network, settings: BenchmarkSettings) -> tuple[float, float]:
    """Seconds of a slice at x2 with the default steps, as one thread solves it, and the network's
    share of them (its steps and every inference), timed while the slice is solved."""
    how, side = settings.speed, settings.speed.slice_side
    own = replace(network.weights, network=deepcopy(network.weights.network))
    told = UpscaleSettings(scale=(2.0, 2.0), weights=settings.weights)
    second = second_weights(told, (2.0, 2.0), own, False, network.device)
    solver = _TimedSolver(
        (side, side), (2.0, 2.0), (2 * side, 2 * side), kernels.delta(), Method.MZSR,
        own, told, network.precision, network.device, second,
    )  # fmt: skip
    solver.watch()
    plane, clock, shares = _plane(side), solver.clock, []

    def work() -> None:
        clock.seconds, begin = 0.0, _now(network.device)
        solver.solve(Sample(plane, 0.0), 0)
        shares.append(clock.seconds / (_now(network.device) - begin))

    whole = _seconds(work, network.device, how)
    return whole, float(np.median(shares[1:]))
