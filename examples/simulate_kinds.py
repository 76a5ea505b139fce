"""Simulates cubes of kinds that mzsr was not made for, 160 x 192 x 3, with numpy and scipy alone.

One MATLAB v5 file with ``H`` a kind: radar, sonar, radio and noise of many sorts, whole numbers
and phases among them. Nothing was trained on them: they show what happens to data of other sorts.
Run:  python examples/simulate_kinds.py OUT --seed 1
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
import scipy.ndimage
import scipy.signal

ROWS, COLS, SLICES = 160, 192, 3
Rng = np.random.Generator


def noise(rng: Rng, shape: tuple[int, ...] = (ROWS, COLS)) -> np.ndarray:
    """White complex Gaussian noise of unit power."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def fractal(rng: Rng, exponent: float) -> np.ndarray:
    """A Gaussian field whose power falls with the frequency to the ``exponent``; not periodic."""
    sides = (2 * ROWS, 2 * COLS)
    rows, cols = np.meshgrid(np.fft.fftfreq(sides[0]), np.fft.fftfreq(sides[1]), indexing="ij")
    radius = np.hypot(rows, cols)
    radius[0, 0] = np.inf
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal(sides)) * radius ** (-exponent / 2)).real
    return field[:ROWS, :COLS] / field[:ROWS, :COLS].std()


def shadowing(rng: Rng) -> np.ndarray:
    """Path loss in dB: distance, and shadowing with an exponential correlation (Gudmundson)."""
    place = rng.uniform(0, 1, 2) * (ROWS, COLS)
    rows, cols = np.mgrid[:ROWS, :COLS]
    distance = np.hypot(rows - place[0], cols - place[1]) + 1
    length = rng.uniform(4, 20)
    kernel = np.exp(-np.hypot(*np.mgrid[-60:61, -60:61]) / length)
    white = rng.standard_normal((ROWS + 120, COLS + 120))
    field = scipy.signal.fftconvolve(white, kernel, "valid")
    return -40 - rng.uniform(20, 40) * np.log10(distance) + 6 * field / field.std()


def indoor(rng: Rng) -> np.ndarray:
    """Path loss in dB on a floor with walls (COST 231 multi-wall): sharp steps, smooth between."""
    place = rng.uniform(0.2, 0.8, 2) * (ROWS, COLS)
    rows, cols = np.mgrid[:ROWS, :COLS].astype(float)
    loss = -20 * np.log10(np.hypot(rows - place[0], cols - place[1]) + 1)
    for _ in range(10):
        across, at, cost = rng.random() < 0.5, rng.uniform(0.05, 0.95), rng.uniform(2, 10)
        first, own = (rows, place[0]) if across else (cols, place[1])
        second, mine = (cols, place[1]) if across else (rows, place[0])
        wall = at * (ROWS if across else COLS)
        begin, end = np.sort(rng.uniform(0, COLS if across else ROWS, 2))
        share = np.divide(wall - own, first - own, out=np.full_like(first, -1), where=first != own)
        hit = mine + share * (second - mine)
        loss -= cost * ((share > 0) & (share < 1) & (hit > begin) & (hit < end))
    return loss


def fading(rng: Rng, ratio: float) -> np.ndarray:
    """A fading channel, subcarrier x symbol: an exponential power-delay profile and Jakes' Doppler
    spectrum; noise ``ratio`` (amplitude)."""
    paths = 60
    delay, shift = rng.exponential(rng.uniform(3, 12), paths), rng.uniform(0.05, 0.3)
    gains = noise(rng, (paths,)) / np.sqrt(paths)
    doppler = shift * np.cos(rng.uniform(0, 2 * np.pi, paths))
    down = np.exp(-2j * np.pi * np.arange(ROWS)[:, None] * delay / ROWS)
    along = np.exp(2j * np.pi * np.arange(COLS)[:, None] * doppler)
    return (down * gains) @ along.T + ratio * noise(rng)


