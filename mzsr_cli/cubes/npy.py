"""NPY and NPZ. Nothing is ever unpickled.

Results are stored in Fortran order where slices are the last axis, so that each lies in one
piece. An NPZ holds its cube uncompressed: it is written in place and its checksum at the end.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from mzsr_cli.cubes.base import ArrayReader, PlainWriter, reserve, resume_error
from mzsr_cli.cubes.checks import (
    check_dtype,
    check_memory,
    choose_variable,
    cube_info,
    format_bytes,
    numeric_dtype,
    reading,
    writing,
)
from mzsr_cli.cubes.cube import Array, DType, VariableInfo, WritePlan, cube_bytes
from mzsr_cli.errors import InputError

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_BLOCK = 1 << 24
_Header = tuple[tuple[int, ...], bool, DType]


def list_npy(path: Path) -> list[VariableInfo]:
    """The one array of an .npy, without reading it. Raises InputError."""
    with reading(path), open(path, "rb") as file:
        shape, _, dtype = _read_header(file)
    return [_variable("", shape, dtype)]


def open_npy(path: Path, variable: str | None, slice_axis: int) -> ArrayReader:
    """Reader through a memory map. Raises InputError (damaged, objects, wrong axes)."""
    with reading(path), open(path, "rb") as file:
        shape, fortran, dtype = _read_header(file)
        offset = file.tell()
    check_dtype(path, dtype)
    _check_size(path, path.stat().st_size - offset, cube_bytes(shape, dtype))
    info = cube_info(path, "npy", None, shape, dtype, slice_axis)
    return ArrayReader(info, _map(path, offset, shape, fortran, dtype))


def list_npz(path: Path) -> list[VariableInfo]:
    """The arrays of an .npz, without reading them. Raises InputError."""
    found = []
    with reading(path), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".npy"):
                with archive.open(entry) as file:
                    shape, _, dtype = _read_header(file)
                found.append(_variable(entry.filename.removesuffix(".npy"), shape, dtype))
    return found


def open_npz(path: Path, variable: str | None, slice_axis: int) -> ArrayReader:
    """Reader of one array: mapped where the archive is uncompressed, else read whole.

    Raises InputError (damaged, objects, wrong axes), ResourceError (too big to decompress).
    """
    name = choose_variable(path, list_npz(path), variable).name
    with reading(path, name), zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{name}.npy")
        with archive.open(entry) as file:
            shape, fortran, dtype = _read_header(file)
            start = file.tell()
            check_dtype(path, dtype)
            _check_size(path, entry.file_size - start, cube_bytes(shape, dtype))
            info = cube_info(path, "npz", name, shape, dtype, slice_axis)
            if entry.compress_type == zipfile.ZIP_STORED:
                offset = _data_offset(path, entry) + start
                return ArrayReader(info, _map(path, offset, shape, fortran, dtype))
            check_memory(path, name, cube_bytes(shape, dtype))
            flat = np.frombuffer(file.read(), dtype)
    return ArrayReader(info, flat.reshape(shape, order="F" if fortran else "C"))


class NpyWriter(PlainWriter):
    """Writer of an .npy whose header is fixed by the plan."""

    def __init__(self, path: Path, plan: WritePlan) -> None:
        head = _header(plan)
        with reading(path), open(path, "rb") as file:
            found = file.read(len(head))
        if found != head or path.stat().st_size != len(head) + plan.nbytes:
            raise resume_error(path, "holds another cube")
        super().__init__(path, "npy", plan, [], len(head), _order(plan))


def create_npy(path: Path, plan: WritePlan) -> None:
    """Lay out the file: header and room for the slices. Raises OutputError."""
    head = _header(plan)
    with writing(path):
        path.write_bytes(head)
    reserve(path, len(head) + plan.nbytes)


class NpzWriter(PlainWriter):
    """Writer of an .npz with one uncompressed array."""

    def __init__(self, path: Path, plan: WritePlan) -> None:
        head = _header(plan)
        try:
            with zipfile.ZipFile(path) as archive:
                entry = archive.infolist()[0]
                self._directory = archive.start_dir
            offset = _data_offset(path, entry)
            with open(path, "rb") as file:
                file.seek(offset)
                found = file.read(len(head))
        except (zipfile.BadZipFile, IndexError, struct.error) as error:
            raise resume_error(path, "is not the archive it should be") from error
        if (
            found != head
            or entry.filename != f"{plan.variable}.npy"
            or entry.file_size != len(head) + plan.nbytes
        ):
            raise resume_error(path, "holds another cube")
        self._local, self._data, self._size = entry.header_offset, offset, entry.file_size
        super().__init__(path, "npz", plan, [], offset + len(head), _order(plan))

    def finish(self) -> None:
        """Put the checksum of what was written where the archive wants it."""
        assert self._map is not None
        crc = 0
        for start in range(self._data, self._data + self._size, _BLOCK):
            crc = zlib.crc32(self._map[start : min(start + _BLOCK, self._data + self._size)], crc)
        for place in (self._local + 14, self._directory + 16):
            self.store_bytes(place, memoryview(struct.pack("<I", crc)))
        self.sync()
        super().finish()


def create_npz(path: Path, plan: WritePlan) -> None:
    """Lay out the archive with zeros for samples. Raises OutputError."""
    entry = zipfile.ZipInfo(f"{plan.variable}.npy", _ZIP_DATE)
    left = plan.nbytes
    with (
        writing(path),
        zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive,
        archive.open(entry, "w", force_zip64=True) as file,
    ):
        file.write(_header(plan))
        while left:
            left -= file.write(bytes(min(left, _BLOCK)))


def _variable(name: str, shape: tuple[int, ...], dtype: DType) -> VariableInfo:
    kind = "object" if dtype.hasobject else str(dtype)
    return VariableInfo(
        name, shape, kind, cube_bytes(shape, dtype), numeric_dtype(dtype) is not None
    )


def _read_header(file: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"NPY version {version[0]}.{version[1]}: only 1.0 and 2.0 hold plain numbers")


def _header(plan: WritePlan) -> bytes:
    buffer = io.BytesIO()
    fields = {
        "descr": np.lib.format.dtype_to_descr(plan.dtype),
        "fortran_order": _order(plan) == "F",
        "shape": plan.stored,
    }
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def _order(plan: WritePlan) -> str:
    return "F" if plan.slice_axis == 2 and plan.ndim == 3 else "C"


def _map(path: Path, offset: int, shape: tuple[int, ...], fortran: bool, dtype: DType) -> Array:
    with reading(path):
        mapped: Array = np.memmap(path, dtype, "r", offset, shape, order="F" if fortran else "C")
        return mapped


def _check_size(path: Path, have: int, need: int) -> None:
    if have < need:
        raise InputError(
            f"{path}: declares {format_bytes(need)} of samples but holds {format_bytes(have)}. "
            "The file is truncated: copy or save it again."
        )


def _data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: after its local header, whose extra field may differ."""
    with open(path, "rb") as file:
        file.seek(entry.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return int(entry.header_offset + 30 + name + extra)
