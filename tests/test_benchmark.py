"""``mzsr benchmark``: its figures are the commands', its runs resume, its names are understood."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from rich.console import Console
from rich.live import Live
from upscale_files import content, field, run, tiny_weights

from mzsr_cli.cli import show
from mzsr_cli.cubes.image import eight_bit
from mzsr_cli.cubes.open import open_cube
from mzsr_cli.errors import KernelError, MissingInputError, UsageError
from mzsr_cli.imaging import kernels
from mzsr_cli.learning.zssr import Zssr
from mzsr_cli.pipeline import benchmark as pipeline
from mzsr_cli.pipeline.benchmark import Bench, Outputs, benchmark
from mzsr_cli.pipeline.benchmark_cases import parse_case, parse_contender, upscale_settings
from mzsr_cli.pipeline.benchmark_data import find_data
from mzsr_cli.pipeline.benchmark_report import by_place, markdown, rows, score, spread
from mzsr_cli.settings import (
    BenchmarkSettings,
    Extra,
    Method,
    Precision,
    Sampling,
    UpscaleSettings,
)

SIDES = [(37, 31), (33, 41), (29, 35)]
FP32 = ("--precision", "fp32")


class Silent:
    """A watcher that only counts; ``stop`` interrupts after that many cells."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.cells = stop, 0

    def planned(self, record: dict[str, Any], cells: int) -> None: ...

    def slice(self, name: str, done: int, count: int) -> None: ...

    def cell(self, record: dict[str, Any], cell: Mapping[str, Any]) -> None:
        self.cells += 1
        if self.cells == self.stop:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two colour images and a grey one, of odd and distinct sizes, some samples saturated."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for n, sides in enumerate(SIDES):
        walk = rng.standard_normal((*sides, 3)).cumsum(0).cumsum(1)
        rgb = np.clip(128 + 9 * walk, 0, 255).astype(np.uint8)
        Image.fromarray(rgb if n < 2 else rgb[..., 0]).save(folder / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complex cube whose sides are not multiples of 2."""
    path = tmp_path_factory.mktemp("cubes") / "field.npy"
    np.save(path, field((29, 27, 3), "complex64"))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def settings_of(weights: Path | None = None, **more: Any) -> BenchmarkSettings:
    text = None if weights is None else str(weights)
    return BenchmarkSettings(weights=text, precision=Precision.FP32, **more)


def chain(
    source: Path, folder: Path, method: list[Any], protocol: list[Any], *, capsys: Any,
    kernel: str = "gaussian:2.0", sampling: str = "direct", upsampling: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What ``mzsr evaluate`` says of ``degrade`` and ``upscale`` on one file, at x2."""
    low = folder / f"low{source.suffix}"
    high = folder / f"high{source.suffix}"
    degradation = ["--scale", 2, "--kernel", kernel, "--sampling", sampling]
    assert run("degrade", source, *degradation, "-o", low, "-q", "--overwrite") == 0
    if upsampling is not None:
        degradation = ["--scale", 2, "--sampling", upsampling]
    assert run("upscale", low, *degradation, *method, *FP32, "-o", high, "-q", "--overwrite") == 0
    capsys.readouterr()
    assert run("evaluate", high, source, *protocol, "--json") == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)["results"][0]
    return report


# -- the figures are the commands' ------------------------------------------------------------

METHODS = {
    "bicubic": ["--method", "bicubic"],
    "wiener": ["--method", "wiener"],
    "back-projection": ["--method", "back-projection"],
    "zssr": ["--method", "zssr", "--seed", 3],
    "mzsr:2": ["--steps", 2],
    "mzsr-paper:1": ["--steps", 1, "--consistency", 0, "--no-self-check", "--self-ensemble", 1],
    "mzsr+:1": ["--steps", 1, "--self-ensemble", 8],
}


def told(method: str, weights: Path) -> list[Any]:
    """``mzsr upscale``'s options for a method of the benchmark."""
    return METHODS[method] + (["--weights", weights] if "mzsr" in method else [])


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """ZSSR with its seeded random weights: what it learns takes too long here."""

    def train(self: Zssr, images: list[torch.Tensor], scale: tuple[float, float]) -> None: ...

    monkeypatch.setattr(Zssr, "train", train)


