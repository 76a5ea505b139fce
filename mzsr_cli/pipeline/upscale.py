"""``mzsr upscale``: joins cubes and learning, slice by slice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mzsr_cli import __version__
from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.checks import available_memory, format_bytes, writing
from mzsr_cli.cubes.cube import CubeInfo, CubeReader, CubeWriter, Shape
from mzsr_cli.cubes.image import ImageReader, ImageWriter
from mzsr_cli.cubes.journal import Journal, input_identity, journal_header
from mzsr_cli.cubes.open import OutputFormat, create_cube, open_cube, output_format
from mzsr_cli.errors import (
    InputError,
    MzsrError,
    ResourceError,
    ResumeError,
    UsageError,
    WeightsError,
)
from mzsr_cli.imaging import resize
from mzsr_cli.imaging.kernels import Kernel
from mzsr_cli.imaging.normalize import (
    Range,
    cast,
    filled,
    merged,
    planes_of,
    restored,
    slice_of,
    slice_range,
)
from mzsr_cli.learning import catalog, runtime
from mzsr_cli.learning.patches import ROUNDING
from mzsr_cli.learning.superresolve import Sample, SliceReport, Solver
from mzsr_cli.learning.weights import Weights, load_weights, read_header
from mzsr_cli.pipeline.kernel_files import load_kernel
from mzsr_cli.pipeline.slices import parse_slices, spread_over
from mzsr_cli.pipeline.targets import provenance_path
from mzsr_cli.settings import (
    SCALE_MAX,
    SCALE_MIN,
    Adapting,
    DegradationMix,
    Method,
    NanPolicy,
    Normalize,
    Precision,
    Sampling,
    UpscaleSettings,
    as_dict,
)

LUMA_ROUNDING = (65.481**2 + 128.553**2 + 24.966**2) ** 0.5 / 255
"""Rounding of BT.601 luma in units of the rounding of the R, G and B it is made of."""

OnSlice = Callable[[int, int, SliceReport | None], None]
"""Called with (slices done, slices in all, report of the last one)."""


@dataclass(frozen=True)
class Plan:
    """What a run will do, known before any work: shapes, bytes, method, stages, notes."""

    source: Path
    target: Path
    slices: range
    lr_shape: tuple[int, int]
    shape: Shape
    scale: tuple[float, float]
    out: OutputFormat
    method: Method
    weights: Weights | None
    kernel: Kernel
    device: torch.device
    precision: Precision
    rounding: float
    magnitudes: bool
    settings: UpscaleSettings
    notes: tuple[str, ...]

    def solver(self) -> Solver:
        """The solver of this plan's slices."""
        return Solver(
            self.lr_shape,
            self.scale,
            self.shape[:2],
            self.kernel,
            self.method,
            self.weights,
            self.settings,
            self.precision,
            self.device,
        )

    def facts(self) -> dict[str, Any]:
        """Everything that decides the result, for the journal and the provenance."""
        settings = as_dict(self.settings)
        for free in ("device", "calibration"):
            settings.pop(free)
        weights = self.weights
        return {
            "mzsr": __version__,
            "settings": json.loads(json.dumps(settings, default=str)),
            "method": str(self.method),
            "scale": list(self.scale),
            "shape": list(self.shape),
            "dtype": self.out.dtype.name,
            "slices": [self.slices.start, self.slices.stop, self.slices.step],
            "weights": {"name": weights.name, "sha256": weights.digest} if weights else None,
            "kernel": {
                "shape": list(self.kernel.shape),
                "sha256": hashlib.sha256(self.kernel.tobytes()).hexdigest(),
            },
            "device": self.device.type,
            "precision": str(self.precision),
        }


# -- planning ---------------------------------------------------------------------------------


