"""Simulates training cubes of antenna and transducer arrays, 256 x 256 x 12, with numpy alone.

``mimo_NN`` (complex64, receive x transmit antenna x subcarrier): rays in clusters between two
linear arrays, spacing lambda/16 to lambda/2. ``rf_NN`` (float32, element x time x transmission):
records of point scatterers over a linear array, 3 to 20 samples a period. Each file is a MATLAB v5
file with ``H``. Run:  python examples/simulate_arrays.py OUT --seed 1
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.io

SIDE = 256
SLICES = 12
COUNTS = {"mimo": 12, "rf": 12}


def steering(spacing: float, angles: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Responses (antennas, rays) of a linear array, ``spacing`` in wavelengths, ``angles`` in
    radians; ``curvature`` (radians at the ends) bends the wave front of near sources."""
    at = np.arange(SIDE) - (SIDE - 1) / 2
    bent = curvature[None, :] * (at[:, None] / at[-1]) ** 2
    return np.exp(2j * np.pi * spacing * at[:, None] * np.sin(angles)[None, :] + 1j * bent)


def mimo(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Channel (SIDE, SIDE, SLICES) of clustered rays, and what it is."""
    clusters, rays = int(rng.integers(1, 24)), int(rng.integers(1, 20))
    spread = np.deg2rad(rng.uniform(0.5, 15))
    spacings = np.exp(rng.uniform(np.log(1 / 16), np.log(1 / 2), 2))
    power = np.exp(-rng.exponential(1, clusters) * rng.uniform(0.5, 3))
    ends = []
    for spacing in spacings:
        centre = rng.uniform(-np.pi / 2, np.pi / 2, (clusters, 1))
        angles = (centre + rng.laplace(0, spread / np.sqrt(2), (clusters, rays))).ravel()
        near = rng.uniform(0, 6) * (rng.random() < 0.4)
        ends.append(steering(spacing, angles, near * rng.standard_normal(angles.size)))
    count = clusters * rays
    gain = np.repeat(np.sqrt(power / rays), rays)
    gain = gain * (rng.standard_normal(count) + 1j * rng.standard_normal(count)) / np.sqrt(2)
    delay = rng.exponential(rng.uniform(0.02, 2), count)
    cube = np.empty((SIDE, SIDE, SLICES), np.complex64)
    for k in range(SLICES):
        turned = gain * np.exp(-2j * np.pi * delay * k)
        cube[:, :, k] = (ends[0] * turned) @ ends[1].T
    said = f"{clusters} clusters of {rays} rays, {spacings[0]:.3f} x {spacings[1]:.3f} wavelengths"
    return cube, said


def rf(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Records (SIDE, SIDE, SLICES) of a linear array, and what they are. Lengths are in
    wavelengths, times in periods."""
    pitch = rng.uniform(0.1, 0.7)
    samples = np.exp(rng.uniform(np.log(3), np.log(20)))
    cycles = rng.uniform(1, 4)
    scatterers, strong = int(rng.integers(20, 400)), int(rng.integers(0, 6))
    x = (np.arange(SIDE) - (SIDE - 1) / 2) * pitch
    depth = rng.uniform(10, 60)
    times = np.arange(SIDE) / samples
    window = SIDE / samples
    cube = np.zeros((SIDE, SIDE, SLICES), np.float32)
    for k in range(SLICES):
        tilt = np.deg2rad(rng.uniform(-20, 20))
        count = scatterers + strong
        at = rng.uniform(x[0] * 1.2, x[-1] * 1.2, count)
        z = depth + rng.uniform(-0.3, 0.6, count) * window
        size = rng.standard_normal(count)
        size[:strong] *= rng.uniform(5, 30)
        sent = z * np.cos(tilt) + at * np.sin(tilt)
        for s in range(count):
            path = np.sqrt(z[s] ** 2 + (x - at[s]) ** 2)
            t = times[None, :] - (sent[s] + path - 2 * depth)[:, None]
            pulse = np.exp(-0.5 * (t / (0.4 * cycles)) ** 2) * np.cos(2 * np.pi * t)
            cube[:, :, k] += (size[s] / np.sqrt(path))[:, None] * pulse
    said = f"pitch {pitch:.2f} wavelengths, {samples:.1f} samples a period, {cycles:.1f} cycles"
    return cube, f"{said}, {scatterers} scatterers and {strong} strong ones"


def main() -> None:
    """Write the cubes of both kinds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for kind, make in {"mimo": mimo, "rf": rf}.items():
        for k in range(COUNTS[kind]):
            rng = np.random.default_rng([options.seed, len(kind), k])
            cube, said = make(rng)
            scipy.io.savemat(options.out / f"{kind}_{k:02d}.mat", {"H": cube}, do_compression=True)
            print(f"{kind}_{k:02d}.mat: {said}", flush=True)


if __name__ == "__main__":
    main()
