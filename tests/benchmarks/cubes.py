"""Cube benchmark: NMSE in dB of mzsr and of every classical method, x2 and x4, both samplings.

python tests/benchmarks/cubes.py [--scales 2,4] [--steps 10] [--bounds auto] [CUBE.mat ...]

LR cubes are made by ``mzsr degrade``. ``floor`` is the better one of the README of the data
(cubic or band-limited; B-spline or band-limited), recomputed here; ``worst`` is the largest
loss of one slice against the best classical method on that slice, in dB.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import data_folder, markdown, mzsr

from mzsr_cli.pipeline.evaluate import EvaluateSettings, evaluate

CLASSICAL = ("bicubic", "spline", "bandlimited", "back-projection", "wiener")
FLOORS = {"bicubic": ("bicubic", "bandlimited"), "direct": ("spline", "bandlimited")}
SLICES = {"raytrace_delay": "0:33:16", "fmc_notch": "0:101:50"}


def figures(output: Path, truth: Path, slices: str) -> tuple[float, list[float]]:
    """NMSE over the slices, and of each."""
    report = evaluate(output, truth, EvaluateSettings(0, False, None, None, 2, slices))
    return report["nmse"], [s["nmse"] for s in report["slices"]]


def one(
    truth: Path, scale: int, sampling: str, steps: int, weights: str | None, bounds: str = "auto"
) -> dict[str, Any]:
    """All methods on one cube."""
    slices = SLICES.get(truth.stem, "0:3")
    result: dict[str, Any] = {"cube": truth.stem, "scale": scale, "sampling": sampling}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        low, high = folder / "low.npy", folder / "truth.npy"
        crop(truth, scale, high)
        mzsr("degrade", high, "--scale", scale, "--sampling", sampling, "-o", low, "-q")
        extra = ["--bounds", bounds, *(["--weights", weights] if weights else [])]
        runs = {m: ["--method", m] for m in CLASSICAL} | {"mzsr": ["--steps", steps, *extra]}
        each: dict[str, list[float]] = {}
        for name, arguments in runs.items():
            out = folder / f"{name}.npy"
            mzsr("upscale", low, "--scale", scale, "--sampling", sampling, *arguments,
                 "--slices", slices, "-o", out, "-q")  # fmt: skip
            result[name], each[name] = figures(out, high, slices)
        provenance = json.loads((folder / "mzsr.npy.json").read_text())
    result["chosen"] = [report["method"] for report in provenance["slice_reports"]]
    result["seconds"] = np.mean([report["seconds"] for report in provenance["slice_reports"]])
    best = np.min([each[name] for name in CLASSICAL], axis=0)
    gap = np.array(each["mzsr"]) - best
    result["worst"] = float(np.nanmax(gap))
    result["floor"] = min(result[name] for name in FLOORS[sampling])
    return result


def crop(truth: Path, scale: int, target: Path) -> None:
    """HR slices cut to whole LR pixels, as .npy."""
    from mzsr_cli.cubes.open import open_cube

    with open_cube(truth) as reader:
        rows, cols, count = reader.info.shape
        sides = slice(rows // scale * scale), slice(cols // scale * scale)
        np.save(target, np.stack([reader.read(k)[sides] for k in range(count)], axis=-1))


def main() -> None:
    """Print a line a case as it goes, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cubes", nargs="*", type=Path)
    parser.add_argument("--scales", default="2,4")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--weights", default=None)
    parser.add_argument("--bounds", default="auto")
    options = parser.parse_args()
    data = data_folder() / "cubes"
    cubes = options.cubes or [
        *sorted((data / "validation").glob("*.mat")), data / "measured" / "fmc_notch.mat"
    ]  # fmt: skip
    rows = []
    for truth in cubes:
        for scale in map(int, options.scales.split(",")):
            for sampling in FLOORS:
                how = (options.steps, options.weights, options.bounds)
                r = one(truth, scale, sampling, *how)
                numbers = [f"{r[name]:.1f}" for name in (*CLASSICAL, "mzsr")]
                rows.append([r["cube"], f"x{scale} {sampling}", *numbers,
                             f"{r['mzsr'] - r['floor']:+.2f}", f"{r['worst']:+.2f}",
                             f"{r['seconds']:.2f}"])  # fmt: skip
                print(rows[-1], r["chosen"], flush=True)
    header = ["cube", "case", *CLASSICAL, "mzsr:10", "to floor", "worst slice", "s/slice"]
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
