"""The one inner loop: gradient steps on a pair, shared by meta-training and meta-test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.func import functional_call

from mzsr_cli.imaging.bounds import UNBOUNDED, Bounds, keep_
from mzsr_cli.imaging.degrade import Consistency
from mzsr_cli.imaging.gradient import gradient_distance, gradient_map
from mzsr_cli.imaging.hints import Hints
from mzsr_cli.learning.networks import Answer, Network
from mzsr_cli.learning.runtime import convolution_precision
from mzsr_cli.settings import BoundsSettings, Precision

Parameters = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Pair:
    """What a gradient step sees: a starting image and its truth, both (P, 1, H, W), in [0, 1].

    ``trust`` in [0, 1] scales the network's residual (imaging.gate); ``consistency`` keeps of
    the residual only what the LR image does not determine (None: all of it, Algorithm 2 as
    published). ``hints`` is what the network is told beside the start. Predictions are kept within
    ``bounds``. ``carried`` (P, 1, H, W) is what an earlier stage has added, on this grid.
    """

    start: torch.Tensor
    truth: torch.Tensor
    consistency: Consistency | None
    trust: float
    hints: Hints = field(default_factory=Hints)
    bounds: Bounds = UNBOUNDED
    carried: torch.Tensor | None = None


class Prediction(NamedTuple):
    """The super-resolved ``image``, and the ``gradient`` map that the network predicts of the
    truth, if it does (after the last pass); both (P, 1, H, W)."""

    image: torch.Tensor
    gradient: torch.Tensor | None


def answer(
    network: Network,
    parameters: Mapping[str, torch.Tensor],
    start: torch.Tensor,
    precision: Precision,
    hints: Hints,
) -> Answer:
    """What the network says of ``start`` (P, 1, H, W), float32, under ``parameters``."""
    image = start.contiguous(memory_format=torch.channels_last)
    seen = (image, hints.guides, hints.facts)
    with convolution_precision(start.device, precision):
        output: Answer = functional_call(network, dict(parameters), seen)
    gradient = None if output.gradient is None else output.gradient.to(start.dtype)
    return Answer(output.residual.to(start.dtype), gradient)


def residual(
    network: Network,
    parameters: Mapping[str, torch.Tensor],
    start: torch.Tensor,
    precision: Precision,
    hints: Hints,
) -> torch.Tensor:
    """The network's residual for ``start`` (P, 1, H, W), float32, under ``parameters``."""
    return answer(network, parameters, start, precision, hints).residual


def predict(
    network: Network,
    parameters: Mapping[str, torch.Tensor],
    start: torch.Tensor,
    consistency: Consistency | None,
    trust: float,
    precision: Precision,
    hints: Hints,
    carried: torch.Tensor | None = None,
) -> Prediction:
    """Super-resolved (P, 1, H, W): start + trust * (I - B A) residual.

    With several passes the network sees start + (I - B A) residual next, and so on: network and
    consistency alternate with shared parameters (unrolled as in USRNet, Zhang et al., 2020). Of a
    stage with something ``carried`` over, the network sees the sum of both, and the result begins
    at start + (I - B A) carried.
    """

    def free(added: torch.Tensor) -> torch.Tensor:
        return consistency.free(added) if consistency is not None else added

    begin = start if carried is None else start + free(carried)
    first = seen = start if carried is None else start + carried
    change, gradient = torch.zeros_like(start), None
    for _ in range(network.passes):
        added, gradient = answer(network, parameters, seen, precision, hints)
        change = change + free(added)
        seen = first + change
    return Prediction(begin + trust * change, gradient)


def predict_pair(
    network: Network, parameters: Mapping[str, torch.Tensor], pair: Pair, precision: Precision
) -> Prediction:
    """The prediction for a pair's start, which may be beyond the pair's bounds."""
    return predict(
        network, parameters, pair.start, pair.consistency, pair.trust, precision, pair.hints,
        pair.carried,
    )  # fmt: skip