def test_images_agree_with_the_commands(
    images: Path, weights: Path, tmp_path: Path, capsys: Any, untrained: None
) -> None:
    cases = {"g2.0d": ("gaussian:2.0", "direct"), "bicubic": ("none", "bicubic")}
    settings = settings_of(weights, degradations=tuple(cases), methods=tuple(METHODS), seed=3)
    record = benchmark([str(images)], settings, Outputs(), Silent())
    places = by_place(record)
    for case, (kernel, sampling) in cases.items():
        for method in METHODS if case == "g2.0d" else ("wiener", "mzsr:2"):
            cell = places[images.name, case][method]
            reports = [
                chain(images / f"{n}.png", tmp_path, told(method, weights), ["--y", "--shave", 2],
                      capsys=capsys, kernel=kernel, sampling=sampling)
                for n in range(3)
            ]  # fmt: skip
            for name in ("psnr", "ssim"):
                mean = np.mean([report[name] for report in reports])
                assert cell[name] == pytest.approx(mean, abs=1e-9), (case, method, name)
                each = [s[name] for s in cell["slices"]]
                assert each == pytest.approx([r["slices"][0][name] for r in reports], abs=1e-9)
            assert [s["file"] for s in cell["slices"]] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("views", [1, 2, 8])
def test_views_agree_with_the_commands(
    images: Path, weights: Path, tmp_path: Path, capsys: Any, views: int
) -> None:
    settings = settings_of(
        weights, degradations=("bicubic",), methods=("mzsr:1", "mzsr-paper:1"), self_ensemble=views
    )
    record = benchmark([str(images)], settings, Outputs(), Silent())
    cells = by_place(record)[images.name, "bicubic"]
    told_of_views = ["--steps", 1, "--self-ensemble", views]
    for method, how in (("mzsr:1", told_of_views), ("mzsr-paper:1", METHODS["mzsr-paper:1"])):
        how = [*how, "--weights", weights]
        report = chain(images / "0.png", tmp_path, how, ["--y", "--shave", 2],
                       capsys=capsys, kernel="none", sampling="bicubic")  # fmt: skip
        assert cells[method]["slices"][0]["psnr"] == pytest.approx(report["psnr"], abs=1e-9)


@pytest.mark.parametrize("dtype", ["complex64", "uint8", "float64"])
def test_cubes_agree_with_the_commands(
    tmp_path: Path, weights: Path, capsys: Any, untrained: None, dtype: str
) -> None:
    source = tmp_path / "cube.npy"
    np.save(source, field((29, 27, 3), dtype))
    settings = settings_of(
        weights, degradations=("g1.3b",), methods=tuple(METHODS), slices="1:3", seed=3
    )
    record = benchmark([str(source)], settings, Outputs(), Silent())
    np.save(source, np.load(source)[:28, :26])  # evaluate's own cropping needs a known LR grid
    for cell in record["cells"]:
        method = [*told(cell["method"], weights), "--slices", "1:3"]
        report = chain(source, tmp_path, method, ["--slices", "1:3"], capsys=capsys,
                       kernel="gaussian:1.3", sampling="bicubic")  # fmt: skip
        assert [s["slice"] for s in cell["slices"]] == [1, 2]
        for name in ("psnr", "ssim", "nmse"):
            assert cell[name] == pytest.approx(report[name], abs=1e-9), (cell["method"], name)
        for mine, theirs in zip(cell["slices"], report["slices"], strict=True):
            assert {k: mine[k] for k in theirs} == theirs
        assert cell["worst"] == report["worst"]
        assert cell["worst_nmse"] == max(s["nmse"] for s in report["slices"])


def test_files_of_other_formats_and_fractional_scales(tmp_path: Path, capsys: Any) -> None:
    """LR cubes take the dtype that the input's format holds; sides that no factor divides."""
    source = tmp_path / "cube.npy"
    np.save(source, field((23, 19, 2), "float16"))
    settings = settings_of(degradations=("direct",), methods=("spline",), scale=(1.5, 1.0))
    (cell,) = benchmark([str(source)], settings, Outputs(), Silent())["cells"]
    low, high = tmp_path / "low.npy", tmp_path / "high.npy"
    options = ["--scale", "1.5x1", "--sampling", "direct"]
    assert run("degrade", source, *options, "-o", low, "-q") == 0
    assert run("upscale", low, *options, "--method", "spline", "-o", high, "-q") == 0
    capsys.readouterr()
    assert run("evaluate", high, source, "--json") == 0
    report = json.loads(capsys.readouterr().out)["results"][0]
    assert cell["nmse"] == pytest.approx(report["nmse"], abs=1e-9)


