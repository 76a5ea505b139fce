"""What a network is shown of an image, evaluated where it is wanted: large images are looked at
tile by tile, and what a tile needs is made then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from mzsr_cli.imaging.products import Products
from mzsr_cli.imaging.start import Carried


class Seen(Protocol):
    """An image (P, H, W) and guides (P, K, H, W)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(P, H, W)."""
        ...

    def image(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor:
        """A rectangle of the image, (P, r, c)."""
        ...

    def guides(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor | None:
        """The same of the guides, (P, K, r, c); None where there are none."""
        ...


@dataclass(frozen=True)
class Whole:
    """An image (P, H, W) and guides (P, K, H, W) that are there."""

    planes: torch.Tensor
    shown: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """See Seen.shape."""
        count, height, width = self.planes.shape
        return count, height, width

    def image(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor:
        """See Seen.image."""
        return self.planes[planes, rows, cols]

    def guides(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor | None:
        """See Seen.guides."""
        return self.shown[planes, :, rows, cols] if self.shown is not None else None


@dataclass(frozen=True)
class OnStage:
    """A stage's linear answer (P, H, W) plus what was carried over from the stage before; guides
    are the interpolations ``shown`` less the linear answer."""

    linear: torch.Tensor
    carried: Carried | None
    shown: tuple[Products, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """See Seen.shape."""
        count, height, width = self.linear.shape
        return count, height, width

    def image(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor:
        """See Seen.image."""
        linear = self.linear[planes, rows, cols]
        return linear if self.carried is None else linear + self.carried.at(rows, cols, planes)

    def guides(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor | None:
        """See Seen.guides."""
        if not self.shown:
            return None
        linear = self.linear[planes, rows, cols]
        return torch.stack([other.at(rows, cols, planes) - linear for other in self.shown], 1)


@dataclass(frozen=True)
class Changed:
    """What is ``seen``, with ``change`` (P, H, W) added to its image."""

    seen: Seen
    change: torch.Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """See Seen.shape."""
        return self.seen.shape

    def image(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor:
        """See Seen.image."""
        return self.seen.image(planes, rows, cols) + self.change[planes, rows, cols]

    def guides(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor | None:
        """See Seen.guides."""
        return self.seen.guides(planes, rows, cols)


@dataclass(frozen=True)
class Answered:
    """What is ``seen``, with an ``answer`` (P, H, W) in the place of its image."""

    seen: Seen
    answer: torch.Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """See Seen.shape."""
        return self.seen.shape

    def image(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor:
        """See Seen.image."""
        return self.answer[planes, rows, cols]

    def guides(self, planes: slice, rows: slice, cols: slice) -> torch.Tensor | None:
        """See Seen.guides."""
        return self.seen.guides(planes, rows, cols)
