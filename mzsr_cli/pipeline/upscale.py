"""``mzsr upscale``: joins cubes and learning, slice by slice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.checks import writing
from mzsr_cli.cubes.cube import CubeReader, CubeWriter
from mzsr_cli.cubes.image import ImageReader, ImageWriter
from mzsr_cli.cubes.journal import Journal, has_header, input_identity, journal_header
from mzsr_cli.cubes.open import create_cube, open_cube
from mzsr_cli.errors import InputError, ResumeError, UsageError
from mzsr_cli.imaging.normalize import (
    Range,
    merged,
    planes_of,
    slice_range,
)
from mzsr_cli.learning.superresolve import Sample, SliceReport
from mzsr_cli.pipeline.interrupts import remembered
from mzsr_cli.pipeline.lanes import InProcess
from mzsr_cli.pipeline.plan import Plan, make_plan
from mzsr_cli.pipeline.solving import Executor, Job, Solved, finite
from mzsr_cli.pipeline.targets import check_writable, provenance_path
from mzsr_cli.settings import (
    Method,
    Normalize,
    UpscaleSettings,
)

OnSlice = Callable[[int, int, SliceReport | None], None]
"""Called with (slices done, slices in all, report of the last one)."""


def upscale_cube(
    source: Path,
    target: Path,
    settings: UpscaleSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_slice: OnSlice = lambda done, count, report: None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Super-resolve ``source`` into ``target``; returns the provenance, written beside it.

    Reads and writes one slice at a time, and solves a few at once; with another ``executor`` than
    InProcess slices are solved elsewhere, to the same bytes. An input that turns out
    to be bad leaves nothing behind; an interrupted run leaves NAME.part and NAME.journal for
    ``resume``.
    Raises MzsrError of every kind.
    """
    begin = time.monotonic()
    executor = executor or InProcess()
    with open_cube(source, settings.variable, settings.slice_axis) as reader:
        host = executor.host(settings.device)
        plan = executor.adopted(make_plan(reader.info, target, settings, host))
        if resume:
            _conclude(target)
        if resume and not overwrite and target.exists():
            return already_done(reader, plan)
        output = AtomicOutput(target, overwrite, plan.out.nbytes)
        check_writable(provenance_path(target))
        on_plan(plan)
        with _writing(reader, plan, output, resume) as (writer, journal):
            done = {k for k in journal.finished if journal.matches(k, writer.stored(k))}
            job = Job(plan, reader, _cube_range(reader, plan), frozenset(done))
            _solve_all(job, executor, writer, journal, on_slice)
            notes = [
                *plan.notes,
                *doubts(journal.finished.values()),
                *_chroma(reader, writer, plan),
            ]
        with journal:
            facts = executor.facts(plan) | {"seconds": round(time.monotonic() - begin, 3)}
            record = _provenance(reader, writer, journal, plan, notes, facts)
            _finish(output, journal, record)
    return record


def already_done(reader: CubeReader, plan: Plan) -> dict[str, Any]:
    """The provenance of a finished result that a resumed batch meets again.

    Raises ResumeError where it was made from another input or with other settings.
    """
    path = provenance_path(plan.target)
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    now = plan.facts() | {"input_identity": input_identity(reader.info)}
    wanted = json.loads(json.dumps(now, default=str))
    differ = sorted(key for key in wanted if record.get(key) != wanted[key])
    if differ:
        raise ResumeError(
            f"{plan.target}: is already there, but was made differently ({', '.join(differ)}). "
            "Type --overwrite to replace it, or name another output with -o."
        )
    return record | {"notes": ["already done"], "seconds": 0.0}


@contextmanager
def _writing(
    reader: CubeReader, plan: Plan, output: AtomicOutput, resume: bool
) -> Iterator[tuple[CubeWriter, Journal]]:
    """The writer and journal; what is left after an error depends on whose fault it was."""
    header = journal_header(reader.info, plan.facts())
    resuming = resume and has_header(output.journal)
    journal = (
        Journal.resume(output.journal, header)
        if resuming
        else Journal.create(output.journal, header)
    )
    if not journal.finished:
        resuming = False  # what there is of the part may be half laid out
    try:
        with create_cube(
            output.part,
            plan.shape,
            plan.out.dtype,
            carried=reader.carried(),
            like=reader.info,
            resume=resuming,
        ) as writer:
            yield writer, journal
    except BaseException as error:
        with journal:  # held until what it is of is gone
            if isinstance(error, (InputError, UsageError)) and not resuming:
                output.discard()
        raise


def _solve_all(
    job: Job, executor: Executor, writer: CubeWriter, journal: Journal, on_slice: OnSlice
) -> None:
    """Write and journal each slice that ``executor`` solves, in whatever order they come, while it
    solves the next. When this returns or raises, every slice that was reported is journalled (or
    its own error is raised). Ctrl-C takes effect at the next slice at the latest."""
    count, finished, written = len(job.plan.slices), len(job.done), Future[None]()
    written.set_result(None)
    for position in range(finished):
        on_slice(position + 1, count, None)
    with (
        remembered() as stop,
        closing(executor.solve(job)) as results,
        ThreadPoolExecutor(1) as other,
    ):
        for solved in results:  # not enumerated, which would keep the slice while it waits
            stop()
            written.result()
            written = other.submit(_store, solved, writer, journal)
            report = solved.report
            del solved
            finished += 1
            on_slice(finished, count, report)
        written.result()
        stop()


