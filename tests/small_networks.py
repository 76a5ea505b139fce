"""Networks and images for the tests of backbones."""

from __future__ import annotations

import torch

from mzsr_cli.learning import networks
from mzsr_cli.settings import NetworkSettings


def shaken(settings: NetworkSettings, seed: int = 3) -> networks.Network:
    """A network none of whose parameters is zero, and none of whose paths is faint."""
    network = networks.build(settings, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return network


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform samples in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
