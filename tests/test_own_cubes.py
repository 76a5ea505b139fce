"""Training on one's own cubes: what is held out, patches that fit, and a network for each cube."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import io, ndimage

from mzsr_cli.cli.main import exit_code
from mzsr_cli.errors import InputError, OutputError, UsageError
from mzsr_cli.imaging.bounds import UNBOUNDED, Bounds
from mzsr_cli.learning import catalog, networks
from mzsr_cli.learning.patches import Source, check_patch
from mzsr_cli.learning.weights import load_weights, save_weights
from mzsr_cli.pipeline.each import each_job
from mzsr_cli.pipeline.slices import held_out, parse_slices, slices_text
from mzsr_cli.pipeline.training import load_sources, split
from mzsr_cli.settings import DataSettings, NetworkSettings, TaskSettings

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import own_cubes

NETWORK = NetworkSettings(depth=3, width=5)
H, W, S = 37, 31, 9


def waves(seed: int = 0, shape: tuple[int, int, int] = (H, W, S), scale: bool = True) -> Any:
    """Smooth slices whose ranges differ by orders of magnitude."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    cube = ndimage.gaussian_filter(noise, (1.0, 1.3, 0))
    return cube * 10.0 ** -np.arange(shape[2]) if scale else cube


def save(path: Path, cube: Any) -> Path:
    """The cube as .npy, or as variable H of a .mat."""
    np.save(path, cube) if path.suffix == ".npy" else io.savemat(path, {"H": cube})
    return path


def run(*arguments: Any) -> int:
    """Exit code of a command line."""
    return exit_code([str(argument) for argument in arguments])


def weights(path: Path, seed: int = 2) -> Path:
    """Weights of a tiny network."""
    network = networks.build(NETWORK, seed)
    save_weights(path, dict(network.named_parameters()), {}, NETWORK, {"kind": "pretrain"})
    return path


def training(*more: Any, kind: str = "pretrain") -> int:
    """Exit code of three iterations."""
    return run(
        kind, *more, "--iterations", 3, "--batch", 1, "--precision", "fp32", "--device", "cpu"
    )


# -- which slices are held out ----------------------------------------------------------------


def chosen(text: str | None, count: int, usable: list[int] | None = None) -> list[int]:
    everything = list(range(count)) if usable is None else usable
    return list(held_out(text, count, everything, "cube.mat"))


@pytest.mark.parametrize("text", [None, "2", "3", "7", "20", "10%", "33%", "50%"])
@pytest.mark.parametrize("count", [2, 3, 7, 12, 19, 45])
def test_every_cube_validates_and_trains(text: str | None, count: int) -> None:
    """About every n-th slice is held out, and at least one, but never all."""
    every = {None: 20, "10%": 10, "33%": 3, "50%": 2}.get(text) or int(str(text))
    found = chosen(text, count)
    assert 1 <= len(found) < count
    assert abs(len(found) - count / every) <= 1
    assert found == sorted(set(found)) and set(found) <= set(range(count))


def test_named_slices_and_none() -> None:
    assert chosen("none", 9) == []
    assert chosen("-3:", 9) == [6, 7, 8]
    assert chosen("1:8:3", 9) == [1, 4, 7]
    assert chosen(None, 1) == chosen("4", 0) == []


@pytest.mark.parametrize(
    "usable", [[0, 1, 2, 30, 31], [10, 30], [9], [], [10, 11], [4, 5, 6, 7, 8]]
)
def test_unusable_slices_do_not_take_the_place_of_the_held_out(usable: list[int]) -> None:
    """With two usable slices or more, one validates and one trains."""
    found = set(chosen(None, 45, usable)) & set(usable)
    assert len(found) < max(1, len(usable))
    assert bool(found) == (len(usable) > 1)


def test_held_out_slices_that_cannot_be_used() -> None:
    with pytest.raises(UsageError, match="holds out no slice that can be used"):
        held_out("3:5", 5, [0, 1, 2], "cube.mat")


@pytest.mark.parametrize("text", ["1", "0", "60%", "0%", "1.5", "odd", "-4", "5:2", "::0", ":"])
def test_bad_held_out(text: str) -> None:
    with pytest.raises(UsageError, match="--held-out") as caught:
        chosen(text, 9)
    assert text in str(caught.value)


