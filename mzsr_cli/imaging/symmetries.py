"""The eight symmetries of the square, for augmentation and self-ensembles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

SYMMETRIES = range(8)

TRANSPOSITIONS = (0, 7)
"""Identity and transposition: the symmetries that leave samples 0, s, 2s, ... where they are."""


HALF_TURNS = (0, 2)
"""Identity and half a turn."""


REVERSED = ((2, 3, 5, 6), (1, 2, 4, 5))
"""The symmetries that reverse rows, and columns."""


@dataclass(frozen=True)
class Views:
    """Symmetries that an answer is the mean over. Pieces whose axes they reverse begin with their
    last pixel: at one of the given samples, ``lattice`` pixels apart from the first on, or (0)
    whole strides of the network's before the image's end."""

    which: Sequence[int] = (0,)
    lattice: int = 0

    def further(self, view: int, axis: int, stop: int, length: int, stride: int) -> int:
        """Where a piece that is to go to ``stop`` along an axis of ``length`` has to go for a
        ``view``: there or a few pixels further, with a lattice also beyond the image."""
        if self.lattice == 0:
            return stop + (length - stop) % stride
        return stop + (1 - stop) % self.lattice if view in REVERSED[axis] else stop


ALONE = Views()
"""The image as it is."""


def ensemble(
    count: int, direct: bool, stride: int, scale: tuple[float, float] = (2.0, 2.0)
) -> Views:
    """The views of a self-ensemble of ``count`` (1, 2 or 8) at a ``scale`` (rows, columns). After
    ``direct`` sampling two leave the samples where they are; a network of ``stride`` above 1, which
    knows where they are, has more where whole strides lie between them."""
    if count == 1:
        return ALONE
    if not direct or (stride == 1 and count > 2):
        return Views(HALF_TURNS if count == 2 else SYMMETRIES)
    lattice = round(scale[0])
    whole = all(math.isclose(factor, lattice, rel_tol=1e-9) for factor in scale)
    aligned = whole and lattice % stride == 0
    return Views(SYMMETRIES, lattice) if count > 2 and aligned else Views(TRANSPOSITIONS)


def turned(image: torch.Tensor, which: int) -> torch.Tensor:
    """Symmetry ``which`` (0 to 7) of the last two axes: ``which`` % 4 quarter turns, mirrored
    from 4 on."""
    result = torch.rot90(image, which % 4, (-2, -1))
    return result.flip(-1) if which >= 4 else result


def turned_back(image: torch.Tensor, which: int) -> torch.Tensor:
    """Inverse of :func:`turned`."""
    result = image.flip(-1) if which >= 4 else image
    return torch.rot90(result, -(which % 4), (-2, -1))
