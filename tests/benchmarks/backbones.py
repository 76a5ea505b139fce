"""Backbones trained with equal budgets: size, speed, and quality on held-out data at 0 steps.

python tests/benchmarks/backbones.py DATA... --test FOLDER_OR_CUBE... --iterations 2000 -o FOLDER
                                     [--scale 4 --scale 8] [--only s-7 --only sa-7-1-2-3]

Each variant is pretrained on the same bicubic crops (the seed decides them) by what ``mzsr
pretrain`` runs, with as many iterations; the running average of its weights is then tested in one
stage, without steps or self-check. "s" is the time of the training's updates, "s/slice" that of a
256x256 HR slice at the largest scale. Images: mean PSNR of the luma in dB, borders of ``scale``
pixels left out, LR images rounded to 8 bits. Cubes: NMSE in dB over evenly spread slices. ``start``
is the starting image, which every network corrects.

FOLDER keeps weights, logs, checkpoints and results.json (results.md is its table): a variant that
is finished is not trained again, one that was interrupted goes on, another budget is refused.

Names: strided, spsr, mzsr, lrfnet's baseline-K, s-K[-LAYOUT], a-RATES and sa-K-RATES; +guides
behind it shows guides, +gradient or +gradient=W adds the gradient maps' distance to the loss (W
0.2).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import markdown

from mzsr_cli.cubes.open import expand_inputs, open_cube
from mzsr_cli.imaging import degrade, kernels, metrics
from mzsr_cli.imaging.normalize import planes_of, slice_range
from mzsr_cli.learning import networks, runtime
from mzsr_cli.learning.patches import EIGHT_BIT_NOISE, rounded
from mzsr_cli.learning.ranks import Ranks
from mzsr_cli.learning.superresolve import Sample, Solver
from mzsr_cli.learning.training import Event, Run
from mzsr_cli.learning.weights import Weights, load_weights
from mzsr_cli.pipeline.training import train
from mzsr_cli.settings import (
    GUIDES,
    AdaptSettings,
    Backbone,
    CheckSettings,
    DegradationMix,
    Filters,
    GradientSettings,
    Layout,
    LrfSettings,
    Method,
    NetworkSettings,
    Normalize,
    Precision,
    Sampling,
    StageSettings,
    TaskSettings,
    TrainSettings,
    UpscaleSettings,
)

VARIANTS = (
    *("strided", "strided+gradient", "spsr", "mzsr"),
    *("baseline-3", "baseline-5", "s-3", "s-5", "s-7", "s-9", "s-11"),
    *("a-1-2", "a-1-2-3", "a-1-3-5", "a-1-4-8", "sa-7-1-2-3", "s-7-B", "s-7-C", "s-7-D"),
)
START = "start"
SLICE_SIDE = 256
REPEATS = 5
GRADIENT = 0.2


def architecture(name: str) -> NetworkSettings:
    """The network of a variant's name."""
    base, *more = name.split("+")
    guides = GUIDES if "guides" in more else 0
    if base in list(Backbone):
        return NetworkSettings(backbone=base, guides=guides)
    return NetworkSettings(backbone=Backbone.LRFNET.value, lrfnet=lrfnet(base))


def lrfnet(name: str) -> LrfSettings:
    """LRFNet's blocks by the paper's names: baseline-K, s-K[-LAYOUT], a-RATES, sa-K-RATES."""
    kind, *rest = name.split("-")
    filters = Filters.SEPARABLE if kind.startswith("s") else Filters.STANDARD
    layout = Layout(rest.pop()) if rest[-1] in list(Layout) else Layout.A
    side = 3 if kind == "a" else int(rest.pop(0))
    return LrfSettings(side, filters, tuple(map(int, rest)) or (1,), layout)


def gradient_weight(name: str) -> float:
    """W of a variant's +gradient or +gradient=W; 0 without."""
    for part in name.split("+")[1:]:
        if part.startswith("gradient"):
            return float(part.partition("=")[2] or GRADIENT)
    return 0.0


# -- test data --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """A held-out HR slice (P, H, W) in its own units; images are in [0, 1]."""

    planes: np.ndarray
    image: bool


