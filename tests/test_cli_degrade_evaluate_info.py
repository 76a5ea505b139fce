"""``mzsr degrade``, ``evaluate`` and ``info``, through the command line's own entry."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.signal
from cube_files import write_cube
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TextColumn
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mzsr_cli import __version__
from mzsr_cli.cli import show
from mzsr_cli.cli.main import exit_code
from mzsr_cli.cubes.journal import Journal
from mzsr_cli.errors import KernelError, MissingInputError, UsageError, WeightsError
from mzsr_cli.imaging import kernels
from mzsr_cli.learning import catalog
from mzsr_cli.learning.networks import build
from mzsr_cli.learning.weights import save_weights
from mzsr_cli.pipeline.kernel_files import load_kernel
from mzsr_cli.pipeline.slices import parse_slices
from mzsr_cli.settings import NetworkSettings

H, W, S = 37, 31, 3


def waves(dtype: str = "float64", shape: tuple[int, ...] = (H, W, S), seed: int = 0) -> Any:
    """A smooth random cube whose slices' ranges differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    cube = rng.standard_normal(shape).cumsum(0).cumsum(1) / 10
    if kind.kind == "c":
        cube = cube + 1j * rng.standard_normal(shape).cumsum(0).cumsum(1) / 10
    cube = cube * 10.0 ** -np.arange(shape[2])
    return np.rint(cube * 900).astype(kind) if kind.kind in "iu" else cube.astype(kind)


def save(path: Path, cube: Any, **more: Any) -> Path:
    """The cube as .npy, or as variable ``H`` of a .mat."""
    if path.suffix == ".mat":
        scipy.io.savemat(path, {"H": cube, **more})
    else:
        np.save(path, cube)
    return path


def load(path: Path) -> Any:
    """The cube of an .npy or of a .mat's variable ``H``."""
    return scipy.io.loadmat(path)["H"] if path.suffix == ".mat" else np.load(path)


def files(folder: Path) -> list[str]:
    """Names in a folder."""
    return sorted(p.name for p in folder.iterdir())


def run(*arguments: Any) -> int:
    """Exit code of a command line."""
    return exit_code([str(a) for a in arguments])


def blurred(x: Any, kernel: Any) -> Any:
    """Symmetric-border correlation, by scipy."""
    return scipy.signal.correlate2d(x, kernel, mode="same", boundary="symm")


# degrade ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128", "complex64"])
@pytest.mark.parametrize("text", ["none", "gaussian:2.0", "gaussian:4,1,-0.5"])
def test_direct_is_blur_then_every_third_sample(tmp_path: Path, dtype: str, text: str) -> None:
    cube = waves(dtype)
    source = save(tmp_path / "cube.mat", cube, t=np.arange(5.0))
    assert run("degrade", source, "--scale", 3, "--kernel", text, "--sampling", "direct") == 0
    result = load(tmp_path / "cube_d3.mat")
    kernel = load_kernel(text)
    hr = cube[:36, :30].astype(np.complex128 if dtype[0] == "c" else np.float64)
    for k in range(S):
        expected = blurred(hr[..., k], kernel)[::3, ::3]
        span = np.abs(hr[..., k]).max()
        assert np.abs(result[..., k] - expected).max() < 2e-4 * span, "kernel's rank is cut at 1e-5"
    assert result.dtype == cube.dtype and result.shape == (12, 10, S)
    assert scipy.io.loadmat(tmp_path / "cube_d3.mat")["t"].ravel().tolist() == [0, 1, 2, 3, 4]


def test_bicubic_is_matlabs_imresize(tmp_path: Path) -> None:
    """Interior samples against the antialiased Keys taps written out here."""
    cube = waves(shape=(36, 32, 1))
    source = save(tmp_path / "cube.npy", cube)
    assert run("degrade", source, "--scale", 2, "--output", tmp_path / "lr.npy") == 0
    t = np.abs((np.arange(8) - 3.5) / 2)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    taps = np.where(t <= 1, near, far)
    taps /= taps.sum()
    padded = np.pad(cube[..., 0], 3, mode="symmetric")
    full = scipy.signal.correlate2d(padded, np.outer(taps, taps), mode="valid")
    assert np.allclose(np.load(tmp_path / "lr.npy")[..., 0], full[::2, ::2], atol=1e-12)


def test_slices_are_independent_and_planes_too(tmp_path: Path) -> None:
    cube = waves("complex128")
    options = ("--scale", "2", "--kernel", "gaussian:1.3", "--noise", "0.01", "--seed", "7")
    parts = {"all": cube, "head": cube[..., :2]}
    for name, part in parts.items():
        save(tmp_path / f"{name}.npy", part)
        assert run("degrade", tmp_path / f"{name}.npy", *options, "-q") == 0
    whole, head = (np.load(tmp_path / f"{name}_d2.npy") for name in parts)
    assert np.array_equal(whole[..., :2], head)
    clean = ("--scale", "2", "--kernel", "gaussian:1.3", "-q")
    for name, part in {"full": cube, "real": cube.real, "imag": cube.imag}.items():
        save(tmp_path / f"{name}.npy", part)
        assert run("degrade", tmp_path / f"{name}.npy", *clean) == 0
    full, real, imag = (np.load(tmp_path / f"{n}_d2.npy") for n in ("full", "real", "imag"))
    assert np.allclose(full, real + 1j * imag, atol=1e-14)


