"""Opens and creates cubes: the one place that looks at file names."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from mzsr_cli import settings
from mzsr_cli.cubes import hdf5, image, mat5, mat73, npy, tiff, zarr3
from mzsr_cli.cubes.atomic import PART, remove
from mzsr_cli.cubes.base import resume_error
from mzsr_cli.cubes.checks import (
    check_output_dtype,
    format_bytes,
    format_shape,
    matlab_name,
    writing,
)
from mzsr_cli.cubes.cube import (
    CubeInfo,
    CubeReader,
    CubeWriter,
    DType,
    Shape,
    VariableInfo,
    WritePlan,
    cube_bytes,
)
from mzsr_cli.errors import InputError, MissingInputError, UsageError

SUFFIXES: Mapping[str, str] = {
    ".mat": "mat",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npy": "npy",
    ".npz": "npz",
    ".zarr": "zarr",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".bmp": "jpeg",
}
"""File name suffix -> format; "mat" is "mat5" or "mat73" by content."""

DEFAULT_VARIABLE = "cube"
"""Name of the result where the format wants one and the input had none."""


class _Format(NamedTuple):
    """How a format is listed, opened, laid out and written."""

    list: Callable[[Path], list[VariableInfo]]
    open: Callable[[Path, str | None, int], CubeReader]
    create: Callable[[Path, WritePlan], None]
    writer: Callable[[Path, WritePlan], CubeWriter]


_IMAGE = _Format(image.list_image, image.open_image, image.create_image, image.ImageWriter)
_FORMATS: Mapping[str, _Format] = {
    "mat5": _Format(mat5.list_mat5, mat5.open_mat5, mat5.create_mat5, mat5.Mat5Writer),
    "mat73": _Format(mat73.list_mat73, mat73.open_mat73, mat73.create_mat73, mat73.Mat73Writer),
    "hdf5": _Format(hdf5.list_hdf5, hdf5.open_hdf5, hdf5.create_hdf5, hdf5.Hdf5Writer),
    "npy": _Format(npy.list_npy, npy.open_npy, npy.create_npy, npy.NpyWriter),
    "npz": _Format(npy.list_npz, npy.open_npz, npy.create_npz, npy.NpzWriter),
    "zarr": _Format(zarr3.list_zarr, zarr3.open_zarr, zarr3.create_zarr, zarr3.ZarrWriter),
    "tiff": _Format(tiff.list_tiff, tiff.open_tiff, tiff.create_tiff, tiff.TiffWriter),
    "png": _IMAGE,
    "jpeg": _IMAGE,
}


@dataclass(frozen=True)
class OutputFormat:
    """What a result will be: format, stored dtype, bytes of samples, and what to tell."""

    format: str
    dtype: DType
    nbytes: int
    notes: tuple[str, ...] = ()


def open_cube(path: Path | str, variable: str | None = None, slice_axis: int = 2) -> CubeReader:
    """Open a cube for reading; ``slice_axis`` (0, 1, 2) says which stored axis is the slices.

    The reader shows (H, W, S) in any case; a 2-D array is a cube with S = 1. Without
    ``variable`` the only 3-D numeric variable is taken, or else the only 2-D one.
    Raises MissingInputError, InputError (format, damage, variable, dtype, axes),
    ResourceError (does not fit into memory), UsageError (``slice_axis``).
    """
    path = Path(path)
    if slice_axis not in (0, 1, 2):
        raise UsageError(f"--slice-axis {slice_axis}: must be 0, 1 or 2.")
    return _FORMATS[_format_of(path)].open(path, variable, slice_axis)


def list_variables(path: Path | str) -> list[VariableInfo]:
    """All variables of a file, without reading samples. Raises MissingInputError, InputError."""
    path = Path(path)
    return _FORMATS[_format_of(path)].list(path)


def is_cube_file(path: Path | str) -> bool:
    """True when ``path`` is there and its name (for folders: its content) says it is a cube."""
    path = Path(path)
    if path.is_dir():
        return zarr3.is_zarr(path)
    kind = SUFFIXES.get(path.suffix.lower())
    return kind is not None and kind != "zarr" and path.is_file()


def _format_of(path: Path) -> str:
    if not path.exists():
        raise MissingInputError(f"{path}: no such file. Check the path (ls '{path.parent}').")
    if path.is_dir():
        return _folder_format(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None or kind == "zarr":
        raise InputError(
            f"{path}: not a cube file that mzsr knows ({_known()}). Rename or convert it."
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty. Copy or save it again.")
    if kind == "mat":
        return "mat73" if h5py.is_hdf5(path) else "mat5"
    return kind


def _folder_format(path: Path) -> str:
    if zarr3.is_zarr(path):
        return "zarr"
    what = (
        "no Zarr array (no zarr.json in it)" if path.suffix == ".zarr" else "a folder, not a cube"
    )
    raise InputError(f"{path}: {what}. Name a file in it, or pass the folder to a command.")


def _known() -> str:
    return " ".join(SUFFIXES)


def output_format(
    path: Path | str, shape: Shape, dtype: DType, like: CubeInfo | None = None
) -> OutputFormat:
    """What ``create_cube`` would write to ``path`` (final or part name); writes nothing.

    Raises UsageError when the format cannot hold such a cube.
    """
    path = _final_name(Path(path))
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: mzsr cannot tell the format from the name ({_known()}).")
    if min(shape) < 1:
        raise UsageError(
            f"{path}: a cube of {format_shape(shape)} is empty. Pass a larger --scale."
        )
    dtype = check_output_dtype(path, np.dtype(dtype))
    if kind == "mat":
        return _mat_format(path, shape, dtype, like)
    if kind in ("png", "jpeg"):
        _check_image(path, kind, shape, dtype, like)
    return OutputFormat(kind, dtype, cube_bytes(shape, dtype))


def _final_name(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(PART))


def _mat_format(path: Path, shape: Shape, dtype: DType, like: CubeInfo | None) -> OutputFormat:
    notes: list[str] = []
    if dtype == np.float16:
        dtype = np.dtype(np.float32)
        notes.append("MATLAB has no float16: saved as single")
    nbytes = cube_bytes(shape, dtype)
    kind = "mat73" if like is not None and like.format == "mat73" else "mat5"
    if kind == "mat5" and not mat5.fits(nbytes):
        kind = "mat73"
        notes.append(
            f"saved as MAT v7.3: the result takes {format_bytes(nbytes)}, MAT v5 holds "
            f"less than {format_bytes(settings.MAT5_LIMIT + 1)} a variable"
        )
    return OutputFormat(kind, dtype, nbytes, tuple(notes))


def _check_image(path: Path, kind: str, shape: Shape, dtype: DType, like: CubeInfo | None) -> None:
    if kind == "jpeg":
        raise UsageError(
            f"{path}: JPEG would damage the result. Type -o {path.with_suffix('.png').name}"
        )
    if shape[2] != 1:
        raise UsageError(
            f"{path}: a PNG holds one slice, the cube has {shape[2]}. "
            f"Type -o {path.with_suffix('.tif').name}"
        )
    colour = like is not None and like.format in ("png", "jpeg") and like.dtype == np.float32
    if dtype not in (np.uint8, np.uint16) and not (colour and dtype == np.float32):
        raise UsageError(
            f"{path}: a PNG holds uint8 or uint16, the cube is {dtype}. "
            f"Type -o {path.with_suffix('.tif').name}, or pass --out-dtype uint8."
        )


def create_cube(
    path: Path | str,
    shape: Shape,
    dtype: DType,
    variable: str | None = None,
    carried: Mapping[str, Any] | None = None,
    like: CubeInfo | None = None,
    resume: bool = False,
) -> CubeWriter:
    """Create a cube of known (H, W, S) and dtype, or go on with one (``resume``).

    ``path`` is the part name (``cube_x20.mat.part``); the format comes from the name before
    ``.part``. ``like`` is the input's info: its slice axis and MAT version are kept, and its
    variable's name unless ``variable`` is given. ``carried`` goes into .mat results only.
    Raises UsageError (the format cannot hold it), OutputError (disk), ResumeError (the part
    is missing or holds another cube), InputError (package zarr missing).
    """
    path = Path(path)
    chosen = output_format(path, shape, dtype, like)
    wanted = variable or (like.variable if like else None)
    name, notes = _variable_name(chosen.format, wanted, like)
    plan = WritePlan(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        dtype=chosen.dtype,
        variable=name,
        carried=dict(carried or {}) if chosen.format in ("mat5", "mat73") else {},
        slice_axis=like.slice_axis if like else 2,
        ndim=2 if like and like.ndim == 2 and shape[2] == 1 else 3,
    )
    how = _FORMATS[chosen.format]
    if resume and not path.exists():
        raise resume_error(path, "is missing")
    if not resume:
        with writing(path):
            remove(path)
        how.create(path, plan)
    writer = how.writer(path, plan)
    writer.notes[:0] = [*chosen.notes, *notes]
    return writer


def _variable_name(kind: str, wanted: str | None, like: CubeInfo | None) -> tuple[str, list[str]]:
    """Name of the result's variable in format ``kind``, and a note if it had to change."""
    if kind in ("mat5", "mat73"):
        name = matlab_name(wanted or DEFAULT_VARIABLE)
        changed = wanted is not None and name != wanted
        return name, [f"variable '{wanted}' is named '{name}'"] if changed else []
    if kind == "zarr":
        return (wanted or "") if like is None or like.format == "zarr" else "", []
    return wanted or DEFAULT_VARIABLE, []