def load_tests(arguments: list[str], slices: int) -> dict[str, list[Truth]]:
    """Test sets by name: folders of images, and cubes of which ``slices`` are taken."""
    found: dict[str, list[Truth]] = {}
    for argument in arguments:
        for path in expand_inputs([argument]):
            with open_cube(path) as reader:
                if reader.info.format in ("png", "jpeg"):
                    truth = Truth(planes_of(reader.read(0)) / 255, True)
                    found.setdefault("/".join(Path(argument).parts[-2:]), []).append(truth)
                    continue
                count = reader.info.shape[2]
                which = np.linspace(0, count - 1, min(slices, count)).round().astype(int)
                found[path.stem] = [Truth(planes_of(reader.read(int(k))), False) for k in which]
    return found


def solver(weights: Weights | None, scale: float, low: tuple[int, int], precision: Precision,
           device: torch.device) -> Solver:  # fmt: skip
    """One stage and view, no steps, no self-check; the starting image alone without ``weights``."""
    settings = UpscaleSettings(
        scale=(scale, scale),
        adapt=AdaptSettings(steps=0, self_ensemble=1),
        check=CheckSettings(enabled=False),
        stages=StageSettings(factor_max=scale),
    )
    method = Method.WIENER if weights is None else Method.MZSR
    high = (round(low[0] * scale), round(low[1] * scale))
    return Solver(
        low, (scale, scale), high, kernels.delta(), method, weights, settings, precision, device
    )


