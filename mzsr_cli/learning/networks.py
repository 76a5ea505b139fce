"""Backbones, by name. Each maps (B, channels, H, W) to a residual of the same shape.

The registry is the only place that knows which backbones exist.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from mzsr_cli.errors import WeightsError
from mzsr_cli.settings import NetworkSettings


class MzsrNetwork(nn.Module):
    """Eight 3x3 convolutions with 64 features and ReLU, zero padding (Soh et al., 2020, 3.2).

    The caller adds the output to the input (global residual). 222,785 parameters with one
    channel, 225,091 with three.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        widths = [settings.channels, *[settings.width] * (settings.depth - 1), settings.channels]
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1))
            if i < settings.depth - 1:
                layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)
        self.reach = settings.depth
        """Pixels on each side that an output pixel depends on (tile halo)."""
        self.passes = settings.passes
        """How often the network is applied, data consistency after each."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The residual of ``image`` (B, C, H, W)."""
        residual: torch.Tensor = self.layers(image)
        return residual


BACKBONES: dict[str, type[MzsrNetwork]] = {"mzsr": MzsrNetwork}


def build(settings: NetworkSettings, seed: int | None = None) -> MzsrNetwork:
    """A network in channels_last layout, in evaluation mode.

    With ``seed``, He-normal weights and a last layer at a tenth of that (starts near identity);
    without, the weights are left to be loaded. Raises WeightsError for an unknown backbone.
    """
    if settings.backbone not in BACKBONES:
        raise WeightsError(
            f"backbone {settings.backbone!r} is unknown; this mzsr has {', '.join(BACKBONES)}."
        )
    network = BACKBONES[settings.backbone](settings)
    if seed is not None:
        _initialise(network, seed)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def _initialise(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for convolution in convolutions:
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        convolutions[-1].weight.mul_(0.1)


def parameter_count(network: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in network.parameters())
