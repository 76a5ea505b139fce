"""``mzsr upscale`` on bad input: one clear line, the right exit code, nothing left behind; and
several inputs, JSON, the environment and the configuration file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from safetensors.torch import save_file
from upscale_files import (
    NAME,
    H,
    S,
    W,
    content,
    field,
    load,
    names,
    run,
    save,
    tiny_weights,
    upscale,
)  # fmt: skip

from mzsr_cli.learning import catalog, zssr
from mzsr_cli.pipeline import solving


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with ``code``, in one line on stderr that holds every one
    of ``holds``, and leave the folder as it was."""

    def check(code: int, holds: tuple[Any, ...], source: Path, *options: Any) -> str:
        before = content(tmp_path)
        capfd.readouterr()
        assert upscale(source, *options) == code
        out, err = capfd.readouterr()
        assert out == ""
        errors = [line for line in err.splitlines() if line.startswith(("mzsr: ", "Error: "))]
        assert len(errors) == 1, err
        assert err.splitlines()[-1] == errors[0]
        assert "Traceback" not in err
        for part in holds:
            assert str(part) in errors[0], errors[0]
        assert content(tmp_path) == before
        return errors[0]

    return check


SPLINE = ("--scale", 2, "--method", "spline")

# inputs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c.mat", "c_v73.mat", "c.npy", "c.npz", "c.h5", "c.tif"])
@pytest.mark.parametrize("keep", [0.02, 0.6])
def test_truncated_file(tmp_path: Path, refused: Any, name: str, keep: float) -> None:
    source = save(tmp_path / name, field())
    data = source.read_bytes()
    source.write_bytes(data[: int(keep * len(data))])
    refused(3, (source, "again"), source, *SPLINE)


@pytest.mark.parametrize("name", ["c.mat", "c.npy", "c.npz", "c.h5", "c.tif", "c.png"])
def test_text_under_a_cube_file_name(tmp_path: Path, refused: Any, name: str) -> None:
    source = tmp_path / name
    source.write_text("These are the notes of Tuesday's measurement.\n" * 9)
    refused(3, (source,), source, *SPLINE)


def test_empty_file(tmp_path: Path, refused: Any) -> None:
    source = tmp_path / "c.mat"
    source.touch()
    refused(3, (source, "empty"), source, *SPLINE)


def test_no_cube_in_it(tmp_path: Path, refused: Any) -> None:
    source = tmp_path / "c.mat"
    scipy.io.savemat(source, {"t": np.arange(150.0), "name": "x"})
    refused(3, (source, "no 3-D numeric variable", "t 1x150", "name char", "--variable"), source,
            *SPLINE)  # fmt: skip


def test_two_cubes_and_a_wrong_name(tmp_path: Path, refused: Any) -> None:
    source = tmp_path / "c.mat"
    scipy.io.savemat(source, {"a": field(), "b": field()})
    refused(3, (source, "a 21x17x3", "b 21x17x3", "--variable"), source, *SPLINE)
    refused(3, (source, "zz", "--variable"), source, *SPLINE, "--variable", "zz")
    assert upscale(source, *SPLINE, "--variable", "b") == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_nan_slice(tmp_path: Path, refused: Any, bad: float, dtype: str) -> None:
    cube = field(dtype=dtype)
    cube[4, 5, 1] = bad
    source = save(tmp_path / "c.npy", cube)
    refused(3, (source, "slice 1", "row 4", "column 5", "--nan interpolate"), source, *SPLINE)
    assert upscale(source, *SPLINE, "--nan", "interpolate") == 0
    assert np.isfinite(load(tmp_path / "c_x2.npy")).all()


def test_nan_slice_that_is_not_asked_for(tmp_path: Path) -> None:
    cube = field()
    cube[..., 1] = np.nan
    source = save(tmp_path / "c.npy", cube)
    assert upscale(source, *SPLINE, "--slices", "::2") == 0