def _store(solved: Solved, writer: CubeWriter, journal: Journal) -> None:
    """A solved slice to its place, made durable, read back and noted."""
    begin = time.monotonic()
    writer.write(solved.position, solved.image)
    writer.flush()
    seconds = round(solved.seconds + time.monotonic() - begin, 3)
    facts = solved.report.as_dict() | {"slice": solved.k, "seconds": seconds}
    journal.add(solved.position, writer.stored(solved.position), facts)


DOUBT = (
    "the self-check finds nothing to gain (sampled too coarsely, or sparse): expect little more "
    "than the given samples there"
)


BEYOND = (
    "samples lie clearly beyond --bounds, which the result keeps all the same; see that they are "
    "in the cube's own units"
)
ANSWERED = "which is nearer to their pairs (--weights keeps to one network)"


def doubts(reports: Collection[Mapping[str, Any]]) -> list[str]:
    """A warning where the self-check found slices that interpolation does not recover, and words
    where the second weights have answered, where bounds contradict the samples and where memory
    did not suffice for the tiles."""
    notes = []
    seconds = [report["weights"] for report in reports if "weights" in report]
    if seconds:
        notes.append(
            f"{len(seconds)} of {len(reports)} slices: answered by {seconds[0]}, {ANSWERED}"
        )
    lost = sum(bool(report.get("check", {}).get("hopeless")) for report in reports)
    if lost > 0:
        notes.append(f"{lost} of {len(reports)} slices: {DOUBT}")
    beyond = sum(bool(report.get("beyond")) for report in reports)
    if beyond > 0:
        notes.append(f"{beyond} of {len(reports)} slices: {BEYOND}")
    tiles = [report["tile"] for report in reports if "tile" in report]
    if tiles:
        notes.append(
            f"{len(tiles)} of {len(reports)} slices: memory did not suffice, smaller tiles were "
            f"used; --tile {min(tiles)} spares the attempts"
        )
    return notes


def _cube_range(reader: CubeReader, plan: Plan) -> Range | None:
    """The range of all chosen slices, for ``--normalize cube``; one pass over them."""
    if plan.settings.normalize is not Normalize.CUBE:
        return None
    slices = (planes_of(finite(reader.read(k), plan, k)) for k in plan.slices)
    return merged([slice_range(planes, Normalize.CUBE) for planes in slices])


def _chroma(reader: CubeReader, writer: CubeWriter, plan: Plan) -> list[str]:
    """Colour of an image by cubic interpolation, where the output can hold it."""
    chroma = reader.chroma() if isinstance(reader, ImageReader) else None
    if chroma is None:
        return []
    if not isinstance(writer, ImageWriter):
        return ["only the luma is kept: the output's format has no colour"]
    writer.set_chroma(*enlarge_chroma(chroma, plan))
    return []


def enlarge_chroma(
    chroma: tuple[NDArray[Any], NDArray[Any]], plan: Plan
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Chroma planes (h, w) of an LR image to (H, W), cubic on the grid of the sampling."""
    settings = replace(plan.settings, method=Method.BICUBIC)
    here = replace(plan, settings=settings, method=Method.BICUBIC, weights=None, second=None)
    solver = replace(here, device=torch.device("cpu")).solver()
    planes = torch.from_numpy(np.stack(chroma).astype(np.float32))
    high, _ = solver.solve(Sample(planes, 0.0), 0)
    blue, red = high.cpu().numpy()
    return blue, red


def _provenance(
    reader: CubeReader,
    writer: CubeWriter,
    journal: Journal,
    plan: Plan,
    notes: list[str],
    facts: dict[str, Any],
) -> dict[str, Any]:
    return {
        "command": "upscale",
        "input": str(plan.source),
        "output": str(plan.target),
        "variable": reader.info.variable,
        "lr_shape": list(reader.info.shape),
        **plan.facts(),
        "input_identity": input_identity(reader.info),
        "format": plan.out.format,
        **facts,
        "notes": [*notes, *reader.notes, *writer.notes],
        "slice_reports": [journal.finished[k] for k in sorted(journal.finished)],
    }


def _conclude(target: Path) -> None:
    """Take the last steps of a run that was killed after its result had got its final name."""
    output = AtomicOutput(target, overwrite=True)
    text = AtomicOutput(provenance_path(target), overwrite=True)
    if not (target.exists() and output.journal.exists()):
        return
    with Journal(output.journal) as journal:
        if output.part.exists():
            return
        if text.part.exists():
            text.commit()
        journal.remove()


def _finish(output: AtomicOutput, journal: Journal, record: dict[str, Any]) -> None:
    """Everything under its final name: the provenance last, then the journal goes."""
    text = AtomicOutput(provenance_path(output.target), overwrite=True)
    with writing(text.part):
        text.part.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    output.commit()
    text.commit()
    journal.remove()
