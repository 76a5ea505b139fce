"""``mzsr benchmark``: degrade, upscale and evaluate in memory, cell by cell of a table.

A cell is one method on one data set under one degradation. Its figures are those of the chain
``mzsr degrade``, ``mzsr upscale``, ``mzsr evaluate``.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from mzsr_cli import __version__
from mzsr_cli.cubes.cube import CubeReader
from mzsr_cli.cubes.image import ImageReader, eight_bit
from mzsr_cli.cubes.journal import differences
from mzsr_cli.cubes.open import open_cube
from mzsr_cli.errors import OutputExistsError, ResumeError, UsageError
from mzsr_cli.imaging import resize, tv
from mzsr_cli.imaging.degrade import Degradation, degradation
from mzsr_cli.imaging.normalize import cast, planes_of, slice_of
from mzsr_cli.learning import runtime
from mzsr_cli.learning.superresolve import Sample, SliceReport
from mzsr_cli.pipeline.benchmark_cases import (
    Case,
    Contender,
    cases_of,
    contenders_of,
    upscale_settings,
)
from mzsr_cli.pipeline.benchmark_data import DataSet, Kind, find_data, shave_of
from mzsr_cli.pipeline.benchmark_report import Record, draw, markdown
from mzsr_cli.pipeline.degrade import DegradeSettings, check_finite, cropped, degrade_slice
from mzsr_cli.pipeline.evaluate import EvaluateSettings, Tally, prepared
from mzsr_cli.pipeline.figures import check_figure
from mzsr_cli.pipeline.info import processor
from mzsr_cli.pipeline.plain import strict
from mzsr_cli.pipeline.plan import Plan, choose_weights, make_plan, name_and_hash, second_weights
from mzsr_cli.pipeline.slices import parse_slices
from mzsr_cli.pipeline.solving import PlaneSolver, solve_slice
from mzsr_cli.pipeline.targets import check_writable, plan_targets, write_whole
from mzsr_cli.pipeline.upscale import enlarge_chroma
from mzsr_cli.settings import (
    CUBE_DEGRADATIONS,
    IMAGE_DEGRADATIONS,
    BenchmarkSettings,
    Extra,
    TvSettings,
    UpscaleSettings,
    as_dict,
)

Planes = NDArray[Any]


@dataclass(frozen=True)
class Outputs:
    """Where results go; None where they do not."""

    record: Path | None = None
    markdown: Path | None = None
    figure: Path | None = None

    def named(self) -> list[Path]:
        """Those that are."""
        return [p for p in (self.record, self.markdown, self.figure) if p is not None]


class Watcher(Protocol):
    """What is told of a run as it goes."""

    def planned(self, record: Record, cells: int) -> None:
        """Before work: what there is already, and how many cells there will be in all."""
        ...

    def slice(self, name: str, done: int, count: int) -> None:
        """Before a slice (or image) of the cell ``name``, ``done`` of ``count`` being done."""
        ...

    def cell(self, record: Record, cell: Mapping[str, Any]) -> None:
        """After a cell, which is the last one of ``record``."""
        ...


@dataclass(frozen=True)
class Race:
    """All that a run compares, resolved and checked before any work."""

    kind: Kind
    data: list[DataSet]
    cases: list[Case]
    contenders: list[Contender]
    settings: BenchmarkSettings

    def cells(self) -> list[tuple[DataSet, Case, Contender]]:
        """Every cell, in the order of work."""
        return list(product(self.data, self.cases, self.contenders))


# -- planning ---------------------------------------------------------------------------------


def make_race(arguments: list[str], settings: BenchmarkSettings) -> Race:
    """What will be compared. Raises MzsrError of every kind, before any work."""
    UpscaleSettings(scale=settings.scale)
    contenders = contenders_of(settings.methods)
    cases_of(settings.degradations)
    if any(contender.method is Extra.TV for contender in contenders):
        tv.denoiser()
    data = find_data(arguments, settings)
    kind = data[0].kind
    usual = IMAGE_DEGRADATIONS if kind is Kind.IMAGES else CUBE_DEGRADATIONS
    cases = cases_of(settings.degradations or usual)
    return Race(kind, data, cases, contenders, settings)


def facts_of(race: Race) -> dict[str, Any]:
    """What decides the figures and the seconds of a run. Raises WeightsError, DeviceError."""
    settings = race.settings
    device = runtime.pick_device(settings.device)
    methods = {k: v for k, v in as_dict(UpscaleSettings()).items() if isinstance(v, dict)}
    facts = {
        "mzsr": __version__,
        "torch": torch.__version__,
        "machine": processor(),
        "device": runtime.describe_device(device),
        "precision": str(runtime.pick_precision(settings.precision, device)),
        "kind": str(race.kind),
        "scale": list(settings.scale),
        "seed": settings.seed,
        "self_ensemble": settings.self_ensemble,
        "slices": settings.slices if race.kind is Kind.CUBES else None,
        "settings": methods | {"tv": as_dict(settings.tv)},
        "data": {d.name: {"files": len(d.files), "sha256": d.digest} for d in race.data},
        "degradations": {
            case.name: {
                "kernel": hashlib.sha256(case.blur.tobytes()).hexdigest(),
                "sampling": str(case.sampling),
            }
            for case in race.cases
        },
        "weights": _weights(race, device),
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return plain


def _weights(race: Race, device: torch.device) -> dict[str, Any]:
    """Names and hashes of the weights under each degradation, where a method needs some."""
    learned = [contender for contender in race.contenders if contender.learned]
    found = {}
    for case in race.cases if learned else []:
        told = upscale_settings(case, learned[0], race.settings)
        is_image = race.kind is Kind.IMAGES
        _, weights, _ = choose_weights(told, race.settings.scale, is_image, device)
        second = second_weights(told, race.settings.scale, weights, is_image, device)
        found[case.name] = [name_and_hash(w) for w in (weights, second) if w is not None]
    return found


# -- running ----------------------------------------------------------------------------------


def benchmark(
    arguments: list[str],
    settings: BenchmarkSettings,
    outputs: Outputs,
    watcher: Watcher,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Record:
    """Fill the table of all data sets, degradations and methods; returns the record.

    The record is written to ``outputs.record`` after every cell, Markdown and figure at the end.
    ``resume`` goes on with the record that is there. Raises MzsrError of every kind.
    """
    check_outputs(outputs, resume, overwrite)
    race = make_race(arguments, settings)
    _check_inputs_stay(race, outputs)
    record = _begun(race, outputs.record if resume else None)
    cells = race.cells()
    watcher.planned(record, len(cells))
    done = {_key(cell) for cell in record["cells"]}
    for data, case, contender in cells:
        if (data.name, case.name, contender.name) in done:
            continue
        cell = run_cell(data, case, contender, settings, watcher)
        record["cells"].append(cell)
        if outputs.record is not None:
            write_whole(outputs.record, json.dumps(record, indent=1) + "\n")
        watcher.cell(record, cell)
    if outputs.markdown is not None:
        write_whole(outputs.markdown, markdown(record))
    if outputs.figure is not None:
        draw(record, outputs.figure)
    return record


def check_outputs(outputs: Outputs, resume: bool, overwrite: bool) -> None:
    """Raise UsageError, OutputExistsError, OutputError or ResourceError where results cannot be
    written as asked."""
    if resume and (overwrite or outputs.record is None):
        raise UsageError(
            "--resume: goes on with the file that --json names, and does not replace it. Type "
            "--json FILE --resume, or --overwrite to begin again."
        )
    if outputs.figure is not None:
        check_figure(outputs.figure, "--figure", "benchmark")
    if len({path.resolve() for path in outputs.named()}) < len(outputs.named()):
        raise UsageError(
            "--json, --markdown and --figure: name one file for two results. Type another name "
            "for each."
        )
    for path in outputs.named():
        if path.exists() and not (resume or overwrite):
            raise OutputExistsError(
                f"{path}: is already there. Type --overwrite to replace it, or --resume to go on "
                "with the unfinished benchmark of --json."
            )
        check_writable(path)


def _check_inputs_stay(race: Race, outputs: Outputs) -> None:
    """Raise UsageError where an output would replace a file that is compared."""
    inputs = {file.resolve() for data in race.data for file in data.files}
    for path in outputs.named():
        if path.resolve() in inputs:
            raise UsageError(
                f"{path}: is an input, and would be replaced by a result of the benchmark. Name "
                "another file with --json, --markdown or --figure."
            )


def _key(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    return cell["data"], cell["degradation"], cell["method"]


def _begun(race: Race, path: Path | None) -> Record:
    """The record to fill: an empty one, or what ``path`` holds, where that was made alike."""
    facts = facts_of(race)
    methods = [contender.name for contender in race.contenders]
    record: Record = {"command": "benchmark", "facts": facts, "methods": methods, "cells": []}
    if path is None or not path.exists():
        return record
    old = _read(path)
    differ = differences(*_comparable(old["facts"], facts))
    if differ:
        raise ResumeError(
            f"{path}: the unfinished benchmark differs: {differ}. Type the same data and options, "
            "or --overwrite to begin again."
        )
    for name in SHARED:
        facts[name] = old["facts"][name] | facts[name]
    record["methods"] = list(dict.fromkeys([*old["methods"], *methods]))
    record["cells"] = old["cells"]
    return record


SHARED = ("data", "degradations", "weights")
"""Facts by name of data or degradation: a resumed benchmark may add to them."""


def _comparable(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both facts, and of the shared ones those names that both have."""
    common = {name: old[name].keys() & new[name].keys() for name in SHARED}
    then, now = (
        facts | {name: {key: facts[name][key] for key in keys} for name, keys in common.items()}
        for facts in (old, new)
    )
    return then, now