def make_plan(info: CubeInfo, target: Path, settings: UpscaleSettings) -> Plan:
    """Resolve all that can be resolved before work on the cube (the LR slices) of ``info``.
    Raises MzsrError of every kind."""
    slices = parse_slices(settings.slices, info.shape[2])
    lr_shape = (info.shape[0], info.shape[1])
    scale, hr_shape = output_grid(lr_shape, settings)
    shape = (*hr_shape, len(slices))
    dtype = _output_dtype(info.dtype, settings)
    out = output_format(target, shape, dtype, info)
    device = runtime.pick_device(settings.device)
    precision = runtime.pick_precision(settings.precision, device)
    kernel = load_kernel(settings.kernel)
    is_image = info.format in ("png", "jpeg")
    method, weights, notes = choose_weights(settings, scale, is_image, device)
    check_memory(info, hr_shape, device)
    return Plan(
        info.path, target, slices, lr_shape, shape, scale, out, method, weights, kernel,
        device, precision, rounding_of(info), not is_image, settings, tuple(notes),
    )  # fmt: skip


def rounding_of(info: CubeInfo) -> float:
    """Standard deviation of the samples' rounding in their own units: whole numbers for integer
    cubes, luma of rounded RGB for colour images, none for floating point."""
    if info.dtype.kind in "iu":
        return ROUNDING
    return ROUNDING * LUMA_ROUNDING if info.format in ("png", "jpeg") else 0.0


HR_COPIES = 5
"""Float32 copies of an HR slice that a run holds at its peak ..."""

WORKING_MEMORY = 600 * 2**20
"""... beside the program, the networks' features on a tile and the like. Measured: 1.05 GiB for
5120x5120, 0.69 for 2560x2560, 0.80 for two planes of that."""


def memory_needed(info: CubeInfo, hr_shape: tuple[int, int]) -> int:
    """Bytes that a run holds at its peak, whatever the number of slices."""
    planes = 2 if info.is_complex else 1
    axes = sum(n * m for n, m in zip(hr_shape, info.shape[:2], strict=True))
    return WORKING_MEMORY + 4 * HR_COPIES * planes * hr_shape[0] * hr_shape[1] + 8 * 6 * axes


def check_memory(info: CubeInfo, hr_shape: tuple[int, int], device: torch.device) -> None:
    """Raise ResourceError where one HR slice cannot be worked on in the memory that is free."""
    needed = memory_needed(info, hr_shape)
    free = available_memory()
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    if needed > free:
        raise ResourceError(
            f"{info.path}: one result slice of {hr_shape[0]}x{hr_shape[1]} takes about "
            f"{format_bytes(needed)} to work on, {format_bytes(free)} are free. Type a smaller "
            "--scale, or cut the slices into parts."
        )


def check_request(settings: UpscaleSettings) -> None:
    """What can be said of a request without any input: raises the MzsrError that every input
    would raise (grid, device, kernel, weights), so that a batch fails once and at once."""
    if (settings.scale is None) == (settings.size is None):
        raise UsageError("type either --scale (such as 4 or 4x1.5) or --size (such as 256x256).")
    runtime.pick_device(settings.device)
    load_kernel(settings.kernel)
    if settings.weights is not None:
        catalog.find(settings.weights)


def output_grid(
    lr_shape: tuple[int, int], settings: UpscaleSettings
) -> tuple[tuple[float, float], tuple[int, int]]:
    """(scale per axis, HR shape) from ``--scale`` or ``--size``. Raises UsageError."""
    if settings.size is None:
        assert settings.scale is not None
        rows, cols = (resize.enlarged(n, s) for n, s in zip(lr_shape, settings.scale, strict=True))
        return settings.scale, (rows, cols)
    scale = (settings.size[0] / lr_shape[0], settings.size[1] / lr_shape[1])
    if not (min(scale) >= 1 and SCALE_MIN <= max(scale) <= SCALE_MAX):
        raise UsageError(
            f"--size {settings.size[0]}x{settings.size[1]}: from {lr_shape[0]}x{lr_shape[1]} that "
            f"is a scale of {scale[0]:.3g}x{scale[1]:.3g}, outside {SCALE_MIN:g} to "
            f"{SCALE_MAX:g}. Type a size in between."
        )
    return scale, settings.size


def _output_dtype(dtype: np.dtype[Any], settings: UpscaleSettings) -> np.dtype[Any]:
    if settings.out_dtype is None:
        return dtype
    try:
        wanted = np.dtype(settings.out_dtype)
    except TypeError as error:
        raise UsageError(
            f"--out-dtype {settings.out_dtype}: no such dtype. Type float32, complex64, uint8, ..."
        ) from error
    if dtype.kind == "c" and wanted.kind != "c":
        raise UsageError(
            f"--out-dtype {settings.out_dtype}: the cube is complex ({dtype}) and would lose its "
            "imaginary part. Type complex64 or complex128."
        )
    return wanted