def keys(t: np.ndarray) -> np.ndarray:
    """Keys' cubic, a = -0.5."""
    t = np.abs(t)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def doubled(image: np.ndarray) -> np.ndarray:
    """x2 along the first axis, pixel-centred: taps at quarters, symmetric borders."""
    padded = np.pad(image, ((3, 3), (0, 0)), mode="symmetric")
    out = np.zeros((2 * len(image), image.shape[1]))
    for i in range(len(out)):
        at = (i + 0.5) / 2 - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            out[i] += keys(np.array(at - j)) * padded[j + 3]
    return out


@pytest.mark.parametrize("case", ["g2.0d", "direct", "bicubic"])
def test_bicubic_paper_is_half_a_pixel_off(tmp_path: Path, case: str, capsys: Any) -> None:
    """An independent pixel-centred cubic of the LR slice, however that was sampled."""
    source, low = tmp_path / "cube.npy", tmp_path / "low.npy"
    np.save(source, field((22, 18, 2), "float64"))
    how = parse_case(case)
    degradation = ["--kernel", how.kernel, "--sampling", how.sampling]
    assert run("degrade", source, "--scale", 2, *degradation, "-o", low, "-q") == 0
    with open_cube(source) as reader:
        paper = Bench(reader, how, parse_contender("bicubic-paper"), settings_of())
        right = Bench(reader, how, parse_contender("bicubic"), settings_of())
        for k in range(2):
            image = np.load(low)[..., k]
            wanted, span = doubled(doubled(image).T).T, np.ptp(image)
            made, truth = paper.trial(k).compared
            assert np.abs(made - wanted).max() < 1e-5 * span
            assert np.array_equal(truth, np.load(source)[..., k])
            differs = np.abs(made - right.trial(k).compared[0]).max() > 0.01 * span
            assert differs == (how.sampling is Sampling.DIRECT)


@pytest.mark.parametrize(
    ("case", "psnr"),
    [("bicubic", 33.66), ("g0.2d", 30.25), ("g2.0d", 28.74), ("ganid", 28.15), ("g1.3b", 30.55)],
)
def test_published_baseline_of_set5(data: Path, case: str, psnr: float) -> None:
    """DESIGN, part 3: the paper's misaligned baseline, RGB and rounding included."""
    folder = data / "Set5" / "x2"
    if len(list(folder.glob("*.png"))) != 5:
        pytest.skip(f"{folder} has not five images")
    settings = settings_of(degradations=(case,), methods=("bicubic-paper",))
    (cell,) = benchmark([str(folder)], settings, Outputs(), Silent())["cells"]
    assert cell["psnr"] == pytest.approx(psnr, abs=0.05) and cell["data"] == "Set5/x2"


def test_nyquist_is_the_truth_within_the_band(tmp_path: Path) -> None:
    """Its error is the energy of the cosines that the LR grid cannot carry (Parseval)."""
    source = tmp_path / "cube.npy"
    cube = field((22, 18, 2), "complex128")
    np.save(source, cube)
    with open_cube(source) as reader:
        bench = Bench(reader, parse_case("direct"), parse_contender("nyquist"), settings_of())
        for k in range(2):
            made, truth = bench.trial(k).compared
            power = np.abs(scipy.fft.dctn(truth, norm="ortho")) ** 2
            beyond = power.sum() - power[:11, :9].sum()
            assert np.sum(np.abs(made - truth) ** 2) == pytest.approx(beyond, rel=1e-9)
            assert beyond > 1e-3 * power.sum()


def test_eight_bit_is_what_a_png_keeps(tmp_path: Path, images: Path) -> None:
    with open_cube(images / "0.png") as reader:
        luma, chroma = reader.read(0), reader.chroma()  # type: ignore[attr-defined]
    again, colour = eight_bit(luma, chroma)
    assert np.array_equal(again, luma) and np.array_equal(colour, chroma), "already 8 bits"
    bent, _ = eight_bit(luma + 0.7, chroma)
    assert 0 < np.abs(bent - luma).max() < 2


# -- resume -----------------------------------------------------------------------------------

