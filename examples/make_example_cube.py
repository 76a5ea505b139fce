"""Makes example_cube.mat (64 x 64 x 4, complex) and example_truth.mat (128 x 128 x 4).

A narrow-band channel measured over a plane: a transmitter in a rectangular room, walls that
reflect (image sources up to third order), a metal cabinet that shadows part of the plane, forty
point scatterers, four subcarriers around 3.5 GHz, receiver noise 45 dB below the signal. The
truth has a sample every eighth of a wavelength; the cube is its antialiased half (MATLAB's
imresize), a sample every quarter. Run:  python examples/make_example_cube.py
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import scipy.io

from mzsr_cli.imaging.resize import antialiased_matrix

LIGHT = 299_792_458.0
ROOM = np.array([9.0, 7.0])
SOURCE = np.array([1.7, 5.6])
CORNER = np.array([4.1, 2.3])
CABINET = (np.array([3.4, 3.9]), np.array([3.9, 4.3]))
FREQUENCIES = 3.5e9 + np.array([-30e6, -10e6, 10e6, 30e6])
SIDE = 128


def images(order: int) -> list[tuple[np.ndarray, float]]:
    """Image sources of the room's four walls: (position, amplitude)."""
    found = []
    for i, j in product(range(-order, order + 1), repeat=2):
        if abs(i) + abs(j) <= order:
            x = i * ROOM[0] + (SOURCE[0] if i % 2 == 0 else ROOM[0] - SOURCE[0])
            y = j * ROOM[1] + (SOURCE[1] if j % 2 == 0 else ROOM[1] - SOURCE[1])
            found.append((np.array([x, y]), (-0.6) ** (abs(i) + abs(j))))
    return found


def shadowed(source: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the ray from ``source`` to (x, y) crosses the cabinet (slab method)."""
    near, far = np.zeros_like(x), np.ones_like(x)
    for axis, end in ((0, x), (1, y)):
        step = end - source[axis]
        step = np.where(np.abs(step) < 1e-12, 1e-12, step)
        a = (CABINET[0][axis] - source[axis]) / step
        b = (CABINET[1][axis] - source[axis]) / step
        near, far = np.maximum(near, np.minimum(a, b)), np.minimum(far, np.maximum(a, b))
    return near < far


def field(frequency: float, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Complex field at (x, y) in metres: cylindrical waves of all sources."""
    k = 2 * np.pi * frequency / LIGHT
    total = np.zeros(x.shape, dtype=np.complex128)
    for position, amplitude in images(3):
        distance = np.hypot(x - position[0], y - position[1])
        gain = np.where(shadowed(position, x, y), 0.25, 1.0) * amplitude
        total += gain * np.exp(-1j * k * distance) / np.sqrt(distance)
    for _ in range(40):
        position, phase = rng.uniform(0, 1, 2) * ROOM, rng.uniform(0, 2 * np.pi)
        distance = np.hypot(x - position[0], y - position[1])
        total += 0.05 * np.exp(1j * phase - 1j * k * distance) / np.sqrt(distance + 0.1)
    return total


def main() -> None:
    """Write both cubes beside this script."""
    spacing = LIGHT / 3.5e9 / 8
    y, x = (CORNER[::-1, None, None] + spacing * np.mgrid[:SIDE, :SIDE]).astype(np.float64)
    truth = np.stack([field(f, x, y, np.random.default_rng(7)) for f in FREQUENCIES], axis=-1)
    rng = np.random.default_rng(11)
    level = np.sqrt(np.mean(np.abs(truth) ** 2) / 2) * 10 ** (-45 / 20)
    truth += level * (rng.standard_normal(truth.shape) + 1j * rng.standard_normal(truth.shape))
    half = antialiased_matrix(SIDE, SIDE // 2, 2.0)
    cube = np.einsum("ai,ijk,bj->abk", half, truth, half)
    folder = Path(__file__).parent
    about = {"frequency_hz": FREQUENCIES[None], "description": "simulated indoor channel"}
    for name, data, step in (("truth", truth, spacing), ("cube", cube, 2 * spacing)):
        content = {"H": data.astype(np.complex64), "spacing_m": step, **about}
        scipy.io.savemat(folder / f"example_{name}.mat", content, do_compression=True)


if __name__ == "__main__":
    main()