def test_noise_is_relative_to_the_range_and_seeded(tmp_path: Path) -> None:
    cube = waves(shape=(120, 121, 2))
    source = save(tmp_path / "cube.npy", cube)
    made = {}
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        target = tmp_path / f"{name}_out.npy"
        common = ("degrade", source, "--scale", "1", "--sampling", "direct", "-o", target)
        assert run(*common, "--noise", "0.05", "--seed", seed) == 0
        made[name] = np.load(target)
    assert np.array_equal(made["a"], made["b"]) and not np.array_equal(made["a"], made["c"])
    for k in range(2):
        sigma = 0.05 * np.ptp(cube[..., k])
        noise = made["a"][..., k] - cube[..., k]
        assert noise.std() == pytest.approx(sigma, rel=0.03) and abs(noise.mean()) < sigma / 20


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_integers_are_rounded_and_saturated(tmp_path: Path, dtype: str) -> None:
    info = np.iinfo(dtype)
    cube = np.full((12, 10, 2), info.max, dtype)
    cube[:6, :, 1] = info.min
    source = save(tmp_path / "cube.npy", cube)
    assert run("degrade", source, "--scale", "2") == 0
    result = np.load(tmp_path / "cube_d2.npy")
    assert result.dtype == cube.dtype and (result[..., 0] == info.max).all()
    assert result[0, 0, 1] == info.min and result[-1, -1, 1] == info.max


@pytest.mark.parametrize(
    ("scale", "crop", "shape", "name"),
    [
        ("4", "--crop", (9, 7), "cube_d4.npy"),
        ("4", "--no-crop", (10, 8), "cube_d4.npy"),
        ("4x1.5", "--crop", (9, 21), "cube_d4x1.5.npy"),
        ("1.5", "--no-crop", (25, 21), "cube_d1.5.npy"),
    ],
)
def test_shapes_and_names(
    tmp_path: Path, capsys: Any, scale: str, crop: str, shape: tuple[int, int], name: str
) -> None:
    source = save(tmp_path / "cube.npy", waves())
    assert run("degrade", source, "--scale", scale, crop) == 0
    assert np.load(tmp_path / name).shape == (*shape, S)
    out, err = capsys.readouterr()
    assert out == "" and ("cropped" in err) == (crop == "--crop")


def test_slice_axis_is_kept(tmp_path: Path) -> None:
    cube = waves()
    save(tmp_path / "last.npy", cube)
    save(tmp_path / "first.npy", np.moveaxis(cube, 2, 0))
    assert run("degrade", tmp_path / "last.npy", "--scale", 2) == 0
    assert run("degrade", tmp_path / "first.npy", "--scale", 2, "--slice-axis", 0) == 0
    last, first = (np.load(tmp_path / f"{n}_d2.npy") for n in ("last", "first"))
    assert np.array_equal(np.moveaxis(first, 0, 2), last)


def test_provenance_is_beside_the_result_and_json_alone_on_stdout(
    tmp_path: Path, capsys: Any
) -> None:
    source = save(tmp_path / "cube.mat", waves())
    assert run("degrade", source, "--scale", 2, "--json") == 0
    reported = json.loads(capsys.readouterr().out)
    stored = json.loads((tmp_path / "cube_d2.mat.json").read_text())
    assert reported == {"results": [stored], "failed": []}
    assert stored["mzsr"] == __version__ and stored["settings"]["scale"] == [2, 2]
    assert stored["lr_shape"] == [18, 15, S] and stored["variable"] == "H"
    assert files(tmp_path) == ["cube.mat", "cube_d2.mat", "cube_d2.mat.json"]


def test_colour_images_keep_their_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(rgb).save(tmp_path / "tiles.png")
    assert run("degrade", tmp_path / "tiles.png", "--scale", 8, "--sampling", "direct") == 0
    result = np.asarray(Image.open(tmp_path / "tiles_d8.png")).astype(int)
    assert np.abs(result - rgb[::8, ::8]).max() <= 1
    Image.fromarray(rgb).save(tmp_path / "photo.jpg", quality=95)
    assert run("degrade", tmp_path / "photo.jpg", "--scale", 4, "-q") == 0
    assert Image.open(tmp_path / "photo_d4.png").size == (8, 10)