def choose_weights(
    settings: UpscaleSettings, scale: tuple[float, float], is_image: bool, device: torch.device
) -> tuple[Method, Weights | None, list[str]]:
    """The method and the weights: those named, else the shipped ones that fit best.

    Without a ``method`` it is mzsr; where no weights fit, zssr, with a note that says so.
    Raises WeightsError or MissingInputError for named weights that do not load.
    """
    if settings.method not in (None, Method.MZSR):
        assert settings.method is not None
        unused = settings.weights is not None
        notes = [f"--weights is not used by --method {settings.method}"] if unused else []
        return settings.method, None, notes
    if settings.weights is not None:
        return Method.MZSR, _fitting(catalog.find(settings.weights), device), []
    kind = "images" if is_image else "channels"
    fitting = [path for path in catalog.shipped() if path.stem.startswith(kind)]
    if fitting:
        return Method.MZSR, _fitting(best_of(fitting, settings), device), []
    if settings.method is Method.MZSR:
        raise WeightsError(
            f"--method mzsr: no shipped weights fit ({kind}). Name some with --weights, train "
            "them with mzsr pretrain and mzsr meta-train, or type --method zssr."
        )
    return Method.ZSSR, None, [f"no weights fit ({kind}): using --method zssr"]


def best_of(paths: list[Path], settings: UpscaleSettings) -> Path:
    """Of several weights of a kind: those trained on bicubic pairs alone where the cube is one
    (antialiased, no blur), else those trained on random degradations."""
    plain = settings.kernel == "none" and settings.sampling is Sampling.BICUBIC
    wanted = DegradationMix.BICUBIC if plain else DegradationMix.RANDOM
    exact = [p for p in paths if read_header(p)["facts"].get("degradations") == str(wanted)]
    general = [
        p for p in paths
        if read_header(p)["facts"].get("degradations") == str(DegradationMix.RANDOM)
    ]  # fmt: skip
    return (exact or general or paths)[-1]


def _fitting(path: Path, device: torch.device) -> Weights:
    """The weights of ``path``, for single planes. Raises WeightsError for other networks."""
    weights = load_weights(path, device)
    if weights.settings.channels != 1:
        raise WeightsError(
            f"{path}: a network of {weights.settings.channels} channels does not fit; mzsr works "
            "plane by plane. Name weights of 1 channel (mzsr info shows it), or --method zssr."
        )
    return weights


