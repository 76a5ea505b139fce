"""``mzsr merge``: joins results that were made with ``--slices`` of one cube."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.checks import format_shape, matlab_name, writing
from mzsr_cli.cubes.cube import CubeReader, CubeWriter, Shape
from mzsr_cli.cubes.journal import Journal, differences
from mzsr_cli.cubes.open import create_cube, list_variables, open_cube, output_format
from mzsr_cli.errors import InputError, UsageError
from mzsr_cli.pipeline.slices import parse_slices
from mzsr_cli.pipeline.targets import provenance_path
from mzsr_cli.pipeline.upscale import ANSWERED, DOUBT, doubts
from mzsr_cli.settings import Adapting

SAME = (
    *("mzsr", "method", "scale", "dtype", "weights", "second_weights", "kernel"),
    *("device", "precision", "input_identity", "variable", "lr_shape"),
)
"""Facts of the provenance that all parts must share, beside settings and size of a slice."""

OnSlice = Callable[[int, int], None]
"""Called with (slices done, slices in all)."""


@dataclass(frozen=True)
class Part:
    """A result of some slices of a cube, and its provenance."""

    path: Path
    record: dict[str, Any]

    @property
    def slices(self) -> range:
        """The slices of the input that it holds, in its own order."""
        return range(*self.record["slices"])

    @property
    def shape(self) -> Shape:
        """(H, W, slices in it)."""
        height, width, count = self.record["shape"]
        return height, width, count

    def facts(self) -> dict[str, Any]:
        """What must be the same in all parts of a cube."""
        settings = {k: v for k, v in self.record["settings"].items() if k != "slices"}
        shared = {key: self.record[key] for key in SAME}
        shared["input_identity"] = dict(shared["input_identity"])
        shared["input_identity"].pop("mtime_ns", None)  # copies of one file are one input
        return shared | {"settings": settings, "slice": list(self.shape[:2])}

    def open(self) -> CubeReader:
        """The part for reading. Raises InputError where it is not what its provenance says."""
        reader = open_cube(self.path, self._variable(), self.record["settings"]["slice_axis"])
        info = reader.info
        if (info.shape, info.dtype.name) != (self.shape, self.record["dtype"]):
            reader.close()
            raise InputError(
                f"{self.path}: holds {format_shape(info.shape)} {info.dtype}, its provenance says "
                f"{format_shape(self.shape)} {self.record['dtype']}. Make it again."
            )
        return reader

    def _variable(self) -> str | None:
        """Name of the cube among the file's variables; None where it has no name of its own."""
        wanted = self.record["variable"] or ""
        there = [variable.name for variable in list_variables(self.path)]
        return next((name for name in (wanted, matlab_name(wanted)) if name in there), None)


def read_part(path: Path) -> Part:
    """The part ``path`` with the provenance beside it. Raises InputError where that is missing,
    damaged or of something else than ``mzsr upscale`` or ``mzsr merge``."""
    beside = provenance_path(path)
    try:
        part = Part(path, json.loads(beside.read_text(encoding="utf-8")))
        reported = [report["slice"] for report in part.record["slice_reports"]]
        known = part.record["command"] in ("upscale", "merge") and bool(part.facts())
        good = known and reported == list(part.slices) and len(reported) == part.shape[2]
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: {beside.name} is not beside it, which says what slices it holds. Copy it "
            "there from where the part was made."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{beside}: not readable ({error}). Make the part again.") from error
    if not good:
        raise InputError(f"{beside}: does not tell of a result of mzsr upscale. Make it again.")
    return part


def merge_cubes(
    paths: list[Path],
    target: Path,
    slices: str | None = None,
    overwrite: bool = False,
    on_slice: OnSlice | None = None,
) -> dict[str, Any]:
    """Join the parts ``paths`` of one cube into ``target``; returns the provenance, written beside.

    ``slices`` are those of the input that the result is to hold, in their order (None: all). The
    bytes are those that ``mzsr upscale --slices SLICES`` would have written to ``target`` (but for
    ``--adapt cube`` and ``warm``, where parts learn from their own slices: a note says so). One
    part is open at a time, beside the first, and one slice in memory; nothing is left behind
    on failure. Raises InputError (provenance, other settings or input, missing slices, overlaps),
    UsageError, OutputError, ResourceError.
    """
    begin = time.monotonic()
    parts = sorted(map(read_part, paths), key=lambda part: part.slices[0])
    _check_target(parts, target)
    _check_same(parts)
    wanted = chosen(parts, slices)
    with parts[0].open() as first:
        shape = (*parts[0].shape[:2], len(wanted))
        planned = output_format(target, shape, first.info.dtype, first.info)
        output = AtomicOutput(target, overwrite, planned.nbytes)
        text = AtomicOutput(provenance_path(target), overwrite=True)
        with Journal(output.journal):
            try:
                with create_cube(
                    output.part, shape, first.info.dtype, carried=first.carried(), like=first.info
                ) as writer:
                    _copy(parts, wanted, writer, on_slice)
                record = _record(parts, wanted, slices, target, writer, first.notes)
                record["merge_seconds"] = round(time.monotonic() - begin, 3)
                with writing(text.part):
                    text.part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
                output.commit()
                text.commit()
            finally:
                text.discard()
                output.discard()  # last, as the lock's name goes
    return record