QUICK = ("bicubic", "spline", "wiener")


def unbroken(record: dict[str, Any]) -> dict[str, Any]:
    """A record without its times."""
    plain: dict[str, Any] = json.loads(json.dumps(record))
    for cell in plain["cells"]:
        del cell["seconds"]
        for each in cell["slices"]:
            del each["seconds"]
    return plain


def test_resumed_is_unbroken(images: Path, tmp_path: Path) -> None:
    settings = settings_of(degradations=("bicubic", "g1.3b"), methods=QUICK)
    whole = benchmark([str(images)], settings, Outputs(tmp_path / "whole.json"), Silent())
    part = tmp_path / "part.json"
    for stop, count in ((2, 2), (1, 3)):
        with pytest.raises(KeyboardInterrupt):
            benchmark([str(images)], settings, Outputs(part), Silent(stop), resume=True)
        assert len(json.loads(part.read_text())["cells"]) == count, "readable after a kill"
    watcher = Silent()
    resumed = benchmark([str(images)], settings, Outputs(part), watcher, resume=True)
    assert watcher.cells == 3 and len(whole["cells"]) == 6
    assert unbroken(resumed) == unbroken(whole) == unbroken(json.loads(part.read_text()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.json", "whole.json"]


def test_a_kill_leaves_the_cells_before_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "out.json", pipeline.run_cell
    options = ("benchmark", images, "--degradation", "direct", "--json", out, "-q")
    options += ("--method", "bicubic", "--method", "spline")

    def killed(data: Any, case: Any, contender: Any, *more: Any) -> Any:
        if contender.name == "spline":
            raise KeyboardInterrupt
        return real(data, case, contender, *more)

    monkeypatch.setattr(pipeline, "run_cell", killed)
    assert run(*options) == 130
    assert [c["method"] for c in json.loads(out.read_text())["cells"]] == ["bicubic"]
    monkeypatch.setattr(pipeline, "run_cell", real)
    assert run(*options) == 2, "already there"
    assert run(*options, "--resume") == 0
    assert [c["method"] for c in json.loads(out.read_text())["cells"]] == ["bicubic", "spline"]
    assert run(*options, "--resume") == 0, "nothing left to do"
    assert run(*options, "--overwrite") == 0


def test_resume_may_add_methods_and_degradations(cube: Path, tmp_path: Path) -> None:
    out = Outputs(tmp_path / "out.json")
    first = settings_of(degradations=("direct",), methods=("bicubic",))
    benchmark([str(cube)], first, out, Silent())
    more = settings_of(degradations=("direct", "bicubic"), methods=("spline",))
    record = benchmark([str(cube)], more, out, Silent(), resume=True)
    assert record["methods"] == ["bicubic", "spline"]
    found = [(c["degradation"], c["method"]) for c in record["cells"]]
    assert found == [("direct", "bicubic"), ("direct", "spline"), ("bicubic", "spline")]
    assert rows(record)[1]["bicubic"] == "-"


def test_resume_refuses_what_was_made_otherwise(
    images: Path, weights: Path, tmp_path: Path, capsys: Any
) -> None:
    folder, out = tmp_path / "set", tmp_path / "out.json"
    folder.mkdir()
    picture = Image.open(images / "0.png")
    picture.save(folder / "a.png")
    options = ["benchmark", folder, "--degradation", "g2.0d", "--method", "mzsr:0", "--json", out]
    options += [*FP32, "-q", "--resume", "--weights"]
    assert run(*options, weights) == 0, "nothing to resume: begins"
    assert run(*options, weights, "--seed", 1) == 6
    assert "seed was 0, is 1" in capsys.readouterr().err
    assert run(*options, weights, "--scale", 3) == 6
    other = tiny_weights(tmp_path / "other.safetensors", seed=2)
    assert run(*options, other) == 6
    assert "weights.g2.0d" in capsys.readouterr().err
    picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / "a.png")
    assert run(*options, weights) == 6
    assert "data.set.sha256" in capsys.readouterr().err
    edited = json.loads(out.read_text())
    edited["cells"][0]["slices"] = "cut"
    more = json.dumps(edited)
    for text in (
        "{",
        "[]",
        '{"command": "upscale"}',
        '{"command": "benchmark", "facts": {}}',
        more,
    ):
        out.write_text(text)
        assert run(*options, weights) == 6 and out.read_text() == text
        assert "no JSON of mzsr benchmark" in capsys.readouterr().err


# -- names and errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kernel", "sampling"),
    [
        ("bicubic", kernels.delta(), "bicubic"),
        ("direct", kernels.delta(), "direct"),
        ("ganid", kernels.gaussian(4, 1, -0.5), "direct"),
        ("g0.2d", kernels.gaussian(0.2), "direct"),
        ("g2d", kernels.gaussian(2), "direct"),
        ("g1.3b", kernels.gaussian(1.3), "bicubic"),
        ("none/direct", kernels.delta(), "direct"),
        ("gaussian:3,2,0.1/bicubic", kernels.gaussian(3, 2, 0.1), "bicubic"),
    ],
)
def test_degradations_are_understood(name: str, kernel: kernels.Kernel, sampling: str) -> None:
    case = parse_case(name)
    assert np.array_equal(case.blur, kernel)
    assert (case.name, case.sampling) == (name, sampling)


