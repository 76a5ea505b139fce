"""What a batch script meets: requests checked once, finished results, memory, configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mzsr_cli.cli.main import exit_code
from mzsr_cli.pipeline import plan


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    path = tmp_path / "cube.npy"
    np.save(path, np.random.default_rng(3).standard_normal((13, 11, 2)).astype(np.float32))
    return path


def command(cube: Path, *more: str) -> int:
    return exit_code(["upscale", str(cube), "--method", "spline", "-q", *more])


def test_missing_scale_is_said_once(cube: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["upscale", str(cube), str(cube.with_name("other.npy"))]) == 2
    assert capsys.readouterr().err.count("--scale") == 1


def test_resume_passes_over_a_finished_result(cube: Path) -> None:
    assert command(cube, "--scale", "2") == 0
    before = cube.with_name("cube_x2.npy").stat().st_mtime_ns
    assert command(cube, "--scale", "2") == 2
    assert command(cube, "--scale", "2", "--resume") == 0
    assert cube.with_name("cube_x2.npy").stat().st_mtime_ns == before


def test_resume_refuses_a_result_made_differently(
    cube: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(cube, "--scale", "2") == 0
    assert command(cube, "--scale", "2", "--clip", "--resume") == 6
    assert "settings" in capsys.readouterr().err


def test_too_large_a_slice_is_refused_before_work(
    cube: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "available_memory", lambda: 10_000)
    before = sorted(cube.parent.iterdir())
    assert command(cube, "--scale", "4") == 4
    assert "52x44" in capsys.readouterr().err
    assert sorted(cube.parent.iterdir()) == before


@pytest.mark.parametrize("text", ["[upscale]\nstep = 3\n", "[upscal]\nsteps = 3\n", "steps = 3\n"])
def test_unknown_configuration_is_refused(cube: Path, text: str) -> None:
    config = cube.with_name("run.toml")
    config.write_text(text)
    assert exit_code(["--config", str(config), "upscale", str(cube), "--scale", "2"]) == 2
    assert not cube.with_name("cube_x2.npy").exists()


def test_dry_run_says_that_the_output_exists(cube: Path) -> None:
    assert command(cube, "--scale", "2") == 0
    assert command(cube, "--scale", "2", "--dry-run") == 2
    assert command(cube, "--scale", "2", "--dry-run", "--overwrite") == 0
