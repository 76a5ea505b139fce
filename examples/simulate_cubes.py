"""Simulates training cubes: underwater sound fields and ultrasonic full matrix captures.

Ten ``underwater`` files (range x depth x frequency) and eight ``underwater_depth`` files (range x
depth x source depth) hold |p| of a point source in a layered ocean, summed from the normal modes
of KRAKEN (the package ``pelagic``). Six ``fmc`` files (transmit x receive x time) hold 8-bit
records of a linear array over a block with flaws. Each file is a MATLAB v5 file with ``H``,
float32. Run:  pip install pelagic && python examples/simulate_cubes.py OUT --seed 1
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

SIDE = 256
SLICES = 12
COUNTS = {"underwater": 10, "underwater_depth": 8, "fmc": 6}
PROFILES = ("isovelocity", "thermocline", "surface duct", "upward refracting", "munk")
BOTTOMS = {  # speed (m/s), density (g/cm3), attenuation (dB per wavelength): lowest and highest
    "silt": ((1560, 1620), (1.3, 1.6), (0.2, 0.8)),
    "sand": ((1620, 1760), (1.7, 2.0), (0.5, 0.9)),
    "gravel": ((1780, 1900), (2.0, 2.1), (0.4, 0.7)),
}
ELEMENTS = 64
TIMES = 60
RECORD = 2048
LEVELS = 127


@dataclass(frozen=True)
class Ocean:
    """A range-independent ocean: its water column and its bottom, a layer over a half-space."""

    depth: float
    profile: str
    speeds: np.ndarray  # rows of (depth, speed)
    bottom: str
    bottom_speed: float
    density: float
    loss: float
    layer: float  # thickness in metres, 0 for none

    @property
    def steepest(self) -> float:
        """Sine of the steepest grazing angle of a trapped mode, at the slowest water."""
        return float(np.sqrt(1 - (self.speeds[:, 1].min() / self.bottom_speed) ** 2))


def sound_speed(profile: str, z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sound speed in m/s at the relative depths ``z`` (0 surface, 1 bottom)."""
    base = rng.uniform(1475, 1505)
    axis = rng.uniform(0.15, 0.45)
    size = rng.uniform(15, 35)
    if profile == "thermocline":
        return base - size * 0.5 * (1 + np.tanh((z - axis) / rng.uniform(0.05, 0.12)))
    if profile == "surface duct":
        return base + 0.25 * size * np.where(z < axis, z / axis, 1 - 4 * np.minimum(z - axis, 0.2))
    if profile == "upward refracting":
        return base - 20 + size * z ** rng.uniform(0.6, 1.2)
    if profile == "munk":
        eta = 2 * (z - axis) / axis
        return 1490 * (1 + rng.uniform(0.003, 0.007) * (np.exp(-eta) + eta - 1))
    return np.full_like(z, base)


