"""Gradient maps: the map itself, and what it adds to the losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from upscale_files import field, load, run, save, tiny_weights

from mzsr_cli.imaging.gradient import EPSILON, gradient_distance, gradient_map
from mzsr_cli.imaging.symmetries import SYMMETRIES, turned
from mzsr_cli.learning import inner, meta, networks
from mzsr_cli.learning.inner import Pair, Prediction
from mzsr_cli.learning.patches import Task
from mzsr_cli.learning.pretrain import RELATIVE_FLOOR, image_loss, relative_loss, supervision
from mzsr_cli.learning.weights import load_weights, read_header
from mzsr_cli.settings import GradientSettings, Loss, NetworkSettings, Precision

F64 = torch.float64
FP32 = Precision.FP32
W = 0.3


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def reference(image: Any) -> Any:
    """M(I) pixel by pixel; indices outside are those of the nearest sample."""
    height, width = image.shape
    found = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            down = image[min(i + 1, height - 1), j] - image[max(i - 1, 0), j]
            right = image[i, min(j + 1, width - 1)] - image[i, max(j - 1, 0)]
            found[i, j] = np.sqrt(down**2 + right**2 + EPSILON)
    return found


# -- the map ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 5), (1, 6), (4, 1), (31, 37)])
def test_it_is_the_published_map(shape: tuple[int, int]) -> None:
    planes = random(2, 1, *shape)
    found = gradient_map(planes)
    assert found.shape == planes.shape
    for one, image in zip(found[:, 0], planes[:, 0], strict=True):
        np.testing.assert_allclose(one.numpy(), reference(image.numpy()), rtol=1e-12)


def test_a_ramp_has_its_slope_twice_and_a_border_half_of_it() -> None:
    rows = 0.5 * torch.arange(6, dtype=F64)[:, None].expand(6, 9)
    expected = torch.full((6, 9), 1.0, dtype=F64)
    expected[[0, -1]] = 0.5
    torch.testing.assert_close(gradient_map(rows), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", SYMMETRIES)
def test_it_turns_with_the_image(which: int) -> None:
    image = random(1, 7, 5)
    torch.testing.assert_close(
        gradient_map(turned(image, which)), turned(gradient_map(image), which)
    )


def test_flat_images_have_finite_derivatives() -> None:
    image = torch.zeros(1, 5, 7, dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(gradient_map(image).sum(), image, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), image)
    assert torch.equal(first, torch.zeros_like(first)) and torch.isfinite(second).all()
    assert float(gradient_map(image.detach()).max()) == pytest.approx(EPSILON**0.5)


def test_derivatives_of_both_orders() -> None:
    image = random(1, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(gradient_map, image)
    assert torch.autograd.gradgradcheck(gradient_map, image)


# -- the losses ---------------------------------------------------------------------------------


def pair(seed: int) -> Pair:
    return Pair(random(1, 1, 9, 11, seed=seed), random(1, 1, 9, 11, seed=seed + 1), None, 1.0)


def task_of(query: Pair, support: Pair | None = None) -> Task:
    error = query.start - query.truth
    return Task("", query, support, float(error.abs().mean()), float(error.square().mean()))


def tiny() -> tuple[networks.Network, dict[str, torch.Tensor]]:
    network = networks.build(NetworkSettings(depth=3, width=4), 1).to(F64)
    return network, dict(network.named_parameters())


def test_a_step_sees_both_losses() -> None:
    network, parameters = tiny()
    data = pair(3)
    image = data.start + network(data.start).residual
    gap = np.abs(reference(image[0, 0].detach().numpy()) - reference(data.truth[0, 0].numpy()))
    plain = inner.pair_loss(network, parameters, data, FP32).item()
    both = inner.pair_loss(network, parameters, data, FP32, W).item()
    assert (image - data.truth).abs().mean().item() == plain
    assert both == pytest.approx(plain + W * gap.mean(), rel=1e-12)


@pytest.mark.parametrize("loss", list(Loss))
def test_training_counts_shares_of_the_start(loss: Loss) -> None:
    """The start scores 1 + W (nearly), the truth nothing, whatever the size of the error."""
    data = pair(5)
    task, how = task_of(data), GradientSettings(W)
    base = float(gradient_distance(data.start, data.truth))
    image = (data.start + data.truth) / 2
    found = image_loss(image, data, task, loss, how)
    share = float(gradient_distance(image, data.truth)) / (base + RELATIVE_FLOOR)
    expected = float(relative_loss(image - data.truth, task, loss)) + W * share
    assert float(found) == pytest.approx(expected, rel=1e-12)
    small = Pair(data.truth + 0.1 * (data.start - data.truth), data.truth, None, 1.0)
    if loss is Loss.L1:
        scores = [float(image_loss(p.start, p, task_of(p), loss, how)) for p in (data, small)]
        assert scores == pytest.approx([1 + W] * 2, rel=0.2)


@pytest.mark.parametrize("loss", list(Loss))
def test_without_weight_nothing_changes(loss: Loss) -> None:
    """To the bit, and in the gradient."""
    data, task = pair(7), task_of(pair(7))
    image = data.start.clone().requires_grad_()
    values = [
        relative_loss(image - data.truth, task, loss),
        image_loss(image, data, task, loss, GradientSettings()),
    ]
    slopes = [torch.autograd.grad(value, image)[0] for value in values]
    assert torch.equal(*values) and torch.equal(*slopes)


def test_supervision_is_for_predicted_maps() -> None:
    data, how = pair(9), GradientSettings(supervision=0.5)
    assert supervision(Prediction(data.start, None), data, how) == 0
    assert supervision(Prediction(data.start, gradient_map(data.truth)), data, how) == 0
    start = float(supervision(Prediction(data.truth, gradient_map(data.start)), data, how))
    base = float(gradient_distance(data.start, data.truth))
    assert start == pytest.approx(0.5 * base / (base + RELATIVE_FLOOR), rel=1e-12)


@pytest.mark.parametrize("second_order", [False, True])
def test_meta_training_weighs_support_and_query(second_order: bool) -> None:
    """One inner step by hand, both losses in both places."""
    network, parameters = tiny()
    task = task_of(pair(11), pair(13))
    rates = {name: torch.tensor([0.05], dtype=F64) for name in parameters}
    names, leaves = list(parameters), list(parameters.values())

    def image_of(values: list[torch.Tensor], data: Pair) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        return data.start + torch.func.functional_call(network, given, (data.start,)).residual

    support, query = task.support, task.query
    assert support is not None
    image = image_of(leaves, support)
    own = (image - support.truth).abs().mean() + W * gradient_distance(image, support.truth)
    slopes = torch.autograd.grad(own, leaves, create_graph=second_order)
    image = image_of([p - 0.05 * s for p, s in zip(leaves, slopes, strict=True)], query)
    base = float(gradient_distance(query.start, query.truth)) + RELATIVE_FLOOR
    expected = (image - query.truth).abs().mean() / (task.base_error + RELATIVE_FLOOR)
    expected = expected + W * gradient_distance(image, query.truth) / base
    found = meta.task_loss(
        network, parameters, rates, task, [0.0, 1.0], FP32, second_order,
        gradient=GradientSettings(W),
    )  # fmt: skip
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(one, other)


# -- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["pretrain", "meta-train"])
def test_training_with_the_option(tmp_path: Path, command: str) -> None:
    """Other parameters than without, and the file says so."""
    cube = save(tmp_path / "c.npy", field((41, 37, 2)))
    quick = ("--iterations", 2, "--patch", 32, "--batch", 1, "-q", "--precision", "fp32")
    found = []
    for weight in (0, 0.5):
        out = tmp_path / f"{weight}.safetensors"
        assert run(command, cube, "-o", out, *quick, "--gradient-loss", weight) == 0
        found.append(load_weights(out).parameters())
        assert read_header(out)["facts"].get("gradient_loss", 0) == weight
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_adapting_with_the_option(tmp_path: Path) -> None:
    cube = save(tmp_path / "c.npy", field((41, 37, 1)))
    weights = tiny_weights(tmp_path / "w.safetensors", rate=1e-2)
    options = ("--scale", 2, "--weights", weights, "--steps", 2, "--no-self-check", "-q")
    results = []
    for name, more in (("plain", ()), ("zero", (0,)), ("some", (0.5,))):
        out = tmp_path / f"{name}.npy"
        chosen = ("--gradient-loss", *more) if more else ()
        assert run("upscale", cube, *options, *chosen, "-o", out) == 0
        results.append(load(out))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