def test_one_bad_file_does_not_stop_the_rest(tmp_path: Path, capsys: Any) -> None:
    good = save(tmp_path / "good.npy", waves())
    bad = tmp_path / "bad.npy"
    bad.write_bytes(b"nonsense")
    missing = tmp_path / "missing.npy"
    out = tmp_path / "out"
    out.mkdir()
    assert run("degrade", bad, missing, good, "--scale", 2, "-o", out, "--json") == 5
    text, err = capsys.readouterr()
    report = json.loads(text)
    assert len(report["results"]) == 1
    assert [f["exit_code"] for f in report["failed"]] == [3, 3]
    assert "2 of 3 inputs failed" in err
    assert files(out) == ["good_d2.npy", "good_d2.npy.json"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_named_and_leaves_nothing(tmp_path: Path, capsys: Any, value: float) -> None:
    cube = waves()
    cube[30, 2, 1] = value
    source = save(tmp_path / "cube.npy", cube)
    assert run("degrade", source, "--scale", 2) == 3
    assert "slice 1 has NaN or Inf" in capsys.readouterr().err
    assert files(tmp_path) == ["cube.npy"]


def test_outputs_that_would_collide_are_refused(tmp_path: Path, capsys: Any) -> None:
    for folder in ("a", "b", "out"):
        (tmp_path / folder).mkdir()
    one, two = (save(tmp_path / f / "cube.npy", waves()) for f in "ab")
    assert run("degrade", one, two, "--scale", 2, "-o", tmp_path / "out") == 2
    assert "result of both" in capsys.readouterr().err
    assert run("degrade", one, two, "--scale", 2, "-o", tmp_path / "x.npy") == 2
    assert "2 inputs" in capsys.readouterr().err
    assert run("degrade", one, "--scale", 2, "-o", one, "--overwrite") == 2
    assert "is an input" in capsys.readouterr().err
    assert files(tmp_path / "out") == [] and np.array_equal(load(one), waves())


def test_a_disk_that_fills_before_the_provenance(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    source = save(tmp_path / "cube.npy", waves())

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert run("degrade", source, "--scale", 2) == 4
    told = capsys.readouterr().err.splitlines()[-1]
    assert "cube_d2.npy.json" in told and "No space left" in told and "Free some disk" in told
    assert files(tmp_path) == ["cube.npy"]


def test_existing_output_needs_overwrite(tmp_path: Path, capsys: Any) -> None:
    source = save(tmp_path / "cube.npy", waves())
    target = tmp_path / "cube_d2.npy"
    target.write_bytes(b"precious")
    assert run("degrade", source, "--scale", 2) == 2
    assert target.read_bytes() == b"precious" and "--overwrite" in capsys.readouterr().err
    assert run("degrade", source, "--scale", 2, "--overwrite") == 0
    assert np.load(target).shape == (18, 15, S)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--scale", "0.5"), 2, "outside 1 to 32"),
        (("--scale", "33"), 2, "outside 1 to 32"),
        (("--scale", "2x3x4"), 2, "no scale"),
        (("--scale", "nan"), 2, "no scale"),
        ((), 2, "--scale"),
        (("--scale", "2", "--kernel", "box"), 2, "not understood"),
        (("--scale", "2", "--kernel", "gone.mat"), 3, "gone.mat: no such file"),
        (("--scale", "2", "--kernel", "gaussian:-1"), 3, "positive"),
        (("--scale", "2", "--noise", "-1"), 2, "--noise"),
        (("--scale", "2", "--noise", "nan"), 2, "--noise"),
        (("--scale", "32"), 3, "--no-crop"),
        (("--scale", "2", "-o", "nowhere/"), 4, "no such folder"),
        (("--scale", "2", "-o", "cube.xyz"), 2, "format"),
        (("--scale", "2", "--variable", "x", "--slice-axis", "3"), 2, "--slice-axis"),
    ],
)
def test_errors_of_degrade(
    tmp_path: Path,
    capsys: Any,
    monkeypatch: Any,
    options: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "cube.npy", waves())
    assert run("degrade", "cube.npy", *options) == code
    assert says in capsys.readouterr().err
    assert files(tmp_path) == ["cube.npy"]


def test_a_second_run_of_one_name_is_refused(tmp_path: Path, capsys: Any) -> None:
    """It takes nothing of the first one away, which has the name locked."""
    source, part = save(tmp_path / "cube.npy", waves()), tmp_path / "o.npy.part"
    part.write_bytes(b"of the first one")
    with Journal(tmp_path / "o.npy.journal"):
        options = ("--scale", "2", "-o", tmp_path / "o.npy", "-q")
        assert run("degrade", source, *options, "--overwrite") == 4
        assert "o.npy: another run is writing it" in capsys.readouterr().err
        assert part.read_bytes() == b"of the first one"
    assert run("degrade", source, *options) == 0
    assert files(tmp_path) == ["cube.npy", "o.npy", "o.npy.json"]


