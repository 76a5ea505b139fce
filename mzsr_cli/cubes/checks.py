"""Checks that every format shares: dtypes, shapes, memory, and errors in one clear line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mzsr_cli.cubes.cube import CubeInfo, DType, VariableInfo, cube_bytes, cube_shape
from mzsr_cli.errors import InputError, MzsrError, OutputError, ResourceError, UsageError

DTYPES = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
"""Every dtype that a cube can have; bool is read as uint8."""


def format_bytes(count: int) -> str:
    """``count`` bytes in words: 1536 -> '1.5 KiB'."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def format_shape(shape: Iterable[int]) -> str:
    """(5, 37, 3) -> '5x37x3'."""
    return "x".join(map(str, shape))


def numeric_dtype(dtype: DType) -> DType | None:
    """The native dtype in which a cube of ``dtype`` is presented, or None when it cannot be."""
    if dtype.names is not None or dtype.subdtype is not None:
        return None
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    native = dtype.newbyteorder("=")
    return native if native.name in DTYPES else None


def check_dtype(path: Path, dtype: DType) -> DType:
    """The native numeric dtype of a cube read from ``path``. Raises InputError if none."""
    found = numeric_dtype(dtype)
    if found is None:
        raise InputError(
            f"{path}: samples are {dtype}, not numbers that mzsr can use. "
            f"Save the cube as one of {', '.join(DTYPES)}."
        )
    return found


def check_output_dtype(path: Path, dtype: DType) -> DType:
    """The native numeric dtype of a cube to be written. Raises UsageError if none."""
    found = numeric_dtype(dtype)
    if found is None:
        raise UsageError(
            f"{path}: cannot store samples of {dtype}. "
            f"Pass --out-dtype, one of {', '.join(DTYPES)}."
        )
    return found


def cube_info(
    path: Path,
    kind: str,
    variable: str | None,
    stored: tuple[int, ...],
    dtype: DType,
    slice_axis: int,
) -> CubeInfo:
    """CubeInfo of an array stored as ``stored``, once it is fit to be a cube.

    Raises InputError (axes, empty, dtype) or ResourceError (one slice exceeds the memory).
    """
    stored = tuple(int(side) for side in stored)
    name = f"variable '{variable}'" if variable else "array"
    if 0 in stored:
        raise InputError(
            f"{path}: {name} is empty ({format_shape(stored)}). Pass --variable to name another."
        )
    if len(stored) not in (2, 3):
        raise InputError(
            f"{path}: {name} has {len(stored)} axes ({format_shape(stored) or 'scalar'}), "
            f"a cube has 3 (or 2: one slice). {_reshaped(variable or '', stored)}"
        )
    found = check_dtype(path, dtype)
    shape = cube_shape(stored, slice_axis)
    check_memory(path, "one slice", cube_bytes(shape[:2], found))
    return CubeInfo(path, kind, variable, shape, found, slice_axis, len(stored))