@pytest.mark.parametrize(("largest", "how"), [(1e39, "none"), (1.5e308, "slice")])
def test_values_beyond_the_arithmetic(
    tmp_path: Path, refused: Any, largest: float, how: str
) -> None:
    cube = np.sign(field()) * largest
    source = save(tmp_path / "c.npy", cube)
    refused(3, (source, "slice 0", "Scale"), source, *SPLINE, "--normalize", how)


def test_slice_without_a_finite_sample(tmp_path: Path, refused: Any) -> None:
    cube = field()
    cube[..., 1] = np.nan
    source = save(tmp_path / "c.npy", cube)
    refused(3, (source, "slice 1", "--slices"), source, *SPLINE, "--nan", "interpolate")


def test_nan_in_a_cube_wide_range(tmp_path: Path, refused: Any) -> None:
    cube = field()
    cube[0, 0, 2] = np.nan
    source = save(tmp_path / "c.npy", cube)
    refused(3, (source, "slice 2"), source, *SPLINE, "--normalize", "cube")


@pytest.mark.parametrize("shape", [(0, 17, 3), (21, 17, 0)])
@pytest.mark.parametrize("name", ["c.npy", "c.h5"])
def test_empty_cube(tmp_path: Path, refused: Any, shape: tuple[int, ...], name: str) -> None:
    source = save(tmp_path / name, np.zeros(shape))
    refused(3, (source, "empty"), source, *SPLINE)


def test_object_arrays(tmp_path: Path, refused: Any) -> None:
    cell = np.empty((3, 4, 2), object)
    cell[:] = 1.0
    source = tmp_path / "c.npy"
    np.save(source, cell, allow_pickle=True)
    refused(3, (source,), source, *SPLINE)
    source = tmp_path / "c.mat"
    scipy.io.savemat(source, {NAME: cell})
    refused(3, (source, "cell", "--variable"), source, *SPLINE)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4, 5)])
def test_wrong_number_of_axes(tmp_path: Path, refused: Any, shape: tuple[int, ...]) -> None:
    source = save(tmp_path / "c.npy", np.ones(shape))
    refused(3, (source, "axes"), source, *SPLINE)


def test_missing_input(tmp_path: Path, refused: Any) -> None:
    refused(3, (tmp_path / "gone.mat",), tmp_path / "gone.mat", *SPLINE)
    refused(3, (tmp_path / "*.npy",), tmp_path / "*.npy", *SPLINE)


# outputs ---------------------------------------------------------------------------------


def test_output_exists(tmp_path: Path, refused: Any) -> None:
    source = save(tmp_path / "c.npy", field())
    (tmp_path / "c_x2.npy").write_text("precious")
    refused(2, (tmp_path / "c_x2.npy", "--overwrite"), source, *SPLINE)
    assert upscale(source, *SPLINE, "--overwrite") == 0
    assert load(tmp_path / "c_x2.npy").shape == (2 * H, 2 * W, S)


def test_failed_overwrite_keeps_the_old_result(tmp_path: Path, refused: Any) -> None:
    cube = field()
    cube[0, 0, 2] = np.nan
    source = save(tmp_path / "c.npy", cube)
    (tmp_path / "c_x2.npy").write_text("precious")
    refused(3, ("slice 2",), source, *SPLINE, "--overwrite")


def test_output_folder_missing_or_a_file(tmp_path: Path, refused: Any) -> None:
    source = save(tmp_path / "c.npy", field())
    target = tmp_path / "gone" / "o.npy"
    refused(4, (tmp_path / "gone", "mkdir"), source, *SPLINE, "-o", target)
    refused(4, (tmp_path / "gone",), source, *SPLINE, "-o", f"{tmp_path}/gone/")
    (tmp_path / "file").write_text("x")
    refused(4, (tmp_path / "file",), source, *SPLINE, "-o", tmp_path / "file" / "o.npy")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path, refused: Any) -> None:
    source = save(tmp_path / "c.npy", field())
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused(4, (locked, "-o"), source, *SPLINE, "-o", locked / "o.npy")


def test_disk_too_small(tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "c.npy", field())
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("mzsr_cli.cubes.atomic.shutil.disk_usage", lambda folder: usage)
    refused(4, ("c_x2.npy", "disk"), source, *SPLINE)
    refused(4, ("c_x2.npy", "disk"), source, *SPLINE, "--dry-run")


