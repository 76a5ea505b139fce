"""Algorithm 2: meta-test (MZSR, Soh et al., 2020), and the self-check on the pair it uses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from mzsr_cli.imaging.hints import Hints
from mzsr_cli.imaging.spectra import ramp
from mzsr_cli.imaging.symmetries import ALONE, Views, turned, turned_back
from mzsr_cli.imaging.tiles import tiled_at
from mzsr_cli.learning.inner import Pair, Parameters, gradient, pair_loss, residual, step
from mzsr_cli.learning.networks import Network
from mzsr_cli.learning.seen import Seen
from mzsr_cli.settings import AdaptSettings, CheckSettings, Precision, TileSettings


@dataclass
class Adapted:
    """Parameters after adaptation, the loss before each step, and after which step they stood."""

    parameters: Parameters
    losses: list[float] = field(default_factory=list)
    kept: int = 0


def adapt(
    network: Network,
    parameters: Parameters,
    rates: Parameters,
    pairs: Sequence[Pair],
    settings: AdaptSettings,
    precision: Precision,
) -> Adapted:
    """Lines 2-4 of Algorithm 2: ``steps`` rounds of one gradient step on each pair (son, LR), in
    turn; there is one pair where a slice is adapted to itself.

    The parameters before the round of the lowest mean loss are kept. A round that makes it much
    worse (or not finite) is taken back to them with the rates halved, so that any number of steps
    is safe.
    """
    current = parameters
    best = Adapted(parameters)
    lowest = math.inf
    for count in range(settings.steps + 1):
        before = current
        if count < settings.steps:
            value, current = _round(network, before, rates, pairs, settings, precision)
        else:
            value = _mean_loss(network, before, pairs, settings, precision)
        best.losses.append(value)
        if value < lowest:
            lowest, best.kept, best.parameters = value, count, before
        elif not value <= settings.worse * lowest:
            rates = {name: rate / 2 for name, rate in rates.items()}
            current = best.parameters
    best.parameters = {name: p.detach() for name, p in best.parameters.items()}
    return best


def window_side(facts: Mapping[str, Any], settings: AdaptSettings) -> int:
    """Largest side in LR pixels of the pair that steps are taken on, for weights with these
    training ``facts``: that of their LR patches at x2, within the settings' limits."""
    patch = facts.get("patch")
    trained = patch // 2 if isinstance(patch, int) else 0
    return max(settings.window, min(settings.window_most, trained))


def _round(
    network: Network,
    parameters: Parameters,
    rates: Parameters,
    pairs: Sequence[Pair],
    settings: AdaptSettings,
    precision: Precision,
) -> tuple[float, Parameters]:
    """One gradient step on each pair in turn: the mean of the losses met, and the parameters."""
    total = 0.0
    for pair in pairs:
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        loss, gradients = gradient(network, leaves, pair, precision, False, settings.gradient_loss)
        parameters = {n: p.detach() for n, p in step(leaves, gradients, rates).items()}
        total += float(loss.detach())
    return total / len(pairs), parameters


@torch.no_grad()
def _mean_loss(
    network: Network,
    parameters: Parameters,
    pairs: Sequence[Pair],
    settings: AdaptSettings,
    precision: Precision,
) -> float:
    weight = settings.gradient_loss
    losses = [float(pair_loss(network, parameters, pair, precision, weight)) for pair in pairs]
    return sum(losses) / len(losses)


