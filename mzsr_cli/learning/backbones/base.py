"""What every backbone has."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mzsr_cli.settings import NetworkSettings


class Answer(NamedTuple):
    """What a network says of an image (B, C, H, W), both of its shape: the ``residual`` that is
    added to it, and the ``gradient`` map (imaging.gradient) that it predicts of the truth, if it
    does."""

    residual: torch.Tensor
    gradient: torch.Tensor | None = None


class Network(nn.Module):
    """A map from an image (B, channels, H, W), guides and facts to an :class:`Answer`.

    ``reach`` is how many pixels on each side an output pixel depends on (tile halo), ``stride``
    what the corners of tiles are multiples of, ``guides`` how many guides it is shown, ``passes``
    how often it is applied, data consistency after each.
    ``predicts_gradient`` says whether its answers hold a gradient map.
    """

    predicts_gradient = False

    def __init__(self, settings: NetworkSettings, reach: int, stride: int) -> None:
        super().__init__()
        self.reach = reach
        self.stride = stride
        self.guides = settings.guides
        self.passes = settings.passes

    @staticmethod
    def scalars_min(settings: NetworkSettings) -> int:
        """A lower bound of the scalars that an architecture stores, found without building it."""
        hidden = max(0, settings.depth - 2) * settings.width**2
        return hidden + settings.channels * settings.width

    def initialise(self, generator: torch.Generator) -> None:
        """He-normal weights; a last layer at a tenth of that, so that it starts near identity."""
        layers = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            layers[-1].weight.mul_(0.1)


def convolution_dtype(image: torch.Tensor) -> torch.dtype:
    """What convolutions of ``image`` compute in."""
    kind = image.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
