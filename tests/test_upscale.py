"""``mzsr upscale``: formats, numerics, stages and the plan, through the command line's entry."""

from __future__ import annotations

import gc
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pymatreader
import pytest
import scipy.io
import torch
from cube_files import digest
from PIL import Image
from upscale_files import (
    NAME,
    H,
    S,
    W,
    content,
    field,
    load,
    names,
    nmse,
    save,
    tiny_weights,
    upscale,
)

from mzsr_cli import __version__
from mzsr_cli.cli.main import exit_code
from mzsr_cli.imaging import degrade, kernels, start
from mzsr_cli.learning import networks, superresolve
from mzsr_cli.learning.grids import Stage
from mzsr_cli.learning.superresolve import Solver
from mzsr_cli.learning.weights import Weights
from mzsr_cli.pipeline.slices import spread_over
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import (
    BACK_PROJECTIONS,
    AdaptSettings,
    ConsistencySettings,
    LaneSettings,
    Method,
    NetworkSettings,
    Precision,
    Sampling,
    StageSettings,
    TileSettings,
    UpscaleSettings,
    WienerSettings,
)

CLASSICAL = [m for m in Method if m not in (Method.MZSR, Method.ZSSR)]
SAMPLINGS = list(Sampling)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def result_of(cube: Any, folder: Path, *options: Any) -> Any:
    """The cube through ``mzsr upscale`` as .npy."""
    source = save(folder / "in.npy", cube)
    assert upscale(source, "-o", folder / "out.npy", "--overwrite", "-q", *options) == 0
    return load(folder / "out.npy")


# formats ---------------------------------------------------------------------------------

DTYPES = {
    "c.mat": ["float64", "complex64", "uint8"],
    "c_v73.mat": ["float32", "complex128", "int16"],
    "c.h5": ["float64", "complex64"],
    "c.npy": ["float32", "complex128", "uint16", "float16"],
    "c.npz": ["float64", "complex64"],
    "c.tif": ["float32", "uint8", "complex64"],
    "c.zarr": ["float64", "complex128"],
}


@pytest.mark.parametrize(("name", "dtype"), [(n, d) for n, ds in DTYPES.items() for d in ds])
def test_result_keeps_format_variable_and_dtype(
    tmp_path: Path, weights: Path, name: str, dtype: str
) -> None:
    cube = field(dtype=dtype)
    source = save(tmp_path / name, cube)
    before = names(tmp_path)
    assert upscale(source, "--scale", 2, "--weights", weights, "--steps", 2) == 0
    target = source.with_name(f"{source.stem}_x2{source.suffix}")
    assert names(tmp_path) == sorted([*before, target.name, target.name + ".json"])
    result = load(target)
    assert result.shape == (2 * H, 2 * W, S)
    assert result.dtype == np.dtype(dtype)
    for k in range(S):  # an untrained network under data consistency stays near the slice
        low = result[..., k].astype("c16").reshape(H, 2, W, 2).mean((1, 3))
        assert nmse(low, cube[..., k].astype("c16")) < -10


@pytest.mark.parametrize("name", ["c.mat", "c_v73.mat"])
def test_other_variables_are_carried_over(tmp_path: Path, name: str) -> None:
    more = {"t": np.arange(7.0)[None], "label": "measured", "n": np.array([[3]], "int16")}
    source = save(tmp_path / name, field(dtype="complex128"), **more)
    assert upscale(source, "--scale", 2, "--method", "spline") == 0
    found = pymatreader.read_mat(source.with_name(f"{source.stem}_x2.mat"))
    assert found[NAME].shape == (2 * H, 2 * W, S)
    np.testing.assert_array_equal(np.ravel(found["t"]), np.arange(7.0))
    assert found["label"] == "measured"
    assert int(np.ravel(found["n"])[0]) == 3
    assert h5py.is_hdf5(source.with_name(f"{source.stem}_x2.mat")) == ("v73" in name)


@pytest.mark.parametrize(
    ("option", "tag", "shape"),
    [
        (("--scale", "2"), "x2", (42, 34)),
        (("--scale", "2.5"), "x2.5", (53, 43)),
        (("--scale", "4x1.5"), "x4x1.5", (84, 26)),
        (("--scale", "1.1"), "x1.1", (24, 19)),
        (("--scale", "1x3"), "x1x3", (21, 51)),
        (("--size", "50x40"), "50x40", (50, 40)),
        (("--size", "43"), "43x43", (43, 43)),
    ],
)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_shape_is_the_ceiling_or_the_size(
    tmp_path: Path, weights: Path, option: tuple[str, str], tag: str, shape: Any, sampling: str
) -> None:
    source = save(tmp_path / "c.npy", field())
    extra = ("--weights", weights, "--steps", 1, "--sampling", sampling)
    assert upscale(source, *option, *extra) == 0
    result = load(tmp_path / f"c_{tag}.npy")
    assert result.shape == (*shape, S)
    assert np.isfinite(result).all()


