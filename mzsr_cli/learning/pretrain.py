"""Algorithm 1, lines 1-7: supervised pretraining (MZSR, Soh et al., 2020)."""

from __future__ import annotations

import torch

from mzsr_cli.learning.inner import Pair, Parameters, pair_error
from mzsr_cli.learning.networks import Network
from mzsr_cli.learning.patches import Task, TaskMaker
from mzsr_cli.learning.ranks import ALONE, Ranks
from mzsr_cli.learning.training import GradientStep
from mzsr_cli.settings import Loss, Precision

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


def pretrain_step(
    network: Network,
    parameters: Parameters,
    maker: TaskMaker,
    batch: int,
    precision: Precision,
    device: torch.device,
    loss: Loss = Loss.L1,
    ranks: Ranks = ALONE,
) -> GradientStep:
    """The gradient of one iteration: ``loss`` over ``batch`` crops, each with its own degradation.

    Lines 4-5 of Algorithm 1. Crops are processed one at a time (they stay in cache) and their
    gradients added up: those of this rank's crops, while the figures are those of all ranks.
    """

    def gradient_step(iteration: int, progress: float) -> dict[str, float]:
        total, base = 0.0, 0.0
        for index in ranks.share(batch):
            task = maker.task(iteration, index, support=False)
            begin = relative_loss(task.query.start - task.query.truth, task, loss)
            base += float(begin) / batch
            if task.query.trust == 0:  # the start is the answer: nothing depends on the network
                total += float(begin) / batch
                continue
            error = pair_error(network, parameters, moved(task.query, device), precision)
            weighted = relative_loss(error, task, loss) / batch
            weighted.backward()
            total += float(weighted.detach())
        return ranks.sum_figures({"loss": total, "start_loss": base})

    return gradient_step


def moved(pair: Pair, device: torch.device) -> Pair:
    """The pair's tensors on ``device`` (a no-op on the CPU)."""
    if device.type == "cpu":
        return pair
    consistency = pair.consistency.to(device) if pair.consistency is not None else None
    tensors = pair.start.to(device), pair.truth.to(device)
    return Pair(*tensors, consistency, pair.trust, pair.hints.to(device))
