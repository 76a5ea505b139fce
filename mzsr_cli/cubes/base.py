"""What readers and writers of all formats share."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from mzsr_cli.cubes.checks import format_shape, reading, writing
from mzsr_cli.cubes.cube import Array, CubeInfo, DType, Shape, WritePlan, at
from mzsr_cli.errors import ResumeError

_ROWS = 512
"""Rows (or columns, whichever lie together in the file) of a slice in one part."""


class SliceReader(ABC):
    """CubeReader but for ``fetch``: checks the index, copies, explains damage."""

    def __init__(self, info: CubeInfo) -> None:
        self.info = info
        self.notes: list[str] = []

    @abstractmethod
    def fetch(self, k: int) -> Array:
        """Slice ``k``, H x W, any strides and byte order."""

    def read(self, k: int) -> Array:
        """See CubeReader.read."""
        if not 0 <= k < self.info.shape[2]:
            raise IndexError(f"{self.info.path}: slice {k} is outside 0..{self.info.shape[2] - 1}")
        with reading(self.info.path, f"slice {k}"):
            return np.array(self.fetch(k), dtype=self.info.dtype, order="C", copy=True)

    def carried(self) -> dict[str, Any]:
        """See CubeReader.carried."""
        return {}

    def close(self) -> None:
        """See CubeReader.close."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ArrayReader(SliceReader):
    """Reader of an array in memory or in a memory map, in the file's own axes."""

    def __init__(self, info: CubeInfo, stored: Array) -> None:
        super().__init__(info)
        self._stored: Array | None = stored

    def fetch(self, k: int) -> Array:
        """See SliceReader.fetch."""
        if self._stored is None:
            raise ValueError("the reader is closed")
        plane: Array = self._stored[at(self.info.ndim, self.info.slice_axis, k)]
        return plane

    def close(self) -> None:
        """See CubeReader.close."""
        self._stored = None


