"""``mzsr upscale --bounds``: what is kept to, said and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from upscale_files import field, run, save, tiny_weights, upscale

SHADOW = -110.0


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tiny_weights(tmp_path / "tiny.safetensors")


def shadow_map(tmp_path: Path) -> Path:
    """LR maps of path gain above a floor of -110 dB, by ``mzsr degrade``."""
    rng = np.random.default_rng(3)
    lit = ndimage.gaussian_filter(rng.standard_normal((74, 82, 2)), (4, 4, 0)) > 0
    slow = ndimage.gaussian_filter(rng.standard_normal((74, 82, 2)), (6, 6, 0)) * 60
    high = np.where(lit, np.maximum(-80 + slow, SHADOW), SHADOW).astype(np.float32)
    source = save(tmp_path / "high.npy", high)
    low = ("-o", tmp_path / "low.npy", "--overwrite")
    assert run("degrade", source, "--scale", 2, *low) == 0
    assert np.load(tmp_path / "low.npy").min() < SHADOW - 0.1
    return tmp_path / "low.npy"


def bounded(tmp_path: Path, weights: Path, *arguments: Any) -> tuple[np.ndarray, list[Any]]:
    """The result, and the bounds that its provenance tells of each slice."""
    low, out = shadow_map(tmp_path), tmp_path / "out.npy"
    how = ("--scale", 2, "--weights", weights, "--steps", 1, "-o", out, "--overwrite", *arguments)
    assert upscale(low, *how) == 0
    record = json.loads((tmp_path / "out.npy.json").read_text())
    return np.load(out), [report.get("bounds") for report in record["slice_reports"]]


def test_plateaus_are_kept_and_told(tmp_path: Path, weights: Path) -> None:
    image, told = bounded(tmp_path, weights)
    assert image.min() == pytest.approx(SHADOW, abs=1e-4)
    assert (np.abs(image - SHADOW) < 1e-4).mean() > 0.2  # flat again where it was
    assert told == [[pytest.approx(SHADOW, abs=1e-4), None]] * 2


def test_none_searches_nothing(tmp_path: Path, weights: Path) -> None:
    image, told = bounded(tmp_path, weights, "--bounds", "none")
    assert image.min() < SHADOW - 0.1
    assert told == [None, None]


@pytest.mark.parametrize(("text", "low", "high"), [
    ("-105:", -105.0, None), (":-82.5", None, -82.5), ("-111:-70", -111.0, -70.0),
])  # fmt: skip
def test_known_bounds(
    tmp_path: Path, weights: Path, text: str, low: float | None, high: float | None
) -> None:
    image, told = bounded(tmp_path, weights, "--bounds", text)
    assert image.min() >= (-np.inf if low is None else low - 1e-4)
    assert image.max() <= (np.inf if high is None else high + 1e-4)
    expected = [None if b is None else pytest.approx(b, abs=1e-4) for b in (low, high)]
    assert told == [expected] * 2


def test_known_bounds_hold_to_the_last_bit(tmp_path: Path, weights: Path) -> None:
    """A magnitude of -1e-9 is no number in decibels."""
    source = save(tmp_path / "c.npy", np.abs(field()) + 0.01)
    out = tmp_path / "out.npy"
    how = ("--scale", 3, "--weights", weights, "--steps", 0, "-o", out, "--bounds", "0.1:0.7")
    assert upscale(source, *how) == 0
    image = np.load(out)
    assert image.min() == np.asarray(0.1, image.dtype)
    assert image.max() == np.asarray(0.7, image.dtype)


def test_integers_keep_within_their_dtype(tmp_path: Path, weights: Path) -> None:
    rng = np.random.default_rng(5)
    blobs = ndimage.gaussian_filter(rng.standard_normal((40, 44, 1)), (2, 2, 0))
    source = save(tmp_path / "low.npy", np.clip(128 + 900 * blobs, 0, 255).astype(np.uint8))
    out = tmp_path / "out.npy"
    how = ("--scale", 2, "--weights", weights, "--steps", 0, "--out-dtype", "float32", "-o", out)
    assert upscale(source, *how) == 0
    assert np.load(out).min() >= 0
    assert np.load(out).max() <= 255
    assert upscale(source, *how, "--overwrite", "--bounds", "none") == 0
    assert np.load(out).max() > 256


@pytest.mark.parametrize("text", ["", ":", "1", "1:2:3", "2:1", "1:1", "nan:", "low:high", ":inf"])
def test_what_are_no_bounds(tmp_path: Path, weights: Path, text: str) -> None:
    source = save(tmp_path / "c.npy", field())
    assert upscale(source, "--scale", 2, "--weights", weights, "--bounds", text) == 2


def test_complex_cubes_have_none(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field(dtype="complex64"))
    assert upscale(source, "--scale", 2, "--weights", weights, "--bounds", "0:") == 2
    assert "is complex" in capsys.readouterr().err
    assert upscale(source, "--scale", 2, "--weights", weights, "--steps", 0) == 0


def test_other_methods_say_that_they_do_not_use_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field())
    assert upscale(source, "--scale", 2, "--method", "spline", "--bounds", "0:") == 0
    assert "--bounds is not used" in capsys.readouterr().err


def test_bounds_in_a_configuration(tmp_path: Path, weights: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[upscale]\nbounds = [-105, -70]\n")
    low, out = shadow_map(tmp_path), tmp_path / "out.npy"
    how = ("--scale", 2, "--weights", weights, "--steps", 0, "-o", out)
    assert run("--config", config, "upscale", low, *how) == 0
    assert np.load(out).min() >= -105 - 1e-4


def test_tiles_change_nothing_within_bounds(tmp_path: Path, weights: Path) -> None:
    whole, told = bounded(tmp_path, weights)
    tiled, _ = bounded(tmp_path, weights, "--tile", 32)
    assert told[0] is not None
    assert np.abs(tiled - whole).max() < 1e-4 * np.ptp(whole)


@pytest.mark.parametrize(("text", "told"), [("5:10", 2), ("-112:", 0), (":-100", 2), (":-40", 0)])
def test_bounds_that_samples_contradict(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str], text: str, told: int
) -> None:
    """What antialiasing rings is no contradiction."""
    bounded(tmp_path, weights, "--bounds", text)
    record = json.loads((tmp_path / "out.npy.json").read_text())
    assert sum(report.get("beyond", False) for report in record["slice_reports"]) == told
    assert ("beyond --bounds" in capsys.readouterr().err) == (told > 0)


def test_constants_that_bounds_contradict(tmp_path: Path, weights: Path) -> None:
    source, out = save(tmp_path / "flat.npy", np.full((9, 8, 1), 7.0)), tmp_path / "o.npy"
    how = ("--scale", 2, "--weights", weights, "--bounds", "0:1", "-o", out)
    assert upscale(source, *how) == 0
    assert json.loads((tmp_path / "o.npy.json").read_text())["slice_reports"][0]["beyond"]
    assert (np.load(out) == 7).all()