def _read(path: Path) -> Record:
    """The record in ``path``. Raises ResumeError where it holds something else."""
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        facts, cells = record["facts"], record["cells"]
        sound = record["command"] == "benchmark" and isinstance(record["methods"], list)
        sound = sound and all(isinstance(facts[name], dict) for name in SHARED)
        sound = sound and all(len(_key(cell)) == 3 and cell["slices"] for cell in cells)
        if sound:
            markdown(record)  # which looks at all that a table needs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_record(path) from error
    if not sound:
        raise _no_record(path)
    return record


def _no_record(path: Path) -> ResumeError:
    return ResumeError(
        f"{path}: is no JSON of mzsr benchmark. Name the file that --json has written, or type "
        "--overwrite to begin again."
    )


# -- one cell ---------------------------------------------------------------------------------


def run_cell(
    data: DataSet, case: Case, contender: Contender, settings: BenchmarkSettings, watcher: Watcher
) -> dict[str, Any]:
    """Figures of a method on a data set under a degradation, as JSON can hold them.

    ``psnr`` (dB) and ``ssim`` are means over slices or images, ``nmse`` (dB) is of all samples,
    ``worst`` the slice of lowest PSNR, ``worst_nmse`` the highest NMSE of a slice, ``seconds``
    the median over slices. Raises InputError (NaN, damage), ResourceError, WeightsError.
    """
    name = f"{data.name} {case.name} {contender.name}"
    tally = Tally(EvaluateSettings(
        shave=shave_of(settings) if data.kind is Kind.IMAGES else 0,
        luma=data.kind is Kind.IMAGES,
        peak=None,
        variable=settings.variable,
        slice_axis=settings.slice_axis,
        slices=settings.slices,
    ))  # fmt: skip
    for path in data.files:
        with open_cube(path, settings.variable, settings.slice_axis) as reader:
            bench = Bench(reader, case, contender, settings)
            count = len(data.files) if data.kind is Kind.IMAGES else len(bench.slices)
            for k in bench.slices:
                watcher.slice(name, len(tally.slices), count)
                trial = bench.trial(k)
                index = len(tally.slices) if data.kind is Kind.IMAGES else k
                estimate, truth = (prepared(x, tally.settings.luma) for x in trial.compared)
                facts: dict[str, Any] = {"file": path.name} if data.kind is Kind.IMAGES else {}
                facts |= {"did": trial.report.did, "seconds": round(trial.seconds, 4)}
                tally.add(index, estimate, truth).update(facts)
    figures = tally.figures()
    figures["worst_nmse"] = max(s["nmse"] for s in tally.slices)
    figures["seconds"] = statistics.median(s["seconds"] for s in tally.slices)
    names = {"data": data.name, "degradation": case.name, "method": contender.name}
    cell: dict[str, Any] = strict(names | figures)
    return cell