def test_options_from_environment_and_config(tmp_path: Path, monkeypatch: Any) -> None:
    """The line wins over the environment, the environment over the file."""
    source = save(tmp_path / "cube.npy", waves())
    config = tmp_path / "run.toml"
    config.write_text('[degrade]\nscale = 4\nsampling = "direct"\nseed = 5\nslice-axis = 2\n')
    target = tmp_path / "out.npy"
    line = ("--config", config, "degrade", source, "-o", target, "--overwrite", "-q")

    def settings() -> dict[str, Any]:
        stored: dict[str, Any] = json.loads((tmp_path / "out.npy.json").read_text())["settings"]
        return stored

    assert run(*line) == 0
    assert settings()["scale"] == [4, 4] and settings()["sampling"] == "direct"
    monkeypatch.setenv("MZSR_DEGRADE_SCALE", "3x2")
    assert run(*line) == 0
    assert settings()["scale"] == [3, 2] and settings()["seed"] == 5
    assert run(*line, "--scale", "2") == 0
    assert settings()["scale"] == [2, 2]
    monkeypatch.setenv("MZSR_INFO_JSON", "1")
    assert run("info", source) == 0


@pytest.mark.parametrize("suffix", [".mat", ".h5", ".npy", ".npz", ".tif"])
def test_every_format_gives_the_same_samples(tmp_path: Path, capsys: Any, suffix: str) -> None:
    cube = waves("float32")
    source = tmp_path / f"cube{suffix}"
    write_cube(source, cube)
    save(tmp_path / "reference.npy", cube)
    options = ("--scale", "2", "--kernel", "gaussian:2.0", "-q")
    assert run("degrade", source, tmp_path / "reference.npy", *options) == 0
    report = evaluated(capsys, tmp_path / f"cube_d2{suffix}", tmp_path / "reference_d2.npy")
    assert report["psnr"] == "inf" and report["compared"] == [18, 15, S]


def test_published_lr_images_come_out_bit_for_bit(data: Path, tmp_path: Path) -> None:
    """MZSR's own test inputs: g_2.0, direct sampling, x2."""
    data = data / "mzsr_g20"
    options = ("--scale", 2, "--kernel", data / "Input/g20/kernel.mat", "--sampling", "direct")
    out = tmp_path / "lr.png"
    assert run("degrade", data / "GT/Set5/woman_GT.png", *options, "-o", out, "-q") == 0
    ours, theirs = (np.asarray(Image.open(p)) for p in (out, data / "Input/g20/Set5/woman.png"))
    assert ours.shape == (172, 114, 3) and np.array_equal(ours, theirs)


# kernels -----------------------------------------------------------------------------------


def test_kernel_files(tmp_path: Path) -> None:
    kernel = kernels.gaussian(4, 1, -0.5)
    more = {"name": "g", "size": 21.0, "axis": np.arange(5.0), "H": np.zeros((3, 4, 5))}
    scipy.io.savemat(tmp_path / "k.mat", {"kernel": kernel, **more})
    np.save(tmp_path / "k.npy", kernel.astype(np.float32))
    assert np.allclose(load_kernel(str(tmp_path / "k.mat")), kernel, atol=1e-15)
    assert np.allclose(load_kernel(str(tmp_path / "k.npy")), kernel, atol=1e-7)
    assert load_kernel("none").shape == (1, 1)
    assert np.array_equal(load_kernel("gaussian:4,1,-0.5"), kernel)


def test_published_kernel_has_variance_two(data: Path) -> None:
    path = data / "mzsr_g20" / "Input" / "g20" / "kernel.mat"
    kernel = load_kernel(str(path))
    at = np.arange(21) - 10
    assert kernel.shape == (21, 21)
    assert float(kernel.sum(0) @ at**2) == pytest.approx(2, abs=1e-3)


def test_bad_kernels(tmp_path: Path) -> None:
    kernel = kernels.gaussian(2.0)
    arrays = {
        "sum": kernel * 2,
        "nan": np.where(kernel > kernel.mean(), np.nan, kernel),
        "complex": kernel * (1 + 0j) + 1e-9j,
        "cube": np.ones((3, 3, 3)) / 27,
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(KernelError, match=rf"{name}\.npy: "):
            load_kernel(str(tmp_path / f"{name}.npy"))
    scipy.io.savemat(tmp_path / "two.mat", {"a": kernel, "b": kernel})
    with pytest.raises(KernelError, match=r"2 2-D numeric variables \(a 15x15, b 15x15\)"):
        load_kernel(str(tmp_path / "two.mat"))
    scipy.io.savemat(tmp_path / "text.mat", {"a": "kernel"})
    with pytest.raises(KernelError, match="no 2-D numeric variable"):
        load_kernel(str(tmp_path / "text.mat"))
    (tmp_path / "damaged.mat").write_bytes(b"x" * 300)
    with pytest.raises(KernelError, match="damaged"):
        load_kernel(str(tmp_path / "damaged.mat"))
    np.save(tmp_path / "pickled.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(KernelError, match="no 2-D numeric variable"):
        load_kernel(str(tmp_path / "pickled.npy"))
    with pytest.raises(MissingInputError):
        load_kernel(str(tmp_path / "gone.npy"))
    for text in ("", "Gauss", "gaussian", "gaussian:a", "gaussian:1,2,3,4", "k.txt"):
        with pytest.raises(UsageError, match="not understood"):
            load_kernel(text)


# slices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, range(7)),
        ("0:3", range(3)),
        (":", range(7)),
        ("-2:", range(5, 7)),
        ("::3", range(0, 7, 3)),
        ("2", range(2, 3)),
        ("-1", range(6, 7)),
        ("5:100", range(5, 7)),
        (" 1 : 3 ", range(1, 3)),
    ],
)
def test_slices_are_as_in_python(text: str | None, expected: range) -> None:
    assert parse_slices(text, 7) == expected


