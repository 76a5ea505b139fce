"""What a batch script meets: requests checked once, finished results, memory, configuration."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest

from mzsr_cli.cli.main import COMMANDS, exit_code, main
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


@pytest.mark.parametrize("name", COMMANDS)
def test_click_looks_options_up_by_the_names_that_one_types(name: str) -> None:
    """In the environment and in a file; another name would be passed over in silence."""
    chosen = main.get_command(click.Context(main), name)
    assert chosen is not None
    for parameter in chosen.params:
        typed = [option.lstrip("-").replace("-", "_") for option in parameter.opts]
        assert parameter.name in typed


def test_options_that_are_repeated_come_from_file_and_environment(
    cube: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, record = cube.with_name("run.toml"), cube.with_name("record.json")
    config.write_text(
        f"[benchmark]\nmethod = ['bicubic', 'spline']\ndegradation = 'direct'\njson = '{record}'\n"
        "quiet = true\noverwrite = true\n"
    )
    assert exit_code(["--config", str(config), "benchmark", str(cube)]) == 0
    found = json.loads(record.read_text())
    assert found["methods"] == ["bicubic", "spline"]
    assert list(found["facts"]["degradations"]) == ["direct"]
    monkeypatch.setenv("MZSR_BENCHMARK_METHOD", "wiener")
    assert exit_code(["--config", str(config), "benchmark", str(cube)]) == 0
    assert json.loads(record.read_text())["methods"] == ["wiener"]


def test_json_from_the_environment(
    cube: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MZSR_INFO_JSON", "1")
    assert exit_code(["info", str(cube)]) == 0
    assert json.loads(capsys.readouterr().out)["cube"]["shape"] == [13, 11, 2]


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("verbose = 2", "--verbose"),
        ("steps = 1.5", "--steps"),
        ("scale = true", "--scale"),
        ("size = [20.5, 30]", "--size"),
    ],
)
def test_values_of_a_wrong_type_are_refused(
    cube: Path, text: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = cube.with_name("run.toml")
    config.write_text(f"[upscale]\n{text}\n")
    assert exit_code(["--config", str(config), "upscale", str(cube), "--dry-run"]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_that_are_not_finite_are_refused(
    name: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every option that takes a number with a point; nan lies outside no range."""
    chosen = main.get_command(click.Context(main), name)
    assert chosen is not None
    for option in chosen.params:
        if isinstance(option.type, click.types.FloatParamType):
            typed = option.opts[0]
            assert exit_code([name, typed, number, "some", "files"]) == 2
            assert f"Invalid value for '{typed}'" in capsys.readouterr().err


def test_a_size_just_beyond_the_largest_scale_is_told_exactly(
    cube: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounded to 32 it would be a scale that is allowed."""
    assert command(cube, "--size", "417x352") == 2
    assert "32.0769x32, outside 1.1 to 32" in " ".join(capsys.readouterr().err.split())