def _check_target(parts: list[Part], target: Path) -> None:
    for part in parts:
        if part.path.resolve() == target.resolve():
            raise UsageError(f"-o {target}: is a part itself. Name another output.")
        if part.path.suffix.lower() == ".png":
            raise InputError(f"{part.path}: an image is one slice, there is nothing to join.")


def _check_same(parts: list[Part]) -> None:
    """Raise InputError where parts were made from another input or with other settings."""
    for part in parts[1:]:
        differ = differences(parts[0].facts(), part.facts())
        if differ:
            raise InputError(
                f"{part.path}: was made differently from {parts[0].path}: {differ}. Make it again "
                "with the same input and settings, or leave it out."
            )


def chosen(parts: list[Part], slices: str | None) -> range:
    """The slices of the input that the result will hold.

    Raises InputError where two parts hold the same slice, or none holds one of them.
    """
    holder: dict[int, Part] = {}
    for part in parts:
        twice = [k for k in part.slices if k in holder]
        if twice:
            raise InputError(
                f"{part.path} and {holder[twice[0]].path} both hold slices {listed(twice)}. "
                "Leave one of them out."
            )
        holder |= dict.fromkeys(part.slices, part)
    wanted = parse_slices(slices, parts[0].record["lr_shape"][2])
    missing = listed(k for k in wanted if k not in holder)
    if missing:
        raise InputError(
            f"slices {missing} are in no part ({len(parts)} parts, {len(holder)} slices). Make "
            "them with mzsr upscale --slices, or type --slices here to join fewer."
        )
    return wanted


def listed(slices: Iterable[int]) -> str:
    """Slices as one would type them: ``3:6, 8``."""
    runs: list[tuple[int, int]] = []
    for k in sorted(slices):
        if runs and runs[-1][1] == k:
            runs[-1] = (runs[-1][0], k + 1)
        else:
            runs.append((k, k + 1))
    return ", ".join(f"{a}" if b == a + 1 else f"{a}:{b}" for a, b in runs)


def _copy(parts: list[Part], wanted: range, writer: CubeWriter, on_slice: OnSlice | None) -> None:
    """Every wanted slice to its place, part by part."""
    done = 0
    for part in parts:
        with part.open() as reader:
            for position, k in enumerate(part.slices):
                if k in wanted:
                    writer.write(wanted.index(k), np.asarray(reader.read(position)))
                    done += 1
                    if on_slice is not None:
                        on_slice(done, len(wanted))


def _apart(parts: list[Part]) -> list[str]:
    """A note where each part has learned from its own slices alone."""
    mode = parts[0].record["settings"]["adapt"]["mode"]
    if len(parts) == 1 or mode == Adapting.SLICE:
        return []
    return [f"--adapt {mode}: each part learned from its own slices, one run would from all"]


def _record(
    parts: list[Part],
    wanted: range,
    slices: str | None,
    target: Path,
    writer: CubeWriter,
    notes: list[str],
) -> dict[str, Any]:
    """The provenance of the whole: what the parts share, and the reports of all slices."""
    first = parts[0].record
    held = (report for part in parts for report in part.record["slice_reports"])
    reports = sorted((r for r in held if r["slice"] in wanted), key=lambda r: r["slice"])
    told = [n for part in parts for n in part.record["notes"] if not n.endswith((DOUBT, ANSWERED))]
    notes = [*told, *_apart(parts), *doubts(reports), *notes, *writer.notes]
    own = {key: value for key, value in first.items() if key != "workers"}
    return own | {
        "command": "merge",
        "parts": [str(part.path) for part in parts],
        "output": str(target),
        "format": writer.format,
        "shape": list(writer.shape),
        "slices": [wanted.start, wanted.stop, wanted.step],
        "settings": first["settings"] | {"slices": slices},
        "device_used": ", ".join(sorted({part.record["device_used"] for part in parts})),
        "seconds": round(sum(part.record["seconds"] for part in parts), 3),
        "notes": list(dict.fromkeys(notes)),
        "slice_reports": reports,
    }
