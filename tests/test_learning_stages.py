"""Pretraining in stages is what ``mzsr upscale`` does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from mzsr_cli.imaging import kernels
from mzsr_cli.imaging.bounds import Bounds
from mzsr_cli.learning import networks
from mzsr_cli.learning.inner import KEEPING, pair_prediction
from mzsr_cli.learning.patches import Physics, Source, Task, TaskMaker
from mzsr_cli.learning.pretrain import carried_over, pretrain_step
from mzsr_cli.learning.superresolve import Sample, Solver
from mzsr_cli.learning.weights import Weights
from mzsr_cli.settings import (
    AdaptSettings,
    CheckSettings,
    ConsistencySettings,
    GateSettings,
    KernelDraw,
    Method,
    NetworkSettings,
    Precision,
    Sampling,
    TaskSettings,
    UpscaleSettings,
    WienerSettings,
)

CPU, FP32 = torch.device("cpu"), Precision.FP32
NETWORK = NetworkSettings(backbone="strided", depth=4, width=8, guides=2)
PHYSICS = Physics(ConsistencySettings(), WienerSettings(), GateSettings(), guides=True)


def shadows(seed: int) -> np.ndarray:
    """A map with a floor at 0, (1, 80, 72) float32."""
    noise = np.random.default_rng(seed).standard_normal((80, 72))
    field = ndimage.gaussian_filter(noise, 2.0) * 4
    return np.clip(0.3 + field, 0, 1).astype(np.float32)[None]


def drawn(scale: float, sampling: Sampling, **changes: float) -> Task:
    """A task of a map without blur."""
    source = Source("map", [shadows(3)], False, [None], [Bounds(0.0)])
    settings = TaskSettings(
        patch=64,
        scales=(scale,),
        direct_fraction=float(sampling is Sampling.DIRECT),
        kernels=KernelDraw(published_fraction=0.0, narrow_fraction=0.0),
        staged_fraction=1.0,
        refined_fraction=0.0,
        bounded_fraction=1.0,
    )
    return TaskMaker([source], replace(settings, **changes), PHYSICS, 0).task(2, 1, False)


@pytest.mark.parametrize(("scale", "sampling", "refined", "stages"), [
    (3.0, Sampling.BICUBIC, 0.0, 1), (4.0, Sampling.DIRECT, 0.0, 1),
    (8.0, Sampling.BICUBIC, 0.0, 2), (2.0, Sampling.BICUBIC, 1.0, 1),
    (4.0, Sampling.BICUBIC, 1.0, 2), (3.0, Sampling.DIRECT, 1.0, 1),
])  # fmt: skip
@pytest.mark.parametrize("passes", [1, 2])
def test_stages_of_training_are_those_of_upscale(
    scale: float, sampling: Sampling, refined: float, stages: int, passes: int
) -> None:
    """And the last look at the answer within bounds, which direct samples have none of."""
    task = drawn(scale, sampling, refined_fraction=refined)
    assert len(task.before) == stages
    assert task.query.trust == 1 and task.query.consistency is not None
    shape = replace(NETWORK, passes=passes)
    network = networks.build(shape, seed=4)
    with torch.no_grad():
        network.get_parameter("tail.weight").mul_(20)
    parameters = dict(network.named_parameters())
    query = carried_over(network, parameters, task, FP32, CPU)
    with torch.no_grad():
        trained = pair_prediction(network, parameters, query, FP32).image[:, 0]

    operator = task.query.consistency.operator
    low = operator.apply(task.query.truth[:, 0])
    solver = Solver(
        operator.lr_shape, operator.scale, operator.hr_shape, kernels.delta(), Method.MZSR,
        Weights(network, shape, {}, {"scales": [2.0], "refines": bool(refined)}),
        UpscaleSettings(
            scale=operator.scale, sampling=sampling, bounds=KEEPING,
            adapt=AdaptSettings(steps=0, self_ensemble=1), check=CheckSettings(enabled=False),
        ),
        FP32, CPU,
    )  # fmt: skip
    found, _ = solver.solve(Sample(low, 0.0, bounds=task.query.bounds), 0)
    assert float((found - task.query.start[:, 0]).abs().max()) > 0.01  # the network says something
    assert float(query.carried.abs().max()) > 0.01  # type: ignore[union-attr]
    torch.testing.assert_close(trained, found, atol=5e-5, rtol=0)


def test_one_stage_where_that_is_all_it_takes() -> None:
    assert drawn(2.0, Sampling.BICUBIC).before == ()
    assert drawn(4.0, Sampling.BICUBIC, staged_fraction=0.0).before == ()


def test_half_of_the_tasks_without_blur() -> None:
    source = Source("map", [shadows(k) for k in range(5)], False)
    settings = TaskSettings(patch=64, scales=(4.0,))
    maker = TaskMaker([source], settings, PHYSICS, 1)
    tasks = [maker.task(i, 0, False) for i in range(120)]
    plain = [t for t in tasks if t.query.consistency.operator.kernel.size == 1]  # type: ignore[union-attr]
    staged = [t for t in tasks if t.before]
    assert all(t.query.consistency.operator.kernel.size == 1 for t in staged)  # type: ignore[union-attr]
    assert 0.3 < len(staged) / len(plain) < 0.7
    with_support = [maker.task(i, 0, True) for i in range(120)]
    assert [bool(t.before) for t in with_support] == [bool(t.before) for t in tasks]


def test_gradients_are_those_of_the_last_stage() -> None:
    """What was carried over is data: the loss of the last stage alone is differentiated."""
    task = drawn(4.0, Sampling.BICUBIC)

    class Fixed:
        def task(self, iteration: int, index: int, support: bool) -> Task:
            return task

    network = networks.build(NETWORK, seed=4)
    parameters = dict(network.named_parameters())
    step = pretrain_step(network, parameters, Fixed(), 1, FP32, CPU)  # type: ignore[arg-type]
    step(0, 0.0)
    found = {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}
    network.zero_grad()
    query = carried_over(network, parameters, task, FP32, CPU)
    other = replace(task, query=query, before=())
    assert other.query.carried is not None and not other.query.carried.requires_grad
    task = other
    step(0, 0.0)
    for name, gradient in found.items():
        torch.testing.assert_close(parameters[name].grad, gradient)


def test_degradations_of_stages_see_the_same_samples() -> None:
    task = drawn(8.0, Sampling.BICUBIC)
    assert task.query.consistency is not None
    shapes = {pair.consistency.operator.lr_shape for pair in task.before if pair.consistency}
    assert shapes == {task.query.consistency.operator.lr_shape}
    low = task.query.consistency.operator.apply(task.query.truth[:, 0])
    for pair in task.before:
        assert pair.consistency is not None
        torch.testing.assert_close(
            pair.consistency.operator.apply(pair.start[:, 0]), low, atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_a_second_look_stays_within_bounds(scale: float) -> None:
    """Also where the network has nothing to add: what remains of the misfit is then all of it."""
    task = drawn(scale, Sampling.BICUBIC)
    assert task.query.consistency is not None
    operator = task.query.consistency.operator
    network = networks.build(NETWORK, seed=4)
    with torch.no_grad():
        network.get_parameter("tail.weight").zero_()
        network.get_parameter("tail.bias").zero_()
    solver = Solver(
        operator.lr_shape, operator.scale, operator.hr_shape, kernels.delta(), Method.MZSR,
        Weights(network, NETWORK, {}, {"scales": [2.0], "refines": True}),
        UpscaleSettings(
            scale=operator.scale, check=CheckSettings(enabled=False),
            adapt=AdaptSettings(steps=0, self_ensemble=1),
        ),
        FP32, CPU,
    )  # fmt: skip
    low = operator.apply(task.query.truth[:, 0])
    image, report = solver.solve(Sample(low, 0.0, bounds=task.query.bounds), 0)
    assert report.bounds == task.query.bounds == Bounds(0.0)
    assert float(image.min()) >= 0