@pytest.mark.parametrize("text", ["", "a", "7", "-8", "3:3", "9:", "::0", "::-1", "1:2:3:4", "1.5"])
def test_bad_slices(text: str) -> None:
    with pytest.raises(UsageError, match="--slices"):
        parse_slices(text, 7)


# evaluate ----------------------------------------------------------------------------------


def evaluated(capsys: Any, *arguments: Any) -> dict[str, Any]:
    """The only report of ``mzsr evaluate ... --json``."""
    capsys.readouterr()
    assert run("evaluate", *arguments, "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["failed"] == []
    (result,) = report["results"]
    return dict(result)


@pytest.mark.parametrize("dtype", ["float64", "complex64", "int16"])
@pytest.mark.parametrize("shave", [0, 3])
def test_figures_against_other_implementations(
    tmp_path: Path, capsys: Any, dtype: str, shave: int
) -> None:
    hr = waves(dtype)
    sr = (hr + waves(dtype, seed=1) / 4).astype(dtype)
    paths = save(tmp_path / "sr.npy", sr), save(tmp_path / "hr.mat", hr)
    report = evaluated(capsys, *paths, "--shave", shave)
    wide = np.complex128 if dtype[0] == "c" else np.float64
    hr, sr = hr.astype(wide), sr.astype(wide)
    inner = slice(shave, -shave or None)
    cut_sr, cut_hr = sr[inner, inner], hr[inner, inner]
    for k, found in enumerate(report["slices"]):
        planes = [hr[..., k].real, hr[..., k].imag] if wide is np.complex128 else [hr[..., k]]
        peak = np.max(planes) - np.min(planes)
        a, b = cut_sr[..., k], cut_hr[..., k]
        pairs = [(a.real, b.real), (a.imag, b.imag)] if wide is np.complex128 else [(a, b)]
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        ssim = [structural_similarity(x, y, data_range=peak, **options) for x, y in pairs]
        assert found["peak"] == pytest.approx(peak)
        assert found["ssim"] == pytest.approx(np.mean(ssim), abs=2e-5)
        if wide is np.float64:
            psnr = peak_signal_noise_ratio(b, a, data_range=peak)
            assert found["psnr"] == pytest.approx(psnr, abs=1e-9)
        else:
            error = np.linalg.norm(a - b) ** 2 / a.size
            assert found["psnr"] == pytest.approx(10 * np.log10(peak**2 / error), abs=1e-9)
        ratio = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert found["nmse"] == pytest.approx(20 * np.log10(ratio), abs=1e-9)
    total = np.linalg.norm(cut_sr - cut_hr) / np.linalg.norm(cut_hr)
    assert report["nmse"] == pytest.approx(20 * np.log10(total), abs=1e-9)
    psnr = [s["psnr"] for s in report["slices"]]
    assert report["psnr"] == pytest.approx(np.mean(psnr))
    assert report["worst"]["slice"] == int(np.argmin(psnr))


def test_unsigned_integers_do_not_wrap(tmp_path: Path, capsys: Any) -> None:
    hr = np.full((12, 13, 1), 10, np.uint8)
    hr[0, 0] = 20
    sr = hr - np.uint8(1)
    report = evaluated(capsys, save(tmp_path / "sr.npy", sr), save(tmp_path / "hr.npy", hr))
    assert report["slices"][0]["psnr"] == pytest.approx(20)


@pytest.mark.parametrize("one", [2.0**700, 2.0**-700])
def test_figures_of_a_cube_do_not_depend_on_its_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one: float
) -> None:
    rng = np.random.default_rng(2)
    truth = rng.standard_normal((14, 12, 3)) * [1, 0, 50]
    estimate = truth + rng.standard_normal((14, 12, 3)) * [0.1, 0, 20]
    figures = []
    for unit in (1.0, one):
        files = (tmp_path / "sr.npy", tmp_path / "hr.npy")
        for path, cube in zip(files, (estimate, truth), strict=True):
            np.save(path, cube * unit)
        figures.append(evaluated(capsys, *files))
    assert np.isfinite(figures[0]["nmse"])
    for name in ("psnr", "ssim", "nmse"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=1e-9)


