"""Algorithm 1, lines 1-7: supervised pretraining (MZSR, Soh et al., 2020)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch

from mzsr_cli.imaging.gradient import gradient_distance, gradient_map
from mzsr_cli.imaging.start import carried as carried_to
from mzsr_cli.learning.inner import (
    KEEPING,
    Pair,
    Parameters,
    Prediction,
    pair_prediction,
    predict_pair,
    within,
)
from mzsr_cli.learning.networks import Network
from mzsr_cli.learning.patches import Task, TaskMaker
from mzsr_cli.learning.ranks import ALONE, Ranks
from mzsr_cli.learning.training import GradientStep
from mzsr_cli.settings import GradientSettings, Loss, Precision

PLAIN = GradientSettings()
"""No gradient maps in the loss."""

RELATIVE_FLOOR = 8e-3
"""Added to a task's base error where losses are weighted by its inverse, in units of [0, 1]."""


def relative_weight(base_error: float) -> float:
    """Weight of a task's loss: every task counts by the share of its own error, not by its
    size, because the errors of wave fields and of photographs are orders of magnitude apart."""
    return 1 / (base_error + RELATIVE_FLOOR)


SQUARE_FLOOR = 1e-6
"""Added to mean-square errors where losses are relative root mean squares."""

LOG_FLOOR = 1e-9
"""The same where they are logarithms, which do not grow without bounds as the start improves."""


def relative_loss(error: torch.Tensor, task: Task, loss: Loss) -> torch.Tensor:
    """The loss of a task's ``error`` (prediction minus truth) in shares of its base error."""
    if loss is Loss.RMS:
        floored = error.square().mean() + SQUARE_FLOOR
        return (floored / (task.base_square + SQUARE_FLOOR)).sqrt()
    if loss is Loss.LOG:
        floored = error.square().mean() + LOG_FLOOR
        return (floored / (task.base_square + LOG_FLOOR)).log() / 2
    return error.abs().mean() * relative_weight(task.base_error)


def image_loss(
    image: torch.Tensor, pair: Pair, task: Task, loss: Loss, gradient: GradientSettings
) -> torch.Tensor:
    """The relative loss of an ``image`` (P, 1, H, W) for the task's query ``pair``. The gradient
    maps' distance counts in shares of the start's, too, whatever the loss."""
    value = relative_loss(image - pair.truth, task, loss)
    if gradient.weight > 0:
        base = float(gradient_distance(pair.start, pair.truth))
        share = gradient_distance(image, pair.truth) * relative_weight(base)
        value = value + gradient.weight * share
    return value


def supervision(
    prediction: Prediction, pair: Pair, gradient: GradientSettings
) -> torch.Tensor | float:
    """What a predicted gradient map adds to the outer loss: its mean absolute error, in shares of
    that of the start's own map (Ma et al., CVPR 2020). 0 where there is none."""
    if prediction.gradient is None or gradient.supervision == 0:
        return 0.0
    base = float(gradient_distance(pair.start, pair.truth))
    error = (prediction.gradient - gradient_map(pair.truth)).abs().mean()
    return gradient.supervision * relative_weight(base) * error


def start_loss(network: Network, task: Task, loss: Loss, gradient: GradientSettings) -> float:
    """What the starting image scores as an answer, with its own gradient map for a predicted one:
    the loss that a network begins with."""
    query = task.query
    said = gradient_map(query.start) if network.predicts_gradient else None
    value = image_loss(query.start, query, task, loss, gradient)
    return float(value + supervision(Prediction(query.start, said), query, gradient))


def pretrain_step(
    network: Network,
    parameters: Parameters,
    maker: TaskMaker,
    batch: int,
    precision: Precision,
    device: torch.device,
    loss: Loss = Loss.L1,
    ranks: Ranks = ALONE,
    gradient: GradientSettings = PLAIN,
) -> GradientStep:
    """The gradient of one iteration: ``loss`` over ``batch`` crops, each with its own degradation.

    Lines 4-5 of Algorithm 1. Crops are processed one at a time (they stay in cache) and their
    gradients added up: those of this rank's crops, while the figures are those of all ranks.
    """

    def gradient_step(iteration: int, progress: float) -> dict[str, float]:
        total, base = 0.0, 0.0
        for index in ranks.share(batch):
            task = maker.task(iteration, index, support=False)
            begin = start_loss(network, task, loss, gradient)
            base += begin / batch
            if task.query.trust == 0:  # the start is the answer: nothing depends on the network
                total += begin / batch
                continue
            query = carried_over(network, parameters, task, precision, device)
            prediction = pair_prediction(network, parameters, query, precision)
            value = image_loss(prediction.image, query, task, loss, gradient)
            weighted = (value + supervision(prediction, query, gradient)) / batch
            weighted.backward()
            total += float(weighted.detach())
        return ranks.sum_figures({"loss": total, "start_loss": base})

    return gradient_step


@torch.no_grad()
def carried_over(
    network: Network, parameters: Parameters, task: Task, precision: Precision, device: torch.device
) -> Pair:
    """The task's query with what the network adds in the stages before it, as at test time but that
    parameters are not adapted: half of the way to the bounds, and on to the next grid; all of it
    on the query's own."""
    carried: torch.Tensor | None = None
    for pair, after in pairwise([*task.before, task.query]):
        seen = moved(replace(pair, carried=carried), device)
        image = predict_pair(network, parameters, seen, precision).image
        own = pair is task.query
        image = image.lerp(within(image, seen, sure=own), 1.0 if own else KEEPING.between)
        carried = _onto((image - seen.start)[:, 0], pair, after)[:, None]
    query = task.query if carried is None else replace(task.query, carried=carried)
    return moved(query, device)


def _onto(added: torch.Tensor, before: Pair, after: Pair) -> torch.Tensor:
    """What was ``added`` (P, h, w) in one stage on the grid of the next, (P, H, W)."""
    assert before.consistency is not None and after.consistency is not None
    coarse, fine = before.consistency.operator, after.consistency.operator
    if coarse.scale == fine.scale:
        return added
    rows, cols = (f / c for f, c in zip(fine.scale, coarse.scale, strict=True))
    shown = carried_to(added, fine.hr_shape, (rows, cols), fine.sampling)
    return shown.add_to(added.new_zeros(len(added), *fine.hr_shape))


def moved(pair: Pair, device: torch.device) -> Pair:
    """The pair's tensors on ``device`` (a no-op on the CPU)."""
    if device.type == "cpu":
        return pair
    consistency = pair.consistency.to(device) if pair.consistency is not None else None
    tensors = pair.start.to(device), pair.truth.to(device)
    carried = pair.carried.to(device) if pair.carried is not None else None
    return Pair(*tensors, consistency, pair.trust, pair.hints.to(device), pair.bounds, carried)
