"""Plain HDF5 (.h5, .hdf5): a dataset by name or path, axes as stored, complex as {r, i}.

Results hold one chunk (or a few, above 2 GiB) a slice, allocated before the first slice, so
that slices are written past HDF5 straight to their place and its metadata never change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mzsr_cli.cubes.base import MappedWriter, SliceReader, reserve, resume_error
from mzsr_cli.cubes.checks import (
    check_memory,
    choose_variable,
    cube_info,
    numeric_dtype,
    reading,
    writing,
)
from mzsr_cli.cubes.cube import Array, CubeInfo, DType, VariableInfo, WritePlan, at, cube_bytes
from mzsr_cli.errors import InputError

_BLOCK = 128 << 20
"""Bytes of neighbouring slices that are read at once where the file mixes them."""
_CHUNK = 2 << 30
_COMPLEX = (("r", "i"), ("real", "imag"), ("re", "im"))


def sample_dtype(dtype: DType) -> DType | None:
    """The native dtype of samples stored as ``dtype``, {real, imag} pairs included, or None."""
    return _pair_dtype(dtype) if dtype.names in _COMPLEX else numeric_dtype(dtype)


def _pair_dtype(dtype: DType) -> DType | None:
    """complex64 for pairs of float32, complex128 for float64 and (as in MAT v5) for integers."""
    parts = {dtype[name].newbyteorder("=") for name in dtype.names or ()}
    part = parts.pop()
    if parts or not (part.kind in "iu" or part in (np.float32, np.float64)):
        return None
    return np.dtype(np.complex64 if part == np.float32 else np.complex128)


def as_samples(raw: Array, dtype: DType) -> Array:
    """``raw`` from h5py as ``dtype``: compound pairs become complex numbers."""
    if raw.dtype.names is None:
        return raw.astype(dtype, copy=False)
    samples = np.empty(raw.shape, dtype)
    real, imag = raw.dtype.names
    samples.real, samples.imag = raw[real], raw[imag]
    return samples


class H5Reader(SliceReader):
    """Reader of one dataset. ``reverse`` tells that its axes are MATLAB's in reverse."""

    def __init__(self, info: CubeInfo, file: Any, dataset: Any, reverse: bool = False) -> None:
        super().__init__(info)
        self.file = file
        self._dataset = dataset
        self._reverse = reverse
        self._axis = info.ndim - 1 - info.slice_axis if reverse else info.slice_axis
        self._depth = self._slices_at_once()
        self._first = -1
        self._block: Array | None = None

    def _slices_at_once(self) -> int:
        """How many slices share chunks, or lie sample by sample beside each other."""
        if self.info.ndim == 2:
            return 1
        chunks = self._dataset.chunks
        mixed = self.info.shape[2] if self._axis == 2 else 1
        shared = chunks[self._axis] if chunks else mixed
        plane = max(1, cube_bytes(self.info.shape[:2], self.info.dtype))
        return int(max(1, min(shared, _BLOCK // plane)))

    def fetch(self, k: int) -> Array:
        """See SliceReader.fetch."""
        first = k - k % self._depth
        if self._block is None or first != self._first:
            index = at(self.info.ndim, self._axis, slice(first, first + self._depth))
            self._block, self._first = self._dataset[index], first
        plane = as_samples(self._block[at(self.info.ndim, self._axis, k - first)], self.info.dtype)
        return plane.T if self._reverse else plane

    def close(self) -> None:
        """See CubeReader.close."""
        self._block = None
        self.file.close()


def list_hdf5(path: Path) -> list[VariableInfo]:
    """Every dataset, by its path in the file. Raises InputError."""
    found: list[VariableInfo] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(_variable(name, item))

    with reading(path), h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def open_hdf5(path: Path, variable: str | None, slice_axis: int) -> H5Reader:
    """Reader slice by slice. Raises InputError (damaged, no such dataset, wrong axes)."""
    name = choose_variable(path, list_hdf5(path), variable).name
    with reading(path):
        file = h5py.File(path, "r")
    return open_dataset(path, "hdf5", file, name, slice_axis)


def open_dataset(
    path: Path, kind: str, file: Any, name: str, slice_axis: int, reverse: bool = False
) -> H5Reader:
    """Reader of dataset ``name`` of an open file, which it closes on errors too."""
    try:
        with reading(path, name):
            dataset = file[name]
            _check_storage(path, name, dataset)
            stored = dataset.shape[::-1] if reverse else dataset.shape
            dtype = sample_dtype(dataset.dtype) or dataset.dtype
            info = cube_info(path, kind, name, stored, dtype, slice_axis)
            return H5Reader(info, file, dataset, reverse)
    except Exception:
        file.close()
        raise


def _check_storage(path: Path, name: str, dataset: Any) -> None:
    if dataset.external is not None:
        raise InputError(
            f"{path}: dataset '{name}' keeps its samples in other files, which mzsr does not "
            "follow. Copy it into one file (h5repack)."
        )
    chunk = cube_bytes(tuple(dataset.chunks or ()), dataset.dtype)
    check_memory(path, f"one chunk of '{name}'", chunk)
    if dataset.chunks is None and dataset.id.get_offset() is not None and dataset.size:
        need = dataset.id.get_offset() + cube_bytes(dataset.shape, dataset.dtype)
        if need > path.stat().st_size:
            raise InputError(f"{path}: dataset '{name}' is cut off. Copy or save the file again.")


def _variable(name: str, dataset: Any) -> VariableInfo:
    shape = tuple(dataset.shape or ())
    found = sample_dtype(dataset.dtype)
    kind = str(found) if found is not None else _kind(dataset.dtype)
    return VariableInfo(name, shape, kind, cube_bytes(shape, dataset.dtype), found is not None)


def _kind(dtype: DType) -> str:
    if h5py.check_string_dtype(dtype) is not None:
        return "text"
    return "compound" if dtype.names else str(dtype)


def early_allocation() -> Any:
    """Dataset creation properties: all room at once, no fill values, no times."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    return plist


class Hdf5Writer(MappedWriter):
    """Writer of a dataset of one-slice chunks."""

    def __init__(self, path: Path, plan: WritePlan) -> None:
        with reading(path), h5py.File(path, "r") as file:
            dataset = file.get(plan.variable)
            if (
                not isinstance(dataset, h5py.Dataset)
                or dataset.shape != plan.stored
                or sample_dtype(dataset.dtype) != plan.dtype
                or dataset.chunks != _chunks(plan)
            ):
                raise resume_error(path, "holds another cube")
            offsets = _chunk_offsets(dataset, plan)
        super().__init__(path, "hdf5", plan, [])
        rows = _rows(plan)
        shape = (rows, plan.shape[1])
        self._slots: list[list[Array]] = [
            [self.view(offset, shape, plan.dtype) for offset in column] for column in offsets
        ]
        self._rows = rows

    def put(self, k: int, plane: Array) -> None:
        """See SliceWriter.put."""
        for part, slot in enumerate(self._slots[k]):
            rows = plane[part * self._rows : (part + 1) * self._rows]
            self.store(slot[: len(rows)], rows)

    def get(self, k: int) -> Array:
        """See SliceWriter.get."""
        return np.concatenate(self._slots[k])[: self.shape[0]]

    def finish(self) -> None:
        """See MappedWriter.finish."""
        self._slots = []
        super().finish()


def create_hdf5(path: Path, plan: WritePlan) -> None:
    """Lay out the file: metadata and every chunk. Raises OutputError."""
    with writing(path), h5py.File(path, "w") as file:
        file.create_dataset(
            plan.variable,
            shape=plan.stored,
            dtype=plan.dtype,
            chunks=_chunks(plan),
            dcpl=early_allocation(),
        )
    reserve(path, path.stat().st_size)


def _rows(plan: WritePlan) -> int:
    """Rows of a slice that one chunk holds; HDF5 allows chunks below 4 GiB."""
    row = cube_bytes(plan.shape[1:2], plan.dtype)
    return min(plan.shape[0], max(1, _CHUNK // row))


def _chunks(plan: WritePlan) -> tuple[int, ...]:
    sides = [_rows(plan), plan.shape[1]]
    if plan.ndim == 3:
        sides.insert(plan.slice_axis, 1)
    return tuple(sides)


def _chunk_offsets(dataset: Any, plan: WritePlan) -> list[list[int]]:
    """Byte offset of each chunk, by slice, then by rows."""
    starts = range(0, plan.shape[0], _rows(plan))

    def corner(row: int, k: int) -> tuple[int, ...]:
        sides = [row, 0]
        if plan.ndim == 3:
            sides.insert(plan.slice_axis, k)
        return tuple(sides)

    return [
        [int(dataset.id.get_chunk_info_by_coord(corner(row, k)).byte_offset) for row in starts]
        for k in range(plan.shape[2])
    ]