@pytest.mark.parametrize("length", [255, 250, 246])
def test_names_that_are_too_long_for_a_part(tmp_path: Path, refused: Any, length: int) -> None:
    """Also where only the provenance's is: before any work."""
    source, name = save(tmp_path / "c.npy", field()), "x" * (length - 4) + ".npy"
    refused(4, (name, "too long"), source, *SPLINE, "-o", tmp_path / name)


def test_a_name_too_long_does_not_stop_the_rest(tmp_path: Path) -> None:
    source = save(tmp_path / "c.npy", field())
    assert run("upscale", tmp_path / f"{'x' * 300}.npy", source, *SPLINE) == 5
    assert names(tmp_path) == ["c.npy", "c_x2.npy", "c_x2.npy.json"]


def test_output_that_cannot_hold_the_cube(tmp_path: Path, refused: Any) -> None:
    source = save(tmp_path / "c.npy", field())
    refused(2, ("o.png", ".tif"), source, *SPLINE, "-o", tmp_path / "o.png")
    refused(2, ("o.xyz",), source, *SPLINE, "-o", tmp_path / "o.xyz")
    refused(2, ("is an input",), source, *SPLINE, "-o", source, "--overwrite")
    refused(2, ("int3",), source, *SPLINE, "--out-dtype", "int3")
    refused(2, ("object",), source, *SPLINE, "--out-dtype", "object")
    save(source, field(dtype="complex64"))
    refused(2, ("imaginary", "complex64"), source, *SPLINE, "--out-dtype", "float32")


# options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scale", ["0", "1000", "-2", "1", "1.05", "33", "nan", "inf", "4x", "4x1000", "2x2x2", "big"]
)
def test_scale_out_of_range(tmp_path: Path, refused: Any, scale: str) -> None:
    source = save(tmp_path / "c.npy", field())
    refused(2, ("--scale",), source, f"--scale={scale}", "--method", "spline")


@pytest.mark.parametrize("size", ["0", "20x17", "21x17", "22x18", "9999", "30x"])
def test_size_out_of_range(tmp_path: Path, refused: Any, size: str) -> None:
    source = save(tmp_path / "c.npy", field())
    refused(2, ("--size",), source, "--size", size, "--method", "spline")


def test_scale_and_size(tmp_path: Path, refused: Any) -> None:
    source = save(tmp_path / "c.npy", field())
    refused(2, ("--scale", "--size"), source, "--scale", 2, "--size", "42x34")
    refused(2, ("--scale", "--size"), source)


@pytest.mark.parametrize("slices", ["9", "-4", "3:", "2:1", "::0", "a", "1,2", ""])
def test_slices_outside(tmp_path: Path, refused: Any, slices: str) -> None:
    source = save(tmp_path / "c.npy", field())
    refused(2, ("--slices",), source, *SPLINE, f"--slices={slices}")


def test_bad_kernels(tmp_path: Path, refused: Any) -> None:
    source = save(tmp_path / "c.npy", field())
    ones = tmp_path / "ones.npy"
    np.save(ones, np.ones((3, 3)))
    refused(3, (ones, "sums to 9", "Divide"), source, *SPLINE, "--kernel", ones)
    scipy.io.savemat(tmp_path / "k.mat", {"k": np.full((3, 3), np.nan)})
    refused(3, (tmp_path / "k.mat", "NaN"), source, *SPLINE, "--kernel", tmp_path / "k.mat")
    refused(3, (tmp_path / "no.npy",), source, *SPLINE, "--kernel", tmp_path / "no.npy")
    refused(2, ("--kernel", "gaussian:"), source, *SPLINE, "--kernel", "gaussian:a")
    refused(2, ("--kernel", "gaussian:"), source, *SPLINE, "--kernel", "box")
    refused(3, ("variances",), source, *SPLINE, "--kernel", "gaussian:0")


