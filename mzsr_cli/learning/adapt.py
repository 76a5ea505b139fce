"""Algorithm 2: meta-test (MZSR, Soh et al., 2020), and the self-check on the pair it uses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from mzsr_cli.imaging.tiles import tiled
from mzsr_cli.learning.inner import Pair, Parameters, gradient, residual, step
from mzsr_cli.learning.networks import MzsrNetwork
from mzsr_cli.settings import AdaptSettings, CheckSettings, Precision, TileSettings


@dataclass
class Adapted:
    """Parameters after adaptation, the loss before each step, and after which step they stood."""

    parameters: Parameters
    losses: list[float] = field(default_factory=list)
    kept: int = 0


def adapt(
    network: MzsrNetwork,
    parameters: Parameters,
    rates: Parameters,
    pair: Pair,
    settings: AdaptSettings,
    precision: Precision,
) -> Adapted:
    """Lines 2-4 of Algorithm 2: ``steps`` gradient steps on the pair (son, LR).

    The parameters with the lowest loss seen are kept. A step that makes the loss much worse (or
    not finite) is taken back to them with the rates halved, so that any number of steps is safe.
    """
    current = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    best = Adapted(parameters)
    lowest = math.inf
    for count in range(settings.steps + 1):
        loss, gradients = gradient(network, current, pair, precision, create_graph=False)
        value = float(loss.detach())
        best.losses.append(value)
        if value < lowest:
            lowest, best.kept = value, count
            best.parameters = {name: p.detach() for name, p in current.items()}
        elif not value <= settings.worse * lowest:
            rates = {name: rate / 2 for name, rate in rates.items()}
            current = {name: p.requires_grad_() for name, p in best.parameters.items()}
            continue
        if count < settings.steps:
            stepped = step(current, gradients, rates)
            current = {name: p.detach().requires_grad_() for name, p in stepped.items()}
    best.parameters = {name: p.detach() for name, p in best.parameters.items()}
    return best


@torch.no_grad()
def tiled_residual(
    network: MzsrNetwork,
    parameters: Parameters,
    start: torch.Tensor,
    tiles: TileSettings,
    precision: Precision,
) -> torch.Tensor:
    """The network's output for planes (P, H, W), plane by plane over tiles with its halo."""

    def on_tile(image: torch.Tensor) -> torch.Tensor:
        return residual(network, parameters, image[None, None], precision)[0, 0]

    return torch.stack([tiled(on_tile, plane, tiles.side, network.reach) for plane in start])


@dataclass(frozen=True)
class Verdict:
    """What the self-check found: the winner, each candidate's NMSE (dB, mean-free) on the pair
    (son, LR), and whether the pair tells anything (settings.CheckSettings)."""

    chosen: str
    informative: bool
    nmse: dict[str, float]


def verdict(
    candidates: dict[str, torch.Tensor],
    truth: torch.Tensor,
    first: str,
    second: str,
    oversampled: bool,
    settings: CheckSettings,
) -> Verdict:
    """Compare candidates (P, h, w), in order of preference, with the LR planes (P, h, w).

    ``first`` (the network) stands unless

    - the pair is informative and ``second`` (the start) beats it by ``start_margin``, or another
      by ``margin``; of an ``oversampled`` slice, whose son is not, only ``second`` may win;
    - or both are worse than the slice's mean: then the best candidate wins.
    """
    energy = float((truth - truth.mean()).square().sum())
    errors = {name: float((x - truth).square().sum()) for name, x in candidates.items()}
    tiny = 1e-20 * max(1.0, energy)
    nmse = {n: 10 * math.log10(max(e, tiny) / max(energy, tiny)) for n, e in errors.items()}
    best = min(nmse, key=lambda name: nmse[name])
    informative = energy > tiny and nmse[best] < settings.informative_nmse
    chosen = first
    if energy > tiny and min(nmse[first], nmse[second]) > settings.hopeless_nmse:
        chosen = best
    elif informative:
        if nmse[second] < nmse[first] - settings.start_margin:
            chosen = second
        if nmse[best] < nmse[chosen] - settings.margin and not oversampled:
            chosen = best
    return Verdict(chosen, informative, nmse)
