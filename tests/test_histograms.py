"""``mzsr info --histograms``: distributions of slices before and after range expansion."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mzsr_cli.cli.main import exit_code
from mzsr_cli.cubes.open import open_cube
from mzsr_cli.errors import InputError
from mzsr_cli.imaging.histograms import expanded_shares, finite_planes, shares
from mzsr_cli.pipeline.histograms import Histograms, histograms
from mzsr_cli.settings import HistogramSettings

SMALL = HistogramSettings(bins=10)


def cube(shape: tuple[int, int, int] = (17, 13, 9), seed: int = 0, imaginary: bool = False) -> Any:
    """Slices whose ranges fall by a factor of three from one to the next."""
    rng = np.random.default_rng(seed)
    made = rng.random(shape) + (1j * rng.standard_normal(shape) if imaginary else 0)
    return made * 3.0 ** -np.arange(shape[2])


def run(*arguments: Any) -> int:
    """Exit code of a command line."""
    return exit_code([str(argument) for argument in arguments])


def counted(
    path: Path, made: Any, settings: HistogramSettings = SMALL, slices: range | None = None
) -> Histograms:
    """Histograms of an array through a file."""
    np.save(path, made)
    with open_cube(path) as reader:
        return histograms(reader, slices or range(made.shape[2]), settings)


def test_shares_are_those_of_the_samples(tmp_path: Path) -> None:
    """Each slice by itself: all samples counted, the fall of the ranges seen before, not after."""
    made = cube(imaginary=True)
    found = counted(tmp_path / "c.npy", made)
    assert found.before.shape == found.after.shape == (2, 9, 10)
    assert np.allclose(found.before.sum(-1), 1) and np.allclose(found.after.sum(-1), 1)
    parts = np.stack([made.real, made.imag])
    assert found.limits == (parts.min(), parts.max())
    for plane in range(2):
        for k in range(9):
            values = parts[plane, :, :, k]
            expected = np.histogram(values, 10, found.limits)[0] / values.size
            assert np.array_equal(found.before[plane, k], expected)
            low, high = parts[..., k].min(), parts[..., k].max()
            mapped = np.histogram((values - low) / (high - low), 10, (0, 1))[0] / values.size
            assert np.allclose(found.after[plane, k], mapped, atol=2 / values.size)
    assert found.before[0, -1].max() == 1 and found.after[0, -1].max() < 0.9


def test_range_expansion_undoes_scale_and_offset() -> None:
    values = finite_planes(cube()[..., 0])
    assert np.array_equal(expanded_shares(values, 7), expanded_shares(4 * values - 2, 7))
    assert not np.array_equal(shares(values, (0, 4), 7), shares(4 * values, (0, 4), 7))


@pytest.mark.parametrize("imaginary", [False, True])
def test_what_cannot_be_counted(tmp_path: Path, imaginary: bool) -> None:
    """NaN and Inf are left out, in both planes; constant and empty slices have no row after."""
    made = cube(imaginary=imaginary)
    made[2, 3, 0], made[4, 5, 0] = np.nan, -np.inf
    made[..., 1] = np.nan
    made[..., 2] = 0.25 * (1 + 1j if imaginary else 1)
    found = counted(tmp_path / "c.npy", made)
    assert found.left_out == 2 + 17 * 13 and found.constant == 1
    assert np.allclose(found.before[:, [0, 2]].sum(-1), 1)
    assert np.isnan(found.before[:, 1]).all() and np.isnan(found.after[:, [1, 2]]).all()
    assert np.isfinite(found.after[:, 3:]).all() and np.isfinite(found.limits).all()


@pytest.mark.parametrize("value", [0.0, 5.0, 3e20, -1e-30])
def test_a_constant_cube_has_one_bin(tmp_path: Path, value: float) -> None:
    found = counted(tmp_path / "c.npy", np.full((5, 7, 3), value))
    assert found.constant == 3 and (found.before.max(-1) == 1).all()


def test_nothing_finite_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--slices"):
        counted(tmp_path / "c.npy", np.full((5, 7, 3), np.nan))


def test_neighbours_share_a_row(tmp_path: Path) -> None:
    made = cube((6, 5, 23))
    each = counted(tmp_path / "c.npy", made)
    few = counted(tmp_path / "c.npy", made, HistogramSettings(bins=10, rows=4))
    assert few.before.shape == (1, 4, 10)
    groups = [[k for k in range(23) if k * 4 // 23 == row] for row in range(4)]
    means = np.stack([each.before[0, group].mean(0) for group in groups])
    assert np.allclose(few.before[0], means)


def test_one_slice_in_memory(tmp_path: Path) -> None:
    """Slices are read one by one, twice, and only those that are wanted."""

    class Counting:
        def __init__(self, reader: Any) -> None:
            self.info, self.reader, self.asked = reader.info, reader, []

        def read(self, k: int) -> Any:
            self.asked.append(k)
            return self.reader.read(k)

    np.save(tmp_path / "c.npy", cube())
    with open_cube(tmp_path / "c.npy") as reader:
        counting = Counting(reader)
        histograms(counting, range(1, 9, 3), SMALL)  # type: ignore[arg-type]
    assert counting.asked == [1, 4, 7] * 2


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("imaginary", [False, True])
def test_figures_of_few_and_many_slices(
    tmp_path: Path, capsys: Any, count: int, imaginary: bool
) -> None:
    """A PNG that is no blank, and what is not in it said in JSON."""
    made = cube((11, 13, count), imaginary=imaginary)
    made[0, 0, 0] = np.nan
    source, target = tmp_path / "c$_{1.npy", tmp_path / "o.png"
    np.save(source, made)
    assert run("info", source, "--histograms", target, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["histograms"] == {"path": str(target), "left_out": 1, "constant": 0}
    assert len(facts["cube"]["slices"]) == count
    with Image.open(target) as image:
        assert image.width > 800 and len(image.convert("RGB").getcolors(2**24) or []) > 20
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source.name, "o.png"])


def test_figures_are_not_replaced_unasked(tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "c.npy", cube())
    target = tmp_path / "o.svg"
    target.write_text("mine")
    line = ("info", tmp_path / "c.npy", "--histograms", target)
    assert run(*line) == 2 and "--overwrite" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert run(*line, "--overwrite", "--slices", "2:7:2") == 0
    assert "<svg" in target.read_text()


def test_the_input_is_not_replaced(tmp_path: Path, capsys: Any) -> None:
    image, link = tmp_path / "c.png", tmp_path / "l.png"
    Image.fromarray(np.arange(99, dtype=np.uint8).reshape(9, 11)).save(image)
    link.symlink_to(image)
    before = image.read_bytes()
    assert run("info", image, "--histograms", link, "--overwrite") == 2
    assert "is the input" in capsys.readouterr().err
    assert image.read_bytes() == before and link.is_symlink()


def test_refusals(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "c.npy", cube())
    np.save(tmp_path / "bad.npy", np.full((5, 7, 3), np.inf))
    good, png = tmp_path / "c.npy", tmp_path / "o.png"
    for code, says, path, target in (
        (2, ".png, .pdf, .svg", [good], tmp_path / "o.txt"),
        (4, "mkdir", [good], tmp_path / "no" / "o.png"),
        (2, "cube only", [], png),
        (2, "cube only", ["x.safetensors"], png),
        (3, "no finite sample", [tmp_path / "bad.npy"], png),
        (3, "gone.npy", [tmp_path / "gone.npy"], png),
    ):
        assert run("info", *path, "--histograms", target) == code, says
        out, err = capsys.readouterr()
        assert says in err and out == ""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("info", good, "--histograms", png) == 2
    assert "pip install 'mzsr[figures]'" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.npy", "c.npy"]


def test_no_torch_is_imported(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", cube())
    line = ["info", str(tmp_path / "c.npy"), "--histograms", str(tmp_path / "o.png")]
    code = (
        f"import sys; from mzsr_cli.cli.main import exit_code; assert exit_code({line!r}) == 0; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
