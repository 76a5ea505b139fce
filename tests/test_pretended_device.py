"""Nothing mixes the processor's tensors with a GPU's: the same results on a pretended one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pretend
import pytest
import torch
from scipy import ndimage
from test_second_weights import cube as cube_for_both
from upscale_files import load, run, save, tiny_weights

from mzsr_cli.imaging.degrade import degradation
from mzsr_cli.imaging.kernels import delta
from mzsr_cli.learning.superresolve import Solver
from mzsr_cli.learning.weights import load_weights
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import Method, Precision, Sampling, UpscaleSettings, ZssrSettings

pytestmark = pytest.mark.skipif(not pretend.SUPPORTED, reason="torch cannot pretend a device")

SHAPE = (70, 58)
"""Of LR slices."""


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The pretended device, called cuda."""
    with pretend.named_cuda(monkeypatch) as device:
        yield device


def waves(rng: np.random.Generator, shortest: float) -> Any:
    """Complex plane waves, at least ``shortest`` pixels long."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    field = np.zeros(SHAPE, complex)
    for _ in range(9):
        down, along = rng.uniform(-1, 1, 2) / shortest
        field += np.exp(2j * np.pi * (down * rows + along * cols + rng.random()))
    return field


def smooth(rng: np.random.Generator, sigma: float) -> Any:
    """A random field of both signs."""
    return ndimage.gaussian_filter(rng.standard_normal(SHAPE), sigma)


def blocks(rng: np.random.Generator) -> Any:
    """Blurred blocks of 9x9 from -0.5 to 0.5, and a little noise."""
    high = rng.random((8, 7)).repeat(9, 0).repeat(9, 1)[: SHAPE[0], : SHAPE[1]]
    return ndimage.gaussian_filter(high, 0.6) - 0.5 + 0.02 * rng.standard_normal(SHAPE)


def shadows(rng: np.random.Generator) -> Any:
    """Means of 2x2 and what antialiasing rings, of a map with a floor that half of it lies on."""
    size = (2 * SHAPE[0], 2 * SHAPE[1])
    lit = ndimage.gaussian_filter(rng.standard_normal(size), 4) > 0
    slow = ndimage.gaussian_filter(rng.standard_normal(size), 6) * 60
    high = torch.from_numpy(np.where(lit, np.maximum(slow - 80, -110.0), -110.0))
    operator = degradation(delta(), Sampling.BICUBIC, (2.0, 2.0), size, dtype=torch.float64)
    return operator.apply(high[None])[0].numpy()


FIELDS = {
    "complex": lambda rng: blocks(rng) + 1j * blocks(rng),
    "signed": blocks,
    "positive": lambda rng: blocks(rng) + 0.6,
    "whole": lambda rng: np.rint(60 * blocks(rng)),
    "flat": lambda rng: rng.standard_normal(SHAPE),
    "shadows": shadows,
    "waves": lambda rng: waves(rng, 9.0),
    "magnitudes": lambda rng: np.abs(waves(rng, 12.0)),
    "levels": lambda rng: 20 * np.log10(np.abs(smooth(rng, 4) + 1j * smooth(rng, 4)) + 1e-3),
}
HEARD = {
    "bicubic": ("complex", "signed", "positive", "whole", "flat", "shadows"),
    "direct": ("complex", "signed", "positive", "whole", "flat"),
}
"""Those to whose results the network adds something."""


# the tensors themselves ------------------------------------------------------------------------


def test_tensors_of_both_devices_do_not_meet(away: torch.device) -> None:
    here, there = torch.ones(3), torch.ones(3).to(away)
    with pytest.raises(RuntimeError, match="on the processor"):
        here + there
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    assert (there + here.to(away) + 1.0).cpu().tolist() == [3.0, 3.0, 3.0]
    with pytest.raises(RuntimeError, match="on the processor"):
        here.add_(there[0])
    with pytest.raises(RuntimeError, match="on the processor"):
        here[there > 2]
    there[1:].zero_()
    assert there.cpu().tolist() == [1.0, 0.0, 0.0]


def test_gradients_come_through(away: torch.device) -> None:
    def slope(device: torch.device) -> torch.Tensor:
        x = torch.arange(5.0).to(device).requires_grad_()
        (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0].cpu()

    assert torch.equal(slope(away), slope(torch.device("cpu")))


# super-resolution -----------------------------------------------------------------------------


def both(tmp_path: Path, source: Path, *arguments: Any) -> dict[str, Any]:
    """``mzsr upscale`` on the processor and on the pretended device, to the same result; what is
    told of the first slice."""
    results, told = [], []
    for name in ("cpu", "cuda"):
        out = tmp_path / f"{name}{source.suffix}"
        options = ["--precision", "fp32", "--device", name, "-o", out]
        assert run("upscale", source, *arguments, *options) == 0
        results.append(load(out))
        told.append(json.loads(Path(f"{out}.json").read_text())["slice_reports"][0])
    np.testing.assert_array_equal(*results)
    assert {**told[0], "seconds": 0} == {**told[1], "seconds": 0}
    found: dict[str, Any] = told[0]
    return found


@pytest.mark.parametrize("sampling", ["bicubic", "direct"])
@pytest.mark.parametrize("kind", FIELDS)
def test_slices(
    tmp_path: Path, away: torch.device, rng: np.random.Generator, kind: str, sampling: str
) -> None:
    cube = save(tmp_path / "cube.npy", np.stack([FIELDS[kind](rng)], 2))
    told = both(tmp_path, cube, "--scale", 2, "--sampling", sampling, "--steps", 2)
    if kind in HEARD[sampling]:
        assert told["trust"] > 0
        assert told.get("steps", 0) > 0 or (kind, sampling) == ("flat", "direct")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--scale", "4x3", "--steps", 1),
        ("--scale", 2, "--kernel", "gaussian:4,1,-0.5", "--sampling", "direct", "--steps", 0),
        ("--scale", 2, "--kernel", "gaussian:2", "--sampling", "direct", "--steps", 1),
        ("--scale", 2, "--adapt", "cube", "--steps", 2),
        ("--scale", 2, "--adapt", "warm", "--steps", 1),
        ("--scale", 2, "--self-ensemble", 8, "--tile", 32, "--steps", 0),
        ("--scale", 2, "--consistency", 0, "--steps", 1),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_options(
    tmp_path: Path, away: torch.device, rng: np.random.Generator, arguments: tuple[Any, ...]
) -> None:
    fields = [blocks(rng)[:36, :31], blocks(rng)[:36, :31]]
    told = both(tmp_path, save(tmp_path / "cube.npy", np.stack(fields, 2)), *arguments)
    assert told["trust"] > 0


@pytest.mark.parametrize("method", ["wiener", "spline", "bandlimited", "back-projection"])
def test_methods(tmp_path: Path, away: torch.device, rng: np.random.Generator, method: str) -> None:
    cube = save(tmp_path / "cube.npy", np.stack([blocks(rng)], 2))
    both(tmp_path, cube, "--scale", 2, "--method", method, "--kernel", "gaussian:2.0")


def test_second_looks(
    tmp_path: Path, away: torch.device, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the network at its answer within bounds, wherever its pair says that they help."""
    monkeypatch.setattr(Solver, "_refinement", lambda *_: 1.0)
    cube = save(tmp_path / "cube.npy", np.stack([shadows(rng)], 2))
    told = both(tmp_path, cube, "--scale", 2, "--steps", 1)
    assert told["refined"] > 0


