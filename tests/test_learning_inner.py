"""learning.inner and learning.meta: the meta-gradient against unrolled references."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mzsr_cli.imaging import degrade, kernels
from mzsr_cli.imaging.bounds import Bounds
from mzsr_cli.imaging.degrade import Consistency
from mzsr_cli.imaging.hints import Hints
from mzsr_cli.learning import inner, meta, networks
from mzsr_cli.learning.inner import Pair
from mzsr_cli.learning.patches import Task
from mzsr_cli.learning.pretrain import RELATIVE_FLOOR, relative_loss
from mzsr_cli.settings import (
    ConsistencySettings,
    Loss,
    MetaSettings,
    Method,
    NetworkSettings,
    Precision,
    Sampling,
)

FP32 = Precision.FP32
F64 = torch.float64
MU = 0.01
TRUST = 0.7
WEIGHTS = [0.2, 0.3, 0.5]
TINY = NetworkSettings(depth=3, width=4)

Leaves = dict[str, torch.Tensor]


def tiny(seed: int = 0) -> tuple[networks.Network, Leaves, Leaves]:
    """A float64 network, its parameters and one rate a tensor, all leaves."""
    network = networks.build(TINY, seed).to(F64)
    generator = torch.Generator().manual_seed(seed + 1)
    parameters, rates = {}, {}
    for name, p in network.named_parameters():
        noise = 0.2 * torch.randn(p.shape, generator=generator, dtype=F64)
        parameters[name] = (p.detach() + noise).requires_grad_()
        rate = 0.02 + 0.03 * torch.rand(1, generator=generator, dtype=F64)
        rates[name] = rate.requires_grad_()
    return network, parameters, rates


def pair(seed: int, consistent: bool = True) -> Pair:
    """Random images 5 x 7, sampled at 0, 2, ... and 0, 3, ..."""
    generator = torch.Generator().manual_seed(seed)
    start, truth = torch.rand(2, 2, 1, 5, 7, generator=generator, dtype=F64)
    operator = degrade.degradation(kernels.delta(), Sampling.DIRECT, (2.0, 3.0), (5, 7), dtype=F64)
    consistency = Consistency(operator, ConsistencySettings(damping=MU)) if consistent else None
    return Pair(start, truth, consistency, TRUST)


def reference_loss(p: list[torch.Tensor], data: Pair) -> torch.Tensor:
    """L1 written out: three convolutions; direct sampling without blur is a mask."""
    x = data.start
    x = torch.relu(functional.conv2d(x, p[0], p[1], padding=1))
    x = torch.relu(functional.conv2d(x, p[2], p[3], padding=1))
    change = TRUST * functional.conv2d(x, p[4], p[5], padding=1)
    if data.consistency is not None:
        kept = torch.ones(5, 7, dtype=F64)
        kept[::2, ::3] = 1 - 1 / (1 + MU)
        change = change * kept
    return torch.abs(data.start + change - data.truth).sum() / data.truth.numel()


def unrolled(parameters: Leaves, rates: Leaves, task: Task, second_order: bool) -> torch.Tensor:
    """Two gradient steps by hand and the weighted query losses, in shares of the base error."""
    p0, r = list(parameters.values()), list(rates.values())
    g0 = torch.autograd.grad(reference_loss(p0, task.support), p0, create_graph=second_order)
    p1 = [a - b * c for a, b, c in zip(p0, r, g0, strict=True)]
    g1 = torch.autograd.grad(reference_loss(p1, task.support), p1, create_graph=second_order)
    p2 = [a - b * c for a, b, c in zip(p1, r, g1, strict=True)]
    queries = [reference_loss(p, task.query) for p in (p0, p1, p2)]
    total = WEIGHTS[0] * queries[0] + WEIGHTS[1] * queries[1] + WEIGHTS[2] * queries[2]
    return total / (task.base_error + RELATIVE_FLOOR)


def task_of(consistent: bool = True) -> Task:
    return Task("", pair(11, consistent), pair(12, consistent), 0.1)


def loss_of(
    network: networks.Network, parameters: Leaves, rates: Leaves, task: Task, second: bool
) -> torch.Tensor:
    return meta.task_loss(network, parameters, rates, task, WEIGHTS, FP32, second)


def gradients(loss: torch.Tensor, *leaves: Leaves) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [p for group in leaves for p in group.values()]))


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("consistent", [False, True])
def test_meta_gradient_is_the_unrolled_one(second_order: bool, consistent: bool) -> None:
    network, parameters, rates = tiny()
    task = task_of(consistent)
    ours = loss_of(network, parameters, rates, task, second_order)
    reference = unrolled(parameters, rates, task, second_order)
    assert float(ours) == pytest.approx(float(reference), rel=1e-12)
    for a, b in zip(
        gradients(ours, parameters, rates), gradients(reference, parameters, rates), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def shifted(leaves: Leaves, direction: list[torch.Tensor], by: float) -> Leaves:
    return {
        n: (p.detach() + by * d).requires_grad_()
        for (n, p), d in zip(leaves.items(), direction, strict=True)
    }


def along(function: Callable[[float], torch.Tensor], epsilon: float = 1e-6) -> float:
    """Central difference at 0."""
    return float(function(epsilon) - function(-epsilon)) / (2 * epsilon)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_second_order_gradient_is_the_finite_difference(seed: int) -> None:
    network, parameters, rates = tiny(seed)
    task = task_of()
    generator = torch.Generator().manual_seed(seed)

    def draw(leaves: Leaves) -> list[torch.Tensor]:
        return [torch.randn(p.shape, generator=generator, dtype=F64) for p in leaves.values()]

    exact = gradients(loss_of(network, parameters, rates, task, True), parameters, rates)
    count = len(parameters)
    way = draw(parameters)
    measured = along(lambda e: loss_of(network, shifted(parameters, way, e), rates, task, True))
    predicted = float(sum((g * d).sum() for g, d in zip(exact[:count], way, strict=True)))
    assert measured == pytest.approx(predicted, rel=1e-4)

    way = draw(rates)
    measured = along(lambda e: loss_of(network, parameters, shifted(rates, way, e), task, True))
    predicted = float(sum((g * d).sum() for g, d in zip(exact[count:], way, strict=True)))
    assert measured == pytest.approx(predicted, rel=1e-4)


def test_first_order_differs_and_is_the_sum_of_query_gradients() -> None:
    """Without the second derivative each query gradient counts at its own parameters."""
    network, parameters, rates = tiny()
    task = task_of()
    first = gradients(loss_of(network, parameters, rates, task, False), parameters)
    second = gradients(loss_of(network, parameters, rates, task, True), parameters)
    distance = sum(float((a - b).square().sum()) for a, b in zip(first, second, strict=True))
    size = sum(float(b.square().sum()) for b in second)
    assert distance > 1e-6 * size
    total = [torch.zeros_like(p) for p in parameters.values()]
    for weight, point in zip(
        WEIGHTS,
        inner.inner_loop(network, parameters, rates, task.support, 2, FP32, False),
        strict=True,
    ):
        leaves = [p.detach().requires_grad_() for p in point.values()]
        parts = torch.autograd.grad(reference_loss(leaves, task.query), leaves)
        share = weight / (task.base_error + RELATIVE_FLOOR)
        total = [t + share * g for t, g in zip(total, parts, strict=True)]
    for a, b in zip(first, total, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_one_step_moves_by_rate_times_gradient() -> None:
    network, parameters, rates = tiny()
    data = pair(12)
    zero, one = inner.inner_loop(network, parameters, rates, data, 1, FP32, False)
    leaves = list(parameters.values())
    slopes = torch.autograd.grad(reference_loss(leaves, data), leaves)
    for (name, p), slope in zip(parameters.items(), slopes, strict=True):
        assert zero[name] is p
        torch.testing.assert_close(one[name], p - rates[name] * slope)


def test_small_steps_lower_the_support_loss() -> None:
    network, parameters, rates = tiny()
    small = {n: r.detach() * 0.1 for n, r in rates.items()}
    data = pair(12)
    path = inner.inner_loop(network, parameters, small, data, 5, FP32, False)
    losses = [float(reference_loss(list(p.values()), data)) for p in path]
    assert len(losses) == 6
    assert losses == sorted(losses, reverse=True)


def test_no_steps_yield_the_start_alone() -> None:
    network, parameters, rates = tiny()
    (only,) = inner.inner_loop(network, parameters, rates, pair(1), 0, FP32, True)
    assert only is parameters


def test_predict_adds_a_free_and_trusted_residual(device: torch.device) -> None:
    """What the LR slice determines stays as in the start, whatever the network says."""
    network = networks.build(TINY, 0).to(device)
    parameters = dict(network.named_parameters())
    operator = degrade.degradation(kernels.delta(), Sampling.DIRECT, (2.0, 3.0), (31, 37), device)
    consistency = Consistency(operator, ConsistencySettings(damping=1e-9))
    start = torch.rand(2, 1, 31, 37, generator=torch.Generator().manual_seed(0)).to(device)

    def predicted(trust: float) -> torch.Tensor:
        found = inner.predict(network, parameters, start, consistency, trust, FP32, Hints())
        return found.image

    with torch.no_grad():
        full = predicted(1.0) - start
        part = (
            inner.predict(network, parameters, start, consistency, 0.25, FP32, Hints()).image
            - start
        )
        none = predicted(0.0)
        plain = inner.predict(network, parameters, start, None, 1.0, FP32, Hints()).image
        torch.testing.assert_close(plain, start + network(start).residual)
    torch.testing.assert_close(none, start)
    torch.testing.assert_close(part, 0.25 * full, atol=1e-6, rtol=1e-4)
    assert float(full[..., ::2, ::3].abs().max()) < 1e-5
    assert float(full.abs().max()) > 1e-3


def test_passes_alternate_network_and_consistency(device: torch.device) -> None:
    """Twice is once more on the first's result; what the LR slice determines still stays."""
    once = networks.build(TINY, 0).to(device)
    twice = networks.build(replace(TINY, passes=2), 0).to(device)
    parameters = dict(once.named_parameters())
    operator = degrade.degradation(kernels.delta(), Sampling.DIRECT, (2.0, 3.0), (31, 37), device)
    consistency = Consistency(operator, ConsistencySettings(damping=1e-9))
    start = torch.rand(2, 1, 31, 37, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        first = inner.predict(once, parameters, start, consistency, 1.0, FP32, Hints()).image
        second = inner.predict(once, parameters, first, consistency, 1.0, FP32, Hints()).image
        found = inner.predict(twice, parameters, start, consistency, 1.0, FP32, Hints()).image
        half = inner.predict(twice, parameters, start, consistency, 0.5, FP32, Hints()).image
    torch.testing.assert_close(found, second)
    torch.testing.assert_close(half, (start + second) / 2)
    assert float((second - first).abs().max()) > 1e-4


def test_predictions_keep_within_bounds(device: torch.device) -> None:
    """As far as samples allow; values at a bound pass no gradient, others all of it."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 1, 36, 42, generator=generator).sub_(0.4).clamp_(min=0).to(device)
    operator = degrade.degradation(kernels.delta(), Sampling.BICUBIC, (2.0, 2.0), (36, 42), device)
    consistency = Consistency(operator, ConsistencySettings())
    low = operator.apply(truth[:, 0])
    start = consistency.restore(low, operator.interpolate(low, Method.SPLINE, 1e-6))[:, None]
    free = Pair(start, truth, consistency, 1.0)
    network = networks.build(TINY, 0).to(device)
    parameters = dict(network.named_parameters())
    plain = inner.pair_prediction(network, parameters, free, FP32).image.detach()
    assert float(plain.min()) < -0.05

    kept = inner.pair_prediction(
        network, parameters, replace(free, bounds=Bounds(0.0)), FP32
    ).image.detach()
    assert float(kept.min()) == 0
    assert float((kept - truth).square().mean()) < float((plain - truth).square().mean())
    misfit = [(operator.apply(x[:, 0]) - low).square().mean() for x in (kept, plain.clamp(min=0))]
    assert float(misfit[0]) < 0.3 * float(misfit[1])

    leaf = plain.clone().requires_grad_()
    within = inner.within(leaf, replace(free, bounds=Bounds(0.0)))
    (passed,) = torch.autograd.grad(within.sum(), leaf)
    assert torch.equal(passed, (within > 0).float())
    loose = replace(free, bounds=Bounds(-9.0, 9.0))
    unmoved = inner.pair_prediction(network, parameters, loose, FP32).image
    assert torch.equal(unmoved, plain)


def test_bf16_residual_is_close_and_float32(device: torch.device) -> None:
    network = networks.build(NetworkSettings(depth=4, width=8), 0).to(device)
    parameters = dict(network.named_parameters())
    start = torch.rand(1, 1, 31, 37, generator=torch.Generator().manual_seed(0)).to(device)
    wide = inner.residual(network, parameters, start, FP32, Hints())
    narrow = inner.residual(network, parameters, start, Precision.BF16, Hints())
    assert narrow.dtype == torch.float32
    error = float((wide - narrow).abs().max())
    assert 0 < error < 0.03 * float(wide.abs().max())


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_step_weights(steps: int, progress: float) -> None:
    settings = MetaSettings(inner_steps=steps, final_step_weight=0.4)
    weights = meta.step_weights(settings, progress)
    assert len(weights) == steps + 1
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    if steps > 1:
        assert weights[0] == pytest.approx(0.3)
        assert weights[-1] == pytest.approx(0.4 + 0.3 * progress)


class Maker:
    """Hands out fixed tasks and notes what was asked for."""

    def __init__(self, tasks: list[Task]) -> None:
        self.tasks, self.asked = tasks, []

    def task(self, iteration: int, index: int, support: bool) -> Task:
        self.asked.append((iteration, index, support))
        return self.tasks[index]


@pytest.mark.parametrize("progress", [0.0, 0.69, 0.7, 1.0])
def test_meta_step_averages_relative_losses(progress: float) -> None:
    """Gradients of all leaves: the mean over tasks of loss / (base error + floor)."""
    network, parameters, rates = tiny()
    log_rates: Leaves = {n: r.detach().log().requires_grad_() for n, r in rates.items()}
    tasks = [Task("", pair(1), pair(2), 0.1), Task("", pair(3), pair(4), 0.01)]
    maker: Any = Maker(tasks)
    settings = MetaSettings(tasks_per_iteration=2, inner_steps=2, first_order_fraction=0.7)
    step = meta.meta_step(
        network, parameters, log_rates, maker, settings, FP32, torch.device("cpu")
    )
    figures = step(41, progress)
    second = progress >= 0.7
    assert figures["second_order"] == second
    assert maker.asked == [(41, 0, True), (41, 1, True)]
    weights = meta.step_weights(settings, progress)
    leaves = {n: p.detach().requires_grad_() for n, p in parameters.items()}
    logs = {n: r.detach().requires_grad_() for n, r in log_rates.items()}
    expected = torch.zeros((), dtype=F64)
    for task in tasks:
        moved = {n: r.exp() for n, r in logs.items()}
        path = inner.inner_loop(network, leaves, moved, task.support, 2, FP32, second)
        for weight, adapted in zip(weights, path, strict=True):
            loss = inner.pair_loss(network, adapted, task.query, FP32)
            expected = expected + weight * loss / (task.base_error + RELATIVE_FLOOR) / 2
    assert figures["loss"] == pytest.approx(float(expected))
    ours = [*parameters.values(), *log_rates.values()]
    for leaf, slope in zip(ours, gradients(expected, leaves, logs), strict=True):
        torch.testing.assert_close(leaf.grad, slope)
    assert any(bool(r.grad.abs().max() > 0) for r in log_rates.values())


def test_root_mean_square_losses_are_shares_of_the_start() -> None:
    error = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=F64)
    task = Task("", pair(1), None, 0.1, base_square=50.0)
    assert float(relative_loss(error, task, Loss.RMS)) == pytest.approx((12.5 / 50) ** 0.5)
    assert float(relative_loss(error, task, Loss.LOG)) == pytest.approx(-math.log(2))
    start = task.query.start - task.query.truth
    own = replace(task, base_square=float(start.square().mean()))
    assert float(relative_loss(start, own, Loss.RMS)) == pytest.approx(1)


def test_tasks_without_support_are_refused() -> None:
    network, parameters, rates = tiny()
    with pytest.raises(ValueError, match="support"):
        loss_of(network, parameters, rates, Task("", pair(1), None, 0.1), False)


# -- networks --------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "count"), [(1, 222_785), (3, 225_091)])
def test_parameter_counts(channels: int, count: int) -> None:
    assert networks.parameter_count(networks.build(NetworkSettings(channels=channels))) == count


@pytest.mark.parametrize("seed", [0, 1])
def test_network_sees_seventeen_pixels(seed: int) -> None:
    network = networks.build(NetworkSettings(width=16), seed)
    image = torch.rand(1, 1, 37, 31, generator=torch.Generator().manual_seed(seed))
    image.requires_grad_()
    network(image).residual[0, 0, 18, 15].backward()
    rows, cols = np.nonzero(image.grad[0, 0].numpy())
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (10, 26, 7, 23)
    assert network.reach == 8


def test_networks_are_seeded_and_start_near_identity() -> None:
    settings = NetworkSettings(width=16)
    one, same, other = (networks.build(settings, s) for s in (5, 5, 6))
    image = torch.rand(1, 1, 37, 31)
    with torch.no_grad():
        found = one(image).residual
        assert torch.equal(found, same(image).residual)
        assert not torch.equal(found, other(image).residual)
        assert float(found.abs().mean()) < 0.3 * float(image.mean())
        assert one(torch.rand(2, 1, 5, 37)).residual.shape == (2, 1, 5, 37)


def test_unknown_backbone_is_refused() -> None:
    from mzsr_cli.errors import WeightsError

    with pytest.raises(WeightsError, match="resnet"):
        networks.build(NetworkSettings(backbone="resnet"))
