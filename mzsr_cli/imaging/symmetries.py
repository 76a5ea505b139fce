"""The eight symmetries of the square, for augmentation and self-ensembles."""

from __future__ import annotations

from collections.abc import Sequence

import torch

SYMMETRIES = range(8)

TRANSPOSITIONS = (0, 7)
"""Identity and transposition: the symmetries that leave samples 0, s, 2s, ... where they are."""


HALF_TURNS = (0, 2)
"""Identity and half a turn."""


def ensemble(count: int, direct: bool, stride: int) -> Sequence[int]:
    """The symmetries that a self-ensemble of ``count`` (1, 2 or 8) takes the mean over. After
    ``direct`` sampling two keep the samples where they are, and a network of ``stride`` above 1,
    which knows where they are, sees these alone."""
    if count == 1:
        return SYMMETRIES[:1]
    if direct and (count == 2 or stride > 1):
        return TRANSPOSITIONS
    return HALF_TURNS if count == 2 else SYMMETRIES


def turned(image: torch.Tensor, which: int) -> torch.Tensor:
    """Symmetry ``which`` (0 to 7) of the last two axes: ``which`` % 4 quarter turns, mirrored
    from 4 on."""
    result = torch.rot90(image, which % 4, (-2, -1))
    return result.flip(-1) if which >= 4 else result


def turned_back(image: torch.Tensor, which: int) -> torch.Tensor:
    """Inverse of :func:`turned`."""
    result = image.flip(-1) if which >= 4 else image
    return torch.rot90(result, -(which % 4), (-2, -1))