def test_grey_png(tmp_path: Path, weights: Path) -> None:
    grey = field(dtype="uint8")[..., 0]
    source = save(tmp_path / "grey.png", grey)
    assert upscale(source, "--scale", 2, "--weights", weights) == 0
    result = load(tmp_path / "grey_x2.png")
    assert result.dtype == np.uint8 and result.shape == (2 * H, 2 * W)
    assert nmse(result.reshape(H, 2, W, 2).mean((1, 3)), grey.astype(float)) < -15


def test_colour_png_keeps_its_colours(tmp_path: Path, weights: Path) -> None:
    rgb = np.ascontiguousarray(field(dtype="uint8"))
    source = save(tmp_path / "rgb.png", rgb)
    assert upscale(source, "--scale", 2, "--weights", weights) == 0
    result = load(tmp_path / "rgb_x2.png")
    assert result.dtype == np.uint8 and result.shape == (2 * H, 2 * W, 3)
    for channel in range(3):
        low = result[..., channel].reshape(H, 2, W, 2).mean((1, 3))
        assert nmse(low, rgb[..., channel].astype(float)) < -10


def test_colour_png_of_one_colour_passes_through(tmp_path: Path) -> None:
    rgb = np.full((9, 13, 3), (200, 30, 90), np.uint8)
    source = save(tmp_path / "rgb.png", rgb)
    assert upscale(source, "--scale", 3, "--method", "bandlimited") == 0
    result = load(tmp_path / "rgb_x3.png")
    assert result.shape == (27, 39, 3)
    assert np.abs(result.astype(int) - (200, 30, 90)).max() <= 1


def test_colour_png_into_a_cube_says_that_colour_is_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "rgb.png", np.ascontiguousarray(field(dtype="uint8")))
    assert upscale(source, "--scale", 2, "--method", "spline", "-o", tmp_path / "y.npy") == 0
    assert "luma" in capfd.readouterr().err
    assert load(tmp_path / "y.npy").shape == (2 * H, 2 * W)


def test_two_dimensional_array_stays_two_dimensional(tmp_path: Path) -> None:
    source = save(tmp_path / "c.npy", field()[..., 0])
    assert upscale(source, "--scale", 2, "--method", "spline") == 0
    assert load(tmp_path / "c_x2.npy").shape == (2 * H, 2 * W)


def test_slice_axis_is_kept(tmp_path: Path) -> None:
    cube = field()
    expected = result_of(cube, tmp_path, "--scale", 2, "--method", "bandlimited")
    first = np.ascontiguousarray(np.moveaxis(cube, 2, 0))
    options = ("--scale", 2, "--method", "bandlimited", "--slice-axis", 0)
    result = result_of(first, tmp_path, *options)
    assert result.shape == (S, 2 * H, 2 * W)
    np.testing.assert_array_equal(np.moveaxis(result, 0, 2), expected)


def test_out_dtype_and_clip(tmp_path: Path) -> None:
    cube = field((13, 11, 2)) * 1e-3
    cube[6, 5] += 400  # interpolation rings around a spike
    options = ("--scale", 3, "--method", "bandlimited")
    plain = result_of(cube, tmp_path, *options)
    assert plain.min() < cube.min()
    clipped = result_of(cube, tmp_path, *options, "--clip")
    for k in range(2):
        assert clipped[..., k].min() >= cube[..., k].min()
        assert clipped[..., k].max() <= cube[..., k].max()
    byte = result_of(cube, tmp_path, *options, "--out-dtype", "uint8")
    np.testing.assert_array_equal(byte, np.clip(np.rint(plain), 0, 255).astype(np.uint8))
    single = result_of(cube, tmp_path, *options, "--out-dtype", "complex64")
    np.testing.assert_allclose(single, plain.astype("complex64"))