@pytest.mark.parametrize("text", [None, "4", "-3:", "8:", "none", "2::5"])
def test_slices_takes_what_is_held_out(text: str | None) -> None:
    found = held_out(text, 21, range(21), "cube.mat")
    shown = slices_text(found)
    assert (list(parse_slices(shown, 21)) if shown else []) == list(found)


def test_split_is_by_the_cubes_own_numbers(tmp_path: Path) -> None:
    """A constant slice before the held-out ones does not shift them."""
    cube = waves(shape=(17, 19, 9))
    cube[..., 1] = 4.0
    (source,) = load_sources([str(save(tmp_path / "c.npy", cube))])
    (train,), (held,), ((name, count, text),) = split([source], "2:9:3")
    assert (name, count, text) == ("c.npy", 5, "2:9:3")
    assert held.numbers == [2, 5, 8] and train.numbers == [0, 3, 4, 6, 7]
    for k, planes in zip(held.numbers, held.slices, strict=True):
        expected = (cube[..., k] - cube[..., k].min()) / np.ptp(cube[..., k])
        assert np.allclose(planes[0], expected, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_variable_and_slice_axis(tmp_path: Path, axis: int) -> None:
    cube = waves(shape=(18, 23, 4))
    stored = np.moveaxis(cube, 2, axis)
    io.savemat(tmp_path / "c.mat", {"H": stored, "other": np.zeros((7, 8, 9))})
    (source,) = load_sources([str(tmp_path / "c.mat")], DataSettings("H", axis))
    assert [s.shape for s in source.slices] == [(1, 18, 23)] * 4


def test_plateaus_of_slices_are_noted(tmp_path: Path) -> None:
    cube = waves(shape=(H, W, 3), scale=False)
    cube[..., 1] = np.maximum(cube[..., 1], 0.02) - 120
    (source,) = load_sources([str(save(tmp_path / "c.npy", cube))])
    assert [source.bound(k) for k in range(3)] == [UNBOUNDED, Bounds(0.0), UNBOUNDED]
    (train,), (held,), _ = split([source], "1:2")
    assert held.bounds == [Bounds(0.0)] and train.bounds == [UNBOUNDED] * 2


# -- patches ----------------------------------------------------------------------------------


def source(*shape: int) -> Source:
    return Source(f"cube{shape[0]}.mat", [np.zeros((1, *shape), np.float32)], False)


def test_patches_fit() -> None:
    check_patch(TaskSettings(patch=32, scales=(2.0, 4.0)), [source(32, 47), source(150, 90)])
    check_patch(TaskSettings(patch=90, scales=(4.0,)), [source(32, 47), source(150, 90)])


@pytest.mark.parametrize(
    ("patch", "scales", "sources", "says", "better"),
    [
        (91, (4.0,), [source(32, 47), source(150, 90)], "--patch 90", (90, (4.0,))),
        (64, (2.0,), [source(37, 31)], "--patch 31", (31, (2.0,))),
        (64, (2.0, 8.0), [source(150, 90), source(37, 61)], "cube37.*--scale 4.6", (64, (4.6,))),
        (31, (1.5, 4.0), [], "--patch 32", (32, (1.5, 4.0))),
    ],
)
def test_patches_that_do_not_fit(
    patch: int,
    scales: tuple[float, ...],
    sources: list[Source],
    says: str,
    better: tuple[int, tuple[float, ...]],
) -> None:
    """What the message says to type is accepted."""
    with pytest.raises(InputError, match=says):
        check_patch(TaskSettings(patch=patch, scales=scales), sources)
    check_patch(TaskSettings(patch=better[0], scales=better[1]), sources)


# -- runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pretrain", "meta-train"])
def test_what_is_held_out_is_said(kind: str, tmp_path: Path, capsys: Any) -> None:
    """By the run, its log, the header and ``mzsr info``; and ``evaluate`` takes it."""
    cube, out = save(tmp_path / "c.mat", waves()), tmp_path / "w.safetensors"
    init = weights(tmp_path / "init.safetensors")
    more = ("--patch", 16, "--init", init, "--held-out", "4")
    assert training(cube, "-o", out, *more, kind=kind) == 0
    assert "c.mat: 7 slices to train on, held out: --slices 2:9:4" in capsys.readouterr().err
    log = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert log[0]["kind"] == "data" and log[0]["held_out"] == [["c.mat", "2:9:4"]]
    assert "psnr_0" in log[-1]
    facts = load_weights(out).facts
    assert facts["held_out"] == [["c.mat", "2:9:4"]] and facts["data"] == [["c.mat", 7]]
    assert run("info", out) == 0
    assert "2:9:4" in capsys.readouterr().out
    assert run("evaluate", cube, cube, "--slices", facts["held_out"][0][1], "--json") == 0
    figures = json.loads(capsys.readouterr().out)["results"][0]
    assert [s["slice"] for s in figures["slices"]] == [2, 6]


def test_none_is_held_out(tmp_path: Path, capsys: Any) -> None:
    cube, out = save(tmp_path / "c.npy", waves()), tmp_path / "w.safetensors"
    assert training(cube, "-o", out, "--patch", 16, "--held-out", "none") == 0
    assert "c.npy: 9 slices to train on, held out: none" in capsys.readouterr().err
    assert load_weights(out).facts["held_out"] == [["c.npy", ""]]


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--held-out", "odd"], 2, "--held-out odd"),
        (["--held-out", "20:30"], 2, "c.npy: --held-out 20:30"),
        (["--patch", "64"], 3, "--patch 31"),
        (["--patch", "64", "--scale", "8"], 3, "--scale 3.8 at most"),
        (["--variable", "gone"], 3, "gone"),
        (["--each"], 2, "-o nets/"),
    ],
)
def test_refusals(more: list[str], code: int, says: str, tmp_path: Path, capsys: Any) -> None:
    suffix = ".mat" if "--variable" in more else ".npy"
    cube, out = save(tmp_path / f"c{suffix}", waves()), tmp_path / "w.safetensors"
    assert training(cube, "-o", out, "--patch", 16, *more) == code
    assert says in capsys.readouterr().err
    assert not out.exists()