# -- running ----------------------------------------------------------------------------------


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

    Reads, solves and writes one slice at a time; with another ``executor`` than InProcess, slices
    are solved elsewhere, but read and written here, to the same bytes. An input that turns out
    to be bad leaves nothing behind; an interrupted run leaves NAME.part and NAME.journal for
    ``resume``.
    Raises MzsrError of every kind.
    """
    begin = time.monotonic()
    executor = executor or InProcess()
    with open_cube(source, settings.variable, settings.slice_axis) as reader:
        plan = executor.adopted(make_plan(reader.info, target, settings))
        if resume:
            _conclude(target)
        if resume and not overwrite and target.exists():
            return already_done(reader, plan)
        output = AtomicOutput(target, overwrite, plan.out.nbytes)
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
    resuming = resume and output.journal.exists()
    journal = (
        Journal.resume(output.journal, header)
        if resuming
        else Journal.create(output.journal, header)
    )
    if not journal.finished and not output.part.exists():
        resuming = False  # killed before there was anything to go on with
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
    except (MzsrError, OSError) as error:
        journal.close()
        if not isinstance(error, ResourceError) and not resuming:
            output.discard()
        raise


def _solve_all(
    job: Job, executor: Executor, writer: CubeWriter, journal: Journal, on_slice: OnSlice
) -> None:
    """Write and journal each slice that ``executor`` solves, in whatever order they come, while it
    solves the next. When this returns or raises, every slice that was reported is journalled (or
    its own error is raised)."""
    count, written = len(job.plan.slices), Future[None]()
    written.set_result(None)
    for position in range(len(job.done)):
        on_slice(position + 1, count, None)
    with closing(executor.solve(job)) as results, ThreadPoolExecutor(1) as other:
        for finished, solved in enumerate(results, len(job.done) + 1):
            written.result()
            written = other.submit(_store, solved, writer, journal)
            report = solved.report
            del solved
            on_slice(finished, count, report)
        written.result()


def _store(solved: Solved, writer: CubeWriter, journal: Journal) -> None:
    """A solved slice to its place, made durable, read back and noted."""
    begin = time.monotonic()
    writer.write(solved.position, solved.image)
    writer.flush()
    seconds = round(solved.seconds + time.monotonic() - begin, 3)
    facts = solved.report.as_dict() | {"slice": solved.k, "seconds": seconds}
    journal.add(solved.position, writer.stored(solved.position), facts)


@dataclass(frozen=True)
class Solved:
    """Slice ``k`` of the input, done: its place in the result, its samples (H, W) in the result's
    dtype, what happened to it, and the seconds it took."""

    position: int
    k: int
    image: NDArray[Any]
    report: SliceReport
    seconds: float


@dataclass(frozen=True)
class Job:
    """The slices of a plan that are still to do (all but the positions in ``done``)."""

    plan: Plan
    reader: CubeReader
    cube_range: Range | None
    done: frozenset[int]

    def todo(self) -> list[tuple[int, int]]:
        """(position in the result, slice of the input) of each slice that is to be solved."""
        return [(i, k) for i, k in enumerate(self.plan.slices) if i not in self.done]

    def image(self, k: int) -> NDArray[Any]:
        """Slice ``k`` (h, w) of the input, finite. Raises InputError."""
        return _clean(self.reader.read(k), self.plan, k)

    def sample(self, k: int) -> Sample | None:
        """Slice ``k``, normalised; None where it is constant. Raises InputError."""
        return _sample(self.image(k), self.plan, self.cube_range)

    def shared(self) -> Iterator[Sample]:
        """The slices that ``--adapt cube`` takes its steps on; none with another ``--adapt``."""
        adapting = self.plan.settings.adapt
        if adapting.mode is Adapting.CUBE:
            samples = map(self.sample, spread_over(self.plan.slices, adapting.cube_slices))
            yield from (sample for sample in samples if sample is not None)


class Executor(Protocol):
    """What solves the slices of a job: this process, or workers (pipeline.workers)."""

    def adopted(self, plan: Plan) -> Plan:
        """The plan with the device and the precision of where it will be carried out."""
        ...

    def facts(self, plan: Plan) -> dict[str, Any]:
        """Where it was carried out, for the provenance."""
        ...

    def solve(self, job: Job) -> Generator[Solved]:
        """Each slice that is still to do, once, in any order. Raises MzsrError."""
        ...


class InProcess:
    """Solves one slice after the other in this process."""

    def adopted(self, plan: Plan) -> Plan:
        """See Executor.adopted."""
        return plan

    def facts(self, plan: Plan) -> dict[str, Any]:
        """See Executor.facts."""
        return {"device_used": runtime.describe_device(plan.device)}

    def solve(self, job: Job) -> Generator[Solved]:
        """See Executor.solve."""
        solver = job.plan.solver()
        solver.learn(job.shared())
        for position, k in enumerate(job.plan.slices):
            if position not in job.done:
                yield solve_one(solver, job.image(k), position, k, job.plan, job.cube_range)
            elif job.plan.settings.adapt.mode is Adapting.WARM:
                sample = job.sample(k)
                if sample is not None:
                    solver.follow(sample)


def solve_one(
    solver: PlaneSolver,
    image: NDArray[Any],
    position: int,
    k: int,
    plan: Plan,
    cube_range: Range | None,
) -> Solved:
    """Slice ``k`` (h, w) to its result in the dtype of the result."""
    begin = time.monotonic()
    result, report = solve_slice(solver, image, k, plan, cube_range)
    return Solved(position, k, result, report, time.monotonic() - begin)


DOUBT = (
    "the self-check finds nothing to gain (sampled too coarsely, or sparse): expect little more "
    "than the given samples there"
)


def doubts(reports: Collection[Mapping[str, Any]]) -> list[str]:
    """A warning where the self-check found slices that interpolation does not recover, and a word
    where memory did not suffice for the tiles."""
    notes = []
    lost = sum(bool(report.get("check", {}).get("hopeless")) for report in reports)
    if lost > 0:
        notes.append(f"{lost} of {len(reports)} slices: {DOUBT}")
    tiles = [report["tile"] for report in reports if "tile" in report]
    if tiles:
        notes.append(
            f"{len(tiles)} of {len(reports)} slices: memory did not suffice, smaller tiles were "
            f"used; --tile {min(tiles)} spares the attempts"
        )
    return notes


class PlaneSolver(Protocol):
    """What turns LR planes into HR planes: a Solver, or a method of the benchmark."""

    def solve(
        self, planes: torch.Tensor, index: int, noise: float, zero: float | None = None
    ) -> tuple[torch.Tensor, SliceReport]:
        """See Solver.solve."""
        ...


def _mapping(planes: NDArray[Any], plan: Plan, cube_range: Range | None) -> Range:
    return cube_range or slice_range(planes, plan.settings.normalize)


def _sample(image: NDArray[Any], plan: Plan, cube_range: Range | None) -> Sample | None:
    """One LR slice (h, w), normalised; None where it is constant."""
    planes = planes_of(image)
    mapping = _mapping(planes, plan, cube_range)
    if mapping.span == 0:
        return None
    low = torch.from_numpy(mapping.forward(planes).astype(np.float32))
    zero = mapping.zero(planes) if plan.magnitudes else None
    return Sample(low, plan.rounding / mapping.span, zero)


def solve_slice(
    solver: PlaneSolver, image: NDArray[Any], k: int, plan: Plan, cube_range: Range | None
) -> tuple[NDArray[Any], SliceReport]:
    """One LR slice (h, w) in its own units to HR (H, W) of the plan's dtype, normalised there and
    back."""
    planes = planes_of(image)
    sample = _sample(image, plan, cube_range)
    if sample is None:
        constant = np.broadcast_to(planes[:, :1, :1], (len(planes), *plan.shape[:2]))
        return cast(slice_of(constant), plan.out.dtype), SliceReport("constant")
    high, report = solver.solve(sample.planes, k, sample.noise, sample.zero)
    mapping = _mapping(planes, plan, cube_range)
    limits = (planes.min(), planes.max()) if plan.settings.clip else None
    return restored(high.cpu().numpy(), mapping, plan.out.dtype, limits), report


def _clean(image: NDArray[Any], plan: Plan, k: int) -> NDArray[Any]:
    """The slice without NaN and Inf. Raises InputError where they are not to be replaced."""
    bad = ~np.isfinite(image)
    if not bad.any():
        return image
    if bad.all():
        raise InputError(
            f"{plan.source}: slice {k} holds no finite sample, so there is nothing to fill it "
            "from. Leave it out with --slices."
        )
    if plan.settings.nan is NanPolicy.ERROR:
        row, column = (int(v[0]) for v in np.nonzero(bad))
        raise InputError(
            f"{plan.source}: slice {k} has {int(bad.sum())} NaN or Inf samples (the first at row "
            f"{row}, column {column}). Type --nan interpolate to fill them from their neighbours."
        )
    return np.asarray(filled(image))


def _cube_range(reader: CubeReader, plan: Plan) -> Range | None:
    """The range of all chosen slices, for ``--normalize cube``; one pass over them."""
    if plan.settings.normalize is not Normalize.CUBE:
        return None
    slices = (planes_of(_clean(reader.read(k), plan, k)) for k in plan.slices)
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
    here = replace(plan, settings=settings, method=Method.BICUBIC, weights=None)
    solver = replace(here, device=torch.device("cpu")).solver()
    planes = torch.from_numpy(np.stack(chroma).astype(np.float32))
    high, _ = solver.solve(planes, 0, 0.0)
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
    if not (target.exists() and output.journal.exists()) or output.part.exists():
        return
    if text.part.exists():
        text.commit()
    with writing(output.journal):
        output.journal.unlink()


def _finish(output: AtomicOutput, journal: Journal, record: dict[str, Any]) -> None:
    """Everything under its final name: the provenance last, then the journal goes."""
    text = AtomicOutput(provenance_path(output.target), overwrite=True)
    with writing(text.part):
        text.part.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    output.commit()
    text.commit()
    journal.remove()