def random_ocean(number: int, count: int, rng: np.random.Generator) -> Ocean:
    """Scenario ``number`` of ``count``: kinds in turn, the depths spread from 60 to 1500 m."""
    profile = PROFILES[number % len(PROFILES)]
    place = ((3 * number + 5) % count + rng.uniform()) / count
    if profile == "munk":
        place = 0.6 + 0.4 * place
    depth = 60 * 25**place
    z = np.linspace(0, 1, 41)
    speeds = np.column_stack([z * depth, sound_speed(profile, z, rng)])
    bottom = list(BOTTOMS)[(number + number // 3) % len(BOTTOMS)]
    speed, density, loss = (float(rng.uniform(*limits)) for limits in BOTTOMS[bottom])
    speed = max(speed, float(speeds[:, 1].max()) + 40)
    layer = rng.uniform(0.02, 0.1) * depth if rng.uniform() < 0.4 else 0.0
    return Ocean(depth, profile, speeds, bottom, speed, density, loss, layer)


def case_document(ocean: Ocean, frequencies: np.ndarray, depths: np.ndarray) -> dict[str, Any]:
    """KRAKEN's input for the modes of ``ocean`` at ``frequencies``, sampled at ``depths``."""
    media = [{"to": ocean.depth, "ssp": ocean.speeds}]
    end = ocean.depth + ocean.layer
    if ocean.layer:
        rest = [0.93 * ocean.density, ocean.loss]
        top, low = (share * ocean.bottom_speed for share in (0.94, 0.97))
        ssp = [[ocean.depth, top, 0.0, *rest], [end, low, 0.0, *rest]]
        media.append({"to": end, "ssp": ssp})
    rock = {"cp": ocean.bottom_speed, "rho": ocean.density, "ap": ocean.loss}
    return {
        "pelagic": 2,
        "model": "kraken",
        "title": f"{ocean.profile} over {ocean.bottom}",
        "frequency": frequencies,
        "interpolation": "c_linear",
        "media": media,
        "surface": "vacuum",
        "bottom": {"type": "halfspace", **rock},
        "source": {"depth": depths[:1]},  # FIELD is not used; it wants a small grid all the same
        "receivers": {
            "depth": {"from": depths[0], "to": depths[-1], "count": 2},
            "range": {"from": 1.0, "to": 2.0, "count": 2, "unit": "km"},
        },
        "kraken": {
            "solver": "kraken",
            "phase_speed": [0.9 * ocean.speeds[:, 1].min(), ocean.bottom_speed],
            "max_range": 50_000.0,
            "mode_depths": depths,
            "mode_limit": 9999,
        },
    }


def modes(ocean: Ocean, frequencies: np.ndarray, depths: np.ndarray) -> list[Any]:
    """Modes at each of the ``frequencies``: wavenumbers and shapes at sorted ``depths``."""
    try:
        from pelagic import kraken
    except ImportError as error:
        raise SystemExit("the underwater cubes need KRAKEN: pip install pelagic") from error
    result = kraken.Case.from_dict(case_document(ocean, frequencies, depths)).run()
    return [frequency.profiles[0].modes for frequency in result.frequencies]


def pressure(found: Any, source: float, depths: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """|p| (ranges x depths) of a source of unit level at 1 m: the sum over the modes ``found``."""
    at_source = found.eigenfunctions[np.argmin(np.abs(found.depths_m - source))]
    rows = np.abs(found.depths_m[:, None] - depths).argmin(axis=0)
    k = found.wavenumbers
    k = k.real - 1j * np.abs(k.imag)
    across = np.exp(-1j * ranges[:, None] * k) / np.sqrt(k)
    field = (across * at_source) @ found.eigenfunctions[rows].T
    return np.sqrt(2 * np.pi / ranges)[:, None] * np.abs(field)


def grids(
    ocean: Ocean, rng: np.random.Generator, coarse: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Highest frequency, receiver depths and ranges, from periods of 3 pixels or more.

    The steepest trapped modes interfere over half a vertical wavelength in depth and over
    wavelength / (1 - cos) in range; ``coarse`` bounds how many pixels those periods take.
    """
    first, last = rng.uniform(0.005, 0.03), rng.uniform(0.93, 0.995)
    depths = ocean.depth * np.linspace(first, last, SIDE)
    fine, flat = 3.0 * coarse ** rng.uniform(size=2)
    wavelength = 2 * ocean.steepest * fine * (depths[1] - depths[0])
    step = wavelength / (1 - np.sqrt(1 - ocean.steepest**2)) / flat
    near = rng.uniform() < 0.6
    start = rng.uniform(200, 900) if near else ocean.depth * rng.uniform(8, 40)
    frequency = ocean.speeds[:, 1].min() / wavelength
    return float(frequency), depths, start + step * np.arange(SIDE)


def describe(ocean: Ocean, frequencies: np.ndarray, ranges: np.ndarray, sources: np.ndarray) -> str:
    """One line on a scenario."""
    return (
        f"{ocean.depth:.0f} m, {ocean.profile}, {ocean.bottom} {ocean.bottom_speed:.0f} m/s"
        f" {ocean.density:.2f} g/cm3 {ocean.loss:.2f} dB/wl, layer {ocean.layer:.1f} m,"
        f" {frequencies[0]:.0f}-{frequencies[-1]:.0f} Hz,"
        f" range {ranges[0]:.0f}-{ranges[-1]:.0f} m,"
        f" source {sources[0]:.1f}-{sources[-1]:.1f} m"
    )


def underwater(number: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Range x depth x frequency: |p| in a random ocean."""
    ocean = random_ocean(number, COUNTS["underwater"], rng)
    highest, depths, ranges = grids(ocean, rng, 2.5)
    space = np.geomspace if rng.uniform() < 0.5 else np.linspace
    frequencies = space(highest / rng.uniform(3, 8), highest, SLICES)
    source = ocean.depth * rng.uniform(0.05, 0.95)
    solved = modes(ocean, frequencies, np.union1d(depths, source))
    cube = np.stack([pressure(m, source, depths, ranges) for m in solved], axis=-1)
    return cube, describe(ocean, frequencies, ranges, np.array([source]))


def underwater_depth(number: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Range x depth x source depth: |p| in a random ocean at one frequency."""
    ocean = random_ocean(number, COUNTS["underwater_depth"], rng)
    highest, depths, ranges = grids(ocean, rng, 5.0)
    sources = ocean.depth * np.linspace(rng.uniform(0.02, 0.1), rng.uniform(0.6, 0.97), SLICES)
    (found,) = modes(ocean, np.array([highest]), np.union1d(depths, sources))
    cube = np.stack([pressure(found, s, depths, ranges) for s in sources], axis=-1)
    return cube, describe(ocean, np.array([highest]), ranges, sources)


@dataclass(frozen=True)
class Probe:
    """A linear array on a block: metres, seconds, hertz; ``x`` holds the element centres."""

    x: np.ndarray
    width: float
    speed: float
    frequency: float
    cycles: float
    rate: float
    wall: float  # depth of the back wall
    absorption: float  # nepers per metre


def random_probe(rng: np.random.Generator) -> Probe:
    """A probe of 2 to 10 MHz, pitch 0.4 to 0.9 wavelengths, on a block of random thickness."""
    speed, frequency = rng.uniform(3000, 6400), rng.uniform(2e6, 10e6)
    wavelength = speed / frequency
    pitch = rng.uniform(0.4, 0.9) * wavelength
    rate = rng.uniform(3, 8) * frequency
    longest = 0.9 * RECORD / rate * speed  # two passes through the block must fit the record
    wall = min(rng.uniform(0.6, 1.8) * ELEMENTS * pitch, longest / 4.6)
    x = (np.arange(ELEMENTS) - (ELEMENTS - 1) / 2) * pitch
    cycles, loss = rng.uniform(1.5, 4), rng.uniform(0.2, 1.0) / wall
    return Probe(x, 0.85 * pitch, speed, frequency, cycles, rate, wall, loss)


def crack(probe: Probe, rng: np.random.Generator) -> np.ndarray:
    """Places (n x 2) along a straight tilted crack, a quarter wavelength apart."""
    wavelength = probe.speed / probe.frequency
    length, tilt = rng.uniform(4, 15) * wavelength, rng.uniform(-1.2, 1.2)
    along = np.arange(0, length, wavelength / 4)
    start = np.array([rng.uniform(-0.7, 0.7) * probe.x[-1], rng.uniform(0.3, 0.7) * probe.wall])
    return start + along[:, None] * np.array([np.cos(tilt), np.sin(tilt)])


def scatterers(
    probe: Probe, cracked: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, str]:
    """Places (n x 2) and strengths: holes, grains of the metal and, if ``cracked``, a crack."""
    holes, grains = int(rng.integers(4, 16)), 250
    scale = np.array([1.2 * probe.x[-1], probe.wall])
    places = scale * rng.uniform([-1, 0.08], [1, 0.95], (holes + grains, 2))
    strength = rng.lognormal(0, 0.5, holes + grains)
    strength[holes:] *= rng.uniform(0.02, 0.1)
    about = f"{holes} holes"
    if cracked:
        line = crack(probe, rng)
        places, about = np.vstack([places, line]), f"{about}, crack of {len(line)} points"
        strength = np.append(strength, rng.lognormal(-0.7, 0.4, len(line)))
    return places, strength, about


def wave(probe: Probe, path: np.ndarray, sine: np.ndarray, omega: float) -> np.ndarray:
    """Spread, delayed and absorbed wave over ``path``, leaving an element at angle ``sine``."""
    wide = np.sinc(probe.width * sine * omega / (2 * np.pi * probe.speed))
    obliquity = np.sqrt(np.maximum(1 - sine**2, 0.0))
    decay = np.exp(-(1j * omega / probe.speed + probe.absorption) * path)
    return wide * obliquity * decay / np.sqrt(path)


def response(
    probe: Probe, places: np.ndarray, strength: np.ndarray, wall: float, omega: float
) -> np.ndarray:
    """Transmit x receive response at one frequency: flaws, two wall echoes, the surface wave."""
    aside = places[:, 0] - probe.x[:, None]
    path = np.hypot(aside, places[:, 1])
    one_way = wave(probe, path, aside / path, omega)
    wavelength = probe.speed / probe.frequency
    total = (one_way * strength * np.sqrt(wavelength)) @ one_way.T
    apart = np.abs(probe.x[:, None] - probe.x)
    for passes in (1, 2):
        echo = np.hypot(apart, 2 * passes * probe.wall)
        total += wall**passes * wave(probe, echo, apart / echo, omega)
    surface = apart + wavelength
    creeping = np.exp(-1j * omega / probe.speed * surface - 4 * apart / apart.max())
    return total + 0.08 * creeping / np.sqrt(surface)


def record(probe: Probe, places: np.ndarray, strength: np.ndarray, wall: float) -> np.ndarray:
    """Transmit x receive x time, noise-free: the responses within the pulse's band."""
    omega = 2 * np.pi * np.fft.rfftfreq(RECORD, 1 / probe.rate)
    centre = 2 * np.pi * probe.frequency
    spread = centre / (2 * probe.cycles)
    delay = np.exp(-1j * omega * 1.5 * probe.cycles / probe.frequency)
    pulse = np.exp(-0.5 * ((omega - centre) / spread) ** 2) * delay
    spectrum = np.zeros((omega.size, ELEMENTS, ELEMENTS), dtype=np.complex128)
    for index in np.flatnonzero(np.abs(pulse) > 1e-3):
        spectrum[index] = pulse[index] * response(probe, places, strength, wall, omega[index])
    return np.moveaxis(np.fft.irfft(spectrum, RECORD, axis=0), 0, -1)


def quantised(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Signed 8-bit levels: uneven elements, weak noise, up to a fifth of overload."""
    transmit, receive = rng.normal(1, 0.06, (2, ELEMENTS))
    level = transmit[:, None, None] * receive[:, None] * clean
    level *= LEVELS * rng.uniform(0.95, 1.2) / np.abs(level).max()
    level += rng.uniform(0.1, 0.25) * rng.standard_normal(level.shape)
    return np.clip(np.rint(level), -LEVELS - 1, LEVELS)


def picked(level: np.ndarray) -> np.ndarray:
    """Time samples with echoes (2 levels or more on 3% of the pairs), spread over the record.

    The quietest and the loudest of them take the places of their nearest neighbours.
    """
    size = np.abs(level)
    peak = size.max(axis=(0, 1))
    loud = np.flatnonzero(((size >= 2).mean(axis=(0, 1)) >= 0.03) & (peak >= 3))
    times = loud[np.linspace(0, loud.size - 1, TIMES).round().astype(int)]
    for extreme in (loud[peak[loud].argmin()], loud[peak[loud].argmax()]):
        times[np.abs(times - extreme).argmin()] = extreme
    return times


def fmc(number: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Transmit x receive x time: an 8-bit full matrix capture of a block with flaws."""
    probe = random_probe(rng)
    places, strength, about = scatterers(probe, number % 2 == 0, rng)
    level = quantised(record(probe, places, strength, rng.uniform(0.3, 0.9)), rng)
    times = picked(level)
    wavelength = probe.speed / probe.frequency
    text = (
        f"{probe.frequency / 1e6:.1f} MHz, {probe.speed:.0f} m/s,"
        f" pitch {(probe.x[1] - probe.x[0]) / wavelength:.2f} wavelengths,"
        f" {probe.rate / probe.frequency:.1f} samples a period, {probe.cycles:.1f} cycles,"
        f" wall at {probe.wall * 1e3:.1f} mm, {about}, samples {times[0]}-{times[-1]}"
    )
    return level[..., times], text


MAKERS: dict[str, Callable[[int, np.random.Generator], tuple[np.ndarray, str]]] = {
    "underwater": underwater,
    "underwater_depth": underwater_depth,
    "fmc": fmc,
}


def checked(cube: np.ndarray) -> np.ndarray:
    """The cube as float32; an error for a value that is not finite or for a constant slice."""
    cube = cube.astype(np.float32)
    if not np.isfinite(cube).all() or (np.ptp(cube, axis=(0, 1)) == 0).any():
        raise ValueError("a simulated cube has a value that is not finite or a constant slice")
    return cube


def main() -> None:
    """Write the cubes of every kind, or of one."""
    parser = argparse.ArgumentParser(description="Simulate training cubes (MATLAB v5 files).")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="seed of all scenarios (1)")
    parser.add_argument("--only", choices=list(MAKERS), metavar="KIND", help="one kind only")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for kind, (name, maker) in enumerate(MAKERS.items()):
        for number in range(COUNTS[name] if given.only in (None, name) else 0):
            cube, about = maker(number, np.random.default_rng([given.seed, kind, number]))
            path = given.out / f"{name}_{number:02d}.mat"
            scipy.io.savemat(path, {"H": checked(cube)}, do_compression=True)
            print(f"{path.name}: {about}", flush=True)


if __name__ == "__main__":
    main()