def test_exact_and_constant_slices(tmp_path: Path, capsys: Any) -> None:
    hr = waves()
    hr[..., 1] = 5.0
    sr = hr.copy()
    sr[..., 1] += 0.1
    paths = save(tmp_path / "sr.npy", sr), save(tmp_path / "hr.npy", hr)
    report = evaluated(capsys, *paths)
    assert report["slices"][0]["psnr"] == "inf" and report["slices"][0]["nmse"] == "-inf"
    assert report["slices"][1]["peak"] == 1 and report["slices"][1]["psnr"] == pytest.approx(20)
    assert report["psnr"] == pytest.approx(20) and report["exact_slices"] == 2
    assert evaluated(capsys, *paths, "--peak", 10)["psnr"] == pytest.approx(40)
    assert evaluated(capsys, paths[1], paths[1])["psnr"] == "inf"


def test_small_slices_have_no_ssim(tmp_path: Path, capsys: Any) -> None:
    hr = save(tmp_path / "hr.npy", waves(shape=(9, 31, 2)))
    sr = save(tmp_path / "sr.npy", waves(shape=(9, 31, 2), seed=1))
    assert evaluated(capsys, sr, hr)["ssim"] is None


def test_slices_option_pairs_slices(tmp_path: Path, capsys: Any) -> None:
    hr = waves(shape=(15, 17, 6))
    sr = hr + waves(shape=(15, 17, 6), seed=3)
    names = {"hr": hr, "sr": sr, "part": sr[..., 1:5:2]}
    paths = {name: save(tmp_path / f"{name}.npy", cube) for name, cube in names.items()}
    chosen = ("--slices", "1:5:2")
    whole = evaluated(capsys, paths["sr"], paths["hr"])
    picked = evaluated(capsys, paths["sr"], paths["hr"], *chosen)
    part = evaluated(capsys, paths["part"], paths["hr"], *chosen)
    assert [s["slice"] for s in picked["slices"]] == [1, 3]
    assert picked["slices"] == part["slices"] == whole["slices"][1:5:2]
    assert run("evaluate", paths["part"], paths["hr"]) == 3
    assert "15x17x2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sr_shape", "ok"),
    [
        ((40, 32), True),
        ((36, 28), True),
        ((38, 31), True),
        ((64, 62), False),
        ((97, 31), False),
        ((30, 20), False),
        ((19, 16), False),
    ],
)
def test_grids_that_a_scale_explains_are_compared(
    tmp_path: Path, capsys: Any, sr_shape: tuple[int, int], ok: bool
) -> None:
    """HR 37x31; x4 gives 40x32 (ceil) or 36x28 (cropped HR)."""
    padded = np.pad(waves(), ((0, 90), (0, 90), (0, 0)))
    sr = save(tmp_path / "sr.npy", padded[: sr_shape[0], : sr_shape[1]])
    hr = save(tmp_path / "hr.npy", waves())
    code = run("evaluate", sr, hr, "--json")
    out, err = capsys.readouterr()
    assert code == (0 if ok else 3)
    shapes = f"{sr_shape[0]}x{sr_shape[1]}x3", "37x31x3"
    assert all(shape in err for shape in shapes)
    if ok:
        common = [min(37, sr_shape[0]), min(31, sr_shape[1]), S]
        (report,) = json.loads(out)["results"]
        assert report["compared"] == common and report["psnr"] == "inf"


