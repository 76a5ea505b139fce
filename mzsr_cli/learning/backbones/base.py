"""What every backbone has."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from mzsr_cli.settings import GUIDES, RECURSIONS_MAX, NetworkSettings


def whole(value: Any, least: int) -> bool:
    """Whether a plain value is a whole number from ``least`` on."""
    return type(value) is int and value >= least


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
    ``predicts_gradient`` says whether its answers hold a gradient map, ``recursive`` whether it
    can apply its blocks more than once, ``modulable`` whether facts can modulate them.
    """

    predicts_gradient = False
    recursive = False
    modulable = False

    def __init__(self, settings: NetworkSettings, reach: int, stride: int) -> None:
        super().__init__()
        self.reach = reach
        self.stride = stride
        self.guides = settings.guides
        self.passes = settings.passes

    @classmethod
    def parsed(cls, facts: dict[str, Any]) -> NetworkSettings:
        """The architecture from the plain values of a header. Raises KeyError, TypeError or
        ValueError where they describe none."""
        settings = NetworkSettings(**facts)
        counts = (settings.channels, settings.depth, settings.width, settings.passes)
        if not all(whole(count, 1) for count in (*counts, settings.recursions)):
            raise ValueError("sizes of a network are whole numbers from 1 on")
        if settings.recursions > (RECURSIONS_MAX if cls.recursive else 1):
            raise ValueError("more recursions than the backbone has")
        if type(settings.modulated) is not bool or settings.modulated > cls.modulable:
            raise ValueError("the backbone is not modulated by facts")
        if not whole(settings.guides, 0) or settings.guides not in (0, GUIDES):
            raise ValueError(f"guides are 0 or {GUIDES}")
        return settings

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
