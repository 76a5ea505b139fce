"""PNG and JPEG: one image, one slice. JPEG is read only.

A colour image gives its luma Y (BT.601, studio range 16..235, not rounded, float32) as the
slice and its chroma planes aside; the writer joins them to RGB again.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mzsr_cli.cubes.base import ArrayReader, SliceWriter, resume_error
from mzsr_cli.cubes.checks import check_memory, cube_info, reading, writing
from mzsr_cli.cubes.cube import Array, CubeInfo, VariableInfo, WritePlan, cube_bytes
from mzsr_cli.errors import InputError, MzsrError

_PNG = b"\x89PNG"
_FORMATS = {"PNG": "png", "JPEG": "jpeg", "BMP": "jpeg"}
_GREY = ("1", "L", "I;16", "I;16B", "I;16L", "I;16N", "I")
_TO_YCC = (
    np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
    / 255
)
_FROM_YCC = np.linalg.inv(_TO_YCC)
_OFFSET = np.array([16.0, 128.0, 128.0])


def rgb_to_ycc(rgb: Array) -> Array:
    """(H, W, 3) RGB in 0..255 to Y, Cb, Cr as MATLAB's rgb2ycbcr, in float64, not rounded."""
    ycc: Array = rgb.astype(np.float64) @ _TO_YCC.T + _OFFSET
    return ycc


def ycc_to_rgb(ycc: Array) -> Array:
    """(H, W, 3) Y, Cb, Cr back to uint8 RGB, rounded and saturated."""
    return to_integer((ycc.astype(np.float64) - _OFFSET) @ _FROM_YCC.T, np.dtype(np.uint8))


