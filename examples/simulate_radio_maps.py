"""Cubes of ray-traced path gain over a city, one MATLAB file a city, 256 x 256 x 12.

python examples/simulate_radio_maps.py OUT --seed 0

Slices are receiver heights from 1.5 m to the roofs, values dB above a floor (0 in shadow).
Needs ``pip install sionna-rt`` (best in a virtual environment of its own) and, on a CPU, a
recent LLVM library (19 works, 15 is too old):
DRJIT_LIBLLVM_PATH=/usr/lib/x86_64-linux-gnu/libLLVM-19.so
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

CITIES = ("munich", "etoile", "florence", "san_francisco")
CELLS = 256
SLICES = 12
LOWEST, HIGHEST = 1.5, 30.0
CARRIER_HZ = 3.5e9


@dataclass(frozen=True)
class Area:
    """A square of ground: where it is, how it is turned, and the mast that lights it."""

    centre: tuple[float, float]
    angle: float
    cell: float
    ground: float
    roofs: float
    mast: tuple[float, float, float]


def ray_tracer(threads: int) -> tuple[Any, Any]:
    """Modules ``mitsuba`` and ``sionna.rt``, set up for the CPU."""
    try:
        import drjit
        import mitsuba

        mitsuba.set_variant("llvm_ad_mono_polarized")
        drjit.set_thread_count(threads)
        import sionna.rt as rt
    except ImportError as error:
        raise SystemExit(f"needs sionna-rt (pip install sionna-rt) and LLVM: {error}") from error
    return mitsuba, rt


def surface(mitsuba: Any, scene: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height of what a ray from the sky meets at each ``(x, y)``; NaN where nothing is."""
    sky = 1000.0
    origin = mitsuba.Point3f(mitsuba.Float(x), mitsuba.Float(y), mitsuba.Float(sky))
    hit = scene.mi_scene.ray_intersect(mitsuba.Ray3f(origin, mitsuba.Vector3f(0, 0, -1)))
    return np.where(np.array(hit.is_valid()), sky - np.array(hit.t), np.nan)


def grid(centre: np.ndarray, side: float, angle: float, points: int) -> tuple[np.ndarray, ...]:
    """Coordinates ``x, y`` of a turned square grid, flat."""
    step = (np.arange(points) + 0.5) / points * side - side / 2
    u, v = (axis.ravel() for axis in np.meshgrid(step, step))
    cos, sin = np.cos(angle), np.sin(angle)
    return centre[0] + cos * u - sin * v, centre[1] + sin * u + cos * v


