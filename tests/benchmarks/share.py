"""The network's share of the wall time of ``mzsr upscale`` as a whole: reading, interpolation,
consistency, checks and writing are the rest.

python tests/benchmarks/share.py [--side 256] [--slices 40] [--scale 2] [--magnitudes]
    [--weights channels]

A cube of blocks and noise, so that there is work for the network on every slice; of both signs, or
magnitudes, whose squares are tried, too. The clock starts
after the first slices (reading the input, setting up) and counts all lanes; the network's seconds
are those of gradient steps and of every inference, the pair's included.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mzsr_cli.learning import adapt, superresolve
from mzsr_cli.pipeline.allocator import keep_freed_memory
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import UpscaleSettings

FIRST = 4
"""Slices that do not count."""


class Clock:
    """Seconds of all threads in the functions that are watched, those inside others once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock, self._local = threading.Lock(), threading.local()

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, timed."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._local, "inside", False):
                return function(*args, **kwargs)
            self._local.inside, begin = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._local.inside = False
                with self._lock:
                    self.seconds += time.perf_counter() - begin

        return timed


def cube(side: int, count: int) -> np.ndarray:
    """Slices of blocks and noise, (side, side, count), float32, from 0 to 1."""
    rng = np.random.default_rng(0)
    blocks = rng.random((side // 16 + 1, side // 16 + 1, count)).repeat(16, 0).repeat(16, 1)
    noise = rng.random((side, side, count))
    return (0.9 * blocks[:side, :side] + 0.1 * noise).astype(np.float32)


def main() -> None:
    """Print seconds a slice and the network's share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--magnitudes", action="store_true")
    parser.add_argument("--weights")
    options = parser.parse_args()
    keep_freed_memory()  # as the command does
    clock, ticks = Clock(), []
    superresolve.adapt = clock.watched(superresolve.adapt)  # type: ignore[attr-defined]
    superresolve.predict_pair = clock.watched(superresolve.predict_pair)  # type: ignore[attr-defined]
    adapt.residual = clock.watched(adapt.residual)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "low.npy", Path(scratch) / "high.npy"
        low = cube(options.side, options.slices)
        np.save(source, low if options.magnitudes else low - 0.5)
        upscale_cube(
            source, target,
            UpscaleSettings(scale=(options.scale, options.scale), weights=options.weights),
            on_slice=lambda *_: ticks.append((time.perf_counter(), clock.seconds)),
        )  # fmt: skip
    (begin, before), (end, after) = ticks[FIRST - 1], ticks[-1]
    lanes, counted = torch.get_num_threads(), len(ticks) - FIRST
    share = (after - before) / (lanes * (end - begin))
    print(f"{(end - begin) / counted:.3f} s/slice, {lanes} lanes, network {share:.0%}")


if __name__ == "__main__":
    main()
