"""pipeline.lanes: small slices side by side, a thread each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cube_files import digest
from upscale_files import field, save, tiny_weights

from mzsr_cli.cubes.open import open_cube
from mzsr_cli.errors import InputError
from mzsr_cli.learning import runtime
from mzsr_cli.learning.superresolve import Solver
from mzsr_cli.pipeline import lanes
from mzsr_cli.pipeline.lanes import Lanes
from mzsr_cli.pipeline.plan import Plan, make_plan
from mzsr_cli.pipeline.solving import Task
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import (
    AdaptSettings,
    LaneSettings,
    Method,
    Precision,
    UpscaleSettings,
    ZssrSettings,
)

SLICES = 5


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(tmp_path / "cube.npy", field((37, 31, SLICES)))


def settings_of(weights: Path) -> UpscaleSettings:
    return UpscaleSettings(
        scale=(2.0, 2.0), weights=str(weights), precision=Precision.FP32,
        adapt=AdaptSettings(steps=2),
    )  # fmt: skip


def plan_of(source: Path, settings: UpscaleSettings) -> Plan:
    with open_cube(source, None, 2) as reader:
        return make_plan(reader.info, source.with_name("out.npy"), settings)


def tasks_of(source: Path) -> list[Task]:
    cube = np.load(source)
    return [Task(k, k, cube[:, :, k]) for k in range(SLICES)]


def test_several_threads_give_the_bytes_of_one(source: Path, weights: Path) -> None:
    plan, tasks = plan_of(source, settings_of(weights)), tasks_of(source)
    with runtime.threads(1):
        alone = list(Lanes(plan.solver(), plan, None, 1).solve(tasks))
        beside = list(Lanes(plan.solver(), plan, None, 3).solve(tasks))
    assert [s.position for s in beside] == list(range(SLICES))
    for one, other in zip(alone, beside, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.report.as_dict() == other.report.as_dict()


def test_results_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, source: Path, weights: Path
) -> None:
    digests = []
    for count in (1, 2, 3):
        with runtime.threads(count):
            target = tmp_path / f"{count}.npy"
            upscale_cube(source, target, settings_of(weights))
        digests.append(digest(target))
    assert len(set(digests)) == 1


@pytest.mark.parametrize("options", [("2", "gaussian:2.0"), ("4", "none")])
def test_results_do_not_depend_on_the_threads_of_any_library(
    tmp_path: Path, weights: Path, options: tuple[str, str]
) -> None:
    """Nor on those of numpy's linear algebra, which are set before the program begins. Smaller
    slices are computed by one thread anyway."""
    scale, kernel = options
    rng = np.random.default_rng(3)
    blocks = rng.random((16, 16, 2)).repeat(16, 0).repeat(16, 1)
    np.save(tmp_path / "c.npy", 40 * blocks + rng.normal(0, 0.5, blocks.shape))
    digests = set()
    for count in ("1", "2"):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        target = tmp_path / f"{count}.npy"
        how = ["--scale", scale, "--kernel", kernel, "--steps", "1", "--precision", "fp32", "-q"]
        command = ["upscale", tmp_path / "c.npy", "-o", target, "--weights", weights, *how]
        subprocess.run(
            [sys.executable, "-m", "mzsr_cli", *map(str, command)], check=True,
            env=os.environ | dict.fromkeys(names, count),
        )  # fmt: skip
        digests.add(digest(target))
    assert len(digests) == 1


def test_threads_work_at_the_same_time(
    source: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of three slices waits in its solver until the others have begun."""
    plan, barrier = plan_of(source, settings_of(weights)), threading.Barrier(3, timeout=30)
    solve = Solver.solve

    def waiting(self: Solver, *arguments: object) -> object:
        barrier.wait()
        return solve(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Solver, "solve", waiting)
    solved = list(Lanes(plan.solver(), plan, None, 3).solve(tasks_of(source)[:3]))
    assert len(solved) == 3


def test_reads_at_most_one_slice_more_than_are_solved(source: Path, weights: Path) -> None:
    plan, taken = plan_of(source, settings_of(weights)), []

    def tasks() -> Iterator[Task]:
        for task in tasks_of(source):
            taken.append(task.k)
            yield task

    with closing(Lanes(plan.solver(), plan, None, 2).solve(tasks())) as results:
        next(results)
        assert taken == [0, 1, 2]


