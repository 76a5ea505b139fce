"""The published network of MZSR (Soh et al., CVPR 2020)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from mzsr_cli.learning.backbones.base import Answer, Network
from mzsr_cli.settings import NetworkSettings


class MzsrNetwork(Network):
    """Eight 3x3 convolutions with 64 features and ReLU, zero padding (Soh et al., 2020, 3.2).

    The caller adds the output to the input (global residual). 222,785 parameters with one
    channel, 225,091 with three. It takes no guides and no facts.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings, reach=settings.depth, stride=1)
        widths = [settings.channels, *[settings.width] * (settings.depth - 1), settings.channels]
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1))
            if i < settings.depth - 1:
                layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(
        self,
        image: torch.Tensor,
        guides: torch.Tensor | None = None,
        facts: torch.Tensor | None = None,
    ) -> Answer:
        """The residual of ``image`` (B, C, H, W)."""
        return Answer(self.layers(image))