def test_kernel_file_is_used(tmp_path: Path) -> None:
    """The same Gaussian from a file and by its variance."""
    from mzsr_cli.imaging import kernels

    source = save(tmp_path / "c.npy", field())
    np.save(tmp_path / "k.npy", kernels.gaussian(1.5))
    options = ("--scale", 2, "--method", "back-projection", "--sampling", "direct")
    for name, kernel in (("a", tmp_path / "k.npy"), ("b", "gaussian:1.5"), ("n", "none")):
        assert upscale(source, *options, "--kernel", kernel, "-o", tmp_path / f"{name}.npy") == 0
    a, b, n = (load(tmp_path / f"{name}.npy") for name in "abn")
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, n)


@pytest.mark.parametrize("method", ["bicubic", "spline"])
def test_a_kernel_that_is_not_used_is_said(
    tmp_path: Path, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field())
    options = ("--scale", 2, "--method", method, "--overwrite")
    assert upscale(source, *options) == 0
    plain = (tmp_path / "c_x2.npy").read_bytes()
    assert "--kernel" not in capfd.readouterr().err
    assert upscale(source, *options, "--kernel", "gaussian:2") == 0
    assert (tmp_path / "c_x2.npy").read_bytes() == plain
    note = f"--kernel is not used by --method {method}"
    assert note in capfd.readouterr().err
    assert note in json.loads((tmp_path / "c_x2.npy.json").read_text())["notes"]


@pytest.mark.parametrize("method", ["wiener", "back-projection"])
def test_a_kernel_that_is_used_gets_no_note(
    tmp_path: Path, method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field())
    assert upscale(source, "--scale", 2, "--method", method, "--kernel", "gaussian:2") == 0
    assert "--kernel" not in capfd.readouterr().err


def test_bad_weights(tmp_path: Path, refused: Any) -> None:
    source = save(tmp_path / "c.npy", field())
    text = tmp_path / "text.safetensors"
    text.write_text("not tensors")
    refused(3, (text,), source, "--scale", 2, "--weights", text)
    others = tmp_path / "others.safetensors"
    save_file({"w": torch.zeros(3)}, others)
    refused(3, (others, "mzsr"), source, "--scale", 2, "--weights", others)
    refused(3, ("nobody", "--weights"), source, "--scale", 2, "--weights", "nobody")
    colour = tiny_weights(tmp_path / "colour.safetensors", channels=3)
    refused(3, (colour, "3 channels"), source, "--scale", 2, "--weights", colour)
    refused(3, (colour,), source, "--scale", 2, "--weights", colour, "--dry-run")


def test_devices(tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "c.npy", field())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(4, ("--device cuda", "--device cpu"), source, *SPLINE, "--device", "cuda")
    refused(4, ("--device cuda:1",), source, *SPLINE, "--device", "cuda:1")
    refused(2, ("--device foo", "auto"), source, *SPLINE, "--device", "foo")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--steps", -1), ("--steps", "many"), ("--method", "magic"), ("--tile", 3),
     ("--slice-axis", 3), ("--sampling", "random"), ("--precision", "fp8"),
     ("--stage-max", 1), ("--colour", 1)],
)  # fmt: skip
def test_options_that_make_no_sense(tmp_path: Path, refused: Any, option: str, value: Any) -> None:
    source = save(tmp_path / "c.npy", field())
    refused(2, (option,), source, "--scale", 2, option, value)


# the method when no weights fit ----------------------------------------------------------


def test_mzsr_without_weights(
    tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "shipped", list)
    source = save(tmp_path / "c.npy", field())
    error = refused(
        3, ("--method mzsr", "--weights", "zssr"), source, "--scale", 2, "--method", "mzsr"
    )
    assert "no shipped weights fit" in error


def test_zssr_by_itself_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalog, "shipped", list)
    monkeypatch.setattr(zssr.Zssr, "train", lambda self, images, scale: None)
    source = save(tmp_path / "c.npy", field((12, 11, 1)))
    assert upscale(source, "--scale", 2) == 0
    assert "no weights fit" in (err := capfd.readouterr().err) and "--method zssr" in err
    record = json.loads((tmp_path / "c_x2.npy.json").read_text())
    assert record["method"] == "zssr" and record["weights"] is None
    assert any("zssr" in note for note in record["notes"])


