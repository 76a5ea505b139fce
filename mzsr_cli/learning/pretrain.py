"""Algorithm 1, lines 1-7: supervised pretraining (MZSR, Soh et al., 2020)."""

from __future__ import annotations

import torch

from mzsr_cli.learning.inner import Pair, Parameters, pair_loss
from mzsr_cli.learning.networks import MzsrNetwork
from mzsr_cli.learning.patches import TaskMaker
from mzsr_cli.learning.training import GradientStep
from mzsr_cli.settings import Precision

RELATIVE_FLOOR = 8e-3
"""Added to a task's base error where losses are weighted by its inverse, in units of [0, 1]."""


def relative_weight(base_error: float) -> float:
    """Weight of a task's loss: every task counts by the share of its own error, not by its
    size, because the errors of wave fields and of photographs are orders of magnitude apart."""
    return 1 / (base_error + RELATIVE_FLOOR)


def pretrain_step(
    network: MzsrNetwork,
    parameters: Parameters,
    maker: TaskMaker,
    batch: int,
    precision: Precision,
    device: torch.device,
) -> GradientStep:
    """The gradient of one iteration: L1 over ``batch`` crops, each with its own degradation.

    Lines 4-5 of Algorithm 1. Crops are processed one at a time (they stay in cache) and their
    gradients added up.
    """

    def gradient_step(iteration: int, progress: float) -> dict[str, float]:
        total, base = 0.0, 0.0
        for index in range(batch):
            task = maker.task(iteration, index, support=False)
            base += task.base_error * relative_weight(task.base_error) / batch
            if task.query.trust == 0:  # the start is the answer: nothing depends on the network
                total += task.base_error * relative_weight(task.base_error) / batch
                continue
            loss = pair_loss(network, parameters, moved(task.query, device), precision)
            weighted = loss * (relative_weight(task.base_error) / batch)
            weighted.backward()
            total += float(weighted.detach())
        return {"loss": total, "start_loss": base}

    return gradient_step


def moved(pair: Pair, device: torch.device) -> Pair:
    """The pair's tensors on ``device`` (a no-op on the CPU)."""
    if device.type == "cpu":
        return pair
    consistency = pair.consistency.to(device) if pair.consistency is not None else None
    return Pair(pair.start.to(device), pair.truth.to(device), consistency, pair.trust)
