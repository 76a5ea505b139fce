"""Algorithm 1, lines 8-17: meta-transfer over degradations (MZSR, Soh et al., 2020)."""

from __future__ import annotations

from dataclasses import replace

import torch

from mzsr_cli.learning.inner import Parameters, inner_loop, pair_prediction
from mzsr_cli.learning.networks import Network
from mzsr_cli.learning.patches import Task, TaskMaker
from mzsr_cli.learning.pretrain import (
    PLAIN,
    carried_over,
    image_loss,
    moved,
    start_loss,
    supervision,
)
from mzsr_cli.learning.ranks import ALONE, Ranks
from mzsr_cli.learning.training import GradientStep
from mzsr_cli.settings import GradientSettings, Loss, MetaSettings, Precision


def step_weights(settings: MetaSettings, progress: float) -> list[float]:
    """Weights of the query loss after 0, 1, ... K inner steps; they add up to 1.

    The last step keeps ``final_step_weight`` and takes over the share of the steps between as
    the run goes on; step 0 keeps half of the rest, so that the initial weights stay good on
    their own (multi-step loss of Antoniou et al., 2019, "How to train your MAML").
    """
    steps = settings.inner_steps
    if steps == 0:
        return [1.0]
    rest = 1 - settings.final_step_weight
    first = rest / 2
    between = (rest - first) * (1 - progress) if steps > 1 else 0.0
    weights = [first, *[between / (steps - 1)] * (steps - 1)] if steps > 1 else [first]
    return [*weights, 1 - sum(weights)]


def task_loss(
    network: Network,
    parameters: Parameters,
    rates: Parameters,
    task: Task,
    weights: list[float],
    precision: Precision,
    second_order: bool,
    loss: Loss = Loss.L1,
    gradient: GradientSettings = PLAIN,
) -> torch.Tensor:
    """Lines 11-14: adapt to the support pair, sum the weighted query losses (in shares of the
    task's base error) on the way, those of gradient maps among them."""
    if task.support is None:
        raise ValueError("meta-training needs tasks with a support pair")
    path = inner_loop(
        network, parameters, rates, task.support, len(weights) - 1, precision, second_order,
        gradient.weight,
    )  # fmt: skip
    losses = []
    for weight, adapted in zip(weights, path, strict=True):
        if weight > 0:
            prediction = pair_prediction(network, adapted, task.query, precision)
            value = image_loss(prediction.image, task.query, task, loss, gradient)
            losses.append(weight * (value + supervision(prediction, task.query, gradient)))
    return torch.stack(losses).sum()


def meta_step(
    network: Network,
    parameters: Parameters,
    log_rates: Parameters,
    maker: TaskMaker,
    settings: MetaSettings,
    precision: Precision,
    device: torch.device,
    loss: Loss = Loss.L1,
    ranks: Ranks = ALONE,
    gradient: GradientSettings = PLAIN,
) -> GradientStep:
    """The outer gradient of one iteration over ``tasks_per_iteration`` tasks (lines 9-16).

    First-order for the first ``first_order_fraction`` of the run, second-order after. Step
    sizes are learned through their logarithms, one a tensor (Meta-SGD, Li et al., 2017). The
    gradient is that of this rank's tasks, the figures are those of all ranks.
    """

    def gradient_step(iteration: int, progress: float) -> dict[str, float]:
        second_order = progress >= settings.first_order_fraction
        weights = step_weights(settings, progress)
        count = settings.tasks_per_iteration
        total, base = 0.0, 0.0
        for index in ranks.share(count):
            task = maker.task(iteration, index, support=True)
            begin = start_loss(network, task, loss, gradient)
            base += begin / count
            if task.query.trust == 0:  # the start is the answer: nothing depends on the network
                total += begin / count
                continue
            if task.support is not None:
                query = carried_over(network, parameters, task, precision, device)
                task = replace(task, query=query, support=moved(task.support, device))
            rates = {name: rate.exp() for name, rate in log_rates.items()}
            outer = task_loss(
                network, parameters, rates, task, weights, precision, second_order, loss, gradient
            )
            weighted = outer / count
            weighted.backward()
            total += float(weighted.detach())
        figures = ranks.sum_figures({"loss": total, "start_loss": base})
        return {**figures, "second_order": float(second_order)}

    return gradient_step
