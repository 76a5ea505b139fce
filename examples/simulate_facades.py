"""Draw pictures of buildings, to train on what photographs of cities show: thin regular
structure in perspective (windows, bars, bricks, blinds, panels), down to periods below a pixel.

python examples/simulate_facades.py FOLDER [--seed 1] [--count 120] [--size 320]

A picture shows one wall or the corner of two before sky, seen by a pinhole camera that is turned,
tilted and rolled a little. A wall is a function of metres along it and up; each pixel is the mean
of 3x3 rays, as on a sensor. Writes 8-bit RGB PNG files; each depends on its seed and number alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import irfft2

Array = NDArray[np.float64]

RAYS = 3
"""Rays a pixel along each axis."""
FILLED = 0.6
"""Least share of a picture that is building."""
CORNERS = 0.6
"""Share of pictures with two walls."""
FAR = 500.0
"""Longest wall on either side of its middle, in metres."""


@dataclass(frozen=True)
class Wall:
    """What a wall looks like: colours (3,) from 0 to 1; storeys, bays, courses, ledges and the
    periods of blinds and bars (0: none) in metres; windows in shares of their bay and storey."""

    base: Array
    dark: Array
    glass: Array
    frame: Array
    storey: float
    bay: float
    window: tuple[float, float]
    panes: tuple[int, int]
    material: str
    course: float
    blinds: float
    bars: float
    ledge: float
    seed: int


def draw_wall(rng: Generator) -> Wall:
    """A wall at random."""
    base = np.clip(rng.uniform(0.25, 0.9) + rng.normal(0, 0.07, 3), 0.05, 1)
    glass = rng.uniform(0.05, 0.5) + rng.normal(0, 0.05, 3) + [0, 0.02, 0.05]
    return Wall(
        base=base,
        dark=base * rng.uniform(0.4, 0.9),
        glass=np.clip(glass, 0, 1),
        frame=np.clip(rng.uniform(0.1, 1.0) + rng.normal(0, 0.03, 3), 0, 1),
        storey=rng.uniform(2.6, 4.5),
        bay=rng.uniform(1.0, 5.0),
        window=(rng.uniform(0.35, 0.96), rng.uniform(0.35, 0.96)),
        panes=(int(rng.integers(1, 5)), int(rng.integers(1, 5))),
        material=str(rng.choice(["plain", "bricks", "boards", "panels", "tiles", "ribs"])),
        course=log_uniform(rng, 0.08, 0.6),
        blinds=float(rng.choice([0.0, 0.0, 0.05, 0.1, 0.2])),
        bars=float(rng.choice([0.0, 0.0, 0.0, 0.1, 0.2])),
        ledge=float(rng.choice([0.0, 0.08, 0.2, 0.4])),
        seed=int(rng.integers(997)),
    )


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """A number from ``low`` to ``high``, its logarithm uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def over(below: Array, above: Array, mask: NDArray[np.bool_]) -> Array:
    """``above`` where the ``mask`` (h, w) is set, else ``below``; colours last."""
    return np.where(mask[..., None], above, below)


def by_cell(i: Array, j: Array, seed: int) -> Array:
    """A number from 0 to 1 for each cell (i, j), the same wherever the cell is seen."""
    return np.modf(np.abs(np.sin(i * 12.9898 + j * 78.233 + seed)) * 43758.5453)[0]


def material(wall: Wall, u: Array, v: Array) -> Array:
    """Colours (h, w, 3) of the bare wall at ``u`` metres along and ``v`` up."""
    row, column = np.floor(v / wall.course), u / wall.course
    joint = (v / wall.course) % 1 < 0.14
    shade = np.ones(u.shape)
    if wall.material == "bricks":
        column = u / (2.5 * wall.course) + 0.5 * (row % 2)
        joint = joint | (column % 1 < 0.06)
    elif wall.material in {"panels", "tiles"}:
        joint = joint | (column % 1 < 0.1)
    elif wall.material == "ribs":
        joint = column % 1 < 0.4
    elif wall.material == "plain":
        joint = np.zeros(u.shape, bool)
    if wall.material in {"bricks", "boards", "panels"}:
        shade = 1 + 0.15 * (by_cell(row, np.floor(column), wall.seed) - 0.5)
    elif wall.material == "tiles":
        shade = np.where((row + np.floor(column)) % 2 > 0, 1.0, 0.6)
    return over(wall.base * shade[..., None], wall.dark, joint)


def with_windows(wall: Wall, u: Array, v: Array, colours: Array) -> Array:
    """The same with windows: glass, blinds, panes and frames."""
    i, j = np.floor(u / wall.bay), np.floor(v / wall.storey)
    x = ((u / wall.bay) % 1 - 0.5) / wall.window[0] + 0.5
    y = ((v / wall.storey) % 1 - 0.5) / wall.window[1] + 0.5
    glass = wall.glass * (0.6 + 0.8 * by_cell(i, j, wall.seed) + 0.3 * y)[..., None]
    if wall.blinds:
        drawn = (y > by_cell(j, i, wall.seed)) & ((v / wall.blinds) % 1 < 0.6)
        glass = over(glass, wall.frame * 0.9, drawn)
    px, py = (x * wall.panes[0]) % 1, (y * wall.panes[1]) % 1
    frame = np.minimum(np.minimum(px, 1 - px), np.minimum(py, 1 - py)) < 0.06
    inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
    return over(colours, over(glass, wall.frame, frame), inside)