# -- a network for each cube ------------------------------------------------------------------


@pytest.fixture
def cubes(tmp_path: Path) -> list[Path]:
    return [save(tmp_path / f"{name}.npy", waves(k)) for k, name in enumerate("ab")]


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = sorted(folder.glob("*.safetensors"))
    return {path.stem: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_each_cube_has_its_own(cubes: list[Path], tmp_path: Path) -> None:
    """The same weights as from a run of that cube alone."""
    nets, init = tmp_path / "nets", weights(tmp_path / "init.safetensors")
    nets.mkdir()
    more = ("--init", init, "--patch", 16, "-q")
    assert training(*cubes, "--each", "-o", nets, *more) == 0
    assert set(state(nets)) == {"a", "b"}
    for cube in cubes:
        alone = tmp_path / f"{cube.stem}.safetensors"
        assert training(cube, "-o", alone, *more) == 0
        mine, own = load_weights(alone), load_weights(nets / alone.name)
        assert own.facts["data"] == [[cube.name, 8]]
        for name, p in mine.parameters().items():
            assert torch.equal(p, own.parameters()[name])


def test_each_starts_from_its_own(cubes: list[Path], tmp_path: Path) -> None:
    """``--init FOLDER`` names the weights of each cube."""
    for folder in ("pre", "nets"):
        (tmp_path / folder).mkdir()
    inits = [weights(tmp_path / "pre" / f"{c.stem}.safetensors", k) for k, c in enumerate(cubes)]
    more = ("--each", "-o", tmp_path / "nets", "--init", tmp_path / "pre", "--patch", 16, "-q")
    assert training(*cubes, *more, kind="meta-train") == 0
    for init in inits:
        made = load_weights(tmp_path / "nets" / init.name)
        assert made.facts["init"]["sha256"] == load_weights(init).digest
        assert made.rates


def test_each_resumes_and_skips_the_finished(
    cubes: list[Path], tmp_path: Path, capsys: Any
) -> None:
    nets = tmp_path / "nets"
    nets.mkdir()
    more = ("--each", "-o", nets, "--init", weights(tmp_path / "init.safetensors"), "--patch", 16)
    assert training(cubes[0], *more) == 0
    before = state(nets)
    assert training(*cubes, *more) == 5, "the first is there"
    assert state(nets)["a"] == before["a"] and "b" in state(nets)
    whole = state(nets)
    capsys.readouterr()
    assert training(*cubes, *more, "--resume") == 0
    assert capsys.readouterr().err.count("finished 3") == 2
    assert state(nets) == whole
    third = save(tmp_path / "third.npy", waves(5))
    assert training(*cubes, third, *more, "--resume", "-q") == 0
    assert state(nets).items() > whole.items() and "third" in state(nets)


def test_each_goes_on_after_a_failure(cubes: list[Path], tmp_path: Path, capsys: Any) -> None:
    nets = tmp_path / "nets"
    nets.mkdir()
    small = save(tmp_path / "0small.npy", waves(shape=(15, 15, 3)))
    more = ("--each", "-o", nets, "--init", weights(tmp_path / "init.safetensors"), "--patch", 16)
    assert training(small, *cubes, *more, "-q") == 5
    assert "usable" in capsys.readouterr().err
    assert set(state(nets)) == {"a", "b"}


def test_each_job(tmp_path: Path) -> None:
    nets = tmp_path / "nets"
    with pytest.raises(OutputError, match="mkdir"):
        each_job([Path("a.mat")], nets, None, False)
    nets.mkdir()
    with pytest.raises(UsageError, match="both"):
        each_job([Path("x/a.mat"), Path("y/a.npy")], nets, None, False)
    (nets / "b.checkpoint").touch()
    first, second = each_job([Path("x/a.mat"), Path("x/b.mat")], nets, None, True)
    assert (first.resume, second.resume) == (False, True)
    assert first.output == nets / "a.safetensors" and second.data == ["x/b.mat"]


# -- the benchmark ----------------------------------------------------------------------------


def test_benchmark_of_own_networks(tmp_path: Path, capsys: Any) -> None:
    """Trained without the held-out slices, compared on them alone; finished cubes are kept."""
    made = waves(3, (40, 36, 6), scale=False) + 2
    cube = save(tmp_path / "c.npy", made)
    general = weights(tmp_path / "general.safetensors")
    line = [str(cube), "--iterations", "2", "--scale", "2", "--patch", "24", "--batch", "1",
            "--init", str(general), "--general", str(general), "--folder", str(tmp_path / "own"),
            "--meta-time", "60", "--json", str(tmp_path / "own.json")]  # fmt: skip
    own_cubes.main(line)
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "own.json").read_text())
    (one,) = record["cubes"].values()
    assert one["held_out"] == "3" and set(one["seconds"]) == {"own", "own from init"}
    assert [(case["scale"], case["sampling"]) for case in one["cases"]] == [
        (2, "bicubic"), (2, "direct")
    ]  # fmt: skip
    names = [f"{n}:{k}" for n in ("own", "own from init", "general") for k in (0, 10)]
    truth = made[..., 3]
    for case in one["cases"]:
        assert list(case["methods"]) == [*own_cubes.CLASSICAL, *names]
        for (found,) in case["methods"].values():
            assert found["slice"] == 3 and 0 < found["error"] < found["energy"]
            assert found["energy"] == pytest.approx((truth**2).sum())
            assert found["mean_free"] == pytest.approx(truth.var() * truth.size)
    nets = sorted((tmp_path / "own").glob("*.safetensors"))
    assert len(nets) == 4
    for net in nets:
        facts = load_weights(net).facts
        assert facts["held_out"] == [["c.npy", "3"]] and facts["data"] == [["c.npy", 5]]
    before = [net.read_bytes() for net in nets]
    own_cubes.main(line)
    again = capsys.readouterr().out
    assert again.strip() in shown and "own from init:10" in again
    assert [net.read_bytes() for net in nets] == before
    with pytest.raises(SystemExit, match="patch"):
        own_cubes.main([*line, "--patch", "28"])


def test_benchmark_decibels() -> None:
    found = [{"error": 1.0, "energy": 90.0}, {"error": 0.0, "energy": 10.0}]
    assert own_cubes.decibels(found, "energy") == pytest.approx(-20)
    assert own_cubes.decibels([{"error": 0.0, "energy": 1.0}], "energy") == -np.inf
    assert np.isnan(own_cubes.decibels([], "energy"))


def test_init_takes_the_names_of_shipped_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``--weights`` does, and says so where there is none."""
    cube = save(tmp_path / "c.npy", np.random.default_rng(0).random((32, 32, 2)))
    output = tmp_path / "w.safetensors"
    line = ["meta-train", cube, "-o", output, "--patch", 32, "--iterations", 1, "--batch", 1, "-q"]
    assert exit_code([*map(str, line), "--init", "absent"]) == 3
    assert "--init absent: no such file" in capsys.readouterr().err
    assert exit_code([*map(str, line), "--init", "channels"]) == 0
    shipped = load_weights(catalog.find("channels"))
    assert load_weights(output).facts["init"]["sha256"] == shipped.digest