def eight_bit(luma: Array, chroma: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
    """Luma and chroma planes (each H x W) as they are read again from an RGB image of 8 bits,
    float32: Y and (Cb, Cr)."""
    return _colour_planes(ycc_to_rgb(np.stack([luma, *chroma], -1).astype(np.float32)))


def _colour_planes(rgb: Array) -> tuple[Array, tuple[Array, Array]]:
    planes = rgb_to_ycc(rgb).astype(np.float32)
    return planes[..., 0], (planes[..., 1], planes[..., 2])


def to_integer(plane: Array, dtype: np.dtype[Any]) -> Array:
    """``plane`` rounded to the nearest value of an integer ``dtype``, saturated at its ends."""
    ends = np.iinfo(dtype)
    rounded: Array = np.clip(np.rint(plane), ends.min, ends.max).astype(dtype)
    return rounded


def list_image(path: Path) -> list[VariableInfo]:
    """The image's one slice, without decoding it. Raises InputError."""
    with reading(path), Image.open(path) as image:
        kind = _slice_dtype(image)
        shape = (image.height, image.width)
    return [VariableInfo("", shape, str(kind), cube_bytes(shape, kind), True)]


def open_image(path: Path, variable: str | None, slice_axis: int) -> ImageReader:
    """Reader of a PNG or JPEG. Raises InputError (damaged, another format, a bomb)."""
    with reading(path), Image.open(path) as image:
        if image.format not in _FORMATS:
            raise InputError(f"{path}: is a {image.format} image. Convert it to PNG or TIFF.")
        shape = (image.height, image.width)
        dtype = _slice_dtype(image)
        info = cube_info(path, _FORMATS[image.format], None, shape, dtype, slice_axis)
        check_memory(path, "the image", 3 * 8 * image.height * image.width)
        notes = _notes(path, image)
        if image.mode in _GREY:
            grey = image.convert("L") if image.mode == "1" else image
            return ImageReader(info, np.array(grey).astype(dtype), None, notes)
        if image.mode in ("LA", "La"):
            return ImageReader(info, np.array(image.convert("L")), None, notes)
        luma, chroma = _colour_planes(np.array(image.convert("RGB")))
    return ImageReader(info, luma, chroma, notes)


def _slice_dtype(image: Image.Image) -> np.dtype[Any]:
    if image.mode in ("1", "L", "LA", "La"):
        return np.dtype(np.uint8)
    return np.dtype(np.uint16) if image.mode in _GREY else np.dtype(np.float32)


def _notes(path: Path, image: Image.Image) -> list[str]:
    notes = []
    if image.mode in ("RGBA", "LA", "PA", "La") or "transparency" in image.info:
        notes.append("transparency is dropped")
    if getattr(image, "n_frames", 1) > 1:
        notes.append("only the first frame is used")
    with open(path, "rb") as file:
        head = file.read(26)
    if head[:4] == _PNG and head[24] == 16 and image.mode not in _GREY:
        notes.append("16-bit colour is read as 8 bits a channel")
    return notes


class ImageReader(ArrayReader):
    """Reader of one image; the slice is its grey values or its luma."""

    def __init__(
        self, info: CubeInfo, plane: Array, chroma: tuple[Array, Array] | None, notes: list[str]
    ) -> None:
        super().__init__(info, plane)
        self._chroma = chroma
        self.notes = notes

    def chroma(self) -> tuple[Array, Array] | None:
        """(Cb, Cr), each H x W float32 around 128, or None for a grey image."""
        return self._chroma


class ImageWriter(SliceWriter):
    """Writer of a PNG: grey in 8 or 16 bits, or RGB once ``set_chroma`` was called.

    Until it is closed, the part file holds the planes as an .npy, so that a run can be resumed.
    A float32 slice is the luma of a colour image.
    """

    def __init__(self, path: Path, plan: WritePlan) -> None:
        super().__init__(path, "png", plan, [])
        self._planes: dict[str, Array] = {}
        self._finished = path.read_bytes()[:4] == _PNG
        with reading(path):
            if self._finished:
                with open_image(path, None, 2) as image:
                    planes = [image.read(0), *(image.chroma() or ())]
            else:
                planes = list(np.load(path, allow_pickle=False))
        if planes and planes[0].shape != plan.shape[:2]:
            raise resume_error(path, "holds another image")
        for name, plane in zip(("y", "cb", "cr"), planes, strict=False):
            self._planes[name] = plane.astype(plan.dtype if name == "y" else np.float32)

    @property
    def is_colour(self) -> bool:
        """True when the slice is luma, which needs chroma."""
        return self.dtype.kind == "f"

    def set_chroma(self, cb: Array, cr: Array) -> None:
        """Chroma planes of the slice's size. Raises ValueError for another size."""
        if cb.shape != self.shape[:2] or cr.shape != self.shape[:2]:
            raise ValueError(f"{self.path}: chroma is {cb.shape} and {cr.shape}, not {self.shape}")
        self._planes |= {"cb": cb.astype(np.float32), "cr": cr.astype(np.float32)}
        self._finished = False

    def put(self, k: int, plane: Array) -> None:
        """See SliceWriter.put."""
        self._planes["y"] = plane.copy()
        self._finished = False

    def write(self, k: int, plane: Array) -> None:
        """See CubeWriter.write; a float plane for a grey image is rounded and saturated."""
        plane = np.asarray(plane)
        if plane.dtype.kind == "f" and not self.is_colour:
            plane = to_integer(plane, self.dtype)
        super().write(k, plane)

    def get(self, k: int) -> Array:
        """See SliceWriter.get."""
        return self._planes.get("y", np.zeros(self.shape[:2], self.dtype))

    def sync(self) -> None:
        """See SliceWriter.sync."""
        if not self._finished:
            planes = [self._planes[name] for name in ("y", "cb", "cr") if name in self._planes]
            _replace(self.path, _npy(np.array(planes)))

    def finish(self) -> None:
        """Encode. Raises MzsrError when a colour image has no chroma."""
        if self._finished:
            return
        luma = self._planes.get("y")
        if luma is None:
            raise MzsrError(f"{self.path}: closed before its slice was written.")
        if self.is_colour:
            if len(self._planes) < 3:
                raise MzsrError(f"{self.path}: a colour image needs its chroma (set_chroma).")
            luma = ycc_to_rgb(np.stack([self._planes[name] for name in ("y", "cb", "cr")], -1))
        buffer = io.BytesIO()
        Image.fromarray(luma).save(buffer, "PNG")
        _replace(self.path, buffer.getvalue())


def create_image(path: Path, plan: WritePlan) -> None:
    """Begin the part file with no plane in it. Raises OutputError."""
    with writing(path):
        _replace(path, _npy(np.empty((0, *plan.shape[:2]), plan.dtype)))


def _npy(planes: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, planes, allow_pickle=False)
    return buffer.getvalue()


def _replace(path: Path, data: bytes) -> None:
    """Swap the file's content so that a kill leaves the old or the new one."""
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
