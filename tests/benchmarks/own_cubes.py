"""A network trained on a cube's own slices against all else, on the slices held out of it.

python tests/benchmarks/own_cubes.py CUBE.mat ... --max-time 600 [--scale 4 --scale 8] [--patch 96]
    [--init channels] [--meta-time 120] [--zssr] [--held-out 10%] [--threads 1]
    [--folder own] [--json own.json]

For each cube and scale, antialiased and direct sampling: the best classical method, the cube's own
network with 0 and 10 steps (from random weights, and with --init from general ones too), the
general weights alone, and (--zssr, slow) a network trained on the LR slice. NMSE in dB of all
held-out slices together, in a table with each slice's mean left out of the energy and in one as
mzsr evaluate counts; seconds of training. Cubes that --json holds are not done again; a training
that was interrupted is resumed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import markdown

from mzsr_cli.cubes.open import open_cube
from mzsr_cli.errors import MzsrError
from mzsr_cli.learning import catalog
from mzsr_cli.learning.ranks import ALONE
from mzsr_cli.learning.training import Event, Run
from mzsr_cli.learning.weights import load_weights
from mzsr_cli.pipeline.benchmark import Bench
from mzsr_cli.pipeline.benchmark_cases import parse_case, parse_contender
from mzsr_cli.pipeline.plain import strict
from mzsr_cli.pipeline.slices import parse_slices
from mzsr_cli.pipeline.targets import write_whole
from mzsr_cli.pipeline.training import train
from mzsr_cli.settings import (
    GUIDES,
    BenchmarkSettings,
    DataSettings,
    DegradationMix,
    KernelDraw,
    Loss,
    MetaSettings,
    TaskSettings,
    TrainSettings,
)

CLASSICAL = ("bicubic", "spline", "bandlimited", "back-projection", "wiener")
SAMPLINGS = ("bicubic", "direct")
STEPS = (0, 10)
DECISIVE = ("scale", "iterations", "max_time", "meta_time", "patch", "batch", "loss", "init",
            "general", "zssr", "held_out", "seed")  # fmt: skip
"""Options that must not change between the cubes of one JSON file."""

META_RATE = 3e-5
"""Learning rate of meta-training."""

NO_BLUR = KernelDraw(published_fraction=0.0, narrow_fraction=0.0)


@dataclass(frozen=True)
class Network:
    """Weights of a cube, the seconds that training took, and the slices that it has not seen."""

    path: Path
    seconds: float
    held_out: str


# -- training ---------------------------------------------------------------------------------


def settings_of(options: argparse.Namespace) -> TrainSettings:
    """Random sampling, no blur, the scales that are compared."""
    plain = TrainSettings()
    tasks = TaskSettings(
        mix=DegradationMix.RANDOM,
        kernels=NO_BLUR,
        scales=tuple(options.scale),
        direct_fraction=0.5,
        patch=options.patch,
    )
    return replace(
        plain,
        iterations=options.iterations,
        max_time=options.max_time,
        batch=options.batch,
        loss=Loss(options.loss),
        seed=options.seed,
        tasks=tasks,
        data=DataSettings(held_out=options.held_out),
        network=replace(plain.network, guides=GUIDES),
    )


def trained(cube: Path, output: Path, init: Path | None, options: argparse.Namespace) -> Network:
    """Pretrained on the cube's slices from ``init`` or at random, and meta-trained for --meta-time;
    what is there is resumed or taken."""
    settings = settings_of(options)
    path, seconds = output.with_name(f"{output.stem}.pre.safetensors"), 0.0
    kinds: list[tuple[str, Path, TrainSettings, MetaSettings | None]]
    kinds = [("pretrain", path, settings, None)]
    if options.meta_time:
        meta = replace(settings, max_time=options.meta_time, learning_rate=META_RATE)
        kinds.append(("meta-train", output, meta, MetaSettings(tasks_per_iteration=meta.batch)))
    for kind, path, own, meta_settings in kinds:
        resume = Run(path).checkpoint.exists()
        train(kind, [str(cube)], path, own, meta_settings, init, ALONE, resume, True, said)
        facts, init = load_weights(path).facts, path
        seconds += facts["seconds"]
    return Network(path, seconds, facts["held_out"][0][1])


def said(event: Event) -> None:
    """A line for each validation."""
    if event.kind == "validation":
        figures = " ".join(f"{name} {value:.2f}" for name, value in event.figures.items())
        print(f"  {event.iteration} updates, {event.elapsed:.0f} s: {figures}", flush=True)


# -- comparing --------------------------------------------------------------------------------


def contenders(networks: dict[str, Path], zssr: bool) -> Iterator[tuple[str, str, Path | None]]:
    """(name in the table, method of the benchmark, weights)."""
    for method in CLASSICAL:
        yield method, method, None
    for name, path in networks.items():
        for steps in STEPS:
            yield f"{name}:{steps}", f"mzsr:{steps}", path
    if zssr:
        yield "zssr", "zssr", None


def errors(
    cube: Path, slices: str, scale: float, sampling: str, method: str, weights: Path | None
) -> list[dict[str, float]]:
    """Of each finite held-out slice the energy of the error, and that of the truth with and
    without its mean."""
    settings = BenchmarkSettings(scale=(scale, scale), weights=str(weights) if weights else None)
    found = []
    with open_cube(cube) as reader:
        bench = Bench(reader, parse_case(sampling), parse_contender(method), settings)
        for k in parse_slices(slices, reader.info.shape[2]):
            if not np.isfinite(reader.read(k)).all():
                continue
            estimate, truth = (image.astype(complex) for image in bench.trial(k).compared)
            found.append({
                "slice": k,
                "error": energy(estimate - truth),
                "energy": energy(truth),
                "mean_free": energy(truth - truth.mean()),
            })  # fmt: skip
    return found


def energy(image: np.ndarray) -> float:
    """Sum of squared magnitudes."""
    return float(np.sum(np.abs(image) ** 2))


def decibels(slices: list[dict[str, float]], reference: str) -> float:
    """NMSE in dB of all slices together: error over ``energy`` or ``mean_free``."""
    error, whole = (sum(s[name] for s in slices) for name in ("error", reference))
    if not slices or whole == 0:
        return float("nan")
    return 10 * float(np.log10(error / whole)) if error else float("-inf")


def compared(cube: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train the cube's networks and compare all on the held-out slices."""
    name = f"{cube.resolve().parent.name}_{cube.stem}"
    general = catalog.find(options.general)
    own = {"own": trained(cube, options.folder / f"{name}.safetensors", None, options)}
    if options.init:
        output = options.folder / f"{name}.init.safetensors"
        own["own from init"] = trained(cube, output, catalog.find(options.init), options)
    slices = own["own"].held_out
    if not slices:
        sys.exit(f"{cube}: no slice is held out. Type --held-out, or take a cube of two or more.")
    networks = {label: network.path for label, network in own.items()} | {"general": general}
    cases = []
    for scale in options.scale:
        for sampling in SAMPLINGS:
            case: dict[str, Any] = {"scale": scale, "sampling": sampling, "methods": {}}
            for label, method, weights in contenders(networks, options.zssr):
                case["methods"][label] = errors(cube, slices, scale, sampling, method, weights)
            cases.append(case)
            print(row(cube.stem, slices, case, {}, "mean_free"), flush=True)
    seconds = {label: network.seconds for label, network in own.items()}
    return {"cube": cube.stem, "held_out": slices, "seconds": seconds, "cases": cases}