def range_doppler(rng: Rng) -> np.ndarray:
    """A radar's range-Doppler map in dB: windowed responses of targets, clutter, and noise."""
    rows, cols = ROWS // 2, COLS // 2
    signal = 0.3 * noise(rng, (rows, cols))
    for _ in range(int(rng.integers(5, 40))):
        where, amplitude = rng.uniform(-0.5, 0.5, 2), 10 ** rng.uniform(-1.5, 0.5)
        down, along = np.arange(rows)[:, None] * where[0], np.arange(cols) * where[1]
        signal = signal + amplitude * np.exp(2j * np.pi * (down + along + rng.random()))
    window = np.hanning(rows)[:, None] * np.hanning(cols)
    shown = np.fft.fftshift(np.fft.fft2(signal * window, (ROWS, COLS)))
    return 20 * np.log10(np.abs(shown) + 1e-6)


def speckle(rng: Rng) -> np.ndarray:
    """An ultrasound image: envelope in dB of scatterers behind a point response, with cysts."""
    strength = np.ones((ROWS, COLS))
    rows, cols = np.mgrid[:ROWS, :COLS]
    for _ in range(5):
        place, radius = rng.uniform(0, 1, 2) * (ROWS, COLS), rng.uniform(8, 30)
        strength[np.hypot(rows - place[0], cols - place[1]) < radius] *= 10 ** rng.uniform(
            -1.5, 0.7
        )
    down, along = np.mgrid[-12:13, -12:13]
    point = np.exp(-((down / 3) ** 2) - (along / 4) ** 2) * np.exp(2j * np.pi * down / 5)
    field = scipy.signal.fftconvolve(strength * noise(rng), point, "same")
    return np.maximum(20 * np.log10(np.abs(field) / np.abs(field).max() + 1e-9), -60)


def beamspace(rng: Rng) -> np.ndarray:
    """Magnitudes of a channel between beams and delays: a few peaks with side lobes."""
    field = np.zeros((ROWS, COLS))
    for _ in range(int(rng.integers(3, 12))):
        place = rng.uniform(0, 1, 2) * (ROWS, COLS)
        down, along = np.arange(ROWS)[:, None] - place[0], np.arange(COLS) - place[1]
        field = field + rng.exponential() * np.abs(np.sinc(down / 3) * np.sinc(along / 2))
    return field


def pulse(rng: Rng) -> np.ndarray:
    """A snapshot of pulses that spread from sources and pass each other; mostly zero."""
    rows, cols = np.mgrid[:ROWS, :COLS]
    field = np.zeros((ROWS, COLS))
    for _ in range(int(rng.integers(1, 5))):
        place, radius = rng.uniform(0, 1, 2) * (ROWS, COLS), rng.uniform(20, 90)
        width = rng.uniform(3, 8)
        at = (np.hypot(rows - place[0], cols - place[1]) - radius) / width
        field += (1 - at**2) * np.exp(-(at**2) / 2) / np.sqrt(radius)
    return field


def noisy_waves(rng: Rng, ratio: float) -> np.ndarray:
    """Plane waves of several directions, and noise ``ratio`` (amplitude)."""
    rows, cols = np.mgrid[:ROWS, :COLS]
    field = ratio * noise(rng)
    for _ in range(8):
        angle, wave = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.12)
        down, along = wave * np.cos(angle) * rows, wave * np.sin(angle) * cols
        field = field + np.exp(2j * np.pi * (down + along + rng.random())) / np.sqrt(8)
    return field


def phase(rng: Rng) -> np.ndarray:
    """A wrapped phase in radians."""
    return np.angle(fading(rng, 0.0))


def visible(rng: Rng) -> np.ndarray:
    """Which places see the mast: 0 and 1."""
    return (fractal(rng, 3.5) > rng.uniform(-0.5, 0.5)).astype(np.uint8)


