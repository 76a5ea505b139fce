"""Backbones by name: the registry is the only place that knows which ones exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mzsr_cli.errors import WeightsError
from mzsr_cli.learning.backbones.base import Answer, Network
from mzsr_cli.learning.backbones.lrfnet import LrfNetwork
from mzsr_cli.learning.backbones.mzsr import MzsrNetwork
from mzsr_cli.learning.backbones.spsr import SpsrNetwork
from mzsr_cli.learning.backbones.strided import StridedNetwork
from mzsr_cli.settings import Backbone, NetworkSettings

__all__ = ["BACKBONES", "Answer", "Network", "build", "parameter_count", "parsed", "scalars_min"]

BACKBONES: dict[str, type[Network]] = {
    Backbone.MZSR: MzsrNetwork,
    Backbone.STRIDED: StridedNetwork,
    Backbone.LRFNET: LrfNetwork,
    Backbone.SPSR: SpsrNetwork,
}


def _named(settings: NetworkSettings) -> type[Network]:
    if settings.backbone not in BACKBONES:
        raise WeightsError(
            f"backbone {settings.backbone!r} is unknown; this mzsr has {', '.join(BACKBONES)}."
        )
    return BACKBONES[settings.backbone]


def build(settings: NetworkSettings, seed: int | None = None) -> Network:
    """A network in channels_last layout, in evaluation mode.

    With ``seed``, random weights that start near identity; without, the weights are left to be
    loaded. Raises WeightsError for an unknown backbone.
    """
    network = _named(settings)(settings)  # type: ignore[call-arg]
    if seed is not None:
        network.initialise(torch.Generator().manual_seed(seed))
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def parsed(facts: dict[str, Any]) -> NetworkSettings:
    """The architecture from the plain values of a header. Raises WeightsError for an unknown
    backbone, KeyError, TypeError or ValueError where they describe none."""
    return _named(NetworkSettings(backbone=str(facts.get("backbone", Backbone.MZSR)))).parsed(facts)


def scalars_min(settings: NetworkSettings) -> int:
    """A lower bound of the scalars that an architecture stores. Raises WeightsError for an unknown
    backbone."""
    return _named(settings).scalars_min(settings)


def parameter_count(network: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in network.parameters())