def test_a_kernel_file_is_a_degradation(tmp_path: Path) -> None:
    path = tmp_path / "kernel.npy"
    np.save(path, kernels.gaussian(1.5))
    assert np.allclose(parse_case(f"{path}/direct").blur, kernels.gaussian(1.5))
    with pytest.raises(MissingInputError):
        parse_case(f"{tmp_path}/none.npy/direct")


@pytest.mark.parametrize(
    "name", ["", "cubic", "g2.0", "g-1d", "gd", "g2.0x", "/direct", "gaussian:2", "none/sinc"]
)
def test_other_degradations_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="KERNEL/SAMPLING"):
        parse_case(name)


def test_a_kernel_without_width_is_refused() -> None:
    with pytest.raises(KernelError):
        parse_case("g0d")


def test_methods_are_understood() -> None:
    assert parse_contender("mzsr:010").name == "mzsr:10"
    paper = upscale_settings(parse_case("g2.0d"), parse_contender("mzsr-paper:5"), settings_of())
    assert paper.method is Method.MZSR and paper.adapt.steps == 5
    assert not paper.consistency.enabled and not paper.check.enabled
    plain = upscale_settings(parse_case("g2.0d"), parse_contender("mzsr:0"), settings_of())
    assert plain.consistency == UpscaleSettings().consistency and plain.adapt.steps == 0
    assert plain.kernel == "gaussian:2.0" and plain.sampling is Sampling.DIRECT
    stepped = {"mzsr", "mzsr-paper", "mzsr+"}
    names = {*map(str, Method), *map(str, Extra)} - stepped
    assert [parse_contender(name).name for name in sorted(names)] == sorted(names)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("mzsr", "mzsr:10"),
        ("mzsr:", "mzsr:10"),
        ("mzsr:-1", "mzsr:10"),
        ("mzsr-paper", "mzsr-paper:10"),
        ("cubic", "bicubic-paper"),
        ("spline:3", "mzsr:N"),
    ],
)
def test_other_methods_are_refused(name: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy):
        parse_contender(name)


