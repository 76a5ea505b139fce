"""Zarr: v2 and v3 folders are read, v3 is written with one slice a chunk, uncompressed.

Each slice is a file of its own, so any order of writes gives the same folder. The package
``zarr`` is optional and imported here only when a .zarr is touched.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np

from mzsr_cli.cubes.base import SliceReader, SliceWriter, fsync_path, resume_error
from mzsr_cli.cubes.checks import (
    check_memory,
    choose_variable,
    cube_info,
    numeric_dtype,
    reading,
    writing,
)
from mzsr_cli.cubes.cube import Array, CubeInfo, VariableInfo, WritePlan, at, cube_bytes
from mzsr_cli.errors import InputError

_MARKS = ("zarr.json", ".zarray", ".zgroup")


def is_zarr(path: Path) -> bool:
    """True for a folder that is the root of a Zarr array or group."""
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def _zarr(path: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"{path}: reading and writing Zarr needs the package zarr. "
            "Type: pip install 'mzsr[zarr]'"
        ) from error
    return zarr


def list_zarr(path: Path) -> list[VariableInfo]:
    """Every array in the folder by its path, '' for an array at the root. Raises InputError."""
    zarr = _zarr(path)
    with reading(path):
        root = zarr.open(str(path), mode="r")
        if isinstance(root, zarr.Array):
            return [_variable("", root)]
        arrays = sorted(root.members(max_depth=None))
        return [_variable(name, item) for name, item in arrays if isinstance(item, zarr.Array)]


def _variable(name: str, array: Any) -> VariableInfo:
    dtype = np.dtype(array.dtype)
    shape = tuple(array.shape)
    numeric = numeric_dtype(dtype) is not None
    return VariableInfo(name, shape, str(dtype), cube_bytes(shape, dtype), numeric)


def open_zarr(path: Path, variable: str | None, slice_axis: int) -> ZarrReader:
    """Reader chunk by chunk. Raises InputError (damaged, pickled, wrong axes)."""
    name = choose_variable(path, list_zarr(path), variable).name
    with reading(path, name or "it"):
        root = _zarr(path).open(str(path), mode="r")
        array = root[name] if name else root
        if "pickle" in str(array.metadata).lower():
            raise InputError(
                f"{path}: its samples are pickled, which mzsr never reads. "
                "Save the array again as plain numbers."
            )
        info = cube_info(path, "zarr", name or None, array.shape, array.dtype, slice_axis)
        check_memory(path, "one chunk", cube_bytes(array.chunks, info.dtype))
    return ZarrReader(info, array, path / name)


_METADATA = ("zarr.json", ".zarray")
"""Files of an array's folder that say what it is."""


class ZarrReader(SliceReader):
    """Reader of one array of a Zarr folder.

    A chunk that is not there stands for zeros, so that a folder that is gone would read as such: it
    is looked at after each slice.
    """

    def __init__(self, info: CubeInfo, array: Any, folder: Path) -> None:
        super().__init__(info)
        self._array, self._folder = array, folder
        self._known = [name for name in _METADATA if (folder / name).exists()]

    def fetch(self, k: int) -> Array:
        """See SliceReader.fetch."""
        plane = np.asarray(self._array[at(self.info.ndim, self.info.slice_axis, k)])
        if not all((self._folder / name).exists() for name in self._known):
            raise OSError(errno.ESTALE, "the folder is gone")
        return plane


class ZarrWriter(SliceWriter):
    """Writer of a Zarr v3 array, one chunk a slice."""

    def __init__(self, path: Path, plan: WritePlan) -> None:
        zarr = _zarr(path)
        super().__init__(path, "zarr", plan, [])
        self._axis = plan.slice_axis
        self._folder = path / plan.variable if plan.variable else path
        with reading(path):
            array = zarr.open_array(str(self._folder), mode="r+")
            array = array.with_config({"write_empty_chunks": True})
        if array.shape != plan.stored or array.dtype != plan.dtype:
            raise resume_error(path, "holds another cube")
        for torn in self._folder.rglob("*.partial"):
            torn.unlink()
        self._array = array
        self._unsynced: set[Path] = set()

    def put(self, k: int, plane: Array) -> None:
        """See SliceWriter.put."""
        index = at(self._array.ndim, self._axis, k)
        self._array[index] = plane
        corner = tuple(0 if isinstance(part, slice) else int(part) for part in index)
        self._unsynced.add(self._folder / self._array.metadata.encode_chunk_key(corner))

    def get(self, k: int) -> Array:
        """See SliceWriter.get."""
        return np.asarray(self._array[at(self._array.ndim, self._axis, k)])

    def sync(self) -> None:
        """See SliceWriter.sync: the chunk files and the folders that name them."""
        folders = set()
        for file in self._unsynced:
            fsync_path(file)
            folders |= {folder for folder in file.parents if self.path in (folder, *folder.parents)}
        for folder in folders:
            fsync_path(folder)
        self._unsynced.clear()


def create_zarr(path: Path, plan: WritePlan) -> None:
    """Make the folder with its metadata. Raises InputError without zarr, OutputError."""
    zarr = _zarr(path)
    chunks = [*plan.shape[:2]]
    if plan.ndim == 3:
        chunks.insert(plan.slice_axis, 1)
    with writing(path):
        if plan.variable:
            zarr.open_group(str(path), mode="w", zarr_format=3)
        zarr.create_array(
            str(path),
            name=plan.variable or None,
            shape=plan.stored,
            dtype=plan.dtype,
            chunks=tuple(chunks),
            compressors=None,
            zarr_format=3,
        )
