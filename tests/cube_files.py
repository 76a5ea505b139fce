"""Cubes and helpers for the tests of mzsr_cli.cubes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mzsr_cli.cubes.open import create_cube

SHAPE = (5, 37, 3)
INTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64", "complex64", "complex128"]
DTYPES = INTS + FLOATS


def make_cube(dtype: str, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random samples over the dtype's range."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        ends = np.iinfo(kind)
        return rng.integers(ends.min, ends.max, shape, dtype=kind, endpoint=True)
    cube = rng.standard_normal(shape) * 1e-3
    if kind.kind == "c":
        cube = cube + 1j * rng.standard_normal(shape)
    return cube.astype(kind)


def write_cube(path: Path, cube: np.ndarray[Any, Any], order: Any = None, **options: Any) -> Any:
    """Write a cube slice by slice to ``path`` itself; the closed writer."""
    writer = create_cube(path, cube.shape, cube.dtype, **options)
    for k in order or range(cube.shape[2]):
        writer.write(k, cube[..., k])
    writer.close()
    return writer


def read_all(reader: Any) -> np.ndarray[Any, Any]:
    """All slices of a reader as (H, W, S)."""
    return np.stack([reader.read(k) for k in range(reader.info.shape[2])], axis=2)


def digest(path: Path) -> str:
    """Hash of a file, or of every name and byte in a folder."""
    found = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        found.update(str(file.relative_to(path)).encode() + file.read_bytes())
    return found.hexdigest()
