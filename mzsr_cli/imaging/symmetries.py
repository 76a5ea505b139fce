"""The eight symmetries of the square, for augmentation and self-ensembles."""

from __future__ import annotations

import torch

SYMMETRIES = range(8)

TRANSPOSITIONS = (0, 7)
"""Identity and transposition: the symmetries that leave samples 0, s, 2s, ... where they are."""


def turned(image: torch.Tensor, which: int) -> torch.Tensor:
    """Symmetry ``which`` (0 to 7) of the last two axes: ``which`` % 4 quarter turns, mirrored
    from 4 on."""
    result = torch.rot90(image, which % 4, (-2, -1))
    return result.flip(-1) if which >= 4 else result


def turned_back(image: torch.Tensor, which: int) -> torch.Tensor:
    """Inverse of :func:`turned`."""
    result = image.flip(-1) if which >= 4 else image
    return torch.rot90(result, -(which % 4), (-2, -1))
