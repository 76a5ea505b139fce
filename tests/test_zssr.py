"""ZSSR: the learning-rate schedule, the fathers, and what a training is worth."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from upscale_files import load, nmse, save

from mzsr_cli.imaging import degrade, kernels
from mzsr_cli.learning import networks
from mzsr_cli.learning.zssr import Schedule, Zssr
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import (
    Method,
    NetworkSettings,
    Precision,
    Sampling,
    TileSettings,
    UpscaleSettings,
    ZssrSettings,
)

TINY = NetworkSettings(depth=4, width=16)
SETTINGS = ZssrSettings()


# schedule --------------------------------------------------------------------------------


def scheduled(error_at: Any, settings: ZssrSettings = SETTINGS, until: int = 3000) -> Any:
    """(schedule, iterations of its cuts) as ``Zssr.train`` drives it, for given errors."""
    schedule = Schedule(settings, settings.learning_rate)
    cuts = []
    for iteration in range(until):
        if iteration % settings.test_every == 0:
            schedule.record(iteration, error_at(iteration))
        if iteration % settings.check_every == 0 and iteration > 0:
            before = schedule.rate
            schedule.check(iteration)
            if schedule.rate != before:
                cuts.append(iteration)
        if schedule.finished:
            break
    return schedule, cuts


def test_no_cut_while_the_error_falls() -> None:
    schedule, cuts = scheduled(lambda i: 1 - i / 10_000)
    assert cuts == []
    assert schedule.rate == SETTINGS.learning_rate and not schedule.finished


def test_no_cut_while_it_falls_faster_than_it_scatters() -> None:
    rng = np.random.default_rng(0)
    _, cuts = scheduled(lambda i: 1 - i / 10_000 + 1e-4 * rng.standard_normal())
    assert cuts == []


@pytest.mark.parametrize("slope", [0.0, 1e-5])
def test_cuts_when_it_stalls_or_rises(slope: float) -> None:
    rng = np.random.default_rng(1)
    schedule, cuts = scheduled(lambda i: 0.1 + slope * i + 1e-3 * rng.standard_normal())
    assert cuts[0] >= SETTINGS.fit_span
    assert cuts[0] <= 2 * SETTINGS.fit_span
    assert all(b - a >= SETTINGS.fit_span for a, b in pairwise(cuts))
    assert schedule.finished


def test_a_falling_then_stalling_error_is_cut_after_the_fall() -> None:
    rng = np.random.default_rng(2)
    _, cuts = scheduled(lambda i: max(0.0, 1 - i / 1000) + 1e-3 * rng.standard_normal())
    assert cuts and 900 <= cuts[0] <= 1000 + 2 * SETTINGS.fit_span


def test_finishes_at_the_floor() -> None:
    rng = np.random.default_rng(3)
    schedule, cuts = scheduled(lambda i: rng.random())
    # 1e-3 -> 1e-4 -> 1e-5 are still used; the third cut goes below 9e-6.
    assert len(cuts) == 3
    assert schedule.finished and schedule.rate == pytest.approx(1e-6)
    halves = ZssrSettings(learning_rate_ratio=2, learning_rate_min=4e-4)
    schedule, cuts = scheduled(lambda i: rng.random(), halves)
    assert len(cuts) == 2 and schedule.rate == pytest.approx(2.5e-4)


def test_a_constant_error_does_not_run_for_ever() -> None:
    """No scatter and no fall: rounding alone must not keep the rate up."""
    schedule, _ = scheduled(lambda i: 0.25)
    assert schedule.finished


# fathers ---------------------------------------------------------------------------------


def zssr(seed: int = 0, settings: ZssrSettings = SETTINGS, network: int = 0) -> Zssr:
    return Zssr(
        networks.build(TINY, network), kernels.delta(), Sampling.BICUBIC, settings,
        Precision.FP32, TileSettings(), np.random.default_rng(seed),
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(21, 37), (200, 150), (9, 300), (5, 6)])
def test_fathers_are_shrunk_or_cropped(shape: tuple[int, int]) -> None:
    images = [torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))]
    machine = zssr()
    sides = set()
    for _ in range(60):
        father = machine.father(images)
        assert father.ndim == 3 and father.shape[0] == 1
        short, long = sorted(father.shape[1:])
        assert long <= SETTINGS.crop
        assert short >= min(8, SETTINGS.father_scale_min * min(shape) - 1)
        assert short <= max(8, min(shape)) and long <= max(8, max(shape))
        sides.add(tuple(father.shape[1:]))
    assert len(sides) > 1 or max(shape) < 8


def test_fathers_that_are_not_resized_are_pieces_of_an_image() -> None:
    image = torch.rand(2, 23, 31, generator=torch.Generator().manual_seed(0))
    plain = ZssrSettings(leave_probability=1.0, symmetry_probability=0.0, crop=12)
    machine = zssr(settings=plain)
    windows = image.unfold(1, 12, 1).unfold(2, 12, 1).reshape(-1, 12, 12)
    found = set()
    for _ in range(20):
        father = machine.father([image])
        at = torch.nonzero((windows == father).all((1, 2)))
        assert len(at) == 1
        found.add(int(at[0]))
    assert len(found) > 10
    turned = ZssrSettings(leave_probability=0.0, symmetry_probability=1.0)
    values = [image[p].flatten().sort().values for p in (0, 1)]
    machine = zssr(settings=turned)
    shapes = set()
    for _ in range(20):
        father = machine.father([image])
        shapes.add(tuple(father.shape[1:]))
        assert any(torch.equal(father.flatten().sort().values, v) for v in values)
    assert shapes == {(23, 31), (31, 23)}


def test_fathers_follow_the_seed() -> None:
    images = [torch.rand(1, 20, 18, generator=torch.Generator().manual_seed(0))]

    def draws(seed: int) -> list[torch.Tensor]:
        machine = zssr(seed)
        return [machine.father(images) for _ in range(8)]

    first = draws(1)
    for a, b in zip(first, draws(1), strict=True):
        assert torch.equal(a, b)
    other = draws(2)
    assert not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, other, strict=True)
    )


def test_every_stage_is_a_father() -> None:
    small, large = torch.zeros(1, 10, 10), torch.ones(1, 20, 20)
    machine = zssr()
    means = {round(float(machine.father([small, large]).mean()), 3) for _ in range(40)}
    assert means == {0.0, 1.0}


# training --------------------------------------------------------------------------------


def texture(height: int = 30, width: int = 34) -> torch.Tensor:
    """Stripes and squares in [0, 1], the same at every place: what ZSSR is made for."""
    rows, cols = np.mgrid[:height, :width]
    image = ((rows // 4 + cols // 4) % 2) * 0.7 + 0.3 * ((rows + cols) % 12 < 5)
    return torch.from_numpy(image).float()[None]


def test_training_beats_interpolation_on_its_own_pair() -> None:
    image = texture()
    settings = ZssrSettings(iterations_max=150)
    machine = zssr(settings=settings)
    pair = machine._pair(image, (2.0, 2.0))
    interpolated = float((pair.start - pair.truth).square().mean().sqrt())
    machine.train([image], (2.0, 2.0))
    assert machine.iterations == 150
    assert machine._error(pair) < 0.85 * interpolated


def test_iterations_add_up_over_stages() -> None:
    settings = ZssrSettings(iterations_max=3)
    machine = zssr(settings=settings)
    machine.train([texture(12, 12)], (2.0, 2.0))
    machine.train([texture(12, 12), texture(24, 24)], (1.5, 1.5))
    assert machine.iterations == 6


def test_enlarged_image_explains_the_input() -> None:
    """Back-projection leaves little of the misfit, even for an untrained network."""
    low = texture()
    machine = zssr()
    operator = degrade.enlargement(kernels.delta(), Sampling.BICUBIC, (2.0, 2.0), (30, 34))
    image = machine.enlarge(low, operator)
    assert image.shape == (1, 60, 68)
    assert nmse(operator.apply(image).numpy(), low.numpy()) < -25


def test_the_ensemble_is_a_median_of_eight() -> None:
    """A square slice turned by 90 degrees gives the result turned."""
    low = texture(20, 20)
    operator = degrade.enlargement(kernels.delta(), Sampling.BICUBIC, (2.0, 2.0), (20, 20))
    low[0, :5] *= 0.3
    machine = zssr()
    upright = machine.enlarge(low, operator)
    turned = machine.enlarge(low.rot90(1, (1, 2)), operator)
    torch.testing.assert_close(turned, upright.rot90(1, (1, 2)), rtol=0, atol=1e-5)
    alone = zssr(settings=ZssrSettings(self_ensemble=False))
    plain = alone.enlarge(low.rot90(1, (1, 2)), operator)
    assert (plain - alone.enlarge(low, operator).rot90(1, (1, 2))).abs().max() > 1e-4


def quick(**settings: Any) -> UpscaleSettings:
    return UpscaleSettings(
        **({"scale": (2.0, 2.0), "method": Method.ZSSR, "precision": Precision.FP32} | settings),
        network=TINY,
        zssr=ZssrSettings(iterations_max=4, crop=32),
    )


def made(folder: Path, cube: Any, settings: UpscaleSettings, sign: str = "a") -> Any:
    source = save(folder / "c.npy", cube)
    record = upscale_cube(source, folder / f"{sign}.npy", settings, overwrite=True)
    return load(folder / f"{sign}.npy"), record


def test_a_slice_does_not_know_of_the_others(tmp_path: Path, rng: np.random.Generator) -> None:
    cube = rng.standard_normal((17, 15, 3)).cumsum(0)
    whole, record = made(tmp_path, cube, quick())
    assert [r["method"] for r in record["slice_reports"]] == ["zssr"] * 3
    for k in range(3):
        alone, _ = made(tmp_path, cube, quick(slices=str(k)), "b")
        np.testing.assert_array_equal(np.squeeze(alone), whole[..., k])
    cube[..., 0] = rng.standard_normal((17, 15))
    again, _ = made(tmp_path, cube, quick())
    np.testing.assert_array_equal(again[..., 1:], whole[..., 1:])
    assert not np.array_equal(again[..., 0], whole[..., 0])


def test_seed_and_index_make_the_result(tmp_path: Path, rng: np.random.Generator) -> None:
    plane = rng.standard_normal((17, 15)).cumsum(0)
    cube = np.stack([plane, plane], 2)
    first, _ = made(tmp_path, cube, quick())
    same, _ = made(tmp_path, cube, quick())
    other, _ = made(tmp_path, cube, quick(seed=7))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[..., 0], first[..., 1])


@pytest.mark.parametrize("sampling", list(Sampling))
@pytest.mark.parametrize(("scale", "shape"), [((3.0, 3.0), (51, 45)), ((4.0, 1.5), (68, 23))])
def test_gradual_scales_and_complex_slices(
    tmp_path: Path, rng: np.random.Generator, sampling: Sampling, scale: Any, shape: Any
) -> None:
    cube = rng.standard_normal((17, 15, 1)) + 1j * rng.standard_normal((17, 15, 1))
    result, record = made(tmp_path, cube, quick(scale=scale, sampling=sampling))
    assert result.dtype == np.complex128 and result.shape[:2] == shape
    assert np.isfinite(result).all()
    assert record["slice_reports"][0]["method"] == "zssr"


@pytest.mark.slow
def test_zssr_runs_to_its_own_stop() -> None:
    """The schedule, not the limit, ends a training, and the result beats bicubic on edges,
    which look alike at every scale."""
    rows, cols = np.mgrid[:96, :88] / 96
    disc = (rows - 0.45) ** 2 + (cols - 0.5) ** 2 < 0.1
    image = 0.5 * disc + 0.3 * (rows + 0.6 * cols > 0.8) + 0.2 * (cols - 0.3 * rows > 0.4)
    high = torch.from_numpy(image).float()[None]
    operator = degrade.degradation(kernels.delta(), Sampling.BICUBIC, (2.0, 2.0), (96, 88))
    low = operator.apply(high)
    settings = ZssrSettings(iterations_max=20_000)
    machine = zssr(settings=settings)
    machine.train([low], (2.0, 2.0))
    assert 3 * settings.fit_span < machine.iterations < 20_000
    image = machine.enlarge(low, operator)
    bicubic = operator.interpolate(low, Method.BICUBIC, 0.0)
    assert nmse(image.numpy(), high.numpy()) < nmse(bicubic.numpy(), high.numpy()) - 1