def test_data_sets_get_names_that_differ(tmp_path: Path, images: Path) -> None:
    for name in ("Set5/x2", "Set14/x2", "a/urban", "b/urban"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        Image.open(images / "0.png").save(folder / "p1.png")
        Image.open(images / "1.png").save(folder / "p2.png")
    np.save(tmp_path / "a" / "H.npy", field())
    np.save(tmp_path / "b" / "H.npy", field())

    def names(*arguments: str) -> list[str]:
        return [d.name for d in find_data([str(tmp_path / a) for a in arguments], settings_of())]

    assert names("Set5/x2") == ["Set5/x2"]
    assert names("Set5/x2", "Set14/x2", "Set5/x2") == ["Set5/x2", "Set14/x2"]
    assert names("a/urban", "b/urban", "a/urban/p1.png") == ["a/urban", "b/urban", "p1"]
    assert names("a/urban/p*.png") == ["p*"]
    assert names("a/H.npy", "b/H.npy") == ["a/H", "b/H"]
    one, other = (find_data([str(tmp_path / f"{n}/urban")], settings_of())[0] for n in "ab")
    assert one.digest == other.digest and len(one.files) == 2, "content, not place or time"


def test_errors_come_before_work(
    images: Path, cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("worked on a cell")

    monkeypatch.setattr(pipeline, "run_cell", never)
    empty, mixed = tmp_path / "empty", tmp_path / "mixed"
    empty.mkdir()
    mixed.mkdir()
    Image.open(images / "0.png").save(mixed / "a.png")
    np.save(mixed / "b.npy", field())
    Image.fromarray(np.zeros((30, 30), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.zeros((5, 30), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "there.md").write_text("text")
    np.save(tmp_path / "row.npy", np.zeros((1, 30, 2)))
    json_file = ["--json", tmp_path / "o.json"]
    for code, say, *arguments in (
        (2, "no such method", images, "--method", "cubic"),
        (2, "KERNEL/SAMPLING", images, "--degradation", "cubic"),
        (2, "different protocols", images, cube),
        (2, "different protocols", mixed),
        (2, "holds none", cube, "--slices", "7:9"),
        (2, "--figure", images, "--figure", tmp_path / "o.gif"),
        (2, "--resume", images, "--resume"),
        (2, "--resume", images, "--resume", "--overwrite", *json_file),
        (2, "is already there", images, "--markdown", tmp_path / "there.md"),
        (2, "one file", images, *json_file, "--markdown", tmp_path / "mixed" / ".." / "o.json"),
        (2, "one file", images, "--markdown", tmp_path / "o.svg", "--figure", tmp_path / "o.svg"),
        (2, "outside", images, "--scale", 40),
        (3, "holds no cube", empty),
        (3, "no such file", tmp_path / "none"),
        (3, "no such file", images, "--method", "mzsr:0", "--weights", "absent"),
        (3, "Leave it out, or type a smaller --scale", cube, tmp_path / "row.npy"),
        (3, "16 bits", tmp_path / "deep.png"),
        (3, "nothing to compare", tmp_path / "small.png"),
        (4, "no such folder", images, "--json", tmp_path / "no" / "o.json"),
    ):
        assert run("benchmark", *arguments, "-q") == code, arguments
        out, err = capsys.readouterr()
        assert out == "" and say in err and err.startswith("mzsr: "), arguments
    assert (tmp_path / "there.md").read_text() == "text"
    assert not (tmp_path / "o.json").exists()


@pytest.mark.parametrize("option", ["--json", "--markdown", "--figure"])
def test_inputs_are_not_replaced(images: Path, tmp_path: Path, option: str, capsys: Any) -> None:
    """Neither images of a folder nor a cube, whatever path leads there."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.open(images / "0.png").save(folder / "0.png")
    np.save(tmp_path / "cube.npy", field())
    (tmp_path / "link.png").symlink_to(tmp_path / "cube.npy")
    before = content(tmp_path)
    for data, output in (
        (folder, folder / ".." / "photos" / "0.png"),
        (tmp_path / "cube.npy", tmp_path / "link.png"),
    ):
        for how in ("--overwrite", "--resume"):
            record = [] if option == "--json" else ["--json", tmp_path / "o.json"]
            arguments = (data, "--method", "bicubic", *record, option, output, how)
            assert run("benchmark", *arguments) == 2
            assert f"{output}: is an input" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_missing_extras_are_said(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for module, option in (
        ("skimage.restoration", ["--method", "tv"]),
        ("matplotlib", ["--figure", str(tmp_path / "o.png")]),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(__import__("sys").modules, module, None)
            assert run("benchmark", images, *option) == 2
        assert "pip install 'mzsr[benchmark]'" in capsys.readouterr().err


def test_a_slice_with_nan_is_named(tmp_path: Path, capsys: Any) -> None:
    bad = field((21, 17, 2))
    bad[3, 4, 1] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    assert run("benchmark", tmp_path / "bad.npy", "--method", "bicubic", "-q") == 3
    assert "slice 1" in capsys.readouterr().err
    assert run("benchmark", tmp_path / "bad.npy", "--method", "bicubic", "--slices", 0) == 0


# -- what is shown ----------------------------------------------------------------------------


def test_markdown_figure_and_table(
    images: Path, weights: Path, tmp_path: Path, capsys: Any
) -> None:
    files = {name: tmp_path / f"o.{suffix}" for name, suffix in
             (("json", "json"), ("markdown", "md"), ("figure", "png"))}  # fmt: skip
    methods = ["bicubic-paper", "bicubic", "tv", "mzsr:1"]
    options = [part for method in methods for part in ("--method", method)]
    options += [part for name, path in files.items() for part in (f"--{name}", path)]
    options += ["--degradation", "g2.0d", "--degradation", "bicubic", "--weights", weights]
    assert run("benchmark", images, *options, *FP32) == 0
    out, err = capsys.readouterr()
    record = json.loads(files["json"].read_text())
    assert record["methods"] == methods and len(record["cells"]) == 8
    facts = record["facts"]
    assert [w["name"] for w in facts["weights"]["g2.0d"]] == ["tiny"] and facts["scale"] == [2, 2]
    assert {"mzsr", "torch", "machine", "device", "precision", "seed"} <= facts.keys()
    lines = files["markdown"].read_text().splitlines()
    assert "weights tiny" in lines[0] and "PSNR/SSIM" in lines[0]
    assert lines[2] == "| data | degradation | bicubic-paper | bicubic | tv | mzsr:1 |"
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| " + images.name] * 2 + ["| s/slice"]
    cell = by_place(record)[images.name, "g2.0d"]["bicubic"]
    shown = f"{cell['psnr']:.2f}/{cell['ssim']:.4f}".replace("/0.", "/.")
    assert shown in lines[4] and shown in out and shown in err
    assert "**" in lines[4] and "**" not in lines[6], "the best is bold"
    assert out.split()[:2] == ["data", "degradation"] and "s/slice" in out
    assert err.splitlines()[0] == "8 cells" and len(err.splitlines()) == 10
    assert files["figure"].read_bytes()[:4] == b"\x89PNG"
    assert Image.open(files["figure"]).width == 2 * 540


def test_tables_of_cubes(cube: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "o.md"
    figure = tmp_path / "o.svg"
    options = ["--method", "bicubic", "--method", "wiener", "--markdown", out, "--figure", figure]
    assert run("benchmark", cube, *options, "-q") == 0
    assert capsys.readouterr().err == ""
    lines = out.read_text().splitlines()
    assert [line.split(" | ")[:2] for line in lines[4:]] == [
        ["| field", "bicubic"], ["| field", "direct"], ["| s/slice", ""],
    ]  # fmt: skip
    assert b"<svg" in figure.read_bytes()


def test_scores_of_extremes() -> None:
    none = {"psnr": "inf", "ssim": None, "nmse": "-inf", "worst_nmse": -120.0}
    assert score(none, "images") == "inf/-" and score(none, "cubes") == "-inf (-120.00)"
    assert score({"psnr": 33.649, "ssim": 1.0}, "images") == "33.65/1.0000"
    assert score({"psnr": 3.0, "ssim": -0.5}, "images") == "3.00/-0.5000"


def test_an_exact_cube_is_shown(tmp_path: Path) -> None:
    """A constant: no error, no finite figure, and nothing to draw."""
    np.save(tmp_path / "flat.npy", np.full((21, 17, 2), 3.0))
    outputs = Outputs(tmp_path / "o.json", tmp_path / "o.md", tmp_path / "o.pdf")
    settings = settings_of(methods=("bicubic", "tv"))
    record = benchmark([str(tmp_path / "flat.npy")], settings, outputs, Silent())
    assert record["cells"][0]["nmse"] == "-inf" and record["cells"][0]["psnr"] == "inf"
    assert "-inf (-inf)" in markdown(record)


def test_labels_keep_apart() -> None:
    heights = spread([0.0, 0.1, 5.0, 0.2], [30.0, 30.1, 30.0, 35.0], reach=1.0, gap=1.0)
    assert heights[2:] == [30.0, 35.0] and heights[1] - heights[0] == pytest.approx(1.0)
    assert sum(heights[:2]) == pytest.approx(60.1)


def test_the_table_fills_on_a_terminal(cube: Path) -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
    settings = settings_of(degradations=("direct",), methods=("bicubic", "spline"))
    with Live(console=out, auto_refresh=False) as live:
        ticker = show.BenchmarkTicker(live, quiet=False)
        titles: list[Any] = []
        update = live.update
        live.update = lambda table: (titles.append(table.title), update(table))  # type: ignore
        record = benchmark([str(cube)], settings, Outputs(), ticker)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert score(record["cells"][1], "cubes") in text
    assert "field direct spline: 2 of 3" in [str(title) for title in titles]