def expand_inputs(arguments: Iterable[str]) -> list[Path]:
    """Files for what was typed: files as they are, cube files of folders (sorted), globs.

    A named file of unknown format stays in the list, so that opening it says what is wrong.
    Images in a folder are inputs of their own. Raises MissingInputError (no such file, a
    glob without match), InputError (a folder without cubes, nothing typed).
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        found |= dict.fromkeys(_expand(argument))
    if not found:
        raise InputError("no input was named. Pass a file, a folder or a quoted glob.")
    return list(found)


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    if is_cube_file(path) or path.is_file():
        return [path]
    if path.is_dir():
        return _cubes_in(path)
    if not glob.has_magic(argument):
        raise MissingInputError(f"{argument}: no such file or folder. Check the path.")
    matches = sorted(Path(name) for name in glob.glob(argument, recursive=True))
    cubes = [match for match in matches if is_cube_file(match)]
    if not cubes:
        raise MissingInputError(
            f"{argument}: matches no cube file ({_known()}). Check the pattern, and quote it."
        )
    return cubes


def _cubes_in(folder: Path) -> list[Path]:
    cubes = sorted(item for item in folder.iterdir() if is_cube_file(item))
    if not cubes:
        raise InputError(
            f"{folder}: holds no cube file ({_known()}). Name a file or another folder."
        )
    return cubes
