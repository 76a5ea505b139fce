"""A residual network at half the resolution."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from mzsr_cli.imaging.hints import FACTS
from mzsr_cli.learning.backbones.base import Answer, Network, convolution_dtype
from mzsr_cli.settings import NetworkSettings


class ResidualBlock(nn.Module):
    """ReLU(x + conv(ReLU(conv(x)))), 3x3 (He et al., CVPR 2016).

    If ``modulated``, facts scale and shift what the first convolution says, feature by feature
    (FiLM, Perez et al., AAAI 2018): they change its filters, which costs nothing a pixel.
    """

    def __init__(self, width: int, modulated: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.told = nn.Linear(FACTS, 2 * width, bias=False) if modulated else None

    def forward(self, x: torch.Tensor, facts: torch.Tensor | None = None) -> torch.Tensor:
        """(B, width, h, w) to the same shape, told ``facts`` (FACTS,) or zeros."""
        hidden = self.first(x) if self.told is None or facts is None else self._told(x, facts)
        change = self.second(functional.relu_(hidden))
        return functional.relu_(change.add_(x))

    def _told(self, x: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        assert self.told is not None and self.first.bias is not None
        with torch.autocast(facts.device.type, enabled=False):
            gain, shift = self.told(facts).chunk(2)
        weight = self.first.weight * (1 + gain)[:, None, None, None]
        return functional.conv2d(x, weight, self.first.bias * (1 + gain) + shift, padding=1)


def even(image: torch.Tensor) -> torch.Tensor:
    """``image`` (..., H, W) with its last row and column repeated where their number is odd."""
    rows, cols = image.shape[-2:]
    if rows % 2 or cols % 2:
        return functional.pad(image, (0, cols % 2, 0, rows % 2), mode="replicate")
    return image


class StridedNetwork(Network):
    """The same eight layers on a grid that is twice as coarse: a 4x4 head of stride 2, six 3x3
    convolutions in three residual blocks, a transposed 4x4 tail of stride 2.

    A quarter of the work of the mzsr backbone and twice its field of view (working at low
    resolution: Shi et al., CVPR 2016; Zhang et al., "FFDNet", 2018). The blocks are applied
    ``recursions`` times with shared parameters (DRRN, Tai et al., CVPR 2017). ``facts`` shift the
    head's features and scale the output; if the settings say so, they modulate the blocks, too.
    224,201 parameters with one channel and no guides, 227,273 modulated. Head
    and image are float32: a bfloat16 image would be rounded to 8 bits. Features are in the
    precision of the convolutions (a residual 0.5 % off, at 92 % of the processor's peak instead of
    79 %).
    """

    recursive = True
    modulable = True

    def __init__(self, settings: NetworkSettings) -> None:
        blocks = max(1, (settings.depth - 2) // 2)
        super().__init__(settings, reach=4 * (blocks * settings.recursions + 1), stride=2)
        self.recursions = settings.recursions
        seen = settings.channels + settings.guides
        self.head = nn.Conv2d(seen, settings.width, 4, stride=2, padding=1)
        self.shift = nn.Linear(FACTS, settings.width, bias=False)
        self.gain = nn.Linear(FACTS, 1, bias=False)
        self.blocks = nn.ModuleList(
            ResidualBlock(settings.width, settings.modulated) for _ in range(blocks)
        )
        self.tail = nn.ConvTranspose2d(settings.width, settings.channels, 4, stride=2, padding=1)

    def initialise(self, generator: torch.Generator) -> None:
        """As every backbone; blocks begin near identity and facts without effect."""
        super().initialise(generator)
        with torch.no_grad():
            self.shift.weight.zero_()
            self.gain.weight.zero_()
            self.tail.weight.mul_(0.2)
            for name, weight in self.named_parameters():
                if name.endswith("second.weight"):
                    weight.mul_(0.3)
                if name.endswith("told.weight"):
                    weight.zero_()

    def entered(
        self, image: torch.Tensor, guides: torch.Tensor | None, facts: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The head's features (B, width, h, w) of ``image`` (B, C, H, W), the facts as told
        (FACTS,), and the output's gain."""
        if self.guides and guides is None:
            guides = image.new_zeros(image.shape[0], self.guides, *image.shape[-2:])
        seen = torch.cat([image, guides], 1) if self.guides and guides is not None else image
        told = image.new_zeros(FACTS) if facts is None else facts.to(image)
        with torch.autocast(image.device.type, enabled=False):
            first = self.head(even(seen)) + self.shift(told)[:, None, None]
            gain = self.gain(told).exp()
        return functional.relu_(first).to(convolution_dtype(first)), told, gain

    def forward(
        self,
        image: torch.Tensor,
        guides: torch.Tensor | None = None,
        facts: torch.Tensor | None = None,
    ) -> Answer:
        """The residual of ``image`` (B, C, H, W), told ``guides`` (B, K, H, W) and ``facts``."""
        rows, cols = image.shape[-2:]
        features, told, gain = self.entered(image, guides, facts)
        for _ in range(self.recursions):
            for block in self.blocks:
                features = block(features, told)
        residual: torch.Tensor = self.tail(features)[..., :rows, :cols]
        return Answer(residual * gain)