def test_slices_before_a_bad_one_are_kept(source: Path, weights: Path) -> None:
    plan, kept = plan_of(source, settings_of(weights)), []

    def tasks() -> Iterator[Task]:
        yield from tasks_of(source)[:3]
        raise InputError("slice 3 is bad")

    with pytest.raises(InputError, match="slice 3"):
        for solved in Lanes(plan.solver(), plan, None, 2).solve(tasks()):
            kept.append(solved.position)
    assert kept == [0, 1, 2]


def test_a_slice_that_fails_ends_the_others(
    source: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, before = plan_of(source, settings_of(weights)), threading.active_count()

    def failing(*arguments: object) -> object:
        raise InputError("no answer")

    monkeypatch.setattr(Solver, "solve", failing)
    with pytest.raises(InputError, match="no answer"):
        list(Lanes(plan.solver(), plan, None, 2).solve(tasks_of(source)))
    assert threading.active_count() == before


def test_lanes_end_where_threads_slices_or_memory_do(
    source: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(weights)
    plan = plan_of(source, settings)
    assert lanes.lane_count(plan, 2) == 2
    assert lanes.lane_count(plan, 64) == SLICES
    narrow = LaneSettings(memory=plan.lane_memory + 1)
    assert lanes.lane_count(plan_of(source, replace(settings, lanes=narrow)), 64) == 2
    for free, count in ((plan.memory - 1, 1), (plan.memory + 2 * plan.lane_memory, 3)):
        monkeypatch.setattr(lanes, "free_memory", lambda device, free=free: free)
        assert lanes.lane_count(plan, 64) == count


def test_on_a_gpu_lanes_end_where_its_memory_does_and_large_slices_share_threads(
    source: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(weights)
    lane = LaneSettings(samples=74 * 62 - 1, memory=0, cuda=3)
    large = replace(plan_of(source, replace(settings, lanes=lane)), device=torch.device("cuda"))
    for spare, count in ((0, 1), (1, 2), (2, 3), (9, 3)):
        free = large.memory + spare * large.lane_memory
        monkeypatch.setattr(lanes, "free_memory", lambda device, free=free: free)
        assert lanes.lane_count(large, 64) == min(count, SLICES)
    with runtime.threads(7):
        assert lanes.threads_each(large, 3) == 2
        assert lanes.threads_each(large) is None


def test_large_slices_and_zssr_have_all_threads(source: Path, weights: Path) -> None:
    settings = settings_of(weights)
    large = plan_of(source, replace(settings, lanes=LaneSettings(samples=74 * 62 - 1)))
    zssr = replace(settings, method=Method.ZSSR, zssr=ZssrSettings(iterations_max=3), weights=None)
    for plan in (large, plan_of(source, zssr)):
        assert lanes.threads_each(plan) is None
        assert lanes.lane_count(plan, 8) == 1
    small = plan_of(source, replace(settings, lanes=LaneSettings(samples=74 * 62)))
    assert lanes.threads_each(small) == 1


def test_the_number_of_threads_comes_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(InputError), runtime.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise InputError("any")
    assert torch.get_num_threads() == before
    with runtime.threads(None):
        assert torch.get_num_threads() == before


def test_lanes_do_not_change_each_others_rounding(tmp_path: Path) -> None:
    """Blocks that are gone through twice use their weights twice: bfloat16 copies of them must not
    depend on what another thread does."""
    noise = np.random.default_rng(0).random((64, 60, 12)).astype(np.float32)
    source = save(tmp_path / "cube.npy", noise)
    settings = UpscaleSettings(
        scale=(2.0, 2.0), weights="images-x2", precision=Precision.BF16, device="cpu"
    )
    made = []
    for threads in (1, 2, 2):
        with runtime.threads(threads):
            upscale_cube(source, tmp_path / "out.npy", settings, overwrite=True)
        made.append(digest(tmp_path / "out.npy"))
    assert len(set(made)) == 1
