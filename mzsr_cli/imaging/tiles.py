"""Cutting a plane into tiles with halo, so that tiled equals whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tile:
    """Plain integers of one tile along both axes: the ``core`` it answers for and the ``outer``
    rectangle it reads (core plus halo, cut at the borders), as (top, bottom, left, right)."""

    core: tuple[int, int, int, int]
    outer: tuple[int, int, int, int]


def tiles(height: int, width: int, side: int, halo: int) -> Iterator[Tile]:
    """Tiles whose cores cover height x width exactly once."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            bottom, right = min(top + side, height), min(left + side, width)
            outer = (
                max(0, top - halo), min(height, bottom + halo),
                max(0, left - halo), min(width, right + halo),
            )  # fmt: skip
            yield Tile((top, bottom, left, right), outer)


def tiled(
    function: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, side: int, halo: int
) -> torch.Tensor:
    """``function(image)`` computed tile by tile; image (..., H, W) to (..., H, W), the leading axes
    may differ. ``function`` has a reach of at most ``halo`` and commutes with shifts by ``side``
    and by ``halo`` pixels."""
    height, width = image.shape[-2:]
    return tiled_at(lambda rows, cols: function(image[..., rows, cols]), height, width, side, halo)


def tiled_at(
    function: Callable[[slice, slice], torch.Tensor],
    height: int,
    width: int,
    side: int,
    halo: int,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same for a ``function`` of the rows and columns that it is to look at: (..., H, W),
    written to ``out`` where that is given."""
    if height <= side + halo and width <= side + halo:
        whole = function(slice(0, height), slice(0, width))
        return whole if out is None else out.copy_(whole)
    for tile in tiles(height, width, side, halo):
        (top, bottom, left, right), (o_top, o_bottom, o_left, o_right) = tile.core, tile.outer
        piece = function(slice(o_top, o_bottom), slice(o_left, o_right))
        if out is None:
            out = piece.new_empty((*piece.shape[:-2], height, width))
        out[..., top:bottom, left:right] = piece[
            ..., top - o_top : bottom - o_top, left - o_left : right - o_left
        ]
    assert out is not None
    return out
