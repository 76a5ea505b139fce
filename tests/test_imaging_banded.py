"""Products that leave zeros out equal the dense ones."""

from __future__ import annotations

import pytest
import torch

from mzsr_cli.imaging import degrade, kernels
from mzsr_cli.imaging.banded import RUN, SMALL, Banded
from mzsr_cli.settings import Method, Sampling

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def band(n: int, m: int, width: int) -> torch.Tensor:
    """Entries within ``width`` columns of the diagonal of an (n, m) matrix, others zero."""
    at = torch.arange(n, dtype=F64)[:, None] * m / n
    return random(n, m) * ((torch.arange(m) - at).abs() <= width)


@pytest.mark.parametrize(
    ("n", "m", "width"), [(131, 257, 5), (257, 131, 3), (197, 201, 0), (97, 101, 0)]
)
@pytest.mark.parametrize("rows", [slice(None), slice(31, 34), slice(7, 90), slice(5, 5)])
def test_products_equal_the_dense_ones(
    n: int, m: int, width: int, rows: slice, device: torch.device
) -> None:
    dense = band(n, m, width).to(device)
    found = Banded.of(dense)
    by_runs = device.type == "cpu" and n * m > SMALL
    assert len(found.runs) == (-(-n // RUN) if by_runs else 1)
    x = random(2, m, 37).to(device)
    torch.testing.assert_close(found.times(x, rows), dense[rows] @ x)
    torch.testing.assert_close(found.along(x.mT), x.mT @ dense.mT)
    y = random(2, n, 37).to(device)
    torch.testing.assert_close(found.mT.times(y), dense.mT @ y)
    torch.testing.assert_close(found.mT.along(y.mT), y.mT @ dense)


def test_runs_leave_most_of_a_decimation_out() -> None:
    operator = degrade.enlargement(kernels.delta(), Sampling.BICUBIC, (4.0, 4.0), (131, 97))
    for matrix in operator.map.terms[0]:
        held = sum(len(range(*r.rows.indices(999))) * (r.cols.stop - r.cols.start)
                   for r in matrix.runs)  # fmt: skip
        assert held < 0.45 * matrix.matrix.numel()


def test_dense_and_empty_matrices() -> None:
    dense = random(131, 97)
    assert len(Banded.of(dense).runs) == 1
    operator = degrade.enlargement(kernels.delta(), Sampling.BICUBIC, (2.0, 2.0), (131, 97))
    assert len(operator.interpolator(Method.BANDLIMITED, 1e-6)[0].runs) == 1
    nothing = Banded.of(torch.zeros(70, 50, dtype=F64))
    assert torch.equal(nothing.times(random(50, 3)), torch.zeros(70, 3, dtype=F64))