def pair_prediction(
    network: Network, parameters: Mapping[str, torch.Tensor], pair: Pair, precision: Precision
) -> Prediction:
    """The prediction for a pair's start, within the pair's bounds."""
    image, said = predict_pair(network, parameters, pair, precision)
    return Prediction(within(image, pair), said)


KEEPING = BoundsSettings(rounds=12)
"""In training: a quarter of the rounds, which gain most."""


def within(image: torch.Tensor, pair: Pair, sure: bool = True) -> torch.Tensor:
    """``image`` (P, 1, H, W) within the pair's bounds as at test time, but that they are ``sure``
    to be the truth's. Of the derivative, a projection on what neither samples nor bounds hold, the
    second part is taken: values at a bound do not move (the first holds for residuals anyway)."""
    if not pair.bounds or pair.consistency is None:
        return image
    kept = image.detach().clone()
    with torch.no_grad():
        low = pair.consistency.operator.apply(pair.truth[:, 0])
        keep_(pair.consistency, low, kept[:, 0], pair.bounds, KEEPING, sure)
    return kept + (image - image.detach()) * pair.bounds.inside(kept)


def pair_error(
    network: Network, parameters: Mapping[str, torch.Tensor], pair: Pair, precision: Precision
) -> torch.Tensor:
    """Prediction minus truth on a pair, (P, 1, H, W)."""
    return pair_prediction(network, parameters, pair, precision).image - pair.truth


def pair_loss(
    network: Network,
    parameters: Mapping[str, torch.Tensor],
    pair: Pair,
    precision: Precision,
    gradient_weight: float = 0.0,
    supervision: float = 0.0,
) -> torch.Tensor:
    """Mean absolute error on a pair (MZSR eq. 3), and ``gradient_weight`` times that of the
    gradient maps, ``supervision`` times that of the map that the network predicts, if it does (Ma
    et al., CVPR 2020)."""
    image, said = pair_prediction(network, parameters, pair, precision)
    loss = (image - pair.truth).abs().mean()
    if supervision > 0 and said is not None:
        loss = loss + supervision * (said - gradient_map(pair.truth)).abs().mean()
    if gradient_weight > 0:
        loss = loss + gradient_weight * gradient_distance(image, pair.truth)
    return loss


def step(
    parameters: Parameters, gradients: Mapping[str, torch.Tensor], rates: Mapping[str, torch.Tensor]
) -> Parameters:
    """theta - alpha * gradient, a rate for each tensor (MZSR eq. 4)."""
    return {name: p - rates[name] * gradients[name] for name, p in parameters.items()}


def gradient(
    network: Network,
    parameters: Parameters,
    pair: Pair,
    precision: Precision,
    create_graph: bool,
    gradient_weight: float = 0.0,
) -> tuple[torch.Tensor, Parameters]:
    """Loss on ``pair`` and its gradient; with ``create_graph`` the gradient is differentiable.

    Parameters that the loss does not depend on have the gradient zero.
    """
    loss = pair_loss(network, parameters, pair, precision, gradient_weight)
    values = torch.autograd.grad(
        loss, list(parameters.values()), create_graph=create_graph, materialize_grads=True
    )
    return loss, dict(zip(parameters, values, strict=True))


def inner_loop(
    network: Network,
    parameters: Parameters,
    rates: Mapping[str, torch.Tensor],
    pair: Pair,
    steps: int,
    precision: Precision,
    second_order: bool,
    gradient_weight: float = 0.0,
) -> Iterator[Parameters]:
    """The parameters after 0, 1, ... ``steps`` gradient steps on ``pair``.

    With ``second_order`` the graph through the gradients is kept, so that a loss at any yielded
    parameters differentiates through the whole path (MAML); without, gradients are constants.
    """
    yield parameters
    for _ in range(steps):
        _, gradients = gradient(network, parameters, pair, precision, second_order, gradient_weight)
        if not second_order:
            gradients = {name: g.detach() for name, g in gradients.items()}
        parameters = step(parameters, gradients, rates)
        yield parameters
