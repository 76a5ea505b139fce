"""Cubes of ray-traced path gain over made-up towns, one MATLAB file a town, 256 x 256 x 3.

python examples/simulate_towns.py OUT --seed 1 --count 40

Real cities are few (simulate_radio_maps.py, whose solver and needs these share). Towns differ in
plan (streets, blocks, yards, houses, towers), materials, carrier, mast, cells and floor.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from simulate_radio_maps import CELLS, Area, above_floor, add_mast, path_gain, ray_tracer

SLICES = 3
SIDE = 900.0  # of a town, m
MATERIALS = ("concrete", "brick", "marble", "glass", "wood", "metal")
Polygon = np.ndarray  # corners x, y in metres, counter-clockwise, convex: (n, 2)


@dataclass(frozen=True)
class House:
    """A prism with a roof: its outline, the height of its walls, and of the peak above them."""

    outline: Polygon
    walls: float
    peak: float
    material: str


@dataclass(frozen=True)
class Style:
    """What the houses of a town have in common; lengths in metres."""

    block: float
    street: float
    turn: float
    depth: float
    height: float
    spread: float
    peak: float
    share: dict[str, float]


def draw_style(rng: np.random.Generator) -> Style:
    """A town's style: from villages to downtowns."""
    kinds = ("ring", "houses", "whole", "tower", "park")
    weights = rng.dirichlet(np.full(len(kinds), 0.8))
    return Style(
        block=float(np.exp(rng.uniform(np.log(35), np.log(140)))),
        street=float(rng.uniform(6, 24)),
        turn=float(rng.choice([0.0, rng.uniform(0, 0.35)])),
        depth=float(rng.uniform(8, 18)),
        height=float(np.exp(rng.uniform(np.log(5), np.log(40)))),
        spread=float(rng.uniform(0, 0.5)),
        peak=float(rng.choice([0.0, rng.uniform(1, 6)])),
        share=dict(zip(kinds, weights.tolist(), strict=True)),
    )