class SliceWriter(ABC):
    """CubeWriter but for ``put``, ``get``, ``sync`` and ``finish``."""

    def __init__(self, path: Path, kind: str, plan: WritePlan, notes: list[str]) -> None:
        self.path = path
        self.format = kind
        self.shape: Shape = plan.shape
        self.dtype: DType = plan.dtype
        self.notes = notes
        self._open = True

    @abstractmethod
    def put(self, k: int, plane: Array) -> None:
        """Store ``plane`` (H x W, own dtype) as slice ``k``."""

    @abstractmethod
    def get(self, k: int) -> Array:
        """Slice ``k`` as stored."""

    @abstractmethod
    def sync(self) -> None:
        """Make what was put durable."""

    def forget(self) -> None:  # noqa: B027 - most formats need nothing
        """Let go of memory that only mirrors the file; called between parts of a slice."""

    def release(self) -> None:  # noqa: B027 - most formats need nothing
        """Let go of the file as it is; nothing is written any more."""

    def finish(self) -> None:  # noqa: B027 - most formats need nothing
        """Assemble and release; called once, after a last ``sync``."""

    def write(self, k: int, plane: Array) -> None:
        """See CubeWriter.write."""
        self._check(k)
        plane = np.asarray(plane)
        if plane.shape != self.shape[:2]:
            raise ValueError(
                f"{self.path}: slice {k} is {format_shape(plane.shape)}, "
                f"not {format_shape(self.shape[:2])}"
            )
        if not np.can_cast(plane.dtype, self.dtype, casting="same_kind"):
            raise ValueError(f"{self.path}: slice {k} is {plane.dtype}, not {self.dtype}")
        with writing(self.path):
            self.put(k, plane.astype(self.dtype, copy=False))

    def read(self, k: int) -> Array:
        """See CubeWriter.read."""
        self._check(k)
        return np.array(self.get(k), dtype=self.dtype, order="C", copy=True)

    def stored(self, k: int) -> Iterator[Array]:
        """See CubeWriter.stored."""
        self._check(k)
        plane = np.asarray(self.get(k), dtype=self.dtype)
        for top in range(0, len(plane), _ROWS):
            yield plane[top : top + _ROWS]
            self.forget()

    def flush(self) -> None:
        """See CubeWriter.flush."""
        if self._open:
            with writing(self.path):
                self.sync()

    def close(self) -> None:
        """See CubeWriter.close."""
        if self._open:
            self.flush()
            self._open = False
            with writing(self.path):
                self.finish()

    def _check(self, k: int) -> None:
        if not self._open:
            raise ValueError(f"{self.path}: the writer is closed")
        if not 0 <= k < self.shape[2]:
            raise IndexError(f"{self.path}: slice {k} is outside 0..{self.shape[2] - 1}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.flush()
        finally:
            self.release()


class MappedWriter(SliceWriter):
    """Writer into a file that already has its final size, through a memory map.

    The file's structure is complete before the first slice, so a killed run leaves a file
    that can be reopened, and the order of writes cannot change its bytes.
    """

    def __init__(self, path: Path, kind: str, plan: WritePlan, notes: list[str]) -> None:
        super().__init__(path, kind, plan, notes)
        self._axis = plan.slice_axis
        with writing(path):
            self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - until release
            try:
                self._map: mmap.mmap | None = mmap.mmap(self._file.fileno(), 0)
            except OSError:
                self._file.close()
                raise

    def view(self, offset: int, shape: tuple[int, ...], dtype: DType, order: str = "C") -> Array:
        """The mapped bytes from ``offset`` as an array. Raises ResumeError past the end."""
        assert self._map is not None
        need = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
        if need > len(self._map):
            self.release()
            raise resume_error(self.path, "is shorter than the cube it should hold")
        return np.ndarray(shape, dtype, self._map, offset, order="F" if order == "F" else "C")

    def sync(self) -> None:
        """See SliceWriter.sync. What is durable need not stay in this process's memory."""
        assert self._map is not None
        self._map.flush()
        os.fsync(self._file.fileno())
        self.forget()

    def store(self, slot: Array, samples: Array) -> None:
        """``samples`` (H, W) to their place in the map (H, W), any strides; part by part, in the
        order of the file.

        What lies in one piece goes by a write: a file system that is full or has gone makes that an
        OSError, but ends a process that writes to the map.
        """
        if abs(slot.strides[0]) < abs(slot.strides[1]):
            slot, samples = slot.T, samples.T
        for top in range(0, len(slot), _ROWS):
            part, values = slot[top : top + _ROWS], samples[top : top + _ROWS]
            if part.flags.c_contiguous:
                packed = np.ascontiguousarray(values, part.dtype).reshape(-1)
                self.store_bytes(part.ctypes.data - self._address(), packed.view(np.uint8).data)
            else:
                part[...] = values
            self.forget()

    def store_bytes(self, offset: int, data: memoryview) -> None:
        """``data`` to the file, from ``offset`` on."""
        while data:
            count = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[count:], offset + count

    def _address(self) -> int:
        assert self._map is not None
        return int(np.frombuffer(self._map, np.uint8, 1).ctypes.data)

    def forget(self) -> None:
        """See SliceWriter.forget. Pages that were written stay with the system."""
        assert self._map is not None
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def finish(self) -> None:
        """See SliceWriter.finish."""
        self.release()

    def release(self) -> None:
        """Drop the map; the arrays that look at it keep it alive until they go."""
        self._map = None
        self._file.close()


class PlainWriter(MappedWriter):
    """MappedWriter of one array that lies in one piece at ``offset``."""

    def __init__(
        self,
        path: Path,
        kind: str,
        plan: WritePlan,
        notes: list[str],
        offset: int,
        order: str,
        stored: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(path, kind, plan, notes)
        self._cube: Array | None = self.view(offset, stored or plan.stored, plan.dtype, order)

    def _slot(self, k: int) -> Array:
        assert self._cube is not None
        slot: Array = self._cube[at(self._cube.ndim, self._axis, k)]
        return slot

    def put(self, k: int, plane: Array) -> None:
        """See SliceWriter.put."""
        self.store(self._slot(k), plane)

    def get(self, k: int) -> Array:
        """See SliceWriter.get."""
        return self._slot(k)

    def finish(self) -> None:
        """See MappedWriter.finish."""
        self._cube = None
        super().finish()


def resume_error(path: Path, why: str) -> ResumeError:
    """ResumeError for a part file that does not fit the run."""
    return ResumeError(f"{path}: {why}. It was begun by another run: start again without --resume.")


def reserve(path: Path, size: int) -> None:
    """Give ``path`` its final ``size`` in bytes, with disk blocks where the system can.

    Raises OutputError when the disk is full: a map of a sparse file would die of SIGBUS.
    """
    with writing(path), open(path, "r+b") as file:
        file.truncate(max(size, os.fstat(file.fileno()).st_size))
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, size)
        file.flush()
        os.fsync(file.fileno())


def matlab_shape(plan: WritePlan) -> tuple[int, ...]:
    """Stored shape as MATLAB has it: without a trailing axis of 1. Only for the file's header: the
    samples lie as in ``plan.stored``, which alone has the axis of the slices in any case."""
    stored = plan.stored
    return stored[:2] if len(stored) == 3 and stored[2] == 1 else stored


def fsync_path(path: Path) -> None:
    """fsync one file or folder (folders only where the system can)."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
