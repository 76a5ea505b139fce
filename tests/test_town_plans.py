"""Plans of the made-up towns that weights are trained on (examples/simulate_towns.py)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask_cluster import ROOT

SEEDS = range(6)


@pytest.fixture(scope="module")
def towns() -> Any:
    """The script as a module; it needs its neighbour, but no ray tracer until it runs."""
    sys.path.insert(0, str(Path(ROOT) / "examples"))
    try:
        yield importlib.import_module("simulate_towns")
    finally:
        sys.path.pop(0)


def within(polygon: np.ndarray, points: np.ndarray) -> bool:
    """Whether the points are in a convex, counter-clockwise polygon."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    to = points[:, None] - polygon
    return bool(np.all(edges[:, 0] * to[..., 1] - edges[:, 1] * to[..., 0] >= -1e-6))


def block(towns: Any, seed: int) -> np.ndarray:
    """A random convex polygon with 4 to 7 corners."""
    angles = np.sort(np.random.default_rng(seed).uniform(0, 2 * np.pi, 4 + seed % 4))
    circle = 40 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(towns.cut(circle, np.array([9.0, -3.0]), np.array([-0.8, 0.6])))


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_fill_a_block(towns: Any, seed: int) -> None:
    whole = block(towns, seed)
    found = towns.parts(whole, 11.0, 0.4, np.random.default_rng(seed))
    assert len(found) > 2
    assert sum(map(towns.area_of, found)) == pytest.approx(towns.area_of(whole))
    assert all(within(whole, part) for part in found)


@pytest.mark.parametrize("seed", SEEDS)
def test_insets_keep_their_distance(towns: Any, seed: int) -> None:
    whole = block(towns, seed)
    yard = towns.inset(whole, 3.5)
    assert len(yard) >= 3
    normals = np.roll(whole, -1, axis=0) - whole
    normals = np.stack([-normals[:, 1], normals[:, 0]], axis=1)
    normals /= np.hypot(*normals.T)[:, None]
    distance = np.einsum("pec,ec->pe", yard[:, None] - whole, normals)
    assert distance.min() == pytest.approx(3.5)
    assert len(towns.inset(whole, 60.0)) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_rings_leave_the_yard_free(towns: Any, seed: int) -> None:
    whole = block(towns, seed)
    yard = towns.inset(whole, 5.0)
    houses = towns.ring(whole, 5.0)
    assert all(within(whole, house) for house in houses)
    centre = yard.mean(axis=0)
    assert not any(within(house, centre[None]) for house in houses)


@pytest.mark.parametrize("seed", SEEDS)
def test_meshes_are_closed(towns: Any, seed: int) -> None:
    """Walls and roofs share their edges; only those on the ground have one neighbour."""
    rng = np.random.default_rng(seed)
    houses = towns.build(400.0, towns.draw_style(rng), rng)
    vertices, faces = towns.mesh(houses)
    edges, counts = np.unique(
        np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0, return_counts=True
    )
    open_edges = edges[counts == 1]
    assert set(counts.tolist()) <= {1, 2}
    assert np.all(vertices[open_edges.ravel(), 2] == 0)
    assert len(open_edges) == sum(len(house.outline) for house in houses)
