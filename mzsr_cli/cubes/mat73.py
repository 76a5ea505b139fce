"""MAT v7.3, which is HDF5 with MATLAB's conventions: read and written slice by slice.

512-byte user block with MATLAB's header, axes in reverse (so a slice lies in one piece),
complex samples as {real, imag}, the class in an attribute. The cube's room is allocated before
the first slice and slices go straight to it, so HDF5's metadata are never torn.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mzsr_cli.cubes.base import PlainWriter, matlab_shape, reserve, resume_error
from mzsr_cli.cubes.checks import available_memory, choose_variable, reading, writing
from mzsr_cli.cubes.cube import Array, CubeInfo, DType, VariableInfo, WritePlan, cube_bytes
from mzsr_cli.cubes.hdf5 import H5Reader, as_samples, early_allocation, open_dataset, sample_dtype
from mzsr_cli.errors import InputError

_USERBLOCK = 512
_HEADER = (
    b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Thu Jan  1 00:00:00 1970 "
    b"HDF5 schema 1.00 ."
)
_DEEPEST = 16
"""Cells and structs nested deeper than this are not carried over."""
_CLASS_NAMES = {"float64": "double", "float32": "single"}


class _NotCarriedError(InputError):
    """A carried variable has no MAT v7.3 form here; the message says only why."""


def list_mat73(path: Path) -> list[VariableInfo]:
    """The variables, without reading their samples. Raises InputError."""
    with reading(path), h5py.File(path, "r") as file:
        return [_variable(name, file[name]) for name in file if not name.startswith("#")]


def _variable(name: str, item: Any) -> VariableInfo:
    kind = _matlab_class(item)
    if not isinstance(item, h5py.Dataset):
        return VariableInfo(name, (), kind, 0, False)
    if "MATLAB_empty" in item.attrs:
        return VariableInfo(name, tuple(int(n) for n in np.ravel(item[()])), kind, 0, False)
    shape = tuple((item.shape or ())[::-1])
    numeric = _is_numeric(kind) and sample_dtype(item.dtype) is not None
    return VariableInfo(name, shape, kind, cube_bytes(shape, item.dtype), numeric)


def _matlab_class(item: Any) -> str:
    """The ``MATLAB_class`` of a variable; where it lacks one, what its dtype amounts to."""
    if "MATLAB_sparse" in item.attrs:
        return "sparse"
    text = item.attrs.get("MATLAB_class")
    if text is not None:
        return text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)
    if not isinstance(item, h5py.Dataset):
        return "struct"
    found = sample_dtype(item.dtype)
    return _class_of(found) if found is not None else "cell"


def _class_of(dtype: DType) -> str:
    plane = np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype
    return _CLASS_NAMES.get(plane.name, plane.name)


def _is_numeric(kind: str) -> bool:
    return kind in ("double", "single", "half", "logical", "float16") or "int" in kind


def open_mat73(path: Path, variable: str | None, slice_axis: int) -> Mat73Reader:
    """Reader slice by slice. Raises InputError (damaged, not numeric, wrong axes)."""
    name = choose_variable(path, list_mat73(path), variable).name
    with reading(path):
        file = h5py.File(path, "r")
    opened = open_dataset(path, "mat73", file, name, slice_axis, reverse=True)
    return Mat73Reader(opened.info, file, file[name], reverse=True)


class Mat73Reader(H5Reader):
    """Reader of one variable of a MAT v7.3 file."""

    def __init__(self, info: CubeInfo, file: Any, dataset: Any, reverse: bool = True) -> None:
        super().__init__(info, file, dataset, reverse)

    def carried(self) -> dict[str, Any]:
        """Other variables: arrays, text (str arrays), cells (object arrays), structs (dicts).

        What has no such form, or does not fit into memory, goes to ``notes``.
        """
        kept = {}
        for name in self.file:
            if name == self.info.variable or name.startswith("#"):
                continue
            try:
                with reading(self.info.path, name):
                    kept[name] = _decode(self.file, self.file[name], 0)
            except InputError as error:
                self.notes.append(f"variable '{name}' is not carried over: {error}")
        return kept


def _decode(file: Any, item: Any, depth: int) -> Any:
    kind = _matlab_class(item)
    if depth > _DEEPEST:
        raise _NotCarriedError("nested too deeply")
    if isinstance(item, h5py.Group):
        if kind != "struct":
            raise _NotCarriedError(f"it is {kind}")
        return {name: _decode(file, item[name], depth + 1) for name in item}
    if "MATLAB_object_decode" in item.attrs:
        raise _NotCarriedError(f"it is a {kind} object")
    if cube_bytes(item.shape or (), item.dtype) > available_memory():
        raise _NotCarriedError("it does not fit into memory")
    if "MATLAB_empty" in item.attrs:
        return _decode_empty(item, kind)
    if item.dtype == h5py.ref_dtype:
        return _decode_cell(file, item, depth)
    return _decode_array(item, kind)


def _decode_empty(item: Any, kind: str) -> Any:
    shape = tuple(int(n) for n in np.ravel(item[()]))
    if min(shape, default=0) > 0 or len(shape) > 32:
        raise _NotCarriedError("it is marked as empty but is not")
    if kind == "struct":
        raise _NotCarriedError("it is an empty struct array")
    dtypes: dict[str, Any] = {"char": "U1", "cell": object, "logical": bool, "single": "f4"}
    return np.empty(shape, dtypes.get(kind, kind if "int" in kind else "f8"))


def _decode_cell(file: Any, item: Any, depth: int) -> Array:
    references = item[()].T
    cells = np.empty(references.shape, object)
    for place in np.ndindex(references.shape):
        if not references[place]:
            raise _NotCarriedError("a cell refers to nothing")
        cells[place] = _decode(file, file[references[place]], depth + 1)
    return cells


def _decode_array(item: Any, kind: str) -> Array:
    dtype = sample_dtype(item.dtype)
    if dtype is None or not (kind == "char" or _is_numeric(kind)):
        raise _NotCarriedError(f"it is {kind}")
    samples = np.asarray(as_samples(item[()], dtype).T)
    if kind == "logical":
        return samples.astype(bool)
    return _to_text(samples) if kind == "char" else samples


def _to_text(codes: Array) -> Array:
    """UTF-16 codes, one row a line, as an array of str with one item a row."""
    if codes.ndim != 2:
        raise _NotCarriedError("it is a char array with more than 2 axes")
    rows = [row.astype("<u2").tobytes().decode("utf-16-le", "replace") for row in codes]
    return np.array(rows, dtype=f"U{max(1, codes.shape[1])}")


class Mat73Writer(PlainWriter):
    """Writer of one numeric variable whose room is in the file already."""

    def __init__(self, path: Path, plan: WritePlan) -> None:
        with reading(path), h5py.File(path, "r") as file:
            dataset = file.get(plan.variable)
            if (
                not isinstance(dataset, h5py.Dataset)
                or dataset.shape != matlab_shape(plan)[::-1]
                or sample_dtype(dataset.dtype) != plan.dtype
                or dataset.id.get_offset() is None
            ):
                raise resume_error(path, "holds another cube")
            offset = int(dataset.id.get_offset())
        refused = _not_carried(plan).items()
        notes = [f"variable '{name}' is not carried over: {why}" for name, why in refused]
        super().__init__(path, "mat73", plan, notes, offset, "F")


def create_mat73(path: Path, plan: WritePlan) -> None:
    """Lay out the file: MATLAB header, room for the slices, carried variables.

    Raises OutputError.
    """
    refused = _not_carried(plan)
    with writing(path):
        with h5py.File(path, "w", userblock_size=_USERBLOCK) as file:
            dataset = file.create_dataset(
                plan.variable,
                shape=matlab_shape(plan)[::-1],
                dtype=_file_dtype(plan.dtype),
                dcpl=early_allocation(),
            )
            _set_class(dataset, _class_of(plan.dtype))
            encoder = _Encoder(file)
            for name, value in plan.carried.items():
                if name not in refused and name != plan.variable:
                    encoder.store(file, name, value)
        with open(path, "r+b") as raw:
            raw.write(_HEADER.ljust(116) + bytes(8) + b"\x00\x02IM")
    reserve(path, path.stat().st_size)


def _file_dtype(dtype: DType) -> DType:
    """Complex samples as MATLAB stores them: a compound of real and imag."""
    if dtype.kind != "c":
        return dtype
    part = f"<f{dtype.itemsize // 2}"
    return np.dtype([("real", part), ("imag", part)])


def _set_class(item: Any, kind: str) -> None:
    item.attrs["MATLAB_class"] = np.bytes_(kind)


def _not_carried(plan: WritePlan) -> dict[str, str]:
    """Carried variables that have no v7.3 form here, each with the reason."""
    refused = {}
    for name, value in plan.carried.items():
        try:
            if not name[:1].isalpha() or "/" in name:
                raise _NotCarriedError("MATLAB does not allow the name")
            _check_form(value, 0)
        except _NotCarriedError as error:
            refused[name] = str(error)
    return refused


def _check_form(value: Any, depth: int) -> None:
    """Raise _NotCarriedError unless ``_Encoder`` can store ``value``."""
    if depth > _DEEPEST:
        raise _NotCarriedError("nested too deeply")
    value = _plain(value)
    if isinstance(value, Mapping):
        for name, field in value.items():
            if not str(name)[:1].isalpha() or "/" in str(name):
                raise _NotCarriedError(f"it has a field named '{name}'")
            _check_form(field, depth + 1)
    elif value.dtype.kind == "O":
        for cell in value.flat:
            _check_form(cell, depth + 1)
    elif value.dtype.kind != "U" and (value.dtype.kind not in "biufc" or value.dtype.itemsize > 16):
        raise _NotCarriedError(f"it is {value.dtype}")


def _plain(value: Any) -> Any:
    """``value`` as a Mapping (1x1 struct) or an array of at least two axes."""
    if isinstance(value, Mapping):
        return value
    if type(value).__module__.startswith("scipy.sparse"):
        raise _NotCarriedError("it is sparse")
    if not isinstance(value, (np.ndarray, np.generic, str, bool, int, float, complex, list, tuple)):
        raise _NotCarriedError(f"it is a {type(value).__name__}")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise _NotCarriedError("it is a ragged list") from error
    if array.dtype.names is not None:
        if array.size != 1:
            raise _NotCarriedError("it is a struct array")
        return {name: array.reshape(-1)[0][name] for name in array.dtype.names}
    return array if array.dtype.kind == "U" else np.atleast_2d(array)


class _Encoder:
    """Stores carried values in MATLAB's form in one file."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._count = 0

    def store(self, group: Any, name: str, value: Any) -> None:
        """Store ``value`` as ``name`` of ``group``."""
        value = _plain(value)
        if isinstance(value, Mapping):
            inner = group.create_group(name)
            _set_class(inner, "struct")
            for key, field in value.items():
                self.store(inner, str(key), field)
        elif value.dtype.kind == "U":
            _store_text(group, name, value)
        elif value.size == 0:
            _store_empty(group, name, value.shape, _carried_class(value))
        elif value.dtype.kind == "O":
            self._store_cell(group, name, value)
        else:
            _store_array(group, name, value)

    def _store_cell(self, group: Any, name: str, value: Array) -> None:
        """Cells as references to hidden variables."""
        hidden = self._file.require_group("#refs#")
        references = np.empty(value.shape[::-1], h5py.ref_dtype)
        for place in np.ndindex(value.shape):
            key = f"c{self._count}"
            self._count += 1
            self.store(hidden, key, value[place])
            references[place[::-1]] = hidden[key].ref
        item = group.create_dataset(name, data=references, dtype=h5py.ref_dtype)
        _set_class(item, "cell")


