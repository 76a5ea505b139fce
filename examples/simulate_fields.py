"""Simulates random fields of many sorts, 224 x 224 x 4, to train on: with numpy and scipy alone.

Each file is drawn anew: what the field is made of (random spectra, point responses, wavefronts,
edges, or two of them), what an instrument shows of it (the complex field, its real part, magnitude,
power, decibels, phase), noise, and whether it is logged in whole numbers.
Run:  python examples/simulate_fields.py OUT --seed 1 --count 48
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
import scipy.ndimage

SIDE, SLICES = 224, 4
Rng = np.random.Generator


def noise(rng: Rng, side: int = SIDE) -> np.ndarray:
    """White complex Gaussian noise of unit power, side x side."""
    return (rng.standard_normal((side, side)) + 1j * rng.standard_normal((side, side))) / 2**0.5


def spectral(rng: Rng) -> Callable[[Rng], np.ndarray]:
    """A Gaussian field whose power spectrum sums up slopes, blobs, rings and one-sided decays."""
    down, along = np.meshgrid(*2 * [np.fft.fftfreq(2 * SIDE)], indexing="ij")
    power = np.zeros((2 * SIDE, 2 * SIDE))
    for _ in range(int(rng.integers(1, 4))):
        turn, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(0, 1))
        u = (down * np.cos(turn) + along * np.sin(turn)) * stretch
        v = -down * np.sin(turn) + along * np.cos(turn)
        width = np.exp(rng.uniform(np.log(0.004), np.log(0.15)))
        shape = rng.choice(["slope", "blob", "ring", "decay"])
        if shape == "slope":
            part = (np.hypot(u, v) + rng.uniform(0.002, 0.02)) ** -rng.uniform(1.5, 5)
        elif shape == "blob":
            centre = rng.uniform(-0.3, 0.3, 2)
            part = np.exp(-((u - centre[0]) ** 2 + (v - centre[1]) ** 2) / (2 * width**2))
        elif shape == "ring":
            part = np.exp(-((np.hypot(u, v) - rng.uniform(0.02, 0.3)) ** 2) / (2 * width**2 / 9))
        else:
            band = np.abs(along) < rng.uniform(0.02, 0.3)
            part = np.exp(-np.mod(down, 1) / width) * band
        power += part / part.sum() * 10 ** rng.uniform(-2, 0)
    gain = np.sqrt(power)

    def made(slice_rng: Rng) -> np.ndarray:
        return np.fft.ifft2(np.fft.fft2(noise(slice_rng, 2 * SIDE)) * gain)[:SIDE, :SIDE]

    return made


def points(rng: Rng) -> Callable[[Rng], np.ndarray]:
    """Targets behind a separable point response: windowed apertures of two lengths."""
    responses = []
    for _ in range(2):
        window = np.kaiser(64, rng.uniform(0, 8))
        support = np.linspace(-0.5, 0.5, 64) / np.exp(rng.uniform(np.log(1.2), np.log(8)))
        lags = np.arange(-96, 97)
        shape = np.exp(2j * np.pi * np.outer(lags, support)) @ window
        responses.append(shape / np.abs(shape).max())
    density = 10 ** rng.uniform(-3.8, -0.5)
    spread = rng.uniform(0.2, 2.0)
    clutter = rng.random() < 0.5

    def made(slice_rng: Rng) -> np.ndarray:
        side = SIDE + 192
        field = noise(slice_rng, side) * (slice_rng.random((side, side)) < density)
        field *= np.exp(spread * slice_rng.standard_normal((side, side)))
        if clutter:
            rough = scipy.ndimage.gaussian_filter(slice_rng.standard_normal((side, side)), 12)
            field *= np.where(rough > 0, 1, slice_rng.uniform(0, 0.5))
        for axis, response in enumerate(responses):
            field = np.apply_along_axis(np.convolve, axis, field, response, "same")
        return field[96:-96, 96:-96] + 1e-9

    return made


def wavefronts(rng: Rng) -> Callable[[Rng], np.ndarray]:
    """Pulses that spread from sources: circles and lines with a wavelet across."""
    width, cycles = rng.uniform(2, 9), rng.uniform(0, 2)
    count, decay = int(rng.integers(1, 12)), rng.uniform(0, 1)

    def made(slice_rng: Rng) -> np.ndarray:
        rows, cols = np.mgrid[:SIDE, :SIDE].astype(float)
        field = np.zeros((SIDE, SIDE), complex)
        for _ in range(count):
            place = slice_rng.uniform(-1, 2, 2) * SIDE
            radius = np.hypot(rows - place[0], cols - place[1])
            at = (radius - slice_rng.uniform(10, 1.5 * SIDE)) / width
            wave = np.exp(-(at**2) / 2 + 2j * np.pi * (cycles * at + slice_rng.random()))
            field += slice_rng.standard_normal() * wave / (radius + 10) ** decay
        return field + 1e-9

    return made


def edges(rng: Rng) -> Callable[[Rng], np.ndarray]:
    """Regions with sharp borders, on a slope, smooth or rough within."""
    length, levels = rng.uniform(4, 30), int(rng.integers(2, 6))
    slope, rough = rng.uniform(0, 2), 10 ** rng.uniform(-3, -0.5)
    blocks, soft = rng.random() < 0.4, rng.uniform(0, 1.2)

    def made(slice_rng: Rng) -> np.ndarray:
        rows, cols = np.mgrid[:SIDE, :SIDE] / SIDE
        if blocks:
            field = np.zeros((SIDE, SIDE))
            for _ in range(20):
                top, left = slice_rng.integers(0, SIDE - 8, 2)
                tall, wide = slice_rng.integers(4, 90, 2)
                field[top : top + tall, left : left + wide] = slice_rng.standard_normal()
        else:
            smooth = scipy.ndimage.gaussian_filter(slice_rng.standard_normal((SIDE, SIDE)), length)
            field = np.floor(levels * (smooth / smooth.std() + 3) / 6)
        field = scipy.ndimage.gaussian_filter(field, soft) if soft > 0.5 else field
        turn = slice_rng.uniform(0, 2 * np.pi)
        field = field + slope * (rows * np.cos(turn) + cols * np.sin(turn))
        return field + rough * slice_rng.standard_normal((SIDE, SIDE)) + 0j

    return made


SOURCES = (spectral, spectral, points, points, wavefronts, edges)

SHOWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "field": lambda x: x,
    "real": lambda x: x.real,
    "magnitude": np.abs,
    "power": lambda x: np.abs(x) ** 2,
    "db": lambda x: 20 * np.log10(np.abs(x) + 1e-12),
    "phase": np.angle,
}


def cube(rng: Rng) -> tuple[str, np.ndarray]:
    """A kind's name and its cube (SIDE, SIDE, SLICES)."""
    made = [SOURCES[k](rng) for k in rng.choice(len(SOURCES), 1 + int(rng.random() < 0.3))]
    second = 10 ** rng.uniform(-1.5, 0)
    ratio = 10 ** rng.uniform(-3, -0.7) if rng.random() < 0.4 else 0.0
    name = str(rng.choice([*SHOWN, "field", "magnitude", "db", "db"]))
    logged, deep = rng.random() < 0.25, rng.uniform(30, 80)
    slices = []
    for _ in range(SLICES):
        first, *other = (one(rng) for one in made)
        field = first / np.sqrt(np.mean(np.abs(first) ** 2))
        for one in other:
            field = field + second * one / np.sqrt(np.mean(np.abs(one) ** 2))
        shown = SHOWN[name](field + ratio * noise(rng))
        slices.append(np.maximum(shown, shown.max() - deep) if name == "db" else shown)
    found = np.stack(slices, 2)
    if name == "field":
        return name, found.astype(np.complex64)
    if name == "db" and logged:
        return "whole", np.round(found).astype(np.int16)
    return name, found.astype(np.float32)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=48)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for index in range(asked.count):
        name, found = cube(np.random.default_rng([asked.seed, index]))
        scipy.io.savemat(asked.out / f"{index:03d}_{name}.mat", {"H": found})


if __name__ == "__main__":
    main()