def whole(rng: Rng) -> np.ndarray:
    """Received levels in whole dB, as instruments log them."""
    return np.round(shadowing(rng)).astype(np.int16)


def spectrogram(rng: Rng) -> np.ndarray:
    """Magnitudes of chirps and noise by time and frequency."""
    time = np.arange(COLS * 32)
    sound = 0.3 * rng.standard_normal(time.size)
    for _ in range(4):
        begin, end = rng.uniform(0.02, 0.48, 2)
        sound = sound + np.sin(2 * np.pi * (begin + (end - begin) * time / (2 * time.size)) * time)
    found = scipy.signal.stft(sound, nperseg=2 * ROWS, noverlap=2 * ROWS - 32)[2]
    return np.abs(found[:ROWS, :COLS])


def loss(rng: Rng) -> np.ndarray:
    """Transmission loss in dB of a tone in a shallow sea of one sound speed: the source's images in
    the surface, where the sign turns, and in a bottom that keeps some of it (method of images;
    Jensen et al., "Computational ocean acoustics", 2011). Cut 60 dB above the least."""
    depth, wavelength = rng.uniform(60, 200), rng.uniform(12, 30)
    source, kept = rng.uniform(0.1, 0.9) * depth, rng.uniform(0.4, 0.9)
    ranges = rng.uniform(500, 5000) + np.arange(COLS) * wavelength * rng.uniform(0.1, 0.5)
    depths = depth * (np.arange(ROWS)[:, None] + 1) / ROWS
    field = np.zeros((ROWS, COLS), complex)
    for order in range(40):
        for height, strength in (
            (2 * depth * order + source, 1), (2 * depth * (order + 1) - source, kept)
        ):  # fmt: skip
            for place, sign in ((height, 1), (-height, -1)):
                path = np.hypot(ranges, depths - place)
                wave = np.exp(2j * np.pi * path / wavelength) / path
                field += sign * strength * (-kept) ** order * wave
    found = -20 * np.log10(np.abs(field) + 1e-12)
    return np.minimum(found, found.min() + 60)


KINDS: dict[str, Callable[[Rng], np.ndarray]] = {
    "shadowing": shadowing,
    "indoor": indoor,
    "fading": lambda rng: fading(rng, 0.0),
    "fading-noisy": lambda rng: fading(rng, 0.1),
    "fading-magnitude": lambda rng: np.abs(fading(rng, 0.0)),
    "fading-db": lambda rng: 20 * np.log10(np.abs(fading(rng, 0.0)) + 1e-3),
    "range-doppler": range_doppler,
    "speckle": speckle,
    "beamspace": beamspace,
    "pulse": pulse,
    "waves": lambda rng: noisy_waves(rng, 0.0),
    "waves-noisy": lambda rng: noisy_waves(rng, 0.03),
    "waves-buried": lambda rng: noisy_waves(rng, 0.5),
    "phase": phase,
    "visible": visible,
    "whole-db": whole,
    "spectrogram": spectrogram,
    "terrain": lambda rng: fractal(rng, 4.0),
    "rough": lambda rng: fractal(rng, 2.5),
    "white": lambda rng: noise(rng).real,
    "loss": loss,
}


def main() -> None:
    """Write a file a kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=list(KINDS), help="[all]")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for number, (name, draw) in enumerate(KINDS.items()):
        if options.only and name not in options.only:
            continue
        rng = np.random.default_rng([options.seed, number])
        cube = np.stack([draw(rng) for _ in range(SLICES)], axis=-1)
        if cube.dtype.kind == "f":
            cube = cube.astype(np.float32)
        if cube.dtype.kind == "c":
            cube = cube.astype(np.complex64)
        path = options.out / f"{name}_{options.seed}.mat"
        scipy.io.savemat(path, {"H": cube})
        print(path, cube.dtype, f"{cube.real.min():.3g} to {cube.real.max():.3g}")


if __name__ == "__main__":
    main()