def quality(z: np.ndarray) -> float:
    """Built share times the share of street in the quarter with least (a slope has none)."""
    rows, columns = (size // 2 for size in z.shape)
    street = z < 5
    quarters = [
        half[:, part]
        for half in (street[:rows], street[rows:])
        for part in (slice(columns), slice(columns, None))
    ]
    return float(np.mean(z > 5)) * min(float(quarter.mean()) for quarter in quarters)


def candidate(mitsuba: Any, scene: Any, rng: np.random.Generator) -> tuple[float, Area]:
    """A random area of the scene and how good it is: built-up, but flat."""
    box = scene.mi_scene.bbox()
    low, high = (np.array(corner).ravel()[:2] for corner in (box.min, box.max))
    cell, angle = rng.uniform(1.5, 2.0), rng.uniform(0, np.pi / 2)
    side = cell * CELLS
    room = np.maximum((high - low) / 2 - 0.6 * side, 0)
    centre = (low + high) / 2 + rng.uniform(-room, room)
    x, y = grid(centre, side, angle, 64)
    z = surface(mitsuba, scene, x, y)
    ground = float(np.nanpercentile(z, 5))
    roofs = float(np.nanpercentile(z, 90)) - ground
    near = np.flatnonzero(np.isfinite(z) & (np.hypot(x - centre[0], y - centre[1]) < side / 4))
    k = int(rng.choice(near))
    top = max(ground + roofs + rng.uniform(25, 40), float(z[k]) + 8)
    mast = (float(x[k]), float(y[k]), top)
    middle = (float(centre[0]), float(centre[1]))
    area = Area(middle, angle, cell, ground, roofs, mast)
    return quality(z.reshape(64, 64) - ground), area


def choose_area(mitsuba: Any, scene: Any, rng: np.random.Generator) -> Area:
    """The best of a few random areas."""
    return max((candidate(mitsuba, scene, rng) for _ in range(16)), key=lambda pair: pair[0])[1]


def add_mast(mitsuba: Any, rt: Any, scene: Any, area: Area) -> None:
    """Put one isotropic transmitter on the mast."""
    scene.frequency = CARRIER_HZ
    scene.tx_array = rt.PlanarArray(
        num_rows=1,
        num_cols=1,
        vertical_spacing=0.5,
        horizontal_spacing=0.5,
        pattern="iso",
        polarization="V",
    )
    scene.add(rt.Transmitter("mast", position=mitsuba.Point3f(*area.mast)))


def path_gain(
    mitsuba: Any, rt: Any, scene: Any, area: Area, height: float, options: argparse.Namespace
) -> np.ndarray:
    """Linear path gain on the area's cells, ``height`` metres above its ground."""
    side = area.cell * CELLS - 1e-3  # the solver rounds up to whole cells
    radio_map = rt.RadioMapSolver()(
        scene,
        center=mitsuba.Point3f(*area.centre, area.ground + height),
        orientation=mitsuba.Point3f(area.angle, 0, 0),
        size=mitsuba.Point2f(side, side),
        cell_size=mitsuba.Point2f(area.cell, area.cell),
        samples_per_tx=options.samples,
        max_depth=options.depth,
        refraction=False,
        diffraction=options.diffraction,
        seed=options.seed + 1,
    )
    return np.array(radio_map.path_gain)[0, :CELLS, :CELLS]


def above_floor(gain: np.ndarray, floor: float) -> np.ndarray:
    """dB above ``floor``, exactly 0 at and below it."""
    decibels = 10 * np.log10(np.maximum(gain, 1e-30))
    return np.maximum(decibels - floor, 0).astype(np.float32)


def simulate(city: str, options: argparse.Namespace) -> np.ndarray:
    """One city's cube, height last."""
    mitsuba, rt = ray_tracer(options.threads)
    scene = rt.load_scene(getattr(rt.scene, city))
    area = choose_area(mitsuba, scene, np.random.default_rng([options.seed, CITIES.index(city)]))
    print(f"{city}: {area}", flush=True)
    add_mast(mitsuba, rt, scene, area)
    heights = np.linspace(LOWEST, float(np.clip(area.roofs, 15, HIGHEST)), SLICES).tolist()
    slices = [path_gain(mitsuba, rt, scene, area, height, options) for height in heights]
    return above_floor(np.stack(slices, axis=-1), options.floor)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the .mat files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cities", nargs="+", choices=CITIES, default=CITIES)
    parser.add_argument("--samples", type=int, default=10_000_000, help="rays a slice")
    parser.add_argument("--depth", type=int, default=5, help="most reflections of a ray")
    parser.add_argument("--floor", type=float, default=-110.0, help="path gain taken as 0, dB")
    parser.add_argument("--diffraction", action="store_true", help="4 times slower")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Write one file a city."""
    options = arguments()
    _, rt = ray_tracer(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for city in options.cities:
        if not hasattr(rt.scene, city):
            print(f"{city}: not in this version of sionna-rt, skipped")
            continue
        start = time.time()
        cube = simulate(city, options)
        path = options.out / f"raytrace_{city}.mat"
        scipy.io.savemat(path, {"H": cube}, do_compression=True)
        zeros, seconds = (cube == 0).mean(), time.time() - start
        print(f"{path}: {zeros:.0%} zeros, max {cube.max():.1f} dB, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
