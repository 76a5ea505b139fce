"""Walks the elements of a MAT v5 variable before scipy reads it.

scipy looks up data types without checking them, and a damaged tag ends the whole process with
a segmentation fault. Here every tag is read first, in a stream, with no samples kept.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

_NUMBERS = frozenset((1, 2, 3, 4, 5, 6, 7, 9, 12, 13))
_TEXTS = _NUMBERS | {16, 17, 18}
_INT8, _UINT32, _INT32, _MATRIX, _COMPRESSED = 1, 6, 5, 14, 15
_NESTING, _CHAR, _SPARSE = (1, 2, 3), 4, 5
_DEEPEST = 32
_BLOCK = 1 << 20
_HEADER = 128


class _Source(Protocol):
    """Bytes read one after another."""

    def read(self, count: int) -> bytes: ...

    def skip(self, count: int) -> None: ...


class _Plain:
    """Bytes of the file as they are."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes:
        self._take(count)
        return self._file.read(count)

    def skip(self, count: int) -> None:
        self._take(count)
        self._file.seek(count, 1)

    def _take(self, count: int) -> None:
        if count > self._left:
            raise ValueError("an element is longer than what holds it")
        self._left -= count


class _Inflated:
    """Bytes that are decompressed on the way."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size
        self._engine = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = self._next(count - len(found))
            if not more:
                raise ValueError("the compressed samples end too soon")
            found += more
        return found

    def skip(self, count: int) -> None:
        while count:
            count -= len(self.read(min(count, _BLOCK)))

    def _next(self, most: int) -> bytes:
        while True:
            source = self._engine.unconsumed_tail
            if not source and not self._engine.eof:
                source = self._file.read(min(self._left, _BLOCK))
                self._left -= len(source)
            more = self._engine.decompress(source, most)
            if more or not source:
                return more


def check_variable(path: Path, name: str) -> None:
    """Raise ValueError or zlib.error unless variable ``name`` of a v5 file is well formed.

    A v4 file, which scipy reads in Python, passes.
    """
    with open(path, "rb") as file:
        head = file.read(_HEADER)
        if len(head) < _HEADER or 0 in head[:4]:
            return
        order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
        if order is None:
            raise ValueError("its header has no endian mark")
        for source in _variables(file, order):
            if _check_matrix(source, order, name, 0):
                return
    raise ValueError(f"variable '{name}' is not where the file says")


def _variables(file: IO[bytes], order: str) -> Iterator[_Source]:
    """A source at the flags of each variable."""
    while tag := file.read(8):
        kind, size = struct.unpack(order + "II", tag)
        after = file.tell() + size
        if kind == _COMPRESSED:
            source: _Source = _Inflated(file, size)
            kind = struct.unpack(order + "II", source.read(8))[0]
        else:
            source = _Plain(file, size)
        if kind == _MATRIX:
            yield source
        file.seek(after)


def _tag(source: _Source, order: str) -> tuple[int, int, int, bytes]:
    """Type, bytes, bytes still to skip, and the data of a small element."""
    raw = source.read(8)
    kind, size = struct.unpack(order + "II", raw)
    if kind >> 16:
        if kind >> 16 > 4:
            raise ValueError("a small element is longer than 4 bytes")
        return kind & 0xFFFF, kind >> 16, 0, raw[4:]
    return kind, size, size + (-size % 8), b""


def _data(source: _Source, order: str, kind: int, most: int) -> bytes:
    """Data of a short element that must be of type ``kind``."""
    found, size, rest, small = _tag(source, order)
    if found != kind or size > most:
        raise ValueError(f"an element of type {found} and {size} bytes is out of place")
    return (small or source.read(rest))[:size]


def _check_matrix(source: _Source, order: str, wanted: str | None, depth: int) -> bool:
    """Check one array, its flags being next; False when it is not called ``wanted``."""
    if depth > _DEEPEST:
        raise ValueError("cells are nested too deeply")
    flags = _data(source, order, _UINT32, 8)
    bits, _ = struct.unpack(order + "II", flags)
    kind = bits & 0xFF
    if kind >= 16:
        raise ValueError("it holds a function or an object")
    dims = _data(source, order, _INT32, 4 * 32)
    name = _data(source, order, _INT8, 1 << 16).decode("latin-1")
    if wanted is not None and name != wanted:
        return False
    sides = struct.unpack(f"{order}{len(dims) // 4}i", dims[: len(dims) // 4 * 4])
    if len(sides) < 2 or min(sides) < 0:
        raise ValueError(f"its dimensions are {sides}")
    if kind in _NESTING:
        _check_nested(source, order, kind, sides, depth)
    else:
        allowed = _TEXTS if kind == _CHAR else _NUMBERS
        planes = 1 + bool(bits & 0x0800) + (2 if kind == _SPARSE else 0)
        for _plane in range(planes):
            found, _, rest, _ = _tag(source, order)
            if found not in allowed:
                raise ValueError(f"its samples have the unknown type {found}")
            source.skip(rest)
    return True


def _check_nested(
    source: _Source, order: str, kind: int, sides: tuple[int, ...], depth: int
) -> None:
    """Check the members of a cell array, or of a struct or object."""
    count = 1
    for side in sides:
        count *= side
    if kind == 3:
        _data(source, order, _INT8, 1 << 16)
    if kind in (2, 3):
        (length,) = struct.unpack(order + "i", _data(source, order, _INT32, 4))
        names = _data(source, order, _INT8, 1 << 24)
        if length < 1 or len(names) % length:
            raise ValueError("its field names are damaged")
        count *= len(names) // length
    for _member in range(count):
        found, size, _, _ = _tag(source, order)
        if found != _MATRIX:
            raise ValueError(f"a member has the type {found}")
        if size:
            _check_matrix(source, order, None, depth + 1)
