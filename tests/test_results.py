"""What the shipped weights reach (slow; data needed): the bars below which a change is a loss."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mzsr_cli.cli.main import exit_code
from mzsr_cli.pipeline.evaluate import EvaluateSettings, evaluate

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import cubes as cube_benchmark

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PROTOCOL = EvaluateSettings(2, True, None, None, 2, None)


def set5_psnr(inputs: list[Path], truths: list[Path], out: Path, *arguments: str) -> float:
    """Mean PSNR on Y of 10 steps with the shipped weights."""
    out.mkdir()
    code = exit_code(
        ["upscale", *map(str, inputs), "--scale", "2", *arguments, "-o", f"{out}/", "-q"]
    )
    assert code == 0
    found = sorted(out.glob("*.png"))
    return float(np.mean([evaluate(o, t, PROTOCOL)["psnr"] for o, t in zip(found, truths)]))  # noqa: B905


@pytest.mark.parametrize(
    ("kernel", "sampling", "bar"),
    [
        ("gaussian:0.2", "direct", 35.9),
        ("none", "bicubic", 37.45),
        ("gaussian:4,1,-0.5", "direct", 35.55),
        ("gaussian:1.3", "bicubic", 37.0),
    ],
)
def test_set5(data: Path, tmp_path: Path, kernel: str, sampling: str, bar: float) -> None:
    truths = sorted((data / "Set5" / "x2").glob("*.png"))
    low = tmp_path / "low"
    low.mkdir()
    how = ("--kernel", kernel, "--sampling", sampling)
    assert exit_code(["degrade", *map(str, truths), "--scale", "2", *how, "-o", f"{low}/"]) == 0
    assert set5_psnr(sorted(low.glob("*.png")), truths, tmp_path / "out", *how) >= bar


def test_set5_published_inputs(data: Path, tmp_path: Path) -> None:
    folder = data / "mzsr_g20" / "Input" / "g20"
    how = ("--kernel", str(folder / "kernel.mat"), "--sampling", "direct")
    inputs = sorted((folder / "Set5").glob("*.png"))
    truths = sorted((data / "Set5" / "x2").glob("*.png"))
    assert set5_psnr(inputs, truths, tmp_path / "out", *how) >= 36.7


GAINS = {("raytrace", 2, "bicubic"): 3.7, ("raytrace", 4, "bicubic"): 3.4}
"""What is gained over the floor on structure, dB."""


@pytest.mark.parametrize("sampling", ["bicubic", "direct"])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("name", [
    "mimo", "mimo_dense", "mimo_taps", "raytrace", "raytrace_delay", "ultrasound",
    "ultrasound_dense", "underwater", "underwater_depth", "fmc_notch",
])  # fmt: skip
def test_cubes_keep_the_floor(data: Path, name: str, scale: int, sampling: str) -> None:
    folder = "measured" if name == "fmc_notch" else "validation"
    truth = data / "cubes" / folder / f"{name}.mat"
    found = cube_benchmark.one(truth, scale, sampling, 10, None)
    assert found["mzsr"] <= found["floor"] + 0.1 - GAINS.get((name, scale, sampling), 0.0)
    assert found["worst"] <= 0.3