def test_shipped_weights_that_fit_are_found_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    made = [tiny_weights(tmp_path / f"{n}.safetensors") for n in ("channels-a", "images-b")]
    monkeypatch.setattr(catalog, "shipped", lambda: made)
    source = save(tmp_path / "c.npy", field())
    assert upscale(source, "--scale", 2) == 0
    assert "channels-a" in capfd.readouterr().err
    image = save(tmp_path / "c.png", field((H, W, 1), "uint8")[..., 0])
    assert upscale(image, "--scale", 2) == 0
    assert "images-b" in capfd.readouterr().err
    assert upscale(source, "--size", "43x35", "--weights", "images-b") == 0
    record = json.loads((tmp_path / "c_43x35.npy.json").read_text())
    assert record["weights"]["name"] == "images-b"


# several inputs, JSON --------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_rest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good = [save(tmp_path / name, field()) for name in ("a.npy", "z.mat")]
    bad = tmp_path / "b.mat"
    bad.write_text("text, and not a cube, under a name that promises one")
    assert run("upscale", good[0], bad, tmp_path / "gone.npy", good[1], *SPLINE, "--json") == 5
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert [r["input"] for r in found["results"]] == [str(p) for p in good]
    assert {f["input"]: f["exit_code"] for f in found["failed"]} == {
        str(bad): 3,
        str(tmp_path / "gone.npy"): 3,
    }
    assert all(f["error"] for f in found["failed"])
    assert "2 of 4" in err
    assert names(tmp_path) == sorted(
        ["a.npy", "b.mat", "z.mat", *(f"{n}_x2.{e}" for n, e in (("a", "npy"), ("z", "mat"))),
         "a_x2.npy.json", "z_x2.mat.json"]
    )  # fmt: skip


def test_folders_and_globs_into_a_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cubes, out = tmp_path / "in", tmp_path / "out"
    cubes.mkdir()
    out.mkdir()
    for name in ("a.npy", "b.npy", "c.h5"):
        save(cubes / name, field())
    (cubes / "notes.txt").write_text("x")
    assert run("upscale", cubes / "*.npy", *SPLINE, "-o", out) == 0
    assert "2 inputs done" in capfd.readouterr().err
    assert [n for n in names(out) if not n.endswith(".json")] == ["a_x2.npy", "b_x2.npy"]
    assert run("upscale", cubes, *SPLINE, "-o", out, "--overwrite") == 0
    assert "c_x2.h5" in names(out)
    assert names(cubes) == ["a.npy", "b.npy", "c.h5", "notes.txt"]


def test_several_inputs_for_one_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pair = [save(tmp_path / name, field()) for name in ("a.npy", "b.npy")]
    before = content(tmp_path)
    assert run("upscale", *pair, *SPLINE, "-o", tmp_path / "o.npy") == 2
    assert "2 inputs" in capfd.readouterr().err
    assert content(tmp_path) == before


def test_json_is_alone_on_stdout(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.mat", field())
    assert upscale(source, "--scale", 2, "--weights", weights, "--json", "-v") == 0
    out, err = capfd.readouterr()
    (record,) = json.loads(out)["results"]
    on_disk = json.loads((tmp_path / "c_x2.mat.json").read_text())
    assert record == on_disk
    assert record["output"] == str(tmp_path / "c_x2.mat")
    assert err.count("slice") >= S
    assert upscale(source, "--scale", 3, "--method", "spline") == 0
    assert capfd.readouterr().out == ""


def test_quiet_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "c.npy", field())
    assert upscale(source, *SPLINE, "-q") == 0
    assert capfd.readouterr() == ("", "")
    assert upscale(source, *SPLINE, "-q") == 2
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1


def test_errors_of_one_input_in_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "c.npy", np.full((5, 4, 2), np.nan))
    assert upscale(source, *SPLINE, "--json") == 3
    found = json.loads(capfd.readouterr().out)
    assert found["results"] == []
    assert found["failed"][0]["input"] == str(source)
    assert found["failed"][0]["exit_code"] == 3


