"""Data sets of ``mzsr benchmark``: folders of images, or cubes; looked at before any work."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from mzsr_cli.cubes.checks import format_shape
from mzsr_cli.cubes.cube import CubeInfo
from mzsr_cli.cubes.journal import input_identity
from mzsr_cli.cubes.open import expand_inputs, open_cube
from mzsr_cli.errors import InputError, UsageError
from mzsr_cli.pipeline.slices import parse_slices
from mzsr_cli.settings import BenchmarkSettings


class Kind(StrEnum):
    """Which protocol holds."""

    IMAGES = "images"
    CUBES = "cubes"


@dataclass(frozen=True)
class DataSet:
    """Images under one name, or one cube; ``digest`` tells its content from another's."""

    name: str
    kind: Kind
    files: tuple[Path, ...]
    digest: str


def find_data(arguments: Iterable[str], settings: BenchmarkSettings) -> list[DataSet]:
    """The data sets of what was typed, each file opened once.

    A folder of images (or a quoted glob) is one data set, an image file too; each cube is one.
    Raises UsageError (images and cubes, slices, scale), MissingInputError, InputError.
    """
    found: dict[Path, DataSet] = {}
    for argument in arguments:
        found |= _named_by(argument, settings)
    _check_one_kind(", ".join(map(str, list(found)[:4])), {data.kind for data in found.values()})
    names = _names(list(found))
    return [replace(data, name=name) for name, data in zip(names, found.values(), strict=True)]


def shave_of(settings: BenchmarkSettings) -> int:
    """Border in HR pixels that the images protocol leaves out: the scale."""
    return math.ceil(max(settings.scale))


def _named_by(argument: str, settings: BenchmarkSettings) -> dict[Path, DataSet]:
    """The data sets of one argument by their places, which also tell their names apart later."""
    files = expand_inputs([argument])
    looked = [_look(path, settings) for path in files]
    kinds = {kind for kind, _ in looked}
    _check_one_kind(argument, kinds)
    if kinds == {Kind.CUBES}:
        return {
            path.resolve(): DataSet(path.name, Kind.CUBES, (path,), digest)
            for path, (_, digest) in zip(files, looked, strict=True)
        }
    whole = hashlib.sha256("".join(digest for _, digest in looked).encode()).hexdigest()
    return {Path(argument).resolve(): DataSet(argument, Kind.IMAGES, tuple(files), whole)}


def _check_one_kind(where: str, kinds: set[Kind]) -> None:
    if len(kinds) > 1:
        raise UsageError(
            f"{where}: images and cubes, which are judged by different protocols. Type one "
            "command for the images and one for the cubes."
        )


def _look(path: Path, settings: BenchmarkSettings) -> tuple[Kind, str]:
    """The kind of a file and what its content is, once it is known to be fit."""
    with open_cube(path, settings.variable, settings.slice_axis) as reader:
        info = reader.info
    kind = Kind.IMAGES if info.format in ("png", "jpeg") else Kind.CUBES
    if kind is Kind.IMAGES:
        _check_image(info, settings)
    else:
        _check_cube(info, settings)
    identity = {k: v for k, v in input_identity(info).items() if k != "mtime_ns"}
    return kind, hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _check_cube(info: CubeInfo, settings: BenchmarkSettings) -> None:
    parse_slices(settings.slices, info.shape[2])
    for name, side, factor in zip(("rows", "columns"), info.shape[:2], settings.scale, strict=True):
        if factor == int(factor) and side < factor:
            raise InputError(
                f"{info.path}: {side} {name} do not make one LR pixel at scale {factor:g}. Leave "
                "it out, or type a smaller --scale."
            )


def _check_image(info: CubeInfo, settings: BenchmarkSettings) -> None:
    if info.dtype == np.uint16:
        raise InputError(
            f"{info.path}: has 16 bits, the images protocol is for 8. Convert it, or store it as "
            "a cube (.tif, .npy)."
        )
    if min(info.shape[:2]) < 2 * shave_of(settings) + math.ceil(max(settings.scale)):
        raise InputError(
            f"{info.path}: {format_shape(info.shape[:2])} pixels leave nothing to compare without "
            f"borders of {shave_of(settings)}. Leave it out, or type a smaller --scale."
        )


def _names(places: list[Path]) -> list[str]:
    """The shortest ends of the paths that differ; a folder ``x2`` is told with its parent's."""
    stems = [place if place.is_dir() else place.with_suffix("") for place in places]
    lengths = [2 if re.fullmatch(r"[xX]?\d+", stem.name) else 1 for stem in stems]
    while True:
        names = ["/".join(s.parts[-n:]) for s, n in zip(stems, lengths, strict=True)]
        again = [i for i, name in enumerate(names) if names.count(name) > 1]
        longer = [i for i in again if lengths[i] < len(stems[i].parts)]
        if not longer:
            break
        for i in longer:
            lengths[i] += 1
    pairs = zip(names, places, strict=True)
    return [name if names.count(name) == 1 else str(place) for name, place in pairs]
