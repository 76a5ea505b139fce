"""LRFNet (Seif and Androutsos, CVPRW 2018): large receptive fields without more layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mzsr_cli.learning.backbones.base import Answer, Network, convolution_dtype, whole
from mzsr_cli.settings import Filters, Layout, LrfSettings, NetworkSettings


class LrfBlock(nn.Module):
    """x plus what two convolutions find in x, "same" zero padding.

    They are k x k each, or 1 x k and k x 1 (``separable``), with ``dilation`` along the axes that
    they extend over. With f and s for the two and r for the rectifier, the layouts are

    A: x + s(r(f(x))),  B: x + s(r(f(r(x)))),  C: x + f(r(x)) + s(r(x)),  D: x + r(f(x) + s(x)).

    The paper draws A and B for every filter, C and D for 1-D filters alone. Read so: the rectifier
    of C is before both responses, that of D after their sum, and the skip connection is after all.
    """

    def __init__(self, width: int, lrf: LrfSettings, dilation: int) -> None:
        super().__init__()
        k = lrf.kernel_size
        separable = lrf.filters is Filters.SEPARABLE
        shapes = ((1, k), (k, 1)) if separable else ((k, k), (k, k))
        self.layout = lrf.layout
        self.first, self.second = (
            nn.Conv2d(
                width, width, (rows, cols), dilation=dilation,
                padding=(rows // 2 * dilation, cols // 2 * dilation),
            )
            for rows, cols in shapes
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, H, W) to the same shape."""
        if self.layout is Layout.A:
            return self.second(functional.relu_(self.first(x))).add_(x)
        if self.layout is Layout.B:
            return self.second(functional.relu_(self.first(functional.relu(x)))).add_(x)
        if self.layout is Layout.C:
            rectified = functional.relu(x)
            return self.first(rectified) + self.second(rectified) + x
        return functional.relu_(self.first(x) + self.second(x)) + x

    def damp(self, factor: float) -> None:
        """Scale what the block adds, by the filters that its sum is made of."""
        self.second.weight.mul_(factor)
        if self.layout in (Layout.C, Layout.D):
            self.first.weight.mul_(factor)


def block_reach(lrf: LrfSettings, dilation: int) -> int:
    """Pixels on each side that an output pixel of a block depends on: two k x k convolutions reach
    (k - 1) / 2 dilated pixels each, 1-D ones reach so far once along each axis."""
    convolutions = 1 if lrf.filters is Filters.SEPARABLE else 2
    return convolutions * (lrf.kernel_size // 2) * dilation


class LrfNetwork(Network):
    """A 3x3 head, residual blocks (:class:`LrfBlock`), a 3x3 tail, on the HR grid: it sees the
    interpolated image and answers with the residual (section 3; the network's own global skip is
    the caller's addition).

    Blocks are split evenly and consecutively over the dilation rates: 1-2-3 makes four blocks of
    rate 1, four of 2, four of 3. With 64 features, twelve blocks and three channels: 889,795
    parameters with standard 3x3, 2,462,659 with 5x5; separable 299,971 (3), 496,579 (5), 693,187
    (7), 889,795 (9), 1,086,403 (11). It takes no guides and no facts. The head is float32, since a
    bfloat16 image would be rounded to 8 bits. ``depth`` does not count here.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        lrf = settings.lrfnet or LrfSettings()
        rates = lrf.block_dilations
        super().__init__(settings, reach=2 + sum(block_reach(lrf, r) for r in rates), stride=1)
        self.head = nn.Conv2d(settings.channels, settings.width, 3, padding=1)
        self.blocks = nn.Sequential(*(LrfBlock(settings.width, lrf, rate) for rate in rates))
        self.tail = nn.Conv2d(settings.width, settings.channels, 3, padding=1)

    @classmethod
    def parsed(cls, facts: dict[str, Any]) -> NetworkSettings:
        """See Network.parsed."""
        settings = super().parsed(facts)
        if settings.lrfnet is None:
            return settings
        lrf = dict(facts["lrfnet"])
        if not (whole(lrf["kernel_size"], 1) and whole(lrf["blocks"], 1)):
            raise ValueError("sizes of a network are whole numbers from 1 on")
        kinds = {"filters": Filters(lrf["filters"]), "layout": Layout(lrf["layout"])}
        return replace(
            settings, lrfnet=LrfSettings(**lrf | kinds | {"dilations": tuple(lrf["dilations"])})
        )

    @staticmethod
    def scalars_min(settings: NetworkSettings) -> int:
        """See Network.scalars_min."""
        lrf = settings.lrfnet or LrfSettings()
        blocks = 2 * lrf.blocks * lrf.kernel_size * settings.width**2
        return blocks + 2 * 9 * settings.channels * settings.width

    def initialise(self, generator: torch.Generator) -> None:
        """As every backbone; blocks begin near identity."""
        super().initialise(generator)
        with torch.no_grad():
            self.tail.weight.mul_(0.2)
            for block in self.blocks.children():
                assert isinstance(block, LrfBlock)
                block.damp(0.3)

    def forward(
        self,
        image: torch.Tensor,
        guides: torch.Tensor | None = None,
        facts: torch.Tensor | None = None,
    ) -> Answer:
        """The residual of ``image`` (B, C, H, W)."""
        with torch.autocast(image.device.type, enabled=False):
            first = self.head(image)
        features = self.blocks(first.to(convolution_dtype(image)))
        return Answer(self.tail(features))