def test_second_weights(tmp_path: Path, away: torch.device) -> None:
    """Which answer the first slice, a picture with edges."""
    told = both(tmp_path, save(tmp_path / "cube.npy", cube_for_both()), "--scale", 2, "--steps", 1)
    assert told["weights"] == "images-x2"


def test_photographs(tmp_path: Path, away: torch.device, rng: np.random.Generator) -> None:
    image = np.stack([128 + 200 * blocks(rng)] * 3, 2).clip(0, 255)
    source = save(tmp_path / "photo.png", image.astype(np.uint8))
    assert both(tmp_path, source, "--scale", 2, "--steps", 1)["trust"] > 0


def test_from_scratch(tmp_path: Path, away: torch.device, rng: np.random.Generator) -> None:
    source = save(tmp_path / "cube.npy", np.stack([blocks(rng)[:41, :38]], 2))
    made = []
    for name in ("cpu", "cuda"):
        settings = UpscaleSettings(
            scale=(2.0, 2.0), method=Method.ZSSR, device=name, precision=Precision.FP32,
            zssr=ZssrSettings(iterations_max=5),
        )  # fmt: skip
        out = tmp_path / f"{name}.npy"
        upscale_cube(source, out, settings)
        made.append(load(out))
    np.testing.assert_array_equal(*made)


# training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["pretrain", "meta-train"])
def test_training(
    tmp_path: Path, away: torch.device, rng: np.random.Generator, command: str
) -> None:
    fields = [waves(rng, length)[:33, :29] for length in (3.0, 5.0)]
    cube = save(tmp_path / "cube.npy", np.stack(fields, 2))
    budget = ["--iterations", 2, "--batch", 2, "--patch", 24, "--held-out", "none"]
    begin = ["--init", tiny_weights(tmp_path / "begin.safetensors")]
    made = []
    for name in ("cpu", "cuda"):
        out = tmp_path / f"{name}.safetensors"
        options = [*budget, *begin, "--device", name, "--precision", "fp32", "-o", out]
        assert run(command, cube, *options) == 0
        made.append(load_weights(out).parameters())
    for name, leaf in made[0].items():
        torch.testing.assert_close(made[1][name], leaf, rtol=1e-5, atol=1e-7)