def error_of(
    truth: Truth, weights: Weights | None, scale: int, precision: Precision, device: torch.device
) -> tuple[float, float]:
    """(squared error, energy) of one slice: mean per pixel within the borders for images (peak 1),
    sums for cubes."""
    high = truth.planes[:, : truth.planes.shape[1] // scale * scale]
    high = high[:, :, : truth.planes.shape[2] // scale * scale]
    sides = (high.shape[1], high.shape[2])
    operator = degrade.degradation(
        kernels.delta(), Sampling.BICUBIC, (float(scale), float(scale)), sides
    )
    noise = EIGHT_BIT_NOISE if truth.image else 0.0
    low = rounded(operator.apply(torch.from_numpy(high.astype(np.float32))), noise).numpy()
    mapping = slice_range(low, Normalize.SLICE)
    zero = None if truth.image else mapping.zero(low)
    planes = torch.from_numpy(mapping.forward(low).astype(np.float32))
    solve = solver(weights, float(scale), (low.shape[1], low.shape[2]), precision, device).solve
    output = mapping.inverse(solve(Sample(planes, noise / mapping.span, zero), 0)[0].cpu().numpy())
    if truth.image:
        inner = [metrics.shave(image[0], scale) for image in (output, high)]
        return float(np.mean((inner[0] - inner[1]) ** 2)), 1.0
    return float(np.sum((output - high) ** 2)), float(np.sum(high**2))


def quality(
    truths: list[Truth], weights: Weights | None, scale: int, precision: Precision,
    device: torch.device,
) -> float:  # fmt: skip
    """Mean PSNR of images, NMSE of a cube's slices together, in dB."""
    errors = np.array([error_of(truth, weights, scale, precision, device) for truth in truths])
    if truths[0].image:
        return float(-10 * np.log10(errors[:, 0]).mean())
    return float(10 * np.log10(errors[:, 0].sum() / errors[:, 1].sum()))


def slice_seconds(
    weights: Weights | None, scale: int, precision: Precision, device: torch.device
) -> float:
    """Median time of a SLICE_SIDE HR slice of blocks and noise, starting image included."""
    side = SLICE_SIDE // scale
    rng = np.random.default_rng(0)
    plane = np.kron(rng.random((side // 4, side // 4)), np.ones((4, 4))) + rng.random((side, side))
    low = torch.from_numpy((plane / 2).astype(np.float32))[None]
    one = solver(weights, float(scale), (side, side), precision, device)
    times = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        one.solve(Sample(low, 0.0), 0)[0].cpu()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


# -- variants ---------------------------------------------------------------------------------


def train_settings(name: str, options: argparse.Namespace) -> TrainSettings:
    """The budget, the same for all, with the variant's network."""
    return TrainSettings(
        iterations=options.iterations,
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=options.seed,
        tasks=TaskSettings(
            mix=DegradationMix.BICUBIC,
            scales=tuple(map(float, options.scale)),
            patch=options.patch,
        ),
        gradient=GradientSettings(gradient_weight(name)),
        network=architecture(name),
    )


def trained(name: str, options: argparse.Namespace, ranks: Ranks) -> dict[str, Any]:
    """Train one variant, or go on with it; its parameters, reach and seconds."""
    run = Run(options.output / f"{name}.safetensors")
    seconds = 0.0

    def on_event(event: Event) -> None:
        nonlocal seconds
        seconds = event.elapsed
        figures = "  ".join(f"{key} {value:.5g}" for key, value in event.figures.items())
        print(f"{name} {event.iteration}/{options.iterations} {seconds:.0f} s  {figures}",
              file=sys.stderr, flush=True)  # fmt: skip

    train(
        "pretrain", options.data, run.output, train_settings(name, options), None, None, ranks,
        resume=run.checkpoint.is_file(), overwrite=True, on_event=on_event,
    )  # fmt: skip
    network = load_weights(run.output).network
    size = networks.parameter_count(network)
    return {"parameters": size, "reach": network.reach, "seconds": seconds}


def tested(
    weights: Weights | None, tests: dict[str, list[Truth]], options: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Seconds of a slice, and the quality on each test set at each scale."""
    precision = runtime.pick_precision(Precision.AUTO, device)
    found = {
        f"{name} x{scale}": quality(truths, weights, scale, precision, device)
        for name, truths in tests.items()
        for scale in sorted(set(options.scale))
    }
    slice_time = slice_seconds(weights, max(options.scale), precision, device)
    return {"slice": slice_time, "quality": found}


class Results:
    """results.json: the budget, and what each finished variant gave."""

    def __init__(self, path: Path, budget: dict[str, Any]) -> None:
        self.path = path
        self.kept: dict[str, Any] = {"budget": budget, "variants": {}}
        if path.is_file():
            self.kept = json.loads(path.read_text())
        if self.kept["budget"] != budget:
            sys.exit(f"{path}: made with another budget, {self.kept['budget']}. Name another -o.")

    @property
    def variants(self) -> dict[str, Any]:
        """Finished variants, in the order of finishing."""
        found: dict[str, Any] = self.kept["variants"]
        return found

    def add(self, name: str, result: dict[str, Any]) -> None:
        """Keep a variant's results."""
        self.variants[name] = result
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.kept, indent=1))
        part.replace(self.path)
        self.path.with_suffix(".md").write_text(self.table() + "\n")

    def table(self) -> str:
        """Markdown: the start first, then the variants as listed, then others."""
        order = [START, *VARIANTS]
        names = sorted(self.variants, key=lambda n: (order.index(n) if n in order else 99, n))
        cases = list(self.variants[names[0]]["quality"])
        header = ["variant", "parameters", "field", "s", "s/slice", *cases]
        return markdown(header, [_row(name, self.variants[name], cases) for name in names])


def _row(name: str, result: dict[str, Any], cases: list[str]) -> list[str]:
    cells = ["", "", ""]
    if name != START:
        field = 2 * result["reach"] + 1
        cells = [f"{result['parameters']:,}", str(field), f"{result['seconds']:.0f}"]
    figures = [f"{result['quality'][case]:.2f}" for case in cases]
    return [name, *cells, f"{result['slice']:.3f}", *figures]


def parsed() -> argparse.Namespace:
    """The command line."""
    defaults = TrainSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="folders of images, and cubes, to train on")
    parser.add_argument("--test", nargs="+", required=True, help="held-out folders and cubes")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--patch", type=int, default=defaults.tasks.patch)
    parser.add_argument("--scale", type=int, action="append", help="[4 and 8]")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--slices", type=int, default=3, help="slices of each test cube")
    parser.add_argument("--only", nargs="+", action="extend", help="variants [all]")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda[:N]")
    options = parser.parse_args()
    options.scale = options.scale or [4, 8]
    return options


def budget_of(options: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for variants to be compared."""
    kept = ("data", "test", "iterations", "batch", "patch", "scale", "learning_rate", "seed",
            "slices")  # fmt: skip
    return {name: getattr(options, name) for name in kept}


def main() -> None:
    """Train and test the variants that are not finished yet; print the table."""
    options = parsed()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    device = runtime.pick_device(options.device)
    names = options.only or list(VARIANTS)
    for name in names:
        architecture(name)
    results = Results(options.output / "results.json", budget_of(options))
    tests = load_tests(options.test, options.slices)
    for name in [START, *names]:
        if name in results.variants:
            continue
        if name == START:
            results.add(name, tested(None, tests, options, device))
            continue
        facts = trained(name, options, Ranks(0, 1, device))
        weights = load_weights(options.output / f"{name}.safetensors", device)
        results.add(name, facts | tested(weights, tests, options, device))
    print(results.table())


if __name__ == "__main__":
    main()