# environment and configuration -----------------------------------------------------------


def steps_of(folder: Path, *before: Any, after: tuple[Any, ...] = ()) -> Any:
    """The settings that a run recorded."""
    source = save(folder / "c.npy", field())
    target = folder / "o.npy"
    options = ("--precision", "fp32", "-o", target, "--overwrite", "-q", *after)
    assert run(*before, "upscale", source, *options) == 0
    return json.loads((folder / "o.npy.json").read_text())["settings"]


def test_line_over_environment_over_file(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f"[upscale]\nscale = 2\nsteps = 4\nseed = 11\nweights = '{weights}'\nclip = true\n"
        "normalize = 'cube'\nslice-axis = 1\n"
    )
    found = steps_of(tmp_path, "--config", config)
    assert (found["adapt"]["steps"], found["seed"], found["clip"]) == (4, 11, True)
    assert found["normalize"] == "cube" and found["slice_axis"] == 1
    assert found["scale"] == [2, 2] and found["weights"] == str(weights)
    monkeypatch.setenv("MZSR_UPSCALE_STEPS", "3")
    monkeypatch.setenv("MZSR_UPSCALE_NORMALIZE", "none")
    found = steps_of(tmp_path, "--config", config)
    assert (found["adapt"]["steps"], found["seed"], found["normalize"]) == (3, 11, "none")
    found = steps_of(tmp_path, "--config", config, after=("--steps", 2))
    assert (found["adapt"]["steps"], found["seed"], found["normalize"]) == (2, 11, "none")


def test_scale_pair_in_the_file(tmp_path: Path, weights: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f"[upscale]\nscale = [4, 1.5]\nsteps = 1\nweights = '{weights}'\n")
    assert steps_of(tmp_path, "--config", config)["scale"] == [4, 1.5]


@pytest.mark.parametrize(
    "text", ["steps = 3\n", "[upscale\n", "[upscale]\nsteps = 'x'\n", "[upscale]\nmethod = 'x'\n"]
)
def test_bad_configuration(tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "c.npy", field())
    config = tmp_path / "run.toml"
    config.write_text(text)
    before = content(tmp_path)
    assert run("--config", config, "upscale", source, *SPLINE[:2]) == 2
    assert content(tmp_path) == before
    assert "Traceback" not in capfd.readouterr().err


def test_bad_environment(tmp_path: Path, refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "c.npy", field())
    monkeypatch.setenv("MZSR_UPSCALE_STEPS", "few")
    refused(2, ("--steps", "few"), source, *SPLINE)


# the process -----------------------------------------------------------------------------


def test_the_plan_comes_before_the_work(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output is checked before the first slice is solved."""

    def never(*_: Any) -> Any:
        raise AssertionError("solved a slice")

    monkeypatch.setattr(solving, "solve_slice", never)
    source = save(tmp_path / "c.npy", field())
    (tmp_path / "c_x2.npy").touch()
    assert upscale(source, "--scale", 2, "--weights", weights) == 2
    assert upscale(source, *SPLINE, "-o", tmp_path / "no" / "o.npy") == 4


def test_exit_code_of_the_process(tmp_path: Path) -> None:
    source = tmp_path / "c.mat"
    source.write_text("text")
    ran = subprocess.run(
        [sys.executable, "-m", "mzsr_cli.cli.main", "upscale", source, "--scale", "2"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 3
    assert ran.stdout == "" and len(ran.stderr.splitlines()) == 1
    assert str(source) in ran.stderr


def test_provenance_that_cannot_be_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The work is kept for --resume, and the error is no traceback."""
    source = save(tmp_path / "c.npy", field())
    blocked = tmp_path / "c_x2.npy.json.part"
    blocked.mkdir()
    assert upscale(source, *SPLINE) == 4
    assert str(blocked) in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "c_x2.npy").exists()
    blocked.rmdir()
    assert upscale(source, *SPLINE, "--resume") == 0
    assert names(tmp_path) == ["c.npy", "c_x2.npy", "c_x2.npy.json"]
