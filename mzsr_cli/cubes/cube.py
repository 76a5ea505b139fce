"""What a cube in a file is: its facts, how it is read and how it is written, slice by slice.

A cube has axes (row, column, slice) and shape (H, W, S); slice ``k`` is an H x W array in the
cube's own dtype and units. Formats differ; these Protocols do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
DType: TypeAlias = np.dtype[Any]
Shape: TypeAlias = tuple[int, int, int]
"""(H, W, S)."""


@dataclass(frozen=True)
class CubeInfo:
    """Facts of a cube that are known without reading its samples.

    ``shape`` is (H, W, S) however the file stores it; ``slice_axis`` (0, 1, 2) and ``ndim``
    (2 or 3) say how it does, so that a result can be stored alike.
    """

    path: Path
    format: str
    variable: str | None
    shape: Shape
    dtype: DType
    slice_axis: int = 2
    ndim: int = 3

    @property
    def is_complex(self) -> bool:
        """True when each slice has two planes."""
        return self.dtype.kind == "c"

    @property
    def nbytes(self) -> int:
        """Bytes of the samples, uncompressed."""
        return cube_bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class VariableInfo:
    """One variable of a file: ``kind`` is its MATLAB class or its dtype, ``nbytes`` what its
    samples take (0 when unknown). ``name`` is empty in formats without names.

    ``shape`` is as stored (MATLAB order for .mat). MAT v5 does not tell complex from real
    before it is read: there ``nbytes`` is that of the real plane.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    nbytes: int
    numeric: bool

    def __str__(self) -> str:
        """``t 1x150`` for a numeric array, ``name char`` for anything else."""
        what = "x".join(map(str, self.shape)) if self.numeric else self.kind
        name = "".join(letter if letter.isprintable() else "?" for letter in self.name[:80])
        return f"{name} {what or 'scalar'}".strip()


@dataclass(frozen=True)
class WritePlan:
    """All that a writer must know before the first slice."""

    shape: Shape
    dtype: DType
    variable: str
    carried: Mapping[str, Any] = field(default_factory=dict)
    slice_axis: int = 2
    ndim: int = 3

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape in the file's own axes."""
        h, w, s = self.shape
        if self.ndim == 2:
            return (h, w)
        return ((s, h, w), (h, s, w), (h, w, s))[self.slice_axis]

    @property
    def nbytes(self) -> int:
        """Bytes of the samples."""
        return cube_bytes(self.shape, self.dtype)


@runtime_checkable
class CubeReader(Protocol):
    """A cube that is open for reading. Use as a context manager."""

    info: CubeInfo
    notes: list[str]
    """What the user should know, such as a variable that cannot be carried over."""

    def read(self, k: int) -> Array:
        """Slice ``k`` as an H x W C-contiguous copy in ``info.dtype``.

        Raises InputError when the file is damaged there, IndexError outside 0..S-1.
        """
        ...

    def carried(self) -> dict[str, Any]:
        """The file's other variables, to be carried over to the result (.mat; else {})."""
        ...

    def close(self) -> None:
        """Release the file; harmless when repeated."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class CubeWriter(Protocol):
    """A cube of known shape and dtype that is being written, slices in any order."""

    path: Path
    format: str
    shape: Shape
    dtype: DType
    notes: list[str]
    """What the user should know, such as another MAT version than asked for."""

    def write(self, k: int, plane: Array) -> None:
        """Store slice ``k`` (H x W). Raises ValueError for a wrong shape or an unsafe dtype."""
        ...

    def read(self, k: int) -> Array:
        """Slice ``k`` as it is stored now, H x W in ``dtype`` (to check a resumed run)."""
        ...

    def stored(self, k: int) -> Iterator[Array]:
        """The same in bands of rows, top to bottom, to look at: where it can, the file's own memory
        with any strides, not a copy. Each band is to be used before the next is asked for."""
        ...

    def flush(self) -> None:
        """Return when every slice written so far would survive a power cut."""
        ...

    def close(self) -> None:
        """Flush, assemble what is left to assemble, release the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def cube_bytes(shape: tuple[int, ...], dtype: DType) -> int:
    """Bytes of an array of ``shape`` and ``dtype``, in Python integers (never overflows)."""
    return math.prod(shape) * dtype.itemsize


def cube_shape(stored: tuple[int, ...], slice_axis: int) -> Shape:
    """(H, W, S) of an array stored as ``stored`` (2-D or 3-D) with its slices on an axis."""
    if len(stored) == 2:
        return (stored[0], stored[1], 1)
    rest = [side for axis, side in enumerate(stored) if axis != slice_axis]
    return (rest[0], rest[1], stored[slice_axis])


def at(ndim: int, slice_axis: int, k: int | slice) -> tuple[Any, ...]:
    """Index of slice ``k`` (or a range of slices) in an array with ``ndim`` axes, 2 or 3."""
    index: list[Any] = [slice(None)] * ndim
    if ndim == 3:
        index[slice_axis] = k
    return tuple(index)