def test_provenance(tmp_path: Path, weights: Path) -> None:
    source = save(tmp_path / "c.mat", field())
    options = ("--kernel", "gaussian:0.5", "--steps", 3, "--slices", "0:3:2", "--seed", 5)
    assert upscale(source, "--scale", 2, "--weights", weights, *options) == 0
    record = json.loads((tmp_path / "c_x2.mat.json").read_text())
    assert record["mzsr"] == __version__
    assert record["weights"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert record["settings"]["adapt"]["steps"] == 3
    assert record["settings"]["seed"] == 5
    assert record["settings"]["kernel"] == "gaussian:0.5"
    assert record["settings"]["sampling"] == "bicubic"
    assert record["variable"] == NAME
    assert record["lr_shape"] == [H, W, S] and record["shape"] == [2 * H, 2 * W, 2]
    assert record["scale"] == [2.0, 2.0]
    assert record["input"] == str(source) and record["output"] == str(tmp_path / "c_x2.mat")
    side = len(kernels.gaussian(0.5))
    assert record["kernel"]["shape"] == [side, side]
    assert [r["slice"] for r in record["slice_reports"]] == [0, 2]
    for report in record["slice_reports"]:
        assert report["method"] in {"mzsr", *map(str, CLASSICAL)}
        assert set(report["check"]["nmse_db"]) >= {"network", "start", "bicubic", "spline"}
        assert report["loss"][1] <= report["loss"][0]
        assert 0 <= report["steps"] <= 3


# classical methods -----------------------------------------------------------------------


def pure(plane: Any, method: Method, scale: float, kernel: Any, sampling: Sampling) -> Any:
    """The slice by the imaging functions, in float64 and its own units."""
    operator = degrade.enlargement(
        kernel, sampling, (scale, scale), plane.shape, dtype=torch.float64
    )
    y = torch.from_numpy(plane)[None]
    settings = ConsistencySettings()
    if method is Method.WIENER:  # not homogeneous: its mean's variance is in units of the range
        low, span = plane.min(), np.ptp(plane)
        consistency = degrade.Consistency(operator, settings)
        first = start.starting_image(operator, (y - low) / span, consistency, WienerSettings())
        return first.image[0].numpy() * span + low
    if method is Method.BACK_PROJECTION:
        first = operator.interpolate(y, Method.BICUBIC, 0.0)
        return degrade.back_projection(operator, y, first, BACK_PROJECTIONS)[0].numpy()
    return operator.interpolate(y, method, settings.damping)[0].numpy()


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("method", CLASSICAL)
def test_classical_method_is_the_imaging_function(
    tmp_path: Path, method: Method, sampling: Sampling
) -> None:
    cube = field()
    for text, scale in (("none", 2), ("gaussian:1.0", 3), ("none", 2.5)):
        kernel = kernels.delta() if text == "none" else kernels.gaussian(1.0)
        options = ("--method", method, "--sampling", sampling, "--kernel", text)
        result = result_of(cube, tmp_path, "--scale", scale, *options)
        for k in range(S):
            truth = pure(cube[..., k], method, scale, kernel, sampling)
            assert nmse(result[..., k], truth) < -80


def test_classical_methods_differ(tmp_path: Path) -> None:
    found = [result_of(field(), tmp_path, "--scale", 2, "--method", m) for m in CLASSICAL]
    for i, a in enumerate(found):
        for b in found[:i]:
            assert nmse(a, b) > -70


@pytest.mark.parametrize("method", [*CLASSICAL, Method.MZSR])
def test_constant_slice_passes_through(tmp_path: Path, weights: Path, method: Method) -> None:
    cube = field()
    cube[..., 1] = -7.3e-5
    options = ("--scale", 2.5, "--method", method, "--weights", weights)
    result = result_of(cube, tmp_path, *options)
    assert (result[..., 1] == -7.3e-5).all()
    assert np.ptp(result[..., 0]) > 0


@pytest.mark.parametrize("method", [*CLASSICAL, Method.MZSR])
def test_constant_complex_slice_passes_through(
    tmp_path: Path, weights: Path, method: Method
) -> None:
    cube = np.full((H, W, 1), 3 - 4j)
    options = ("--scale", 2, "--method", method, "--weights", weights)
    share = 1e-3 if method in (Method.WIENER, Method.MZSR) else 1e-6
    assert np.abs(result_of(cube, tmp_path, *options) - (3 - 4j)).max() < 7 * share


@pytest.mark.parametrize("method", [*CLASSICAL, Method.MZSR])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_affine_equivariance(tmp_path: Path, weights: Path, method: Method, dtype: str) -> None:
    cube = field(dtype=dtype)
    a, b = 37.0, -1.5e3
    options = ("--scale", 2, "--method", method, "--weights", weights, "--steps", 3)
    plain = result_of(cube, tmp_path, *options)
    shift = b * (1 + 1j) if dtype == "complex128" else b
    moved = result_of(a * cube + shift, tmp_path, *options)
    for k in range(2):  # float64 keeps too few digits of the weakest slice beside b
        span = np.abs(a * cube[..., k]).max()
        difference = np.abs(moved[..., k] - (a * plain[..., k] + shift)).max()
        assert difference < (3e-4 if method is Method.MZSR else 2e-5) * span


@pytest.mark.parametrize("method", CLASSICAL)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_phase_turned_by_ninety_degrees(tmp_path: Path, method: Method, sampling: Sampling) -> None:
    cube = field(dtype="complex128")
    options = ("--scale", 2, "--method", method, "--sampling", sampling)
    plain = result_of(cube, tmp_path, *options)
    turned = result_of(1j * cube, tmp_path, *options)
    for k in range(S):
        limit = -25 if method is Method.WIENER else -80  # one mean and one minimum for both planes
        assert nmse(turned[..., k], 1j * plain[..., k]) < limit


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("text", ["none", "gaussian:0.6", "gaussian:1.2,0.7,0"])
@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_result_explains_the_input(
    tmp_path: Path, weights: Path, sampling: Sampling, text: str, scale: float
) -> None:
    cube = field()
    options = ("--weights", weights, "--sampling", sampling, "--kernel", text, "--steps", 2)
    result = result_of(cube, tmp_path, "--scale", scale, "--no-self-check", *options)
    kernel = kernels.delta() if text == "none" else kernels.parse_gaussian(text)
    both = (scale, scale)
    operator = degrade.enlargement(kernel, sampling, both, (H, W), dtype=torch.float64)
    again = operator.apply(torch.from_numpy(np.moveaxis(result, 2, 0))).numpy()
    for k in range(S):
        assert nmse(again[k], cube[..., k]) < -50


def test_without_consistency_the_network_is_free(tmp_path: Path, weights: Path) -> None:
    options = ("--scale", 2, "--weights", weights, "--no-self-check", "--steps", 0)
    free = result_of(field(), tmp_path, *options, "--consistency", 0)
    operator = degrade.enlargement(
        kernels.delta(), Sampling.BICUBIC, (2, 2), (H, W), dtype=torch.float64
    )
    again = operator.apply(torch.from_numpy(np.moveaxis(free, 2, 0))).numpy()
    assert nmse(again[0], field()[..., 0]) > -50


@pytest.mark.parametrize("how", ["slice", "cube", "percentile", "none"])
def test_normalisation_is_undone(tmp_path: Path, weights: Path, how: str) -> None:
    """Whatever maps to [0, 1], the network's input explains the cube in its own units."""
    cube = field()[..., :2] / 1e3
    options = ("--scale", 2, "--weights", weights, "--normalize", how, "--sampling", "direct")
    result = result_of(cube, tmp_path, *options, "--no-self-check")
    assert nmse(result[::2, ::2, 0], cube[..., 0]) < -50
    spline = result_of(cube, tmp_path, "--scale", 2, "--method", "spline", "--normalize", how,
                       "--sampling", "direct")  # fmt: skip
    assert nmse(spline[::2, ::2, 0], cube[..., 0]) < -80


def test_nan_interpolate_equals_filling_by_hand(tmp_path: Path) -> None:
    cube = field()
    cube[4, 5, 1] = cube[4, 4, 1]  # the nearest of equals may be any of four
    cube[3, 5, 1] = cube[5, 5, 1] = cube[4, 6, 1] = cube[4, 4, 1]
    holed = cube.copy()
    holed[4, 5, 1] = np.nan
    options = ("--scale", 2, "--method", "spline")
    expected = result_of(cube, tmp_path, *options)
    result = result_of(holed, tmp_path, *options, "--nan", "interpolate")
    np.testing.assert_array_equal(result, expected)


def test_integer_results_are_rounded_and_saturated(tmp_path: Path) -> None:
    cube = np.zeros((12, 11, 1), "uint8")
    cube[:, 5:] = 255
    options = ("--scale", 3, "--method", "bandlimited")
    result = result_of(cube, tmp_path, *options)
    real = result_of(cube.astype("float64"), tmp_path, *options)
    assert real.min() < -1 and real.max() > 256
    assert result.dtype == np.uint8
    assert np.abs(result - np.clip(real, 0, 255)).max() <= 0.51


# independence ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mzsr", "wiener", "back-projection"])
@pytest.mark.parametrize("dtype", ["float64", "complex64", "uint16"])
def test_a_slice_does_not_know_of_the_others(
    tmp_path: Path, weights: Path, method: str, dtype: str
) -> None:
    cube = field(dtype=dtype)
    options = ("--scale", 2, "--method", method, "--weights", weights, "--steps", 3)
    whole = result_of(cube, tmp_path, *options)
    for k in range(S):
        alone = result_of(cube, tmp_path, *options, "--slices", f"{k}:{k + 1}")
        np.testing.assert_array_equal(alone[..., 0], whole[..., k])
    back = result_of(cube[..., ::-1], tmp_path, *options)
    np.testing.assert_array_equal(back[..., ::-1], whole)


def test_same_command_same_bytes(tmp_path: Path, weights: Path) -> None:
    source = save(tmp_path / "c.mat", field(dtype="complex64"))
    options = ("--scale", 2, "--weights", weights, "--steps", 4)
    for name in ("a.mat", "b.mat"):
        assert upscale(source, "-o", tmp_path / name, *options) == 0
    assert (tmp_path / "a.mat").read_bytes() == (tmp_path / "b.mat").read_bytes()


def test_tiles_equal_the_whole(tmp_path: Path, weights: Path) -> None:
    cube = field()
    options = ("--scale", 4, "--weights", weights, "--no-self-check", "--steps", 2)
    whole = result_of(cube, tmp_path, *options, "--tile", 256)
    small = result_of(cube, tmp_path, *options, "--tile", 32)
    linear = result_of(cube, tmp_path, "--scale", 4, "--method", "wiener")
    assert nmse(whole, linear) > -80  # the network does something
    for k in range(S):
        assert np.abs(whole[..., k] - small[..., k]).max() < 1e-5 * np.ptp(cube[..., k])


def test_self_ensemble_commutes_with_mirroring(tmp_path: Path, weights: Path) -> None:
    cube = field((17, 17, 1))
    options = ("--scale", 2, "--weights", weights, "--no-self-check", "--steps", 0)
    alone = (*options, "--self-ensemble", 1)
    plain = result_of(cube, tmp_path, *alone)
    plain_turned = result_of(cube.swapaxes(0, 1)[::-1], tmp_path, *alone)
    ensemble = result_of(cube, tmp_path, *options, "--self-ensemble", 8)
    turned = result_of(cube.swapaxes(0, 1)[::-1], tmp_path, *options, "--self-ensemble", 8)
    span = np.ptp(cube)
    assert np.abs(turned - ensemble.swapaxes(0, 1)[::-1]).max() < 1e-5 * span
    assert np.abs(plain_turned - plain.swapaxes(0, 1)[::-1]).max() > 1e-4 * span


@pytest.mark.parametrize("sampling", ["bicubic", "direct"])
def test_self_ensemble_of_two(tmp_path: Path, weights: Path, sampling: str) -> None:
    """Two views commute with half a turn, after direct sampling with transposition: the other way
    the lattice of the samples moves."""
    cube = field((17, 19, 1))
    options = ("--scale", 2, "--weights", weights, "--no-self-check", "--steps", 0)
    how = (*options, "--sampling", sampling)

    def moved(image: np.ndarray) -> np.ndarray:
        return image[::-1, ::-1] if sampling == "bicubic" else image.swapaxes(0, 1)

    for views, least, most in ((1, 1e-4, 1.0), (2, 0.0, 1e-5)):
        plain = result_of(cube, tmp_path, *how, "--self-ensemble", views)
        turned = result_of(moved(cube), tmp_path, *how, "--self-ensemble", views)
        off = np.abs(turned - moved(plain)).max() / np.ptp(cube)
        assert least <= off < most


@pytest.mark.parametrize(
    ("name", "more", "views"),
    [("c.npy", (), 2), ("c.png", (), 8), ("c.png", ("--self-ensemble", 2), 2)],
)
def test_slices_are_seen_twice_and_images_in_eight_views(
    tmp_path: Path, weights: Path, name: str, more: tuple[Any, ...], views: int
) -> None:
    source, told = tmp_path / name, ("--scale", 2, "--weights", weights, "--steps", 0)
    if source.suffix == ".png":
        grey = np.random.default_rng(0).integers(0, 256, (17, 19), np.uint8)
        Image.fromarray(grey).save(source)
    else:
        save(source, field((17, 19, 1)))
    result, alike = (tmp_path / f"{who}{source.suffix}" for who in ("o", "a"))
    assert upscale(source, *told, *more, "-o", result) == 0
    record = json.loads(Path(f"{result}.json").read_text())
    assert record["settings"]["adapt"]["self_ensemble"] == views
    assert upscale(source, *told, "--self-ensemble", views, "-o", alike) == 0
    assert digest(result) == digest(alike)


def test_memory_does_not_grow_with_the_number_of_slices(tmp_path: Path, weights: Path) -> None:
    """Integer slices of different ranges have different noise, and so different operators. One
    slice at a time: what other threads are making must not be looked at."""
    rng = np.random.default_rng(0)
    cube = rng.integers(0, 1000, (18, 17, 9)) // np.arange(1, 10)
    source = save(tmp_path / "c.npy", cube.astype("uint16"))
    alive: list[int] = []

    def count(done: int, total: int, report: Any) -> None:
        gc.collect()
        alive.append(sum(type(thing) is Stage for thing in gc.get_objects()))

    settings = UpscaleSettings(
        scale=(2.0, 2.0), weights=str(weights), precision=Precision.FP32,
        adapt=AdaptSettings(steps=0), lanes=LaneSettings(memory=0),
    )  # fmt: skip
    upscale_cube(source, tmp_path / "o.npy", settings, on_slice=count)
    assert len(alive) == 9
    assert max(alive) == alive[0]


# steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 10, 300, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_number_of_steps_is_safe(tmp_path: Path, weights: Path, steps: int) -> None:
    cube = field()[..., :1]
    options = ("--scale", 2, "--weights", weights, "--no-self-check", "--steps", steps)
    result = result_of(cube, tmp_path, *options)
    assert np.isfinite(result).all()
    report = json.loads((tmp_path / "out.npy.json").read_text())["slice_reports"][0]
    if steps > 0:
        assert report["loss"][1] <= report["loss"][0]
        assert report["steps"] <= steps
    if steps >= 10:
        assert report["loss"][1] < report["loss"][0]
    linear = result_of(cube, tmp_path, "--scale", 2, "--method", "wiener")
    assert nmse(result, linear) < -10


def test_a_huge_rate_does_no_harm(tmp_path: Path) -> None:
    wild = tiny_weights(tmp_path / "wild.safetensors", rate=1e3)
    cube = field()[..., :1]
    options = ("--scale", 2, "--weights", wild, "--no-self-check")
    result = result_of(cube, tmp_path, *options, "--steps", 30)
    report = json.loads((tmp_path / "out.npy.json").read_text())["slice_reports"][0]
    assert np.isfinite(result).all()
    assert report["loss"][1] <= report["loss"][0]
    linear = result_of(cube, tmp_path, "--scale", 2, "--method", "wiener")
    assert nmse(result, linear) < -10


# stages and the plan ---------------------------------------------------------------------


def untrained() -> Weights:
    shape = NetworkSettings(depth=3, width=3)
    return Weights(networks.build(shape, 0), shape, {}, {"scales": [2.0]})


@pytest.mark.parametrize("scale", [20, 32])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_large_scales_go_through_stages(
    tmp_path: Path, weights: Path, scale: int, sampling: Sampling
) -> None:
    source = save(tmp_path / "c.npy", field((16, 16, 1)))
    options = ("--scale", scale, "--weights", weights, "--steps", 1, "--sampling", sampling)
    assert upscale(source, *options, "--no-self-check") == 0
    result = load(tmp_path / f"c_x{scale}.npy")
    assert result.shape == (16 * scale, 16 * scale, 1)
    assert np.isfinite(result).all()
    operator = degrade.enlargement(
        kernels.delta(), sampling, (scale, scale), (16, 16), dtype=torch.float64
    )
    again = operator.apply(torch.from_numpy(result[..., 0])).numpy()
    assert nmse(again, load(source)[..., 0]) < -50


def test_each_stage_sees_the_kernel_on_its_own_grid() -> None:
    """The variance of a blur in HR pixels is smaller by the square of what is still to come."""
    settings = UpscaleSettings(
        scale=(8.0, 8.0), kernel="gaussian:40", stages=StageSettings(factor_max=2.0)
    )
    kernel = kernels.gaussian(40.0)
    weights = untrained()
    solver = Solver(
        (15, 13), (8.0, 8.0), (120, 104), kernel, Method.MZSR, weights, settings, Precision.FP32,
        torch.device("cpu"),
    )  # fmt: skip
    stages = solver.grids.stages(0.0)
    assert [s.operator.hr_shape for s in stages] == [(30, 26), (60, 52), (120, 104)]
    assert all(s.operator.lr_shape == (15, 13) for s in stages)
    np.testing.assert_allclose([s.factor for s in stages], 2.0)
    for stage, to_come in zip(stages, (4, 2, 1), strict=True):
        profile = stage.operator.kernel.sum(1)
        at = np.arange(len(profile)) - (len(profile) - 1) / 2
        assert profile @ at**2 == pytest.approx(40 / to_come**2, rel=0.1)


def dry(source: Path, capfd: pytest.CaptureFixture[str], *options: Any) -> Any:
    """The one result of ``--dry-run --json``."""
    before = content(source.parent)
    assert upscale(source, "--dry-run", "--json", *options) == 0
    assert content(source.parent) == before
    found = json.loads(capfd.readouterr().out)
    assert found["failed"] == [] and len(found["results"]) == 1
    return found["results"][0]


@pytest.mark.parametrize(
    ("scale", "limit", "factors"),
    [("20", "2", [2, 2, 2, 2, 1.25]), ("32", "4", [4, 4, 2]), ("4", "4", [4]), ("1.1", "4", [1.1])],
)
def test_dry_run_says_the_schedule(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str], scale: str, limit: str,
    factors: list[float],
) -> None:  # fmt: skip
    source = save(tmp_path / "c.npy", field((16, 15, 2), "complex64"))
    options = ("--weights", weights, "--stage-max", limit, "--no-self-check")
    found = dry(source, capfd, "--scale", scale, *options)
    cumulative = np.cumprod(factors)
    np.testing.assert_allclose(found["stages"], np.stack([cumulative, cumulative], 1))
    shape = [math.ceil(16 * float(scale)), math.ceil(15 * float(scale)), 2]
    assert found["shape"] == shape
    assert found["bytes"] == math.prod(shape) * 8
    assert found["dtype"] == "complex64"
    assert 0 <= found["seconds_per_slice"] < 60
    assert found["estimated_seconds"] >= found["seconds_per_slice"]
    assert found["memory_bytes"] > 4 * math.prod(shape[:2])