@dataclass(frozen=True)
class Trial:
    """A slice made and judged: (SR, HR) in their own units, what was done, and its seconds."""

    compared: tuple[Planes, Planes]
    report: SliceReport
    seconds: float


class Bench:
    """A file, a degradation and a method: what ``degrade`` and ``upscale`` would make of it."""

    def __init__(
        self, reader: CubeReader, case: Case, contender: Contender, settings: BenchmarkSettings
    ) -> None:
        self.reader, self.settings = reader, settings
        info = reader.info
        degrading = DegradeSettings(
            settings.scale, case.kernel, case.sampling, settings.variable, settings.slice_axis,
            noise=0.0, seed=settings.seed, crop=True,
        )  # fmt: skip
        sides = cropped(info.shape[:2], degrading, info.path)
        self.operator = degradation(
            case.blur, case.sampling, settings.scale, sides, dtype=torch.float64
        )
        low = replace(info, shape=(*self.operator.lr_shape, info.shape[2]))
        ((_, target),) = plan_targets([info.path], None, "benchmark")
        self.plan = make_plan(low, target, upscale_settings(case, contender, settings))
        self.solver: PlaneSolver = self.plan.solver()
        self.oracle = contender.method is Extra.NYQUIST
        if contender.method is Extra.TV:
            self.solver = TvSolver(self.plan, settings.tv)

    @property
    def slices(self) -> range:
        """Which slices: ``--slices`` of a cube, the one of an image."""
        if isinstance(self.reader, ImageReader):
            return range(1)
        return parse_slices(self.settings.slices, self.reader.info.shape[2])

    def trial(self, k: int) -> Trial:
        """Degrade slice ``k``, super-resolve that, and give it back beside the truth."""
        info, (rows, cols) = self.reader.info, self.operator.hr_shape
        high = self.reader.read(k)[:rows, :cols]
        check_finite(high, info.path, k)
        low: Planes = cast(degrade_slice(high, self.operator), info.dtype)
        chroma = self.reader.chroma() if isinstance(self.reader, ImageReader) else None
        if chroma is not None:
            blue, red = (degrade_slice(plane[:rows, :cols], self.operator) for plane in chroma)
            low, chroma = eight_bit(low, (blue, red))
        begin = time.monotonic()
        if self.oracle:
            made = cast(self._lowpassed(high), self.plan.out.dtype)
            report = SliceReport(str(Extra.NYQUIST))
        else:
            made, report = solve_slice(self.solver, low, k, self.plan, None)
        seconds = time.monotonic() - begin
        result: Planes = made
        if chroma is not None:
            result, _ = eight_bit(result, enlarge_chroma(chroma, self.plan))
        return Trial((result[:rows, :cols], high), report, seconds)

    def _lowpassed(self, high: Planes) -> Planes:
        """The truth (H, W) without what lies beyond the Nyquist limit of the LR grid."""
        planes = torch.from_numpy(planes_of(high).astype("float64"))
        kept: Planes = slice_of(resize.lowpassed(planes, self.operator.lr_shape).numpy())
        return kept


class TvSolver:
    """Total variation in one jump, with the interface of a Solver."""

    def __init__(self, plan: Plan, settings: TvSettings) -> None:
        self.plan, self.settings = plan, settings

    @cached_property
    def operator(self) -> Degradation:
        """The degradation that made the LR slices."""
        plan = self.plan
        return Degradation(
            plan.kernel, plan.settings.sampling, plan.scale, plan.shape[:2], plan.lr_shape,
            plan.device,
        )  # fmt: skip

    def solve(self, sample: Sample, index: int) -> tuple[torch.Tensor, SliceReport]:
        """LR planes (P, h, w) in [0, 1] to HR (P, H, W)."""
        image = tv.total_variation(self.operator, sample.planes.to(self.plan.device), self.settings)
        return image, SliceReport(str(Extra.TV), steps=self.settings.iterations)
