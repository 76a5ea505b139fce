"""The weights of photographs beside those of cubes: for slices whose pair they are nearer to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cube_files import digest
from upscale_files import StopAfter, save

from mzsr_cli.imaging import degrade, kernels
from mzsr_cli.imaging.bounds import Bounds, share_beside
from mzsr_cli.imaging.normalize import slice_range
from mzsr_cli.learning import catalog, runtime
from mzsr_cli.learning.adapt import prefers
from mzsr_cli.learning.superresolve import Sample, SliceReport, Solver
from mzsr_cli.learning.weights import Weights, load_weights
from mzsr_cli.pipeline.merge import merge_cubes
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import (
    Adapting,
    AdaptSettings,
    BoundsSettings,
    CheckSettings,
    ConsistencySettings,
    Method,
    Precision,
    Sampling,
    UpscaleSettings,
)

CHECK = CheckSettings()
PLATEAU = BoundsSettings().plateau
SIDES = (43, 46)
CPU = torch.device("cpu")


def discs(seed: int) -> np.ndarray:
    """A picture of twice the SIDES with sharp edges, nowhere flat."""
    rng, picture = np.random.default_rng(seed), np.zeros([2 * n for n in SIDES])
    rows, cols = np.indices(picture.shape)
    for _ in range(14):
        row, col, radius = (rng.uniform(4 * (i == 2), n) for i, n in enumerate((86, 92, 22)))
        picture[(rows - row) ** 2 + (cols - col) ** 2 < radius**2] = rng.uniform(0.2, 1)
    return picture + 0.002 * rows + 0.001 * cols


def noisy_waves(seed: int) -> np.ndarray:
    """A wave field near its limit."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices([2 * n for n in SIDES])
    field = np.zeros(rows.shape)
    for _ in range(12):
        down, across = rng.uniform(-1.4, 1.4, 2)
        field += rng.normal() * np.cos(down * rows + across * cols + rng.uniform(0, 6))
    return field + 0.1 * rng.standard_normal(field.shape)


def low(picture: np.ndarray) -> np.ndarray:
    operator = degrade.degradation(
        kernels.delta(), Sampling.BICUBIC, (2.0, 2.0), picture.shape, dtype=torch.float64
    )
    return np.asarray(operator.apply(torch.from_numpy(picture)).numpy(), np.float32)


def cube() -> np.ndarray:
    return np.stack([low(discs(0)), low(noisy_waves(1)), low(discs(2))], -1)


def shipped(name: str) -> Weights:
    return load_weights(catalog.find(name))


def settings_of(**more: object) -> UpscaleSettings:
    told = UpscaleSettings(
        scale=(2.0, 2.0), precision=Precision.FP32, adapt=AdaptSettings(steps=2), device="cpu"
    )
    return replace(told, **more)  # type: ignore[arg-type]


def solver_of(first: str, second: str | None, **more: object) -> Solver:
    return Solver(
        SIDES, (2.0, 2.0), (86, 92), kernels.delta(), Method.MZSR, shipped(first),
        settings_of(**more), Precision.FP32, CPU, shipped(second) if second else None,
    )  # fmt: skip


def solved(
    picture: np.ndarray, first: str, second: str | None, **more: object
) -> tuple[torch.Tensor, SliceReport]:
    planes = low(picture)[None].astype(np.float64)
    mapping = slice_range(planes, UpscaleSettings().normalize)
    sample = Sample(torch.from_numpy(mapping.forward(planes)).float(), 0.0, mapping.zero(planes))
    solver = solver_of(first, second, **more)
    return solver.solve(sample, 0)


def test_the_network_nearer_to_the_pair_answers_as_it_would_alone() -> None:
    """The second for edges, the first for waves, whatever else is there."""
    image, report = solved(discs(0), "channels", "images-x2")
    alone, _ = solved(discs(0), "images-x2", None)
    assert report.weights == "images-x2" and report.did == "mzsr (images-x2)"
    assert report.as_dict()["weights"] == "images-x2" and report.losses
    torch.testing.assert_close(image, alone, rtol=0, atol=1e-6)
    solver = solver_of("channels", "images-x2")
    sample = Sample(torch.from_numpy(low(discs(0)))[None], 0.0)
    for one in (solver.beside(), solver.beside().beside()):
        again, twice = (each.solve(sample, 0) for each in (solver, one))
        assert again[1].weights == twice[1].weights == "images-x2"
        assert torch.equal(again[0], twice[0])
    image, report = solved(noisy_waves(2), "channels", "images-x2")
    alone, first = solved(noisy_waves(2), "channels", None)
    assert report.weights is None and report.trust == first.trust > 0
    assert torch.equal(image, alone)