# -- the table --------------------------------------------------------------------------------


def row(
    cube: str, slices: str, case: dict[str, Any], seconds: dict[str, float], reference: str
) -> list[str]:
    """A line of the table."""
    scores = {m: decibels(found, reference) for m, found in case["methods"].items()}
    best = min(CLASSICAL, key=lambda method: scores[method])
    rest = [f"{scores[m]:.2f}" for m in scores if m not in CLASSICAL]
    times = " / ".join(f"{value:.0f}" for value in seconds.values())
    where = f"x{case['scale']:g} {case['sampling']}"
    return [cube, slices, where, f"{scores[best]:.2f} ({best})", *rest, times]


def table(record: dict[str, Any], reference: str) -> str:
    """Markdown of all finished cubes."""
    done = list(record["cubes"].values())
    labels = [m for m in done[0]["cases"][0]["methods"] if m not in CLASSICAL]
    rows = [
        row(one["cube"], one["held_out"], case, one["seconds"], reference)
        for one in done
        for case in one["cases"]
    ]
    seconds = f"training s ({' / '.join(done[0]['seconds'])})"
    return markdown(["cube", "held out", "case", "best classical", *labels, seconds], rows)


def begun(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The record that ``path`` holds, or an empty one. Ends the run where options differ."""
    if not path.exists():
        return {"facts": facts, "cubes": {}}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    differ = [name for name in facts if record["facts"].get(name) != facts[name]]
    if differ:
        sys.exit(f"{path}: was made with other {', '.join(differ)}. Name another --json.")
    return record


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    plain = TrainSettings()
    made.add_argument("cubes", nargs="+", type=Path)
    made.add_argument("--scale", type=float, action="append", help="[4 and 8]")
    made.add_argument("--max-time", type=float, default=600.0, help="seconds a network")
    made.add_argument("--meta-time", type=float, default=0.0, help="seconds of meta-training")
    made.add_argument("--iterations", type=int, default=plain.iterations)
    made.add_argument("--patch", type=int, default=plain.tasks.patch)
    made.add_argument("--batch", type=int, default=4)
    made.add_argument("--loss", choices=[loss.value for loss in Loss], default=Loss.LOG.value)
    made.add_argument("--held-out", help="as of mzsr pretrain")
    made.add_argument("--general", default="channels", help="the general weights")
    made.add_argument("--init", help="train from these weights too")
    made.add_argument("--zssr", action="store_true")
    made.add_argument("--seed", type=int, default=plain.seed)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--folder", type=Path, default=Path("own"), help="of weights")
    made.add_argument("--json", type=Path, default=Path("own.json"))
    return made


def main(arguments: list[str] | None = None) -> None:
    """Do what is not done, print the tables."""
    options = parser().parse_args(arguments)
    options.scale = options.scale or [4.0, 8.0]
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    record = begun(options.json, {name: getattr(options, name) for name in DECISIVE})
    for cube in options.cubes:
        key = str(cube.resolve())
        if key not in record["cubes"]:
            print(f"{cube}", flush=True)
            try:
                record["cubes"][key] = compared(cube, options)
            except MzsrError as error:
                sys.exit(f"{cube}: {error}")
            write_whole(options.json, json.dumps(strict(record), indent=1) + "\n")
    for reference, title in (("mean_free", "mean-free"), ("energy", "as mzsr evaluate counts")):
        print(f"\nNMSE in dB, {title}:\n\n{table(record, reference)}")


if __name__ == "__main__":
    main()
