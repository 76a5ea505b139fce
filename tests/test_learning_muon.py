"""Muon against the singular value decomposition, and its part in training."""

from __future__ import annotations

import pytest
import torch

from mzsr_cli.learning import networks
from mzsr_cli.learning.muon import ADAM_LIKE, Muon, is_hidden, orthogonalised
from mzsr_cli.learning.training import _optimizers
from mzsr_cli.settings import Backbone, NetworkSettings, Optimizer, TrainSettings


@pytest.mark.parametrize("shape", [(13, 37), (37, 13), (31, 31)])
def test_singular_values_go_to_one_and_vectors_stay(
    shape: tuple[int, int], device: torch.device
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(device)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.mT @ orthogonalised(matrix) @ right.mT
    kept = values > 0.05 * values.norm()
    diagonal = found.diagonal()[kept]
    assert float(diagonal.min()) > 0.6 and float(diagonal.max()) < 1.3
    off = found - torch.diag(found.diagonal())
    assert float(off.abs().max()) < 1e-4


def test_a_zero_matrix_stays_zero() -> None:
    assert not orthogonalised(torch.zeros(5, 7)).any()


def test_updates_do_not_depend_on_the_size_of_gradients() -> None:
    moved = []
    for size in (1e-25, 1e-20, 1e-4, 1.0, 1e4):
        weight = torch.zeros(16, 12, 3, 3, requires_grad=True)
        rng = torch.Generator().manual_seed(3)
        weight.grad = size * torch.randn(weight.shape, generator=rng)
        Muon([weight], lr=0.5).step()
        moved.append(weight.detach().clone())
    for other in moved[1:]:
        assert torch.allclose(moved[0], other, atol=1e-5)
    rms = float(moved[0].square().mean().sqrt())
    assert rms == pytest.approx(0.5 * ADAM_LIKE, rel=0.2)


def test_a_quadratic_is_minimised() -> None:
    target = torch.randn(16, 12, 3, 3, generator=torch.Generator().manual_seed(1))
    weight = torch.zeros_like(target, requires_grad=True)
    muon = Muon([weight], lr=0.3)
    for count in range(300):
        muon.param_groups[0]["lr"] = 0.3 * (1 - count / 300)
        muon.zero_grad()
        (weight - target).square().sum().backward()
        muon.step()
    assert float((weight.detach() - target).square().mean()) < 1e-3


@pytest.mark.parametrize("backbone", list(Backbone))
@pytest.mark.parametrize("optimizer", list(Optimizer))
def test_every_leaf_has_one_optimizer(backbone: Backbone, optimizer: Optimizer) -> None:
    """And Muon gets the convolutions between features."""
    settings = TrainSettings(
        optimizer=optimizer, network=NetworkSettings(backbone=backbone.value, guides=0)
    )
    network = networks.build(settings.network, 0)
    rates = [torch.zeros(1, requires_grad=True)]
    made = _optimizers(network, rates, settings)
    held = [id(p) for o in made for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, [*network.parameters(), *rates]))
    hidden = [p for p in network.parameters() if is_hidden(p)]
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    inner = [m for m in convolutions if min(m.in_channels, m.out_channels) > 2]
    assert [id(p) for p in hidden] == [id(m.weight) for m in inner] and len(hidden) >= 6
    assert len(made) == (2 if optimizer is Optimizer.MUON else 1)
