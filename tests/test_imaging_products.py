"""What is evaluated in parts or in place equals what is evaluated whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mzsr_cli.imaging import degrade, kernels, normalize, products
from mzsr_cli.imaging.banded import Banded
from mzsr_cli.imaging.degrade import Consistency
from mzsr_cli.imaging.normalize import Range
from mzsr_cli.imaging.products import Products
from mzsr_cli.settings import ConsistencySettings, Method, Sampling

F64 = torch.float64
KERNELS = {"none": kernels.delta(), "turned": kernels.gaussian(4.0, 1.0, -0.5)}


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several bands in images of a few rows."""
    monkeypatch.setattr(products, "BAND", 300)
    monkeypatch.setattr(normalize, "ROWS", 7)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture(params=list(KERNELS))
def known(request: pytest.FixtureRequest) -> Consistency:
    operator = degrade.degradation(
        KERNELS[request.param], Sampling.DIRECT, (2.0, 3.0), (37, 62), dtype=F64
    )
    return Consistency(operator, ConsistencySettings())


def test_bands_cover_every_row_once() -> None:
    image = torch.zeros(2, 31, 37)
    seen = [row for band in products.bands(image) for row in range(31)[band]]
    assert seen == list(range(31))
    assert products.mean_square(random(2, 31, 37)) == pytest.approx(
        float(random(2, 31, 37).square().mean()), rel=1e-12
    )


def test_parts_equal_the_dense_sum(device: torch.device) -> None:
    terms = tuple((random(37, n, seed=n), random(2, n, 31, seed=9 + n)) for n in (3, 5))
    dense = sum((left @ right for left, right in terms), start=torch.zeros(2, 37, 31, dtype=F64))
    image = Products(tuple((Banded.of(left.to(device)), m.to(device)) for left, m in terms))
    assert image.shape == dense.shape
    torch.testing.assert_close(image.whole().cpu(), dense)
    part = image.at(slice(4, 19), slice(7, 30), slice(1, 2))
    torch.testing.assert_close(part.cpu(), dense[1:2, 4:19, 7:30])
    onto = random(2, 37, 31, seed=4)
    wanted = onto - 0.5 * dense
    torch.testing.assert_close(image.add_to(onto.to(device), -0.5).cpu(), wanted)


def test_projections_in_place(known: Consistency) -> None:
    v, y = random(2, 37, 62, seed=1), random(2, 19, 21, seed=2)
    torch.testing.assert_close(known.free_(v.clone()), known.free(v))
    torch.testing.assert_close(known.restore_(y, v.clone()), known.restore(y, v))


@pytest.mark.parametrize("method", [Method.BICUBIC, Method.SPLINE, Method.BANDLIMITED])
def test_interpolations_not_yet_evaluated(known: Consistency, method: Method) -> None:
    y, operator = random(2, 19, 21), known.operator
    image = operator.interpolate(y, method, known.damping)
    later = operator.interpolation(y, method, known.damping)
    torch.testing.assert_close(later.whole(), image)
    both = operator.map.after(*operator.interpolator(method, known.damping))
    torch.testing.assert_close(both.apply(y), operator.apply(image))
    torch.testing.assert_close(known.explained(y, method).whole(), known.restore(y, image))


def test_degraded_square(known: Consistency) -> None:
    x = random(2, 37, 62)
    found = known.operator.map.apply_to(x.shape, lambda rows: x[:, rows].square())
    torch.testing.assert_close(found, known.operator.apply(x.square()))


@pytest.mark.parametrize("dtype", ["float32", "uint8", "complex64"])
def test_own_units_band_by_band(rng: np.random.Generator, dtype: str) -> None:
    planes = rng.random((2 if dtype == "complex64" else 1, 37, 31)).astype(np.float32)
    mapping, kind = Range(-3.0, 250.0), np.dtype(dtype)
    whole = normalize.cast(normalize.slice_of(mapping.inverse(planes)), kind)
    np.testing.assert_array_equal(normalize.restored(planes, mapping, kind), whole)
    clipped = normalize.slice_of(np.clip(mapping.inverse(planes), 10, 20))
    np.testing.assert_array_equal(
        normalize.restored(planes, mapping, kind, (10, 20)), normalize.cast(clipped, kind)
    )
