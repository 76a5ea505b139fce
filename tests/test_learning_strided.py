"""The strided backbone and the hints it is told: reach, phases, precision, symmetries."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import random, shaken
from upscale_files import field, load, run, save

from mzsr_cli.imaging import degrade, hints, kernels
from mzsr_cli.imaging.hints import FACTS, Hints
from mzsr_cli.imaging.stages import stage_scales
from mzsr_cli.imaging.symmetries import ALONE, SYMMETRIES, Views, ensemble, turned, turned_back
from mzsr_cli.learning import networks
from mzsr_cli.learning.adapt import tiled_residual
from mzsr_cli.learning.inner import residual
from mzsr_cli.learning.seen import Whole
from mzsr_cli.learning.weights import load_weights, save_weights
from mzsr_cli.settings import (
    Backbone,
    ConsistencySettings,
    Method,
    NetworkSettings,
    Precision,
    Sampling,
    TileSettings,
)

FP32 = Precision.FP32
SMALL = NetworkSettings(backbone=Backbone.STRIDED, depth=6, width=6, guides=2)
MODULATED = replace(SMALL, modulated=True)


@pytest.mark.parametrize(("guides", "count"), [(0, 224_201), (2, 226_249)])
@pytest.mark.parametrize("recursions", [1, 2])
@pytest.mark.parametrize("modulated", [False, True])
def test_parameter_counts(guides: int, count: int, recursions: int, modulated: bool) -> None:
    settings = NetworkSettings(
        backbone="strided", guides=guides, recursions=recursions, modulated=modulated
    )
    found = networks.parameter_count(networks.build(settings))
    assert found == count + (3_072 if modulated else 0)


@pytest.mark.parametrize("recursions", [1, 2])
def test_reach_is_the_support_of_the_gradient(recursions: int) -> None:
    """Within ``reach`` of a pixel, and by no more than one pixel less, whatever its phase."""
    network = shaken(replace(SMALL, guides=0, recursions=recursions))
    size, seen = 101, 0
    for at in (50, 51):
        image = random(1, 1, size, size).requires_grad_()
        network(image).residual[0, 0, at, at].backward()
        assert image.grad is not None
        rows = torch.nonzero(image.grad[0, 0].abs().sum(1))[:, 0]
        seen = max(seen, at - int(rows.min()), int(rows.max()) - at)
    assert network.reach - 1 <= seen <= network.reach


@pytest.mark.parametrize("shape", [(1, 61, 90), (2, 75, 37)])
@pytest.mark.parametrize("settings", [SMALL, MODULATED], ids=["plain", "modulated"])
def test_tiled_is_whole(shape: tuple[int, int, int], settings: NetworkSettings) -> None:
    """And the mean over views is that over turned images."""
    network = shaken(settings)
    planes, guides = random(*shape), random(shape[0], 2, *shape[1:], seed=1)
    told = Hints(guides, random(FACTS, seed=2))
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    outputs = []
    for which in SYMMETRIES:
        image, hints = turned(planes[:, None], which), told.turned(which)
        outputs.append(turned_back(residual(network, parameters, image, FP32, hints), which)[:, 0])
    for views in ((0,), (0, 2), (0, 7), (1, 4, 5), SYMMETRIES):
        whole = torch.stack([outputs[which] for which in views]).mean(0)
        parts = tiled_residual(
            network, parameters, Whole(planes, told.guides), TileSettings(7), FP32, told.facts,
            Views(views),
        )  # fmt: skip
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 61, 90), (2, 72, 37), (1, 66, 68)])
@pytest.mark.parametrize("lattice", [2, 4])
def test_tiled_is_whole_in_views_that_begin_at_samples(
    shape: tuple[int, int, int], lattice: int
) -> None:
    network = shaken(MODULATED)
    seen = Whole(random(*shape), random(shape[0], 2, *shape[1:], seed=1))
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    how = (FP32, random(FACTS, seed=2), Views(SYMMETRIES, lattice))
    whole, parts = (
        tiled_residual(network, parameters, seen, TileSettings(side), *how) for side in (99, 7)
    )
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", SYMMETRIES)
@pytest.mark.parametrize(("lattice", "sides"), [(2, (31, 43)), (4, (33, 45))])
def test_views_that_begin_at_samples_commute_with_all_symmetries(
    which: int, lattice: int, sides: tuple[int, int]
) -> None:
    """Of an image that ends with a sample; one pixel further on the samples lie elsewhere."""
    network = shaken(MODULATED)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    told = Hints(random(1, 2, *sides, seed=1), random(FACTS, seed=2))

    def answer(planes: torch.Tensor, hints: Hints, views: Views) -> torch.Tensor:
        seen = Whole(planes, hints.guides)
        return tiled_residual(network, parameters, seen, TileSettings(99), FP32, hints.facts, views)

    def off(views: Views) -> float:
        planes = random(1, *sides)
        one = turned(answer(planes, told, views), which)
        return float((answer(turned(planes, which), told.turned(which), views) - one).abs().max())

    assert off(Views(SYMMETRIES, lattice)) < 1e-5
    assert which == 0 or off(ALONE) > 1e-4


@pytest.mark.parametrize("settings", [SMALL, MODULATED], ids=["plain", "modulated"])
def test_it_hears_every_hint(settings: NetworkSettings) -> None:
    network = shaken(settings)
    image, guides, facts = random(1, 1, 12, 14), random(1, 2, 12, 14, seed=1), random(FACTS)
    plain = network(image, guides, facts).residual
    for k in range(2):
        other = guides.clone()
        other[:, k] += 0.5
        assert (network(image, other, facts).residual - plain).abs().max() > 1e-4
    for k in range(FACTS):
        other = facts.clone()
        other[k] += 0.5
        assert (network(image, guides, other).residual - plain).abs().max() > 1e-4


def test_modulated_blocks_are_scaled_and_shifted_features() -> None:
    """Changed filters are the same as features times 1 + gain, plus shift."""
    network = shaken(replace(MODULATED, guides=0))
    block = network.blocks[0]  # type: ignore[index]
    facts, x = random(FACTS, seed=1), random(2, 6, 7, 9) - 0.5
    gain, shift = (block.told.weight @ facts).chunk(2)
    hidden = block.first(x) * (1 + gain)[:, None, None] + shift[:, None, None]
    expected = (x + block.second(hidden.relu())).relu()
    torch.testing.assert_close(block(x, facts), expected)
    torch.testing.assert_close(block(x, 0 * facts), block(x))


@pytest.mark.parametrize("settings", [SMALL, MODULATED], ids=["plain", "modulated"])
def test_missing_hints_count_as_zeros(settings: NetworkSettings) -> None:
    network = shaken(settings)
    image = random(1, 1, 9, 11)
    torch.testing.assert_close(
        network(image).residual,
        network(image, torch.zeros(1, 2, 9, 11), torch.zeros(FACTS)).residual,
    )


def test_bfloat16_keeps_the_image() -> None:
    """The head sees the image in float32, whatever the precision of the other layers."""
    network = shaken(replace(SMALL, guides=0))
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    seen: list[torch.Tensor] = []
    network.head.register_forward_hook(lambda module, given, made: seen.append(made))
    image = random(1, 1, 20, 24)
    wide = residual(network, parameters, image, FP32, Hints())
    narrow = residual(network, parameters, image, Precision.BF16, Hints())
    torch.testing.assert_close(seen[0], seen[1])
    assert (wide - narrow).abs().max() > 0, "the other layers are in bfloat16"


# hints -----------------------------------------------------------------------------------


def known(
    sampling: Sampling, kernel: np.ndarray, shape: tuple[int, int] = (30, 42)
) -> degrade.Consistency:
    operator = degrade.degradation(kernel, sampling, (2.0, 3.0), shape)
    return degrade.Consistency(operator, ConsistencySettings())


@pytest.mark.parametrize("sampling", list(Sampling))
def test_guides_explain_the_slice(sampling: Sampling) -> None:
    """Start plus guide is the interpolation, made consistent: degrading it gives the slice."""
    consistency = known(sampling, kernels.delta())
    operator = consistency.operator
    y = random(2, 15, 14)
    start = operator.interpolate(y, Method.BICUBIC, 0.0)
    shown = hints.guides(operator, y, consistency, start)
    assert shown.shape == (2, 2, 30, 42)
    for k, method in enumerate(hints.guide_methods(sampling)):
        image = start + shown[:, k]
        torch.testing.assert_close(operator.apply(image), y, rtol=0, atol=1e-3)
        plain = operator.interpolate(y, method, consistency.damping)
        expected = consistency.restore(y, plain)
        torch.testing.assert_close(image, expected)


def test_kernel_covariance_is_that_of_the_gaussian() -> None:
    rows, cols, mixed = hints.kernel_covariance(kernels.gaussian(4.0, 1.0, 0.5))
    c, s = math.cos(0.5), math.sin(0.5)
    assert cols == pytest.approx(4 * c * c + s * s, rel=1e-2)
    assert rows == pytest.approx(4 * s * s + c * c, rel=1e-2)
    assert mixed == pytest.approx(3 * c * s, rel=1e-2)
    assert hints.kernel_covariance(kernels.delta()) == (0, 0, 0)


def test_facts_say_what_they_say() -> None:
    operator = known(Sampling.DIRECT, kernels.gaussian(4.0, 1.0, 0.5)).operator
    rows, cols, mixed = hints.kernel_covariance(operator.kernel)
    found = hints.facts(operator, 1e-6, 0.001)
    expected = [1, 0, math.log2(1.5), rows / 4, cols / 9, mixed / 6, -1, 1]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    exact = hints.facts(known(Sampling.BICUBIC, kernels.delta()).operator, None, 0.0)
    assert exact[0] == exact[6] == exact[7] == 0


@pytest.mark.parametrize("which", SYMMETRIES)
def test_turned_facts_are_those_of_the_turned_kernel(which: int) -> None:
    kernel = kernels.gaussian(4.0, 1.0, 0.5)
    told = hints.facts(known(Sampling.BICUBIC, kernel).operator, 1e-3, 0.0)
    other = np.ascontiguousarray(turned(torch.from_numpy(kernel), which).numpy())
    scale = (3.0, 2.0) if which % 2 else (2.0, 3.0)
    operator = degrade.degradation(other, Sampling.BICUBIC, scale, (30, 42))
    found = Hints(None, told).turned(which).facts
    assert found is not None
    torch.testing.assert_close(found, hints.facts(operator, 1e-3, 0.0), rtol=0, atol=1e-5)


# the command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--backbone", "mzsr", "--guides"),
        ("--backbone", "mzsr", "--recursions", 2),
        ("--backbone", "mzsr", "--modulated"),
        ("--init", "w.safetensors", "--guides"),
        ("--init", "w.safetensors", "--backbone", "strided"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(
    tmp_path: Path, options: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("pretrain", tmp_path, "-o", tmp_path / "new.safetensors", *options)
    assert code == 2 and str(options[2]) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "more", [(), ("--guides", "--modulated", "--recursions", 2, "--loss", "log")]
)
def test_trained_by_the_commands_and_used(tmp_path: Path, more: tuple[object, ...]) -> None:
    """Pretrain, meta-train, upscale: every step knows the architecture from the file."""
    cube = save(tmp_path / "c.npy", field((48, 40, 2)))
    quick = ("--iterations", 2, "--patch", 32, "--batch", 2, "-q", "--precision", "fp32")
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert run("pretrain", cube, "-o", first, *quick, *more) == 0
    loss = more[-2:] if more else ()
    assert run("meta-train", cube, "--init", first, "-o", second, *quick, *loss) == 0
    found = load_weights(second)
    assert found.settings.backbone == "strided" and found.settings.guides == (2 if more else 0)
    assert found.settings.recursions == (2 if more else 1)
    assert found.settings.modulated == bool(more)
    assert set(found.rates) == set(found.parameters())
    options = ("--scale", 2, "--weights", second, "--no-self-check", "--steps", 1, "-q")
    assert run("upscale", cube, *options, "-o", tmp_path / "out.npy") == 0
    assert load(tmp_path / "out.npy").shape == (96, 80, 2)


def test_weights_that_are_not_modulated_begin_as_they_were(tmp_path: Path) -> None:
    """``--init`` with ``--modulated``: the same network, which may learn more."""
    cube, init = save(tmp_path / "c.npy", field((48, 40, 2))), tmp_path / "a.safetensors"
    before = shaken(replace(SMALL, guides=0))
    parameters = {name: p.detach() for name, p in before.named_parameters()}
    rates = {name: torch.tensor([0.5]) for name in parameters}
    save_weights(init, parameters, rates, replace(SMALL, guides=0), {})
    quick = ("--init", init, "--patch", 32, "--batch", 2, "--precision", "fp32", "-q")
    made = {}
    for count in (1, 3):
        more = (
            "--modulated",
            "--iterations",
            count,
            "--learning-rate",
            1e-12 if count == 1 else 1e-2,
        )
        output = tmp_path / f"{count}.safetensors"
        assert run("pretrain", cube, "-o", output, *quick, *more) == 0
        made[count] = load_weights(output)
        assert made[count].settings == replace(MODULATED, guides=0)
    image, facts = random(1, 1, 30, 26), random(FACTS)
    same, learned = (made[count].network(image, None, facts).residual for count in (1, 3))
    torch.testing.assert_close(same, before(image, None, facts).residual, rtol=0, atol=1e-5)
    assert made[3].parameters()["blocks.0.told.weight"].abs().max() > 0
    assert (learned - same).abs().max() > 1e-4


def test_a_backbone_that_cannot_be_modulated_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cube, init = save(tmp_path / "c.npy", field((41, 37, 2))), tmp_path / "w.safetensors"
    settings = NetworkSettings(depth=3, width=5)
    parameters = dict(networks.build(settings, 0).named_parameters())
    save_weights(init, parameters, {}, settings, {})
    more = ("--init", init, "--modulated", "--iterations", 1, "--patch", 16)
    assert run("pretrain", cube, "-o", tmp_path / "a.safetensors", *more) == 2
    assert "--modulated: --init brings the backbone mzsr" in capsys.readouterr().err


@pytest.mark.parametrize("scale", [2.0, 4.0, 8.0, 16.0])
def test_every_stage_of_powers_of_two_has_all_views(scale: float) -> None:
    """Stages multiply factors that are roots, and so off by rounding."""
    for rows, cols in stage_scales((scale, scale), 2.0):
        assert len(ensemble(8, True, 2, (rows, cols)).which) == 8
    assert len(ensemble(8, True, 2, (3.0, 3.0)).which) == 2
    assert len(ensemble(8, True, 2, (4.0, 2.0)).which) == 2