@torch.no_grad()
def tiled_residual(
    network: Network,
    parameters: Parameters,
    seen: Seen,
    tiles: TileSettings,
    precision: Precision,
    facts: torch.Tensor | None,
    views: Views = ALONE,
) -> torch.Tensor:
    """The network's output for what is ``seen``, plane by plane over tiles with its halo:
    (P, H, W), float32; the mean over ``views`` (imaging.symmetries)."""
    count, height, width = seen.shape
    stride = network.stride

    def viewed(image: torch.Tensor, shown: torch.Tensor | None, which: int) -> torch.Tensor:
        hints = Hints(shown, facts).turned(which)
        output = residual(network, parameters, turned(image, which), precision, hints)
        return turned_back(output, which)[0, 0]

    def on_plane(index: int, out: torch.Tensor) -> None:
        plane = slice(index, index + 1)

        def on_tile(rows: slice, cols: slice) -> torch.Tensor:
            pieces: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor | None]] = {}

            def on_view(which: int) -> torch.Tensor:
                ends = (
                    views.further(which, 0, rows.stop, height, stride),
                    views.further(which, 1, cols.stop, width, stride),
                )
                if ends not in pieces:
                    pieces[ends] = piece(rows.start, cols.start, *ends)
                answer = viewed(*pieces[ends], which)
                return answer[: rows.stop - rows.start, : cols.stop - cols.start]

            total, *others = map(on_view, views.which)
            for other in others:
                total = total.add_(other)
            return total.div_(1 + len(others)) if others else total

        def piece(
            top: int, left: int, bottom: int, right: int
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            beyond = max(0, bottom - height), max(0, right - width)
            window = plane, slice(top, bottom - beyond[0]), slice(left, right - beyond[1])
            shown = seen.guides(*window) if network.guides else None
            shown = _grown(shown, *beyond) if shown is not None else None
            return _grown(seen.image(*window)[:, None], *beyond), shown

        tiled_at(on_tile, height, width, tiles.side * stride, network.reach, out)

    device = next(iter(parameters.values())).device
    planes = torch.empty(seen.shape, dtype=torch.float32, device=device)
    for index in range(count):
        on_plane(index, planes[index])
    return planes


def _grown(image: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """An image (B, C, h, w) with its last row and column repeated that often."""
    if rows == cols == 0:
        return image
    return functional.pad(image, (0, cols, 0, rows), mode="replicate")


@dataclass(frozen=True)
class Verdict:
    """What the self-check found on the pair (son, LR).

    ``chosen`` is the winner, ``share`` the part of the network's residual that the pair supports
    (0 to 1), ``informative`` whether the pair tells anything, ``hopeless`` whether the start is
    worse than the slice's mean, ``nmse`` each candidate's in dB, mean-free. ``gradual`` says that
    the slice resembles itself across scales: the network gains on an informative pair.
    """

    chosen: str
    share: float
    informative: bool
    hopeless: bool
    nmse: dict[str, float]
    gradual: bool = False

    @property
    def overruled(self) -> bool:
        """Whether a classical method takes the network's place."""
        return self.chosen != NETWORK

    @property
    def unsupported(self) -> bool:
        """Whether the pair says nothing for or against the network, so that what it adds has to
        stay within what the Wiener model expects to be missing."""
        return not self.informative


NETWORK, START = "network", "start"
"""Names of the network's result and of its starting image among the candidates."""


def informs(
    candidates: dict[str, torch.Tensor], truth: torch.Tensor, settings: CheckSettings
) -> bool:
    """Whether the pair tells anything: to methods without learning (the network may have been
    adapted to it), of which ``candidates`` (P, h, w) come near the LR planes (P, h, w)."""
    energy = float((truth - truth.mean()).square().sum())
    found = [_nmse(image - truth, energy) for name, image in candidates.items() if name != NETWORK]
    return min(found) < settings.informative_nmse


def prefers(
    start: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    truth: torch.Tensor,
    informative: bool,
    level: float,
    scale: float,
    settings: CheckSettings,
) -> bool:
    """Whether the answer of the ``second`` network to the pair (P, h, w) is nearer to the LR
    planes ``truth`` than that of the ``first`` one, by the margin; where the pair is not
    ``informative`` it has to see it, by a larger margin, from a ``start`` that is not hopeless and
    at a ``scale`` up to x2. Never where the slice's own start is expected to be much better than
    that of the pair (its error's ``level``, dB of the variance)."""
    energy = float((truth - truth.mean()).square().sum())
    found, limit, begun = (_nmse(image - truth, energy) for image in (second, first, start))
    if level < begun - settings.second_unlike:
        return False
    if informative:
        return found < limit - settings.second_margin
    margin = min(settings.second_seen, limit - settings.second_margin_unseen)
    return scale <= 2 and begun <= settings.hopeless_nmse and found < margin


def learned(
    start: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    truth: torch.Tensor,
    settings: CheckSettings,
) -> bool:
    """Whether steps have taught the network a pair that tells classical methods nothing: its answer
    ``after`` them (P, h, w) tells something of the LR planes ``truth``, and is better by the
    margin than that ``before``. Never where the ``start`` is hopeless: aliases were learned then.
    """
    energy = float((truth - truth.mean()).square().sum())
    found = _nmse(after - truth, energy)
    limit = min(settings.informative_nmse, _nmse(before - truth, energy) - settings.margin)
    return _nmse(start - truth, energy) <= settings.hopeless_nmse and found < limit


def verdict(
    candidates: dict[str, torch.Tensor],
    truth: torch.Tensor,
    oversampled: bool,
    settings: CheckSettings,
    stretch: float = 1.0,
    hopeless_nmse: float | None = None,
) -> Verdict:
    """Compare candidates (P, h, w), among them NETWORK and START, with the LR planes (P, h, w).

    - Where the pair is informative, the network's residual is scaled down if its least-squares
      share is under ``share_full`` or it gains little, and a classical method wins that beats the
      result by ``margin``; but not on an ``oversampled`` slice, whose son is not oversampled.
      A gain counts less for a stage that is ``stretch`` times longer (in octaves) than the pair.
    - Hopeless is a pair whose start is above ``hopeless_nmse`` (None: that of the settings).
    - Elsewhere the network stands: the verdict belongs to its training. One whose answer is not
      finite never does.
    """
    energy = float((truth - truth.mean()).square().sum())
    share = share_of(candidates[NETWORK] - candidates[START], truth - candidates[START])
    scaled = candidates[START] + share * (candidates[NETWORK] - candidates[START])
    nmse = {name: _nmse(x - truth, energy) for name, x in candidates.items()}
    supported = _nmse(scaled - truth, energy)
    hopeless = nmse[START] > (settings.hopeless_nmse if hopeless_nmse is None else hopeless_nmse)
    best = min((name for name in nmse if name != NETWORK), key=lambda name: nmse[name])
    if not math.isfinite(nmse[NETWORK]):
        return Verdict(best, 0.0, False, hopeless, nmse)
    if hopeless or not informs(candidates, truth, settings):
        return Verdict(NETWORK, 1.0, False, hopeless, nmse)
    overruled = nmse[best] < supported - settings.margin and not oversampled
    gain = nmse[START] - supported
    kept = min(1.0, share / settings.share_full)
    gradual = gain >= settings.gradual_gain
    counts = gain if gradual else gain / stretch
    shown = ramp(counts, settings.gain_none, settings.gain_full)
    kept *= settings.share_ungained + (1 - settings.share_ungained) * shown
    return Verdict(best if overruled else NETWORK, kept, True, False, nmse, gradual)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Cosine of the angle between two images of one shape, 0 where either is nothing."""
    energies = one.double().square().sum() * other.double().square().sum()
    product = float((one.double() * other.double()).sum())
    return product / math.sqrt(float(energies)) if energies > 0 else 0.0


def no_verdict(settings: CheckSettings) -> Verdict:
    """Of a slice that is too small for a pair."""
    return Verdict(NETWORK, settings.share_unchecked, False, False, {})


def share_of(added: torch.Tensor, missing: torch.Tensor) -> float:
    """Least-squares share of ``added`` in ``missing``, 0 to 1."""
    energy = float(added.double().square().sum())
    product = float((added.double() * missing.double()).sum())
    return min(1.0, max(0.0, product / energy)) if energy > 0 else 1.0


def _nmse(error: torch.Tensor, energy: float) -> float:
    tiny = 1e-20 * max(1.0, energy)
    found = max(float(error.double().square().sum()), tiny)
    return 10 * math.log10(found / max(energy, tiny))