def test_images_protocol(tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    sr = np.clip(hr.astype(int) + rng.integers(-9, 10, hr.shape), 0, 255).astype(np.uint8)
    for name, image in {"hr": hr, "sr": sr}.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")

    def luma(rgb: Any) -> Any:
        y = 16 + rgb.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255
        return np.rint(y)[2:-2, 2:-2]

    report = evaluated(capsys, tmp_path / "sr.png", tmp_path / "hr.png", "--y", "--shave", 2)
    psnr = peak_signal_noise_ratio(luma(hr), luma(sr), data_range=255)
    assert report["psnr"] == pytest.approx(psnr, abs=1e-6)
    assert report["slices"][0]["peak"] == 255
    cube = save(tmp_path / "cube.npy", waves())
    assert run("evaluate", cube, cube, "--y") == 2
    assert "8-bit" in capsys.readouterr().err


def test_several_sr_files(tmp_path: Path, capsys: Any) -> None:
    hr = save(tmp_path / "hr.npy", waves())
    one = save(tmp_path / "one.npy", waves() + waves(seed=1))
    two = save(tmp_path / "two.npy", waves() + waves(seed=2))
    bad = save(tmp_path / "bad.npy", waves(shape=(3, 4, 5)))
    assert run("evaluate", one, two, hr) == 0
    out = capsys.readouterr().out
    assert "one.npy" in out and "two.npy" in out and "worst slice" in out
    assert run("evaluate", one, bad, two, hr, "--json") == 5
    report = json.loads(capsys.readouterr().out)
    assert [Path(r["sr"]).name for r in report["results"]] == ["one.npy", "two.npy"]
    assert report["failed"][0]["exit_code"] == 3


def test_table_on_stdout(tmp_path: Path, capsys: Any) -> None:
    hr = save(tmp_path / "hr [bold].npy", waves())
    sr = save(tmp_path / "sr [bold].npy", waves() + waves(seed=1))
    assert run("evaluate", sr, hr) == 0
    out, err = capsys.readouterr()
    assert "sr [bold].npy" in out and "NMSE dB" in out and err == ""


def test_errors_of_evaluate(tmp_path: Path, capsys: Any) -> None:
    hr = save(tmp_path / "hr.npy", waves())
    broken = waves()
    broken[0, 0, 2] = np.nan
    nan = save(tmp_path / "nan.npy", broken)
    complex_ = save(tmp_path / "complex.npy", waves("complex64"))
    for arguments, code, says in [
        ((nan, hr), 3, "nan.npy: slice 2 has NaN"),
        ((complex_, hr), 3, "complex and real"),
        ((hr, tmp_path / "gone.npy"), 3, "gone.npy: no such file"),
        ((hr, hr, hr, tmp_path / "gone.npy"), 3, "gone.npy: no such file"),
        ((hr, hr, "--shave", 16), 2, "--shave 16"),
        ((hr, hr, "--slices", "9"), 2, "--slices 9"),
        ((hr, hr, "--peak", 0), 2, "--peak"),
        ((hr,), 2, "SR"),
    ]:
        assert run("evaluate", *arguments) == code, arguments
        assert says in capsys.readouterr().err


def test_degrade_then_evaluate_is_the_round_trip(tmp_path: Path, capsys: Any) -> None:
    """With no blur, direct sampling and scale 1 the LR cube is the HR cube."""
    source = save(tmp_path / "cube.mat", waves("complex64"))
    assert run("degrade", source, "--scale", "1", "--sampling", "direct", "-q") == 0
    report = evaluated(capsys, tmp_path / "cube_d1.mat", source)
    assert report["nmse"] == "-inf" or report["nmse"] < -130


# info --------------------------------------------------------------------------------------


def described(capsys: Any, *arguments: Any) -> dict[str, Any]:
    """``mzsr info ... --json``."""
    capsys.readouterr()
    assert run("info", *arguments, "--json") == 0
    return dict(json.loads(capsys.readouterr().out, parse_constant=pytest.fail))


@pytest.mark.parametrize("dtype", ["float32", "complex64", "uint8"])
def test_info_of_a_cube(tmp_path: Path, capsys: Any, dtype: str) -> None:
    cube = waves("int16").clip(0).astype(dtype) if dtype == "uint8" else waves(dtype)
    cube[:5, 0, 1] = 0
    path = save(tmp_path / "cube.mat", cube, name="text")
    facts = described(capsys, path, "--slices", "1:")
    assert facts["kind"] == "cube" and {v["name"] for v in facts["variables"]} == {"H", "name"}
    found = facts["cube"]
    assert found["shape"] == [H, W, S] and found["dtype"] == dtype
    assert found["bytes"] == cube.nbytes and [s["slice"] for s in found["slices"]] == [1, 2]
    values = np.abs(cube[..., 1]) if dtype[0] == "c" else cube[..., 1]
    first = found["slices"][0]
    assert first["min"] == pytest.approx(values.min(), rel=1e-6)
    assert first["max"] == pytest.approx(values.max(), rel=1e-6)
    assert first["mean"] == pytest.approx(values.mean(dtype=float), rel=1e-5)
    assert first["zeros"] == pytest.approx((values == 0).mean()) and first["nan"] == 0


def test_info_counts_nan(tmp_path: Path, capsys: Any) -> None:
    cube = waves()
    cube[0, :4, 0], cube[1, 0, 0], cube[..., 1] = np.nan, np.inf, np.nan
    found = described(capsys, save(tmp_path / "cube.npy", cube))["cube"]["slices"]
    assert (found[0]["nan"], found[0]["inf"]) == (4, 1)
    assert found[0]["max"] == pytest.approx(cube[..., 0][np.isfinite(cube[..., 0])].max())
    assert found[1]["nan"] == H * W and found[1]["min"] is None


def test_info_lists_variables_when_none_is_plain(tmp_path: Path, capsys: Any) -> None:
    path = save(tmp_path / "cube.mat", waves(), G=waves())
    facts = described(capsys, path)
    assert facts["cube"] is None and "--variable" in facts["notes"][0]
    assert described(capsys, path, "--variable", "G")["cube"]["variable"] == "G"
    assert run("info", path) == 0
    assert "37x31x3" in capsys.readouterr().out


def shipped_folder(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder of shipped weights with one small network in it."""
    settings = NetworkSettings(depth=3, width=5)
    network = build(settings, 0)
    parameters = dict(network.named_parameters())
    path = tmp_path / "small.safetensors"
    save_weights(path, parameters, {}, settings, {"kind": "pretrain", "scales": [2.0]})
    monkeypatch.setattr(catalog, "weights_folder", lambda: tmp_path)
    return path


def test_info_of_weights(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    path = shipped_folder(tmp_path, monkeypatch)
    by_path, by_name = described(capsys, path), described(capsys, "small")
    assert by_path == by_name and by_path["kind"] == "weights"
    assert by_path["parameters"] == (9 + 1) * 5 + (45 + 1) * 5 + 45 + 1
    assert by_path["network"]["depth"] == 3 and by_path["facts"]["kind"] == "pretrain"
    assert run("info", path) == 0
    assert "pretrain" in capsys.readouterr().out
    with pytest.raises(WeightsError, match="small"):
        catalog.find("smal")
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    assert run("info", tmp_path / "broken.safetensors") == 3
    facts = described(capsys)
    assert "error" in facts["weights"][0] and facts["weights"][1]["name"] == "small"


def test_tables_have_no_blanks_at_the_ends_of_their_lines(capsys: Any) -> None:
    """Where stdout is no terminal: long values made every line as wide."""
    show.facts_table("", {"short": 1, "long": "x" * 300})
    short, long = [row for row in capsys.readouterr().out.splitlines() if "  " in row.strip()][-2:]
    assert short.split() == ["short", "1"] and short == short.rstrip()
    assert long.endswith("x" * 300)


def test_info_of_the_machine(capsys: Any) -> None:
    facts = described(capsys)
    machine = facts["machine"]
    assert machine["mzsr"] == __version__ and machine["cores"] >= 1
    assert machine["memory"] >= machine["memory_free"] > 0
    assert [w["name"] for w in facts["weights"]] == [p.stem for p in catalog.shipped()]
    assert run("info") == 0
    assert "shipped weights" in capsys.readouterr().out


def test_errors_of_info(tmp_path: Path, capsys: Any) -> None:
    save(tmp_path / "cube.npy", waves())
    for arguments, code, says in [
        ((tmp_path / "gone.mat",), 3, "no such file"),
        ((tmp_path / "gone.safetensors",), 3, "gone.safetensors"),
        ((tmp_path,), 3, "folder"),
        ((tmp_path / "cube.npy", "--slices", "x"), 2, "--slices"),
    ]:
        assert run("info", *arguments) == code
        assert says in capsys.readouterr().err


def test_a_name_that_is_too_long(capsys: Any) -> None:
    assert run("info", "x" * 300 + ".npy") == 4
    (told,) = capsys.readouterr().err.splitlines()
    assert "xxx.npy: " in told and "File name too long" in told


@pytest.mark.parametrize("to", [">/dev/full", ">&-"])
@pytest.mark.parametrize("form", ["", "--json"])
def test_stdout_that_cannot_be_written(tmp_path: Path, to: str, form: str) -> None:
    """One line and exit 4, also where only the last flush would have failed."""
    path = save(tmp_path / "cube.npy", waves())
    line = f"{sys.executable} -m mzsr_cli.cli.main info {path} {form} {to}"
    ran = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, text=True)
    (told,) = ran.stderr.splitlines()
    assert ran.returncode == 4 and told.startswith("mzsr: stdout: "), told


def test_a_full_log_keeps_the_exit_code(tmp_path: Path) -> None:
    """Of errors of mzsr and of click."""
    for arguments, code in ((["info", tmp_path / "gone.npy"], 3), (["info", "--bad"], 2)):
        with Path("/dev/full").open("w") as log:
            command = [sys.executable, "-m", "mzsr_cli.cli.main", *arguments]
            assert subprocess.run(command, stderr=log).returncode == code


def test_bars_keep_brackets_of_names() -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=120)
    columns = TextColumn("{task.description}")
    plan = SimpleNamespace(slices=range(3))
    with Progress(columns, console=out, auto_refresh=False) as bar:
        show.upscale_ticker(bar, "run[a].npy", quiet=True, verbose=False).plan(plan)
        show.slice_ticker(bar, "cut[b].npy")
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "run[a].npy" in text and "cut[b].npy" in text


def test_info_of_a_cube_imports_no_torch(tmp_path: Path) -> None:
    path = save(tmp_path / "cube.npy", waves())
    code = (
        "import sys; from mzsr_cli.cli.main import exit_code; "
        f"assert exit_code(['info', {str(path)!r}]) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_math_of_rounded_up_grids() -> None:
    """The rule that a grid is explained by a scale agrees with a search over scales."""
    from mzsr_cli.imaging.resize import enlarged, reduced
    from mzsr_cli.pipeline.evaluate import LR_SIDE_MIN, _rounded_up

    wanted = 37
    scales = [s for s in np.arange(1.1, 32.0001, 0.001) if reduced(wanted, s) >= LR_SIDE_MIN]
    made = {enlarged(reduced(wanted, s), s) for s in scales}
    for found in range(wanted + 1, 110):
        assert _rounded_up(found, wanted) == (found in made), found