def test_lanes_and_interruptions_change_nothing(tmp_path: Path) -> None:
    """Three slices one after the other, at the same time, and on from a run that has stopped."""
    source, settings = save(tmp_path / "c.npy", cube()), settings_of()
    digests = []
    for count in (1, 3):
        with runtime.threads(count):
            upscale_cube(source, tmp_path / f"{count}.npy", settings)
        digests.append(digest(tmp_path / f"{count}.npy"))
    for after in (1, 2):
        broken = tmp_path / f"after{after}.npy"
        with pytest.raises(KeyboardInterrupt):
            upscale_cube(source, broken, settings, on_slice=StopAfter(after))
        upscale_cube(source, broken, settings, resume=True)
        digests.append(digest(broken))
        told = json.loads(Path(f"{broken}.json").read_text())
        found = [report.get("weights") for report in told["slice_reports"]]
        assert found == ["images-x2", None, "images-x2"]
    assert len(set(digests)) == 1


def streets(seed: int) -> np.ndarray:
    """A map of blocks in shadow, at the lowest value, beside a field that falls."""
    rng, picture = np.random.default_rng(seed), discs(seed) + 1
    for _ in range(40):
        top, left, high, wide = (int(v) for v in rng.uniform((0, 0, 5, 5), (80, 86, 12, 12)))
        picture[top : top + high, left : left + wide] = 0.5
    return picture


def test_not_where_much_of_a_map_lies_beside_its_bounds() -> None:
    planes = torch.from_numpy(low(streets(4)))[None].double()
    planes = (planes - planes.min()) / (planes.max() - planes.min())
    bound = float(planes.flatten().mode().values)
    assert share_beside(planes, Bounds(low=bound), PLATEAU) > CHECK.second_beside
    assert share_beside(planes, Bounds(), PLATEAU) == 0
    report = {}
    for bounds in (Bounds(), Bounds(low=bound)):
        solver = solver_of("channels", "images-x2", adapt=AdaptSettings(steps=0))
        _, report[bounds] = solver.solve(Sample(planes.float(), 0.0, bounds=bounds), 0)
    assert report[Bounds()].weights == "images-x2"
    assert report[Bounds(low=bound)].weights is None


@pytest.mark.parametrize("sign", [1, -1])
def test_share_beside_bounds_is_counted_on_both_sides(sign: int) -> None:
    planes = torch.zeros(1, 20, 30, dtype=torch.float64)
    planes[:, 5:9, 7:12] = sign * 0.5
    bounds = Bounds(low=0.0) if sign > 0 else Bounds(high=0.0)
    beside = (4 + 4) * (5 + 4) - 4 * 5
    assert share_beside(planes, bounds, PLATEAU) == pytest.approx(beside / 600)
    planes[:, 5:9, 7:12] = sign * 0.01  # hardly above
    assert share_beside(planes, bounds, PLATEAU) == 0


def test_steps_may_bring_the_first_nearer() -> None:
    """What the first has learned of the pair counts: more steps never make the second answer, and
    sometimes keep it from that."""
    answered = []
    for seed in range(6):
        noise = 0.1 * np.random.default_rng(seed).standard_normal(discs(seed).shape)
        answered.append([
            solved(discs(seed) + noise, "channels", "images-x2", adapt=AdaptSettings(steps=steps))
            for steps in (0, 30)
        ])  # fmt: skip
    names = [tuple(report.weights for _, report in pair) for pair in answered]
    assert (None, "images-x2") not in names and ("images-x2", None) in names


def test_weights_that_are_no_better_do_not_answer() -> None:
    """The same weights twice: no margin."""
    _, report = solved(discs(0), "channels", "channels")
    assert report.weights is None


@pytest.mark.parametrize(
    "more",
    [
        {"check": CheckSettings(enabled=False)},
        {"adapt": AdaptSettings(steps=2, mode=Adapting.CUBE)},
        {"adapt": AdaptSettings(steps=2, mode=Adapting.WARM)},
    ],
)
def test_not_where_nothing_is_checked_or_slices_learn_together(more: dict[str, object]) -> None:
    _, report = solved(discs(0), "channels", "images-x2", **more)
    assert report.weights is None


def answer(truth: torch.Tensor, level: float) -> torch.Tensor:
    """``truth`` with an error of ``level`` dB of its variance."""
    rng = torch.Generator().manual_seed(round(100 * level) % 1000)
    error = torch.randn(truth.shape, generator=rng, dtype=truth.dtype)
    energy = (truth - truth.mean()).square().sum() / error.square().sum()
    return truth + error * float(energy) ** 0.5 * 10 ** (level / 20)


