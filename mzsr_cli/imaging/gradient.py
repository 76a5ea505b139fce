"""Gradient maps (structure-preserving super-resolution, Ma et al., CVPR 2020)."""

from __future__ import annotations

import torch

EPSILON = 1e-6
"""Added under the root, as the authors do: it keeps derivatives finite where an image is flat."""


def gradient_map(image: torch.Tensor) -> torch.Tensor:
    """M(I) = sqrt(Ix^2 + Iy^2 + EPSILON) of ``image`` (..., H, W), in its units per two pixels.

    Ix and Iy are the published differences I(x + 1) - I(x - 1), not halved. Beyond a border the
    image goes on with its outermost sample, so that a border is no edge.
    """
    rows = torch.cat([image[..., :1, :], image, image[..., -1:, :]], -2)
    cols = torch.cat([image[..., :1], image, image[..., -1:]], -1)
    down = rows[..., 2:, :] - rows[..., :-2, :]
    right = cols[..., 2:] - cols[..., :-2]
    return (down.square() + right.square() + EPSILON).sqrt()


def gradient_distance(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the gradient maps of two images (..., H, W)."""
    return (gradient_map(image) - gradient_map(truth)).abs().mean()
