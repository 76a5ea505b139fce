"""MAT v4, v5 and v7: read through scipy (whole), written as v5 slice by slice.

A v5 array lies in one piece in Fortran order, its real plane before its imaginary one, so the
file is laid out before the first slice and each slice is written in its place; memory stays
at one slice. Carried variables follow the cube.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse

from mzsr_cli import settings
from mzsr_cli.cubes.base import ArrayReader, MappedWriter, matlab_shape, reserve, resume_error
from mzsr_cli.cubes.checks import check_memory, choose_variable, cube_info, reading, writing
from mzsr_cli.cubes.cube import Array, CubeInfo, DType, VariableInfo, WritePlan, at, cube_bytes
from mzsr_cli.cubes.mat5_check import check_variable
from mzsr_cli.errors import InputError

_CLASSES: dict[str, tuple[int, int]] = {
    "float64": (6, 9),
    "float32": (7, 7),
    "int8": (8, 1),
    "uint8": (9, 2),
    "int16": (10, 3),
    "uint16": (11, 4),
    "int32": (12, 5),
    "uint32": (13, 6),
    "int64": (14, 12),
    "uint64": (15, 13),
}
"""dtype of a plane -> (array class, data type) of the MAT v5 format."""
_INT8, _INT32, _UINT32, _MATRIX = 1, 5, 6, 14
_COMPLEX_FLAG = 0x0800
_ITEMSIZE = {"double": 8, "single": 4, "logical": 1} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_TEXT = b"MATLAB 5.0 MAT-file, Platform: GLNXA64, Created on: Thu Jan  1 00:00:00 1970"


def fits(nbytes: int) -> bool:
    """True when a variable of ``nbytes`` can be stored as MAT v5."""
    return nbytes < settings.MAT5_LIMIT


def list_mat5(path: Path) -> list[VariableInfo]:
    """The variables, without reading their samples. Raises InputError."""
    with reading(path):
        found = scipy.io.whosmat(str(path), appendmat=False)
    return [_variable(name, tuple(int(n) for n in shape), kind) for name, shape, kind in found]


def _variable(name: str, shape: tuple[int, ...], kind: str) -> VariableInfo:
    item = _ITEMSIZE.get(kind, 0)
    nbytes = cube_bytes(shape, np.dtype(f"V{item}")) if item else 0
    return VariableInfo(name, shape, kind, nbytes, kind in _ITEMSIZE)


def open_mat5(path: Path, variable: str | None, slice_axis: int) -> Mat5Reader:
    """Reader that holds the variable in memory: v5 files cannot be read by slice.

    Raises InputError (damaged, not numeric), ResourceError (declared size over free memory).
    """
    found = list_mat5(path)
    chosen = choose_variable(path, found, variable)
    cube_info(path, "mat5", chosen.name, chosen.shape, np.dtype("f4"), slice_axis)
    check_memory(path, f"variable '{chosen.name}'", chosen.nbytes)
    stored = np.asarray(_load(path, chosen))
    info = cube_info(path, "mat5", chosen.name, stored.shape, stored.dtype, slice_axis)
    return Mat5Reader(info, stored, [v for v in found if v.name != chosen.name])


def _load(path: Path, variable: VariableInfo) -> Any:
    """A numeric variable in its MATLAB class, whatever smaller type the file packs it in.

    Complex integers, which numpy has not, become complex128. (scipy's own ``mat_dtype`` drops the
    imaginary plane of single arrays.)
    """
    value = _loadmat(path, variable.name, False)
    part = _ITEMSIZE[variable.kind]
    with reading(path, f"variable '{variable.name}'"):
        if variable.kind == "logical":
            return value.astype(bool)
        if variable.kind in ("double", "single"):
            dtype = f"c{2 * part}" if value.dtype.kind == "c" else f"f{part}"
            return value.astype(dtype, copy=False)
        return value if value.dtype.kind == "c" else value.astype(variable.kind, copy=False)


def _load_carried(path: Path, variable: VariableInfo) -> tuple[Any, list[str]]:
    """A variable to be carried over, and notes on it."""
    if variable.numeric:
        return _load(path, variable), []
    return _load_nested(path, variable)


def _load_nested(path: Path, variable: VariableInfo) -> tuple[Any, list[str]]:
    """A cell, struct or text with its inner arrays in their MATLAB classes, where scipy can."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            return _loadmat(path, variable.name, True), []
        except InputError:
            note = f"numbers inside variable '{variable.name}' may change their class"
            return _loadmat(path, variable.name, False), [note]


def _loadmat(path: Path, name: str, mat_dtype: bool) -> Any:
    with reading(path, f"variable '{name}'"):
        check_variable(path, name)
        value: Any = scipy.io.loadmat(
            str(path), variable_names=[name], mat_dtype=mat_dtype, appendmat=False, spmatrix=False
        )[name]
        if hasattr(value, "check_format"):  # sparse
            value.check_format(full_check=True)
        return value