def with_trimmings(wall: Wall, u: Array, v: Array, colours: Array) -> Array:
    """The same with ledges at each storey and the bars of balconies."""
    up = v % wall.storey
    colours = over(colours, np.clip(wall.base * 1.2, 0, 1), up < wall.ledge)
    if not wall.bars:
        return colours
    railing = (up > wall.ledge) & (up < wall.ledge + 1.0)
    bar = ((u / wall.bars) % 1 < 0.35) | (up > wall.ledge + 0.93)
    return over(colours, wall.dark * 0.5, railing & bar)


def painted(wall: Wall, u: Array, v: Array) -> Array:
    """Colours (h, w, 3) of a wall at ``u`` metres along it and ``v`` up."""
    return with_trimmings(wall, u, v, with_windows(wall, u, v, material(wall, u, v)))


@dataclass(frozen=True)
class View:
    """Rays (h, w) from the camera at the origin: to the right, up and ahead."""

    x: Array
    y: Array
    z: Array


def draw_view(rng: Generator, size: int) -> tuple[View, float]:
    """A camera of RAYS x ``size`` rays a side, and the tangent of half of its angle of view."""
    axis = (np.arange(RAYS * size) + 0.5) / (RAYS * size) - 0.5
    up, right = np.meshgrid(-axis, axis, indexing="ij")
    roll, tilt, field = rng.normal(0, 0.06), rng.uniform(-0.15, 0.6), log_uniform(rng, 0.3, 1.4)
    x = field * (np.cos(roll) * right - np.sin(roll) * up)
    y = field * (np.sin(roll) * right + np.cos(roll) * up)
    return View(x, np.cos(tilt) * y + np.sin(tilt), np.cos(tilt) - np.sin(tilt) * y), field / 2


def met(view: View, corner: tuple[float, float], angle: float) -> tuple[Array, Array, Array]:
    """Where rays meet the upright plane through the ``corner`` (right, ahead) at an ``angle`` to
    the right: how far, metres along the plane from the corner, and up from the camera."""
    across = view.z * np.cos(angle) - view.x * np.sin(angle)
    across = np.copysign(np.maximum(np.abs(across), 1e-3), across)
    far = (corner[1] * np.cos(angle) - corner[0] * np.sin(angle)) / across
    u = (far * view.x - corner[0]) * np.cos(angle) + (far * view.z - corner[1]) * np.sin(angle)
    return far, u, far * view.y


def cloudy(rng: Generator, size: int) -> Array:
    """A field (size, size) of deviation 1 whose amplitudes fall as frequency to the -1.6."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    f[0, 0] = np.inf
    z = (rng.normal(size=f.shape) + 1j * rng.normal(size=f.shape)) / f**1.6
    field = irfft2(z, s=(size, size))
    return np.asarray(field / field.std())


def scene(rng: Generator, size: int) -> tuple[Array, float]:
    """A picture (size, size, 3) of one wall or a corner before sky, and the building's share."""
    view, half = draw_view(rng, size)
    count = RAYS * size
    sky = np.array([0.5, 0.65, 0.9]) * rng.uniform(0.7, 1.1)
    image = sky + np.linspace(0.375, 0.125, count)[:, None, None] + np.zeros((count, count, 1))
    away, angle = log_uniform(rng, 12, 70), rng.uniform(-0.3, 1.2)
    two = rng.random() < CORNERS
    corner = (rng.uniform(-1.2, 1.2) * half * away if two else 0.0, away)
    height, roof = rng.uniform(1.7, 21.7), rng.uniform(5, 60)  # of the camera, of the building
    nearest = np.full((count, count), np.inf)
    for side, turned in ((1, angle), (-1, angle - np.pi / 2))[: 1 + two]:
        far, u, v = met(view, corner, turned)
        seen = (far > 0) & (far < nearest) & (v + height < roof) & (np.abs(u) < FAR)
        seen &= side * u > 0 if two else True
        light = 1.0 if side > 0 else rng.uniform(0.5, 1)
        image = over(image, light * painted(draw_wall(rng), u, v + height), seen)
        nearest = np.where(seen, far, nearest)
    pixels = image.reshape(size, RAYS, size, RAYS, 3).mean((1, 3))
    return pixels, float(np.isfinite(nearest).mean())


def picture(rng: Generator, size: int) -> NDArray[np.uint8]:
    """A picture (size, size, 3), most of it building, under uneven light and with some noise."""
    image, filled = scene(rng, size)
    while filled < FILLED:
        image, filled = scene(rng, size)
    image = image * (1 + 0.06 * cloudy(rng, size))[..., None] * rng.uniform(0.7, 1.15)
    image = image + rng.normal(0, rng.uniform(0, 0.006), image.shape)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--size", type=int, default=320)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        rng = default_rng([options.seed, number])
        name = f"facade_{options.seed}_{number:03d}.png"
        Image.fromarray(picture(rng, options.size)).save(options.folder / name)


if __name__ == "__main__":
    main()