def available_memory() -> int:
    """Bytes that can be allocated now without swapping."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        text = ""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    if found:
        return int(found.group(1)) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(path: Path, what: str, needed: int) -> None:
    """Raise ResourceError when ``needed`` bytes for ``what`` are more than the free memory."""
    free = available_memory()
    if needed > free:
        raise ResourceError(
            f"{path}: {what} needs {format_bytes(needed)} of memory, {format_bytes(free)} are "
            "free. If the file's declared size is right, use a machine with more memory "
            "or store the cube as MAT v7.3, HDF5 or NPY, which are read slice by slice."
        )


_LOST = (
    *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN),
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH),
)
"""What a disk or a file system says that does not answer any more."""


@contextmanager
def reading(path: Path, what: str = "it") -> Iterator[None]:
    """Turn whatever a parser raises on a damaged or hostile file into one InputError line, and a
    disk or file system that does not answer into a ResourceError."""
    try:
        yield
    except MzsrError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{path}: not enough memory to read {what}.") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it. Check its mode (ls -l).") from error
    except Exception as error:  # third-party parsers raise anything on damaged bytes
        if isinstance(error, OSError) and error.errno in _LOST:
            raise ResourceError(
                f"{path}: cannot read {what} ({error.strerror or _one_line(error)}): its disk or "
                "file system does not answer. Type the same again once it does."
            ) from error
        raise InputError(
            f"{path}: cannot read {what} ({_one_line(error)}). The file is truncated, damaged or "
            "of another format than its name says: copy or save it again."
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while writing ``path`` into an OutputError with its reason."""
    try:
        yield
    except MzsrError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Free some disk space" if full else "Check the folder"
        raise OutputError(
            f"{path}: cannot write ({error.strerror or _one_line(error)}). {remedy} "
            "or choose another place with -o."
        ) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def candidates(found: list[VariableInfo]) -> list[VariableInfo]:
    """The variables that could be the cube: 3-D numeric ones that are not empty, or else 2-D ones
    that are no vectors."""
    numeric = [v for v in found if v.numeric]
    cubes = [v for v in numeric if len(v.shape) == 3 and min(v.shape) > 0]
    return cubes or [v for v in numeric if len(v.shape) == 2 and min(v.shape) > 1]


def choose_variable(path: Path, found: list[VariableInfo], wanted: str | None) -> VariableInfo:
    """The variable to use: ``wanted``, or the only 3-D numeric one, or the only 2-D one.

    Raises InputError that lists what is there when the choice is not plain.
    """
    if wanted is not None:
        return _named_variable(path, found, wanted)
    fit = candidates(found)
    if len(fit) == 1:
        return fit[0]
    if fit:
        raise InputError(
            f"{path}: {len(fit)} {len(fit[0].shape)}-D numeric variables ({_listing(fit)}). "
            "Pass --variable to say which."
        )
    larger = next((v for v in found if v.numeric and len(v.shape) > 3), None)
    remedy = "Pass --variable." if larger is None else _reshaped(larger.name, larger.shape)
    raise InputError(f"{path}: no 3-D numeric variable (found {_listing(found)}). {remedy}")


def _reshaped(variable: str, shape: tuple[int, ...]) -> str:
    """What to type where the array ``variable`` (empty where it has no name) has too many axes, or
    too few."""
    if len(shape) < 4:
        return "Pass --variable to name another." if variable else "Reshape it first."
    name = variable.rpartition("/")[2]
    name = name if name.isidentifier() else "H"
    return (
        f"Save it with rows and columns first and all else as slices: reshape({name}, {shape[0]}, "
        f"{shape[1]}, []) in MATLAB, {name}.reshape({shape[0]}, {shape[1]}, -1) in numpy."
    )


def _named_variable(path: Path, found: list[VariableInfo], wanted: str) -> VariableInfo:
    named = [v for v in found if v.name == wanted.strip("/")]
    if not named:
        raise InputError(
            f"{path}: no variable '{wanted}' (found {_listing(found)}). "
            "Pass one of these as --variable."
        )
    if named[0].kind == "sparse":
        raise InputError(
            f"{path}: variable '{wanted}' is sparse. Save it as full({wanted}) in MATLAB."
        )
    if not named[0].numeric:
        raise InputError(
            f"{path}: variable '{wanted}' is {named[0].kind}, not a numeric array "
            f"(found {_listing(found)}). Pass another --variable."
        )
    return named[0]


def _listing(found: list[VariableInfo], most: int = 12) -> str:
    names = [str(v) for v in found[:most]]
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return ", ".join(names + more) or "nothing"


def matlab_name(variable: str) -> str:
    """``variable`` as MATLAB would allow it: letters, digits, underscores, at most 63."""
    name = re.sub(r"\W", "_", variable, flags=re.ASCII)[:63]
    return name if re.match(r"[A-Za-z]", name) else f"x{name}"[:63]