def test_dry_run_knows_where_stages_are_long(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Slices that are too small for a pair go in the longest steps that the weights know."""
    source = save(tmp_path / "c.npy", field((16, 15, 2)))
    found = dry(source, capfd, "--scale", 20, "--weights", weights, "--stage-max", 2)
    np.testing.assert_allclose(found["stages"], [[4, 4], [16, 16], [20, 20]])


def test_stages_never_exceed_what_the_weights_know(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field())
    found = dry(source, capfd, "--scale", "30x10", "--weights", weights, "--stage-max", 32)
    steps = np.array([[1, 1], *found["stages"]])
    assert (steps[1:] / steps[:-1]).max() <= 4 + 1e-9  # the tiny weights know 2 and 4
    assert found["stages"][-1] == [30, 10]


def test_dry_run_speaks_on_stderr(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field())
    before = content(tmp_path)
    options = ("--weights", weights, "--stage-max", 4)
    assert upscale(source, "--scale", 20, *options, "--dry-run") == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "420x340x3" in err and "x4 -> x16 -> x20" in err
    assert "MiB" in err and " s" in err and "would be written" in err
    assert content(tmp_path) == before


@pytest.mark.parametrize("method", ["zssr", *CLASSICAL])
def test_dry_run_for_every_method(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], method: str
) -> None:
    source = save(tmp_path / "c.npy", field())
    found = dry(source, capfd, "--scale", 3, "--method", method)
    assert found["method"] == method and found["weights"] is None
    assert found["stages"][-1] == [3, 3]


def test_mat_v5_results_that_would_not_fit_become_v73(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mzsr_cli.settings.MAT5_LIMIT", 5000)
    source = tmp_path / "c.mat"
    scipy.io.savemat(source, {NAME: field()})
    assert upscale(source, "--scale", 2, "--method", "spline") == 0
    assert "v7.3" in capfd.readouterr().err
    assert h5py.is_hdf5(tmp_path / "c_x2.mat")
    assert load(tmp_path / "c_x2.mat").shape == (2 * H, 2 * W, S)


# doubts ----------------------------------------------------------------------------------


def test_slices_without_anything_to_gain_are_counted(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """White noise under direct sampling is worse than its mean, a smooth slice is not."""
    rng = np.random.default_rng(0)
    cube = np.stack([rng.standard_normal((40, 36)), field((40, 36, 1))[..., 0],
                     rng.standard_normal((40, 36))], axis=-1)  # fmt: skip
    source = save(tmp_path / "in.npy", cube)
    code = upscale(source, "--scale", 2, "--sampling", "direct", "--weights", weights, "-o",
                   tmp_path / "out.npy")  # fmt: skip
    assert code == 0
    (note,) = json.loads((tmp_path / "out.npy.json").read_text())["notes"]
    assert note.startswith("2 of 3 slices: the self-check finds nothing to gain")
    assert "2 of 3 slices" in capsys.readouterr().err


# strided networks ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_strided_networks_with_guides_through_the_stages(
    tmp_path: Path, dtype: str, sampling: Sampling
) -> None:
    """Tiled equals whole, the slice is explained, the ensemble is another answer; odd sides."""
    strided = tiny_weights(tmp_path / "s.safetensors", backbone="strided", depth=4, guides=2)
    rows, cols = 37, 31
    cube = field((rows, cols, 2), dtype)
    options = ("--scale", 3, "--sampling", sampling, "--weights", strided, "--steps", 2,
               "--no-self-check")  # fmt: skip
    whole = result_of(cube, tmp_path, *options)
    tiled = result_of(cube, tmp_path, *options, "--tile", 32)
    alone = result_of(cube, tmp_path, *options, "--self-ensemble", 1)
    assert whole.shape == (3 * rows, 3 * cols, 2) and whole.dtype == np.dtype(dtype)
    linear = result_of(cube, tmp_path, "--scale", 3, "--sampling", sampling, "--method", "wiener")
    for k in range(2):
        span = np.ptp(np.abs(cube[..., k]))
        assert np.abs(tiled - whole)[..., k].max() < 1e-5 * span
        assert np.abs(whole - linear)[..., k].max() > 1e-4 * span
        assert np.abs(alone - whole)[..., k].max() > 1e-5 * span
        operator = degrade.degradation(kernels.delta(), sampling, (3.0, 3.0), (3 * rows, 3 * cols))
        for part in (np.real, np.imag) if np.iscomplexobj(cube) else (np.real,):
            high = torch.from_numpy(np.ascontiguousarray(part(whole[..., k]))).float()
            again = operator.apply(high[None])[0].numpy()
            assert np.abs(again - part(cube[..., k])).max() < 2e-3 * span


# adapting to more than a slice -----------------------------------------------------------


def test_adapting_modes_share_what_they_say(tmp_path: Path, weights: Path) -> None:
    """Three equal slices: one answer from ``slice``, another, again one, from ``cube``, and one
    after the other from ``warm``, which begins as ``slice`` does."""
    cube = np.repeat(field((41, 37, 1)), 3, axis=2)
    options = ("--scale", 2, "--weights", weights, "--steps", 3, "--no-self-check")
    alone = result_of(cube, tmp_path, *options)
    together = result_of(cube, tmp_path, *options, "--adapt", "cube")
    warm = result_of(cube, tmp_path, *options, "--adapt", "warm")
    span = np.ptp(cube)
    for made in (alone, together):
        assert np.array_equal(made[..., 0], made[..., 2])
    assert np.abs(together - alone).max() > 1e-6 * span
    assert np.array_equal(warm[..., 0], alone[..., 0])
    assert np.abs(warm[..., 2] - warm[..., 1]).max() > 1e-6 * span


def test_cube_adapting_looks_at_every_slice(tmp_path: Path, weights: Path) -> None:
    """Another third slice changes the answer for the first."""
    cube = field((41, 37, 3))
    options = (
        "--scale",
        2,
        "--weights",
        weights,
        "--steps",
        2,
        "--adapt",
        "cube",
        "--no-self-check",
    )
    whole = result_of(cube, tmp_path, *options)
    other = cube.copy()
    other[..., 2] = field((41, 37, 1), seed=9)[..., 0] / 1e4
    changed = result_of(other, tmp_path, *options)
    assert np.abs(changed - whole)[..., 0].max() > 1e-7 * np.ptp(cube[..., 0])


@pytest.mark.parametrize(("count", "most", "found"), [
    (3, 5, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (7, 1, [3]), (9, 2, [0, 8]),
])  # fmt: skip
def test_slices_are_spread_evenly(count: int, most: int, found: list[int]) -> None:
    assert spread_over(range(count), most) == found
    assert spread_over(range(4, 4 + 2 * count, 2), most) == [4 + 2 * k for k in found]


# memory ------------------------------------------------------------------------------------


def test_smaller_tiles_where_memory_does_not_suffice(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that is too small: the result is that of smaller tiles, and the note says so."""
    source = save(tmp_path / "c.npy", field((61, 47, 2)))
    whole = superresolve.tiled_residual

    def tight(network: Any, parameters: Any, seen: Any, tiles: Any, *rest: Any) -> torch.Tensor:
        if tiles.side > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(network, parameters, seen, tiles, *rest)

    settings = UpscaleSettings(
        scale=(2.0, 2.0), weights=str(weights), precision=Precision.FP32,
        adapt=AdaptSettings(steps=1), tiles=TileSettings(side=128),
    )  # fmt: skip
    small = replace(settings, tiles=TileSettings(side=32))
    upscale_cube(source, tmp_path / "small.npy", small)
    monkeypatch.setattr(superresolve, "tiled_residual", tight)
    record = upscale_cube(source, tmp_path / "o.npy", settings)
    assert any("--tile 32" in note for note in record["notes"])
    assert digest(tmp_path / "o.npy") == digest(tmp_path / "small.npy")


def test_too_little_memory_for_the_smallest_tile(
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Exit code 4, and the finished slice stays for --resume."""
    source = save(tmp_path / "c.npy", field((61, 47, 2)))
    whole, calls = superresolve.tiled_residual, list[int]()

    def failing(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(*arguments)

    monkeypatch.setattr(superresolve, "tiled_residual", failing)
    assert upscale(source, "--scale", 2, "--weights", weights, "--steps", 1) == 4
    assert "memory" in capfd.readouterr().err
    assert (tmp_path / "c_x2.npy.part").exists()
    monkeypatch.setattr(superresolve, "tiled_residual", whole)
    assert upscale(source, "--scale", 2, "--weights", weights, "--steps", 1, "--resume") == 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_channels_with_delays_of_one_sign(tmp_path: Path, sampling: Sampling) -> None:
    """Subcarrier x symbol, delays up to 0.35 of a subcarrier's: both planes by themselves know
    nothing beyond 0.25. The network stays out of what is known."""
    rng = np.random.default_rng(5)
    rows, cols = np.arange(120)[:, None], np.arange(88)[:, None]
    delay, shift = rng.uniform(0, 0.35, 30), rng.uniform(-0.1, 0.1, 30)
    gain = np.exp(-6 * delay + 2j * np.pi * rng.random(30))
    down, across = np.exp(-2j * np.pi * rows * delay), np.exp(2j * np.pi * cols * shift)
    truth = ((down * gain) @ across.T)[:, :, None].astype(np.complex64)
    source = save(tmp_path / "t.npy", truth)
    lr, out = tmp_path / "lr.npy", tmp_path / "out.npy"
    given = ["--scale", "2", "--sampling", str(sampling)]
    assert exit_code(["degrade", str(source), *given, "-o", str(lr), "-q"]) == 0
    for chosen in (["--method", "wiener"], []):
        assert upscale(lr, *given, *chosen, "-o", out, "--overwrite") == 0
        assert nmse(load(out), truth) < -40
