"""A strided network beside a branch for gradient maps (SPSR, Ma et al., CVPR 2020)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from mzsr_cli.imaging.gradient import gradient_map
from mzsr_cli.learning.backbones.base import Answer, convolution_dtype
from mzsr_cli.learning.backbones.strided import ResidualBlock, StridedNetwork, even
from mzsr_cli.settings import NetworkSettings


class Join(nn.Module):
    """ReLU(x + conv(x, other)), 1x1: features x that take in others of the same grid."""

    def __init__(self, width: int, other: int) -> None:
        super().__init__()
        self.second = nn.Conv2d(width + other, width, 1)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """(B, width, h, w) and (B, other, h, w) to the shape of the first."""
        return functional.relu_(self.second(torch.cat([x, other], 1)).add_(x))


class SpsrNetwork(StridedNetwork):
    """Structure-preserving super-resolution from the parts of the strided backbone, at stride 2.

    A branch of half the width sees the gradient map of the image. At every depth it takes in the
    features of the image's branch (:class:`Join`) before a block of its own; from what it ends
    with the gradient map of the truth is predicted, as a correction to that of the image. The
    image's branch takes in the same features after its blocks, before one more block and its tail.

    The published network has 23 dense blocks at LR, four of which feed the branch, and no guides
    and facts; here both are told to the image's branch. 370,122 parameters with one channel and no
    guides. Its blocks are applied once.
    """

    predicts_gradient = True
    recursive = False
    modulable = False

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        width, narrow, count = settings.width, settings.width // 2, len(self.blocks)
        # the longest way: the blocks, the branch's last one, the block after them, head and tail
        self.reach = 4 * (count + 3)
        self.gradient_head = nn.Conv2d(settings.channels, narrow, 4, stride=2, padding=1)
        self.gradient_joins = nn.ModuleList(Join(narrow, width) for _ in range(count))
        self.gradient_blocks = nn.ModuleList(ResidualBlock(narrow) for _ in range(count))
        self.join = Join(width, narrow)
        self.last = ResidualBlock(width)
        self.gradient_tail = nn.ConvTranspose2d(narrow, settings.channels, 4, stride=2, padding=1)

    def initialise(self, generator: torch.Generator) -> None:
        """As the strided backbone; both tails begin small, joins near identity."""
        super().initialise(generator)
        with torch.no_grad():
            self.tail.weight.mul_(0.1)
            self.gradient_tail.weight.mul_(0.2)

    def forward(
        self,
        image: torch.Tensor,
        guides: torch.Tensor | None = None,
        facts: torch.Tensor | None = None,
    ) -> Answer:
        """Residual and gradient map of ``image`` (B, C, H, W), told ``guides`` (B, K, H, W) and
        ``facts``."""
        rows, cols = image.shape[-2:]
        features, _, gain = self.entered(image, guides, facts)
        edges = gradient_map(image)
        with torch.autocast(image.device.type, enabled=False):
            first = functional.relu_(self.gradient_head(even(edges)))
        traced = first.to(convolution_dtype(image))
        for block, join, own in zip(
            self.blocks, self.gradient_joins, self.gradient_blocks, strict=True
        ):
            features = block(features)
            traced = own(join(traced, features))
        features = self.last(self.join(features, traced))
        residual = self.tail(features)[..., :rows, :cols]
        correction = self.gradient_tail(traced)[..., :rows, :cols]
        return Answer(residual * gain, edges + correction)
