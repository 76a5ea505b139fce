"""Muon: momentum whose every update of a weight matrix is orthogonalised.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the
scale of an update that makes rates comparable with Adam's is of J. Liu et al., "Muon is scalable
for LLM training", 2025. torch.optim.Muon (torch 2.9) takes matrices only; here a convolution is
the matrix of its filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

FEATURES_MIN = 8
"""Layers with at most this many inputs or outputs are the network's ends, and Adam's."""

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of the iteration x <- a x + b x^3 + c x^5 on the singular values."""

ITERATIONS = 5

ADAM_LIKE = 0.2
"""Root mean square of an update in units of the rate, about that of Adam's."""


def is_hidden(parameter: torch.Tensor) -> bool:
    """Whether a parameter is the filters (out, in, k, k) of a convolution between features."""
    return parameter.ndim == 4 and min(parameter.shape[:2]) > FEATURES_MIN


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Matrix (m, n) with its singular values brought near 1 (0.7 to 1.2) by five Newton-Schulz
    iterations; those under about 1e-3 of the largest stay smaller. Matrices of 1e-20, whose
    squares are 0 in single precision, are as good as others."""
    a, b, c = QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    x = wide / (wide.norm(dtype=torch.float64) + 1e-30)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.mT


class Muon(Optimizer):
    """Muon on filters (out, in, k, k); ``lr`` is about Adam's."""

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: torch.Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(parameter)
        momentum, gradient = group["momentum"], parameter.grad
        assert gradient is not None
        state["mean"].lerp_(gradient, 1 - momentum)
        nesterov = torch.lerp(gradient, state["mean"], momentum)
        filters = nesterov.reshape(len(nesterov), -1)
        size = ADAM_LIKE * max(filters.shape) ** 0.5
        update = orthogonalised(filters).reshape(parameter.shape)
        parameter.sub_(group["lr"] * size * update)
