"""``mzsr benchmark --speed``: counted operations, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mzsr_cli.cli.main import exit_code
from mzsr_cli.pipeline.speed import measure
from mzsr_cli.settings import BenchmarkSettings, Precision, SpeedSettings

SMALL = SpeedSettings(
    matrix=48, plane_side=62, pair_large=44, slice_side=36, seconds=0.0, repeats=1
)


def test_operations_are_those_of_the_layers() -> None:
    """Multiply-adds count twice; a gradient is two more passes, but for the image's own."""
    found = measure(BenchmarkSettings(precision=Precision.FP32, device="cpu", speed=SMALL))
    rows = {row["part"].split(",")[0]: row for row in reversed(found["rows"])}
    assert rows["matrix product"]["GFLOP"] == pytest.approx(2 * 48**3 / 1e9)
    blocks, ends = 6 * 9 * 64 * 64, 16 * 64
    forward = 2 * 31**2 * (blocks + 3 * ends + ends) / 1e9
    assert rows["inference"]["GFLOP"] == pytest.approx(forward, rel=0.01)
    step = found["rows"][2]
    assert step["part"] == "gradient step, 44x44"
    assert step["GFLOP"] == pytest.approx(3 * forward * 22**2 / 31**2, rel=0.02)
    for row in found["rows"]:
        assert row["GFLOP/s"] == pytest.approx(row["GFLOP"] / row["seconds"])
    assert found["slice"]["seconds"] > 0 and found["slice"]["network_share"] > 0


def test_needs_data_or_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["benchmark"]) == 2
    assert "--speed" in capsys.readouterr().err


def test_what_is_there_is_not_replaced_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mzsr_cli.pipeline.speed.measure", None)  # nor is anything measured
    out = tmp_path / "record.json"
    out.write_text("hours of work")
    assert exit_code(["benchmark", "--speed", "--json", str(out)]) == 2
    assert "is already there" in capsys.readouterr().err
    assert out.read_text() == "hours of work"


def test_figures_go_to_the_named_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure

    def small(settings: BenchmarkSettings) -> dict[str, object]:
        return whole(BenchmarkSettings(precision=settings.precision, device="cpu", speed=SMALL))

    monkeypatch.setattr("mzsr_cli.pipeline.speed.measure", small)
    out = tmp_path / "speed.json"
    assert exit_code(["benchmark", "--speed", "--json", str(out), "--precision", "fp32"]) == 0
    assert json.loads(out.read_text())["precision"] == "fp32"


def test_a_gpu_that_is_too_small_is_a_line_and_exit_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(settings: BenchmarkSettings) -> dict[str, object]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mzsr_cli.pipeline.speed.measure", full)
    assert exit_code(["benchmark", "--speed"]) == 4
    assert "mzsr: out of memory" in capsys.readouterr().err


def test_other_errors_are_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(settings: BenchmarkSettings) -> dict[str, object]:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("mzsr_cli.pipeline.speed.measure", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        exit_code(["benchmark", "--speed"])
