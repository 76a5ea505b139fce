"""Cubes, files and tiny weights for the tests of ``mzsr upscale``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5storage
import numpy as np
import scipy.io
import tifffile
import torch
import zarr
from PIL import Image

from mzsr_cli.cli.main import exit_code
from mzsr_cli.learning import networks
from mzsr_cli.learning.weights import save_weights
from mzsr_cli.settings import NetworkSettings

H, W, S = 21, 17, 3
NAME = "Hfield"
"""Variable that holds the cube in files that name them."""


def run(*arguments: Any) -> int:
    """Exit code of a command line."""
    return exit_code([str(a) for a in arguments])


def upscale(source: Path, *arguments: Any) -> int:
    """Exit code of ``mzsr upscale SOURCE`` in fp32."""
    return run("upscale", source, "--precision", "fp32", *arguments)


def tiny_weights(path: Path, seed: int = 1, rate: float = 1e-3, **settings: Any) -> Path:
    """A weights file of a very small untrained network."""
    shape = NetworkSettings(**({"depth": 3, "width": 8} | settings))
    parameters = dict(networks.build(shape, seed).named_parameters())
    rates = {name: torch.tensor([rate]) for name in parameters}
    save_weights(path, parameters, rates, shape, {"scales": [2.0, 4.0]})
    return path


def field(shape: tuple[int, ...] = (H, W, S), dtype: str = "float64", seed: int = 0) -> Any:
    """A random cube, smooth but not band-limited, with ranges that differ between slices."""
    kind = np.dtype(dtype)
    rng = np.random.default_rng(seed)

    def walk() -> Any:
        return rng.standard_normal(shape).cumsum(0).cumsum(1)

    cube = walk() + 1j * walk() if kind.kind == "c" else walk()
    if kind.kind in "iu":
        low, high = cube.min((0, 1)), cube.max((0, 1))
        return np.rint((cube - low) / (high - low) * (200 - 40 * np.arange(shape[2]))).astype(kind)
    return (cube * 10.0 ** (2 - 3 * np.arange(shape[2]))).astype(kind)


def _v73(path: Path, cube: Any, more: dict[str, Any]) -> None:
    hdf5storage.savemat(str(path), {NAME: cube, **more}, format="7.3", truncate_existing=True)


def save(path: Path, cube: Any, **more: Any) -> Path:
    """The cube by a library that is not mzsr; ``v73`` in a .mat's name makes it MAT v7.3."""
    if path.suffix == ".mat" and "v73" in path.name:
        _v73(path, cube, more)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {NAME: cube, **more})
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file[NAME] = cube
    elif path.suffix == ".npy":
        np.save(path, cube)
    elif path.suffix == ".npz":
        np.savez(path, **{NAME: cube})
    elif path.suffix == ".tif":
        tifffile.imwrite(path, np.moveaxis(cube, 2, 0), photometric="minisblack")
    elif path.suffix == ".zarr":
        zarr.save_array(str(path), np.asarray(cube))
    else:
        Image.fromarray(cube).save(path)
    return path


def load(path: Path) -> Any:
    """The cube (H, W, S) of a file, by a library that is not mzsr."""
    if path.suffix == ".mat" and h5py.is_hdf5(path):
        return hdf5storage.loadmat(str(path))[NAME]
    if path.suffix == ".mat":
        return scipy.io.loadmat(path)[NAME]
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return file[NAME][()]
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".npz":
        return np.load(path)[NAME]
    if path.suffix == ".tif":
        return np.moveaxis(tifffile.imread(path), 0, 2)
    if path.suffix == ".zarr":
        return zarr.open_array(str(path), mode="r")[:]
    return np.array(Image.open(path))


def content(folder: Path) -> dict[str, bytes | None]:
    """Every name in a folder, and the bytes of every file."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


def names(folder: Path) -> list[str]:
    """Names in a folder."""
    return sorted(p.name for p in folder.iterdir())


def nmse(estimate: Any, truth: Any) -> float:
    """dB, relative to the truth's energy about its mean."""
    energy = np.sum(np.abs(truth - truth.mean()) ** 2)
    return float(10 * np.log10(np.sum(np.abs(estimate - truth) ** 2) / energy + 1e-300))


class StopAfter:
    """Raises KeyboardInterrupt after some slices, and keeps what it was told."""

    def __init__(self, count: int) -> None:
        self.count, self.calls = count, list[Any]()

    def __call__(self, done: int, total: int, report: Any) -> None:
        self.calls.append((done, total, report))
        if done == self.count:
            raise KeyboardInterrupt