class Mat5Reader(ArrayReader):
    """Reader of one variable of a MAT v4, v5 or v7 file."""

    def __init__(self, info: CubeInfo, stored: Array, others: list[VariableInfo]) -> None:
        super().__init__(info, stored)
        self._others = others

    def carried(self) -> dict[str, Any]:
        """The other variables as scipy loads them; what scipy cannot load goes to ``notes``."""
        kept: dict[str, Any] = {}
        for other in self._others:
            if other.kind in ("function", "opaque", "object"):
                self.notes.append(f"variable '{other.name}' ({other.kind}) is not carried over")
                continue
            check_memory(self.info.path, f"variable '{other.name}'", other.nbytes)
            try:
                value, notes = _load_carried(self.info.path, other)
            except InputError as error:
                notes = [f"variable '{other.name}' is not carried over: {error}"]
            else:
                kept[other.name] = value
            self.notes += notes
        return kept


@dataclass(frozen=True)
class _Layout:
    """Where everything lies in a v5 file; offsets in bytes."""

    head: bytes
    tags: dict[int, bytes]
    planes: list[int]
    end: int


def _element(kind: int, data: bytes) -> bytes:
    """A small data element, its data padded to 8 bytes (short form up to 4 bytes)."""
    if len(data) <= 4:
        return struct.pack("<HH", kind, len(data)) + data.ljust(4, b"\0")
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def _data_tag(kind: int, nbytes: int) -> tuple[bytes, int]:
    """Tag of ``nbytes`` of samples, and the bytes they take after it."""
    if nbytes <= 4:
        return struct.pack("<HH", kind, nbytes), 4
    return struct.pack("<II", kind, nbytes), nbytes + -nbytes % 8


def _layout(plan: WritePlan) -> _Layout:
    """The file of ``plan`` up to the carried variables."""
    shape = matlab_shape(plan)
    plane = _plane_dtype(plan.dtype)
    array_class, kind = _CLASSES[plane.name]
    flags = array_class | (_COMPLEX_FLAG if plan.dtype.kind == "c" else 0)
    facts = (
        _element(_UINT32, struct.pack("<II", flags, 0))
        + _element(_INT32, struct.pack(f"<{len(shape)}i", *shape))
        + _element(_INT8, plan.variable.encode("ascii"))
    )
    tag, room = _data_tag(kind, cube_bytes(shape, plane))
    count = 2 if plan.dtype.kind == "c" else 1
    total = len(facts) + count * (len(tag) + room)
    header = _TEXT.ljust(116) + bytes(8) + struct.pack("<H", 0x0100) + b"IM"
    head = header + struct.pack("<II", _MATRIX, total) + facts
    starts = [len(head) + n * (len(tag) + room) for n in range(count)]
    return _Layout(
        head,
        {start: tag for start in starts},
        [start + len(tag) for start in starts],
        len(head) + count * (len(tag) + room),
    )


def _plane_dtype(dtype: DType) -> DType:
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def _carried_bytes(plan: WritePlan) -> tuple[bytes, list[str]]:
    """Carried variables as v5 elements, and notes of those that cannot be."""
    blobs: list[bytes] = []
    notes: list[str] = []
    failures = (ValueError, TypeError, OverflowError, KeyError, AttributeError)
    for name, value in plan.carried.items():
        if name == plan.variable:
            continue
        buffer: Any = io.BytesIO()
        try:
            if not name[:1].isalpha():
                raise ValueError("MATLAB does not allow the name")
            scipy.io.savemat(buffer, {name: value}, long_field_names=True, oned_as="row")
        except (*failures, scipy.io.matlab.MatWriteError) as error:
            notes.append(f"variable '{name}' is not carried over: {error}")
        else:
            blobs.append(buffer.getvalue()[128:])
    return b"".join(blobs), notes


class Mat5Writer(MappedWriter):
    """Writer of one numeric variable, and of the carried ones after it."""

    def __init__(self, path: Path, plan: WritePlan) -> None:
        layout = _layout(plan)
        tail, notes = _carried_bytes(plan)
        with reading(path), open(path, "rb") as file:
            head = file.read(len(layout.head))
            file.seek(layout.end)
            if head != layout.head or file.read() != tail:
                raise resume_error(path, "holds another cube")
        super().__init__(path, "mat5", plan, notes)
        plane = _plane_dtype(plan.dtype)
        self._planes = [self.view(offset, plan.stored, plane, "F") for offset in layout.planes]

    def put(self, k: int, plane: Array) -> None:
        """See SliceWriter.put."""
        parts = (plane.real, plane.imag) if self.dtype.kind == "c" else (plane,)
        for stored, part in zip(self._planes, parts, strict=True):
            self.store(stored[at(stored.ndim, self._axis, k)], part)

    def get(self, k: int) -> Array:
        """See SliceWriter.get."""
        parts: list[Array] = [stored[at(stored.ndim, self._axis, k)] for stored in self._planes]
        if len(parts) == 1:
            return parts[0]
        plane = np.empty(self.shape[:2], self.dtype)
        plane.real, plane.imag = parts
        return plane

    def finish(self) -> None:
        """See MappedWriter.finish."""
        self._planes = []
        super().finish()


def create_mat5(path: Path, plan: WritePlan) -> None:
    """Lay out the file: header, room for the slices, carried variables. Raises OutputError."""
    layout = _layout(plan)
    tail, _ = _carried_bytes(plan)
    with writing(path):
        path.write_bytes(layout.head)
    reserve(path, layout.end)
    with writing(path), open(path, "r+b") as file:
        for start, tag in layout.tags.items():
            file.seek(start)
            file.write(tag)
        file.seek(layout.end)
        file.write(tail)
    reserve(path, layout.end + len(tail))
