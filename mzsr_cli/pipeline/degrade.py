"""``mzsr degrade``: HR cube to LR cube by a known kernel and sampling, slice by slice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mzsr_cli import __version__
from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.checks import writing
from mzsr_cli.cubes.cube import CubeReader, CubeWriter, Shape
from mzsr_cli.cubes.image import ImageReader, ImageWriter
from mzsr_cli.cubes.journal import Journal
from mzsr_cli.cubes.open import create_cube, open_cube, output_format
from mzsr_cli.errors import InputError, UsageError
from mzsr_cli.imaging.degrade import Degradation, degradation
from mzsr_cli.imaging.kernels import Kernel
from mzsr_cli.imaging.normalize import cast, planes_of, slice_of, slice_range
from mzsr_cli.pipeline.targets import provenance_path
from mzsr_cli.settings import SCALE_MAX, Normalize, Sampling

OnSlice = Callable[[int, int], None]
"""Called with (slices done, slices in all)."""


@dataclass(frozen=True)
class DegradeSettings:
    """Everything that decides a result of ``mzsr degrade``.

    ``scale`` is the factor of rows and of columns, 1 to SCALE_MAX. ``noise`` is the standard
    deviation of Gaussian noise added to the LR slice, in units of the HR slice's range.
    ``crop`` cuts an axis with an integer factor to whole LR pixels first.
    """

    scale: tuple[float, float]
    kernel: str
    sampling: Sampling
    variable: str | None
    slice_axis: int
    noise: float
    seed: int
    crop: bool

    def __post_init__(self) -> None:
        for factor in self.scale:
            if not 1 <= factor <= SCALE_MAX:
                raise UsageError(
                    f"--scale {factor:g}: outside 1 to {SCALE_MAX:g}. "
                    "Type a factor per axis in that range, such as --scale 4 or --scale 4x1.5."
                )
        if not 0 <= self.noise < np.inf:
            raise UsageError(f"--noise {self.noise:g}: must be 0 or more, such as 0.01.")

    @property
    def tag(self) -> str:
        """``d4`` or ``d4x1.5``, for names of outputs."""
        rows, cols = (f"{factor:g}" for factor in self.scale)
        return f"d{rows}" if rows == cols else f"d{rows}x{cols}"


def degrade_cube(
    source: Path,
    target: Path,
    settings: DegradeSettings,
    kernel: Kernel,
    overwrite: bool,
    on_slice: OnSlice | None = None,
) -> dict[str, Any]:
    """Write the LR cube of ``source`` to ``target`` and its provenance; returns the latter.

    Every slice (each plane of a complex one) is degraded on its own in float64 and cast to the
    input's dtype (integers rounded and saturated). Nothing is left behind on failure.
    Raises InputError (file, NaN or Inf, slice too small), UsageError (format cannot hold it),
    OutputExistsError, OutputError, ResourceError.
    """
    with open_cube(source, settings.variable, settings.slice_axis) as reader:
        hr_shape = cropped(reader.info.shape[:2], settings, source)
        operator = degradation(
            kernel, settings.sampling, settings.scale, hr_shape, dtype=torch.float64
        )
        shape = (*operator.lr_shape, reader.info.shape[2])
        with _output(reader, target, shape, overwrite) as (writer, record):
            for k in range(shape[2]):
                hr = reader.read(k)[: hr_shape[0], : hr_shape[1]]
                check_finite(hr, source, k)
                lr = degrade_slice(hr, operator)
                lr = _noisy(lr, hr, settings, k) if settings.noise else lr
                writer.write(k, cast(lr, writer.dtype))
                if on_slice is not None:
                    on_slice(k + 1, shape[2])
            notes = _chroma(reader, writer, operator)
            if hr_shape != reader.info.shape[:2]:
                notes.append(_crop_note(reader.info.shape[:2], hr_shape, settings))
            facts = _provenance(reader, target, writer, settings, kernel, hr_shape)
            facts["notes"] = [*reader.notes, *writer.notes, *notes]
            record.update(facts)
    return facts


def cropped(shape: tuple[int, ...], settings: DegradeSettings, source: Path) -> tuple[int, int]:
    """(rows, columns) of an HR slice of ``shape`` that are used: whole LR pixels for integer
    factors. Raises InputError where a side does not make one."""
    sides = []
    for name, side, factor in zip(("rows", "columns"), shape, settings.scale, strict=True):
        if settings.crop and factor == int(factor):
            if side < factor:
                raise InputError(
                    f"{source}: {side} {name} do not make one LR pixel at scale {factor:g}. "
                    "Type a smaller --scale, or --no-crop."
                )
            side -= side % int(factor)
        sides.append(side)
    return sides[0], sides[1]


def _crop_note(shape: tuple[int, ...], kept: tuple[int, int], settings: DegradeSettings) -> str:
    return (
        f"HR slices of {shape[0]}x{shape[1]} are cropped to {kept[0]}x{kept[1]} (top left), "
        f"whole LR pixels at scale {settings.tag[1:]}; --no-crop keeps all"
    )


def degrade_slice(image: NDArray[Any], operator: Degradation) -> NDArray[np.generic]:
    """A x of one slice (H, W), float64 or complex128 (h, w); ``operator`` is float64."""
    planes = torch.from_numpy(planes_of(image))
    return slice_of(operator.apply(planes).numpy())


def _noisy(
    lr: NDArray[np.generic], hr: NDArray[Any], settings: DegradeSettings, k: int
) -> NDArray[np.generic]:
    """``lr`` with Gaussian noise drawn from (seed, k) alone, of one sigma in both planes."""
    rng = np.random.default_rng([settings.seed % 2**64, k])
    planes = planes_of(lr)
    sigma = settings.noise * slice_range(planes_of(hr), Normalize.SLICE).span
    return slice_of(planes + sigma * rng.standard_normal(planes.shape))


def check_finite(hr: NDArray[Any], source: Path, k: int) -> None:
    """Raise InputError where slice ``k`` of ``source`` has NaN or Inf samples."""
    if not np.isfinite(hr).all():
        raise InputError(
            f"{source}: slice {k} has NaN or Inf samples, which a blur would spread. "
            "Replace them in the file first."
        )


def _chroma(reader: CubeReader, writer: CubeWriter, operator: Degradation) -> list[str]:
    """Degrade the chroma planes of a colour image too, where the output can hold them."""
    chroma = reader.chroma() if isinstance(reader, ImageReader) else None
    if chroma is None:
        return []
    if not isinstance(writer, ImageWriter):
        return ["only the luma is kept: the output's format has no colour"]
    rows, cols = operator.hr_shape
    cb, cr = (degrade_slice(plane[:rows, :cols], operator) for plane in chroma)
    writer.set_chroma(cb, cr)
    return []


@contextmanager
def _output(
    reader: CubeReader, target: Path, shape: Shape, overwrite: bool
) -> Iterator[tuple[CubeWriter, dict[str, Any]]]:
    """A writer, and a dict that becomes the provenance file; both in place only when whole. No
    other run writes them meanwhile. Raises OutputError (also: another run's)."""
    planned = output_format(target, shape, reader.info.dtype, reader.info)
    cube = AtomicOutput(target, overwrite, planned.nbytes)
    text = AtomicOutput(provenance_path(target), overwrite=True)
    record: dict[str, Any] = {}
    with Journal(cube.journal):
        try:
            carried = reader.carried()
            with create_cube(
                cube.part, shape, reader.info.dtype, carried=carried, like=reader.info
            ) as writer:
                yield writer, record
            told = json.dumps(record, indent=2, default=str) + "\n"
            with writing(text.part):
                text.part.write_text(told, encoding="utf-8")
            cube.commit()
            text.commit()
        finally:
            text.discard()
            cube.discard()  # last, as the lock's name goes


def _provenance(
    reader: CubeReader,
    target: Path,
    writer: CubeWriter,
    settings: DegradeSettings,
    kernel: Kernel,
    hr_shape: tuple[int, int],
) -> dict[str, Any]:
    info = reader.info
    return {
        "mzsr": __version__,
        "command": "degrade",
        "input": str(info.path),
        "variable": info.variable,
        "hr_shape": list(info.shape),
        "hr_used": [*hr_shape, info.shape[2]],
        "output": str(target),
        "format": writer.format,
        "lr_shape": list(writer.shape),
        "dtype": writer.dtype.name,
        "kernel": {
            "shape": list(kernel.shape),
            "sha256": hashlib.sha256(kernel.tobytes()).hexdigest(),
        },
        "settings": asdict(settings),
    }