def area_of(polygon: Polygon) -> float:
    """Area in square metres."""
    x, y = polygon.T
    return float(0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def cut(polygon: Polygon, point: np.ndarray, normal: np.ndarray) -> Polygon:
    """The part of a convex polygon where ``(p - point) . normal >= 0``; may be empty."""
    side = (polygon - point) @ normal
    corners: list[np.ndarray] = []
    for k in range(len(polygon)):
        after = (k + 1) % len(polygon)
        if side[k] >= 0:
            corners.append(polygon[k])
        if (side[k] >= 0) != (side[after] >= 0):
            share = side[k] / (side[k] - side[after])
            corners.append(polygon[k] + share * (polygon[after] - polygon[k]))
    return np.array(corners).reshape(-1, 2)


def inset(polygon: Polygon, distance: float) -> Polygon:
    """What is farther than ``distance`` from every edge."""
    result = polygon
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        along = (end - start) / max(float(np.hypot(*(end - start))), 1e-9)
        normal = np.array([-along[1], along[0]])
        if len(result) >= 3:
            result = cut(result, start + distance * normal, normal)
    return result if len(result) >= 3 and area_of(result) > 1 else np.zeros((0, 2))


def split(polygon: Polygon, turn: float, rng: np.random.Generator) -> tuple[Polygon, Polygon]:
    """Two parts, cut across the longest extent near the middle, turned by ``turn`` at most."""
    centred = polygon - polygon.mean(axis=0)
    edges = np.roll(polygon, -1, axis=0) - polygon
    longest = edges[int(np.argmax(np.hypot(*edges.T)))]
    angle = float(np.arctan2(longest[1], longest[0])) + rng.uniform(-turn, turn)
    frames = (np.array([np.cos(a), np.sin(a)]) for a in (angle, angle + np.pi / 2))
    along = max(frames, key=lambda axis: float(np.ptp(centred @ axis)))
    point = polygon.mean(axis=0) + along * rng.uniform(-0.15, 0.15) * float(np.ptp(centred @ along))
    return cut(polygon, point, along), cut(polygon, point, -along)


def parts(polygon: Polygon, side: float, turn: float, rng: np.random.Generator) -> list[Polygon]:
    """A polygon split until parts are about ``side`` wide."""
    if len(polygon) < 3:
        return []
    if area_of(polygon) < side * side * rng.uniform(0.7, 2.0):
        return [polygon]
    return [part for half in split(polygon, turn, rng) for part in parts(half, side, turn, rng)]


def ring(block: Polygon, depth: float) -> list[Polygon]:
    """Houses along a block's edges around a yard; the block where it is too small for one."""
    yard = inset(block, depth)
    if len(yard) < 3:
        return [block]
    houses = []
    for start, end in zip(block, np.roll(block, -1, axis=0), strict=True):
        along = (end - start) / max(float(np.hypot(*(end - start))), 1e-9)
        normal = np.array([-along[1], along[0]])
        strip = cut(block, start + depth * normal, -normal)
        houses.append(strip)
    return [house for house in houses if len(house) >= 3]


def tower(block: Polygon, rng: np.random.Generator) -> list[Polygon]:
    """One round or square tower in the middle of a block."""
    radius = 0.5 * np.sqrt(area_of(block)) * rng.uniform(0.3, 0.6)
    corners = int(rng.choice([4, 6, 8, 16]))
    angle = rng.uniform(0, 2 * np.pi) + np.arange(corners) / corners * 2 * np.pi
    circle = block.mean(axis=0) + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [circle]


def outlines(block: Polygon, style: Style, rng: np.random.Generator) -> list[Polygon]:
    """What stands on a block."""
    kind = str(rng.choice(list(style.share), p=list(style.share.values())))
    if kind == "park":
        return []
    if kind == "ring":
        return ring(block, style.depth)
    if kind == "tower":
        return tower(block, rng)
    if kind == "houses":
        gap = rng.uniform(0.5, 4)
        plots = parts(block, style.depth * 1.4, style.turn, rng)
        return [house for house in (inset(plot, gap) for plot in plots) if len(house) >= 3]
    return [block]


def build(side: float, style: Style, rng: np.random.Generator) -> list[House]:
    """A town's houses on a square of ``side`` metres around the origin."""
    half = side / 2
    square = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    angle = rng.uniform(0, np.pi / 2)
    turned = square @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    houses = []
    for part in parts(turned * 1.2, style.block, style.turn, rng):
        block = inset(part, style.street * rng.uniform(0.35, 0.65))
        if len(block) < 3:
            continue
        common = style.height * np.exp(style.spread * rng.standard_normal())
        material = str(rng.choice(MATERIALS))
        for outline in outlines(block, style, rng):
            own = np.exp(0.3 * style.spread * rng.standard_normal())
            walls = float(np.clip(common * own, 2.5, 120))
            houses.append(House(outline, walls, style.peak, material))
    return houses


def mesh(houses: list[House]) -> tuple[np.ndarray, np.ndarray]:
    """Vertices ``(n, 3)`` and triangles ``(m, 3)`` of walls and roofs."""
    vertices: list[np.ndarray] = []
    faces: list[tuple[int, int, int]] = []
    first = 0
    for house in houses:
        n = len(house.outline)
        low = np.column_stack([house.outline, np.zeros(n)])
        high = np.column_stack([house.outline, np.full(n, house.walls)])
        top = np.append(house.outline.mean(axis=0), house.walls + house.peak)
        vertices += [low, high, top[None]]
        for k in range(n):
            a, b = first + k, first + (k + 1) % n
            faces += [(a, b, b + n), (a, b + n, a + n), (a + n, b + n, first + 2 * n)]
        first += 2 * n + 1
    return np.concatenate(vertices), np.array(faces)


def write_ply(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    """An ASCII PLY file."""
    header = (
        f"ply\nformat ascii 1.0\nelement vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = [" ".join(f"{value:.3f}" for value in vertex) for vertex in vertices]
    rows += [f"3 {a} {b} {c}" for a, b, c in faces]
    path.write_text(header + "\n".join(rows) + "\n")


def load_town(rt: Any, houses: list[House], side: float, folder: Path) -> Any:
    """A scene of the houses on flat ground."""
    ground = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * side
    meshes = {"ground": ("concrete", ground, np.array([[0, 1, 2], [0, 2, 3]]))}
    for material in MATERIALS:
        some = [house for house in houses if house.material == material]
        if some:
            meshes[f"houses-{material}"] = (material, *mesh(some))
    shapes = []
    for name, (material, vertices, faces) in meshes.items():
        write_ply(folder / f"{name}.ply", vertices, faces)
        shapes.append(
            f'<shape type="ply" id="mesh-{name}"><string name="filename" value="{name}.ply"/>'
            f'<boolean name="face_normals" value="true"/><ref id="{material}" name="bsdf"/></shape>'
        )
    materials = [
        f'<bsdf type="itu-radio-material" id="{material}"><string name="type" value="{material}"/>'
        f'<float name="thickness" value="0.2"/></bsdf>'
        for material in MATERIALS
    ]
    scene = folder / "town.xml"
    scene.write_text('<scene version="2.1.0">' + "".join(materials + shapes) + "</scene>")
    return rt.load_scene(str(scene))


def draw_area(houses: list[House], rng: np.random.Generator) -> Area:
    """The map's square in the middle of the town, and a mast above the roofs or (one in four) 3 m
    above what is there."""
    cell = float(np.exp(rng.uniform(np.log(0.7), np.log(3))))
    roofs = float(np.percentile([house.walls for house in houses], 80)) if houses else 10.0
    place = rng.uniform(-0.35, 0.35, 2) * cell * CELLS
    above = max((h.walls + h.peak for h in houses if stands_at(h, place)), default=0.0)
    height = above + 3 if rng.random() < 0.25 else max(above + 3, roofs + rng.uniform(5, 40))
    mast = (float(place[0]), float(place[1]), float(height))
    return Area((0.0, 0.0), rng.uniform(0, np.pi / 2), cell, 0.0, roofs, mast)


def stands_at(house: House, place: np.ndarray) -> bool:
    """Whether ``place`` is within the house's outline."""
    edges = np.roll(house.outline, -1, axis=0) - house.outline
    to = place - house.outline
    return bool(np.all(edges[:, 0] * to[:, 1] - edges[:, 1] * to[:, 0] >= 0))


def simulate(rng: np.random.Generator, options: argparse.Namespace) -> np.ndarray:
    """One town's cube, height last."""
    mitsuba, rt = ray_tracer(options.threads)
    style = draw_style(rng)
    houses = build(SIDE, style, rng)
    area = draw_area(houses, rng)
    with tempfile.TemporaryDirectory() as folder:
        scene = load_town(rt, houses, SIDE, Path(folder))
    add_mast(mitsuba, rt, scene, area)
    scene.frequency = float(np.exp(rng.uniform(np.log(1.5e9), np.log(28e9))))
    run = argparse.Namespace(
        samples=int(options.samples * np.exp(rng.uniform(-0.7, 0.7))),
        depth=int(rng.integers(2, 7)),
        diffraction=bool(rng.random() < options.diffracted),
        seed=int(rng.integers(1 << 30)),
    )
    heights = np.sort(np.append(1.5, rng.uniform(1.5, max(area.roofs, 4), SLICES - 1)))
    gains = [path_gain(mitsuba, rt, scene, area, height, run) for height in heights.tolist()]
    return above_floor(np.stack(gains, axis=-1), draw_floor(np.stack(gains), rng))


def draw_floor(gains: np.ndarray, rng: np.random.Generator) -> float:
    """Path gain in dB that is taken as 0: below what is lit, or within its lowest quarter."""
    lit = 10 * np.log10(gains[gains > 0])
    return float(np.percentile(lit, rng.uniform(0, 25)) - rng.uniform(0, 10))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the .mat files")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=40, help="towns")
    parser.add_argument("--first", type=int, default=0, help="number of the first town")
    parser.add_argument("--samples", type=int, default=6_000_000, help="rays a slice, about")
    parser.add_argument("--diffracted", type=float, default=0.1, help="share with diffraction")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Write one file a town."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    for k in range(options.first, options.first + options.count):
        start = time.time()
        cube = simulate(np.random.default_rng([options.seed, k]), options)
        path = options.out / f"town_{k:03d}.mat"
        scipy.io.savemat(path, {"H": cube}, do_compression=True)
        zeros, seconds = (cube == 0).mean(), time.time() - start
        print(f"{path}: {zeros:.0%} zeros, max {cube.max():.1f} dB, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