@pytest.mark.parametrize(
    ("start", "first", "second", "informative", "expected"),
    [
        (-10, -12, -12.3, True, False),
        (-10, -12, -12.5, True, True),
        (-10, -12, -9, True, False),
        (-4, -6, -6.5, False, False),
        (-4, -6, -7, False, True),
        (-4, -4.5, -5.9, False, False),  # does not see the pair
        (1, -4, -9, False, False),  # a hopeless start
        (1, -4, -9, True, True),
    ],
)
def test_margins(
    start: float, first: float, second: float, informative: bool, expected: bool
) -> None:
    truth = torch.from_numpy(np.random.default_rng(5).random((1, 31, 29)))
    answers = [answer(truth, level) for level in (start, first, second)]

    def said(level: float, scale: float) -> bool:
        return prefers(*answers, truth, informative, level, scale, CHECK)

    assert said(start - 3, 2.0) is expected
    assert said(start - 3, 2.1) is (expected and informative)
    assert said(start - CHECK.second_unlike + 0.5, 2.0) is expected
    assert not said(start - CHECK.second_unlike - 0.5, 2.0)  # a slice unlike its son


def record_of(target: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(f"{target}.json").read_text())
    return found


def test_a_cube_says_who_answered(tmp_path: Path) -> None:
    source = save(tmp_path / "cube.npy", cube())
    upscale_cube(source, tmp_path / "both.npy", settings_of())
    record = record_of(tmp_path / "both.npy")
    assert record["weights"] == {"name": "channels", "sha256": shipped("channels").digest}
    assert record["second_weights"] == {"name": "images-x2", "sha256": shipped("images-x2").digest}
    reports = record["slice_reports"]
    assert isinstance(reports, list)
    assert [r.get("weights") for r in reports] == ["images-x2", None, "images-x2"]
    notes = record["notes"]
    assert isinstance(notes, list)
    assert any(note.startswith("2 of 3 slices: answered by images-x2") for note in notes)


def test_either_answers_for_blurred_slices(tmp_path: Path) -> None:
    blurred = [
        degrade.degradation(
            kernels.gaussian(1.0), Sampling.BICUBIC, (2.0, 2.0), picture.shape, dtype=torch.float64
        ).apply(torch.from_numpy(picture)[None])[0].numpy()
        for picture in (discs(0), noisy_waves(1))
    ]  # fmt: skip
    source = save(tmp_path / "cube.npy", np.stack(blurred, -1))
    upscale_cube(source, tmp_path / "both.npy", settings_of(kernel="gaussian:1"))
    reports = record_of(tmp_path / "both.npy")["slice_reports"]
    assert isinstance(reports, list)
    assert [r.get("weights") for r in reports] == ["images-x2", None]


@pytest.mark.parametrize(
    "more",
    [
        {"weights": "channels"},
        {"adapt": AdaptSettings(steps=2, mode=Adapting.CUBE)},
        {"check": CheckSettings(enabled=False)},
        {"check": CheckSettings(second=False)},
        {"method": Method.SPLINE},
        {"scale": (8.1, 2.0)},
        {"consistency": ConsistencySettings(enabled=False)},
    ],
)
def test_named_weights_stand_alone(tmp_path: Path, more: dict[str, object]) -> None:
    source = save(tmp_path / "cube.npy", cube())
    upscale_cube(source, tmp_path / "one.npy", settings_of(**more))
    record = record_of(tmp_path / "one.npy")
    assert record["second_weights"] is None
    reports = record["slice_reports"]
    assert isinstance(reports, list) and not any("weights" in report for report in reports)


def test_what_classical_methods_win_is_not_the_networks() -> None:
    """A verdict for a classical method, whichever network was nearer."""
    always = CheckSettings(margin=-1e9)
    _, report = solved(discs(0), "channels", "images-x2", check=always)
    assert report.check is not None and report.check.overruled
    assert report.weights is None and report.did == report.method


def test_up_to_x8(tmp_path: Path) -> None:
    source = save(tmp_path / "cube.npy", cube()[:24, :21, :1])
    answered = {}
    for scale in (8.0, 8.1):
        target = tmp_path / f"x{scale}.npy"
        upscale_cube(source, target, settings_of(scale=(scale, 2.0), adapt=AdaptSettings(steps=0)))
        reports = record_of(target)["slice_reports"]
        assert isinstance(reports, list)
        answered[scale] = reports[0].get("weights")
    assert answered == {8.0: "images-x2", 8.1: None}


def test_the_same_bytes_from_parts(tmp_path: Path) -> None:
    source = save(tmp_path / "cube.npy", cube())
    once = upscale_cube(source, tmp_path / "once.npy", settings_of())
    assert once["second_weights"] is not None
    parts = []
    for part in ("2", "0:2"):
        parts.append(tmp_path / f"part{part[0]}.npy")
        upscale_cube(source, parts[-1], settings_of(slices=part))
    merged = merge_cubes(parts, tmp_path / "merged.npy")
    assert merged["notes"] == once["notes"]
    assert digest(tmp_path / "merged.npy") == digest(tmp_path / "once.npy")
