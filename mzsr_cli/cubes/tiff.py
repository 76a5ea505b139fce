"""TIFF and BigTIFF stacks: a page is a slice. ImageJ and OME stacks are read.

Results are uncompressed pages laid out before the first slice; above 4 GB they are BigTIFF.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from mzsr_cli.cubes.base import ArrayReader, PlainWriter, SliceReader, reserve, resume_error
from mzsr_cli.cubes.checks import check_memory, cube_info, numeric_dtype, reading, writing
from mzsr_cli.cubes.cube import Array, CubeInfo, VariableInfo, WritePlan, at, cube_bytes
from mzsr_cli.errors import InputError

_CLASSIC = 2**32 - 2**25
"""Bytes of samples up to which a classic TIFF is written."""
_MOST_TAGS = 4096
"""Tags of a page above which tifffile takes it for damaged."""


def list_tiff(path: Path) -> list[VariableInfo]:
    """The stack, without reading it; shape in (H, W, S) order. Raises InputError."""
    with reading(path), _opened(path) as file:
        shape = _stored(path, file)
        dtype = np.dtype(file.series[0].dtype)
    numeric = numeric_dtype(dtype) is not None
    return [VariableInfo("", shape, str(dtype), cube_bytes(shape, dtype), numeric)]


def _opened(path: Path) -> Any:
    """The file; equal pages that were written one by one, each as an image of its own (what
    tifffile does by default), as one stack."""
    file = tifffile.TiffFile(path)
    try:
        _check_pages(file)
        kinds = {(each.kind, each.shape, each.dtype) for each in file.series}
        pages = len(kinds) == 1 < len(file.series) and file.series[0].axes == "YX"
        if not (pages and file.series[0].kind == "shaped"):
            return file
    except Exception:
        file.close()
        raise
    file.close()
    return tifffile.TiffFile(path, is_shaped=False)


def _stored(path: Path, file: Any) -> tuple[int, ...]:
    """(H, W, S) or (H, W) of the only series. Raises InputError for any other image."""
    if len(file.series) != 1:
        sizes = ", ".join("x".join(map(str, series.shape)) for series in file.series[:6])
        raise InputError(
            f"{path}: its pages differ in size or type ({sizes}), a cube needs equal ones. "
            "Save one stack of equal pages."
        )
    series = file.series[0]
    shape = tuple(int(side) for side in series.shape)
    if len(shape) not in (2, 3) or not series.axes.endswith("YX"):
        raise InputError(
            f"{path}: axes {series.axes} ({'x'.join(map(str, shape))}) are not a stack of "
            "single-channel pages. Convert it to greyscale, or save one channel and one series."
        )
    return (*shape[-2:], *shape[:-2])


def _check_pages(file: Any) -> None:
    """Raise ValueError where the chain of pages breaks off: tifffile would show those before it."""
    tiff, found = file.tiff, set[int]()
    try:
        offset = _number(file, 8 if file.is_bigtiff else 4, tiff.offsetformat)
        while offset:
            tags = _number(file, offset, tiff.tagnoformat)
            if tags > _MOST_TAGS or offset in found:
                raise ValueError(f"page {len(found) + 1} is damaged")
            after = offset + tiff.tagnosize + tags * tiff.tagsize
            following = _number(file, after, tiff.offsetformat)
            found.add(offset)
            offset = following
    except struct.error as error:
        raise ValueError(f"it ends before page {len(found) + 1} does") from error


def _number(file: Any, offset: int, layout: str) -> int:
    """The number at ``offset``. Raises struct.error past the end."""
    file.filehandle.seek(offset)
    return int(struct.unpack(layout, file.filehandle.read(struct.calcsize(layout)))[0])


def open_tiff(path: Path, variable: str | None, slice_axis: int) -> SliceReader:
    """Reader by page: mapped where the pages lie in one piece, else decoded one by one.

    Raises InputError (damaged, colour, unequal pages, a compression that is not installed).
    """
    with reading(path):
        file = _opened(path)
    try:
        with reading(path):
            stored = _stored(path, file)
            series = file.series[0]
            info = cube_info(path, "tiff", None, stored, np.dtype(series.dtype), slice_axis)
            offset = series.dataoffset if series.keyframe.is_memmappable else None
            if offset is not None:
                return ArrayReader(info, _map(path, file, offset, info))
            if info.slice_axis == 2 and len(series.pages) == info.shape[2]:
                return TiffReader(info, file)
            check_memory(path, "the stack", info.nbytes)
            whole = series.asarray().reshape(*stored[2:], *stored[:2])
            return ArrayReader(info, _slices_last(whole))
    except Exception:
        file.close()
        raise


def _map(path: Path, file: Any, offset: int, info: CubeInfo) -> Array:
    series = file.series[0]
    dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
    shape = tuple(series.shape)
    file.close()
    return _slices_last(np.memmap(path, dtype, "r", offset, shape))


def _slices_last(pages: Array) -> Array:
    return np.moveaxis(pages, 0, 2) if pages.ndim == 3 else pages


class TiffReader(SliceReader):
    """Reader that decodes one page a slice."""

    def __init__(self, info: CubeInfo, file: Any) -> None:
        super().__init__(info)
        self._file = file

    def fetch(self, k: int) -> Array:
        """See SliceReader.fetch."""
        page = self._file.series[0].pages[k].asarray()
        return np.asarray(page).reshape(self.info.shape[:2])

    def close(self) -> None:
        """See CubeReader.close."""
        self._file.close()


class TiffWriter(PlainWriter):
    """Writer into the pages of a TIFF that are all there already."""

    def __init__(self, path: Path, plan: WritePlan) -> None:
        pages = _pages(plan)
        with reading(path), tifffile.TiffFile(path) as file:
            fits = len(file.pages) == pages[0] and file.series[0].dtype == plan.dtype
            first = file.pages[0].dataoffsets[0]
            last = file.pages[len(file.pages) - 1].dataoffsets[0]
            page = cube_bytes(pages[1:], plan.dtype)
            if not fits or last - first != (pages[0] - 1) * page:
                raise resume_error(path, "holds another cube")
            size = file.pages[0].shape
        if size != pages[1:]:
            raise resume_error(path, "holds another cube")
        super().__init__(path, "tiff", plan, [], first, "C", pages)

    def _slot(self, k: int) -> Array:
        assert self._cube is not None
        slot: Array = _slices_last(self._cube)[at(3, self._axis, k)]
        return slot


def create_tiff(path: Path, plan: WritePlan) -> None:
    """Lay out every page. Raises OutputError."""
    with writing(path):
        tifffile.memmap(
            path,
            shape=_pages(plan),
            dtype=plan.dtype,
            bigtiff=plan.nbytes > _CLASSIC,
            photometric="minisblack",
            planarconfig=None,
            metadata=None,
            software="mzsr",
            ome=False,
            imagej=False,
        )
    reserve(path, path.stat().st_size)


def _pages(plan: WritePlan) -> tuple[int, ...]:
    """(pages, rows, columns), with one page for a 2-D cube."""
    stored = plan.stored
    return (stored[2] if len(stored) == 3 else 1, *stored[:2])