def _carried_class(value: Array) -> str:
    return {"O": "cell", "b": "logical"}.get(value.dtype.kind) or _class_of(value.dtype)


def _store_empty(group: Any, name: str, shape: tuple[int, ...], kind: str) -> None:
    item = group.create_dataset(name, data=np.array(shape, np.uint64), track_times=False)
    _set_class(item, kind)
    item.attrs["MATLAB_empty"] = np.uint8(1)


def _store_array(group: Any, name: str, value: Array) -> None:
    stored = value.astype({"b": np.uint8}.get(value.dtype.kind, value.dtype))
    stored = stored.astype(
        np.float32 if stored.dtype == np.float16 else stored.dtype.newbyteorder("=")
    )
    data = np.ascontiguousarray(stored.T).view(_file_dtype(stored.dtype))
    item = group.create_dataset(name, data=data, track_times=False)
    _set_class(item, "logical" if value.dtype.kind == "b" else _class_of(stored.dtype))
    if value.dtype.kind == "b":
        item.attrs["MATLAB_int_decode"] = np.int32(1)


def _store_text(group: Any, name: str, value: Array) -> None:
    """Text as a char matrix of UTF-16 codes, one item a row."""
    rows = [np.frombuffer(str(row).encode("utf-16-le"), "<u2") for row in value.flat]
    width = max((len(row) for row in rows), default=0)
    if not width:
        _store_empty(group, name, (0, 0), "char")
        return
    codes = np.full((len(rows), width), ord(" "), np.uint16)
    for line, row in zip(codes, rows, strict=True):
        line[: len(row)] = row
    item = group.create_dataset(name, data=np.ascontiguousarray(codes.T), track_times=False)
    _set_class(item, "char")
    item.attrs["MATLAB_int_decode"] = np.int32(2)
