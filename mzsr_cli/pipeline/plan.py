"""What a run of ``mzsr upscale`` will do, known before any work."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mzsr_cli import __version__
from mzsr_cli.cubes.checks import available_memory, format_bytes
from mzsr_cli.cubes.cube import CubeInfo, Shape
from mzsr_cli.cubes.open import OutputFormat, output_format
from mzsr_cli.errors import (
    ResourceError,
    UsageError,
    WeightsError,
)
from mzsr_cli.imaging import resize
from mzsr_cli.imaging.bounds import UNBOUNDED, Bounds, Grain
from mzsr_cli.imaging.degrade import kernel_rank, mixes
from mzsr_cli.imaging.kernels import Kernel
from mzsr_cli.learning import catalog, runtime
from mzsr_cli.learning.patches import ROUNDING
from mzsr_cli.learning.superresolve import Solver
from mzsr_cli.learning.weights import Weights, load_weights, read_header
from mzsr_cli.pipeline.kernel_files import load_kernel
from mzsr_cli.pipeline.slices import parse_slices
from mzsr_cli.settings import (
    SCALE_MAX,
    SCALE_MIN,
    Adapting,
    BoundsSettings,
    DegradationMix,
    Method,
    Precision,
    Sampling,
    UpscaleSettings,
    as_dict,
)

LUMA_ROUNDING = (65.481**2 + 128.553**2 + 24.966**2) ** 0.5 / 255
"""Rounding of BT.601 luma in units of the rounding of the R, G and B it is made of."""


LUMA = (16.0, 235.0)
"""Ends of BT.601 luma of 8-bit RGB."""


@dataclass(frozen=True)
class Stored:
    """How the input's samples are stored; ``image`` says that it is a photograph, of which the
    luma is looked at where it has colours (then floating point)."""

    dtype: np.dtype[Any]
    image: bool

    @property
    def rounding(self) -> float:
        """Standard deviation of the samples' rounding in their own units: whole numbers for
        integers, luma of rounded RGB for colour images, none for floating point."""
        if self.dtype.kind in "iu":
            return ROUNDING
        return ROUNDING * LUMA_ROUNDING if self.image else 0.0

    @property
    def limits(self) -> Bounds:
        """Between what the samples can be."""
        if self.dtype.kind in "iu":
            info = np.iinfo(self.dtype)
            return Bounds(float(info.min), float(info.max))
        return Bounds(*LUMA) if self.image else UNBOUNDED

    def grain(self, largest: float, span: float) -> Grain:
        """How finely samples of a slice are stored whose ``largest`` magnitude is that, in units
        of its ``span``."""
        if self.dtype.kind in "iu":
            return Grain(level=1 / span)
        return Grain(error=float(np.finfo(self.dtype).eps) * largest / span)


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
    second: Weights | None
    """What answers for slices whose pair it is nearer to."""
    kernel: Kernel
    device: torch.device
    precision: Precision
    stored: Stored
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
            self.second,
        )

    @property
    def mixes(self) -> bool:
        """Whether LR samples are means of several HR ones."""
        return mixes(self.kernel, self.settings.sampling)

    @property
    def rings(self) -> bool:
        """Whether the degradation has negative weights, so that edges ring."""
        return self.settings.sampling is Sampling.BICUBIC or bool(self.kernel.min() < 0)

    @property
    def planes(self) -> int:
        """Planes of a slice: 2 for complex samples."""
        return 2 if self.out.dtype.kind == "c" else 1

    @property
    def small(self) -> bool:
        """Whether slices are better solved side by side than with all threads each."""
        samples = self.planes * self.shape[0] * self.shape[1]
        return self.method is not Method.ZSSR and samples <= self.settings.lanes.samples

    @property
    def memory(self) -> int:
        """Bytes that a run holds at its peak which solves one slice at a time."""
        zssr = self.method is Method.ZSSR and self.settings.zssr.self_ensemble
        copies = ZSSR_COPIES if zssr else HR_COPIES
        rank = kernel_rank(self.kernel)
        bounded = self.method is Method.MZSR and self.planes == 1
        return memory_needed(self.lr_shape, self.shape[:2], self.planes, copies, rank, bounded)

    @property
    def lane_memory(self) -> int:
        """Bytes that each slice takes which is solved beside another one."""
        return LANE_MEMORY + 4 * HR_COPIES * self.planes * self.shape[0] * self.shape[1]

    def facts(self) -> dict[str, Any]:
        """Everything that decides the result, for the journal and the provenance."""
        settings = as_dict(self.settings)
        for free in ("device", "calibration", "lanes"):
            settings.pop(free)
        for resolved in ("ensemble_cubes", "ensemble_images"):
            settings["adapt"].pop(resolved)
        return {
            "mzsr": __version__,
            "settings": json.loads(json.dumps(settings, default=str)),
            "method": str(self.method),
            "scale": list(self.scale),
            "shape": list(self.shape),
            "dtype": self.out.dtype.name,
            "slices": [self.slices.start, self.slices.stop, self.slices.step],
            "weights": name_and_hash(self.weights),
            "second_weights": name_and_hash(self.second),
            "kernel": {
                "shape": list(self.kernel.shape),
                "sha256": hashlib.sha256(self.kernel.tobytes()).hexdigest(),
            },
            "device": self.device.type,
            "precision": str(self.precision),
        }


def make_plan(
    info: CubeInfo, target: Path, settings: UpscaleSettings, device: torch.device | None = None
) -> Plan:
    """Resolve all that can be resolved before work on the cube (the LR slices) of ``info``.
    ``device`` is where weights are kept here; None: the settings'. Raises MzsrError of every kind.
    """
    slices = parse_slices(settings.slices, info.shape[2])
    lr_shape = (info.shape[0], info.shape[1])
    scale, hr_shape = output_grid(lr_shape, settings)
    shape = (*hr_shape, len(slices))
    dtype = _output_dtype(info.dtype, settings)
    _check_bounds(info, settings.bounds)
    out = output_format(target, shape, dtype, info)
    device = device or runtime.pick_device(settings.device)
    precision = runtime.pick_precision(settings.precision, device)
    kernel = load_kernel(settings.kernel)
    is_image = info.format in ("png", "jpeg")
    seen = replace(settings.adapt, self_ensemble=settings.adapt.views(is_image))
    settings = replace(settings, adapt=seen)
    method, weights, notes = choose_weights(settings, scale, is_image, device)
    second = second_weights(settings, scale, weights, is_image, device)
    plan = Plan(
        info.path, target, slices, lr_shape, shape, scale, out, method, weights, second, kernel,
        device, precision, Stored(info.dtype, is_image), settings, tuple(notes),
    )  # fmt: skip
    check_memory(plan)
    return plan


def _check_bounds(info: CubeInfo, bounds: BoundsSettings) -> None:
    """Raises UsageError for bounds of complex samples."""
    if info.dtype.kind == "c" and bounds.given:
        raise UsageError(
            f"--bounds: {info.path} is complex, and bounds are those of real samples. Leave it out."
        )


HR_COPIES = 5
"""Float32 copies of an HR slice that a run holds at its peak ..."""


WORKING_MEMORY = 600 * 2**20
"""... beside the program, the networks' features on a tile and the like. Measured: 1.05 GiB for
5120x5120, 0.69 for 2560x2560, 0.80 for two planes of that."""


ZSSR_COPIES = 12
"""The same for ZSSR with its eight symmetries."""


RANK_COPIES = 2
"""Axis matrices, of all stages and in double precision, of a kernel's further separable terms."""


MATRICES = 10
"""Axis matrices that a run holds in double precision, beside those."""


BOUND_COPIES = 20
"""Float32 copies of an LR slice that keeping within bounds takes."""


LANE_MEMORY = 100 * 2**20
"""The same for a second small slice at the same time."""


def memory_needed(
    lr_shape: tuple[int, int],
    hr_shape: tuple[int, int],
    planes: int,
    copies: int = HR_COPIES,
    rank: int = 1,
    bounded: bool = False,
) -> int:
    """Bytes that a run holds at its peak which solves one slice at a time, of 2 ``planes`` when
    complex; whatever the number of slices. ``rank`` is that of the kernel; ``bounded`` says that
    results may be kept within bounds."""
    axes = sum(n * m for n, m in zip(hr_shape, lr_shape, strict=True))
    matrices = 8 * (MATRICES + RANK_COPIES * (rank - 1)) * axes
    slices = copies * hr_shape[0] * hr_shape[1]
    slices += BOUND_COPIES * lr_shape[0] * lr_shape[1] if bounded else 0
    return WORKING_MEMORY + 4 * planes * slices + matrices


def free_memory(device: torch.device) -> int:
    """Bytes that can be had now, on ``device`` and beside it."""
    free = available_memory()
    if device.type != "cuda":
        return free
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(free, torch.cuda.mem_get_info(device)[0] + kept)


def check_memory(plan: Plan) -> None:
    """Raise ResourceError where one HR slice cannot be worked on in the memory that is free."""
    rows, cols, _ = plan.shape
    free = free_memory(plan.device)
    if plan.memory > free:
        raise ResourceError(
            f"{plan.source}: one result slice of {rows}x{cols} takes about "
            f"{format_bytes(plan.memory)} to work on, {format_bytes(free)} are free. Type a "
            "smaller --scale, or cut the slices into parts."
        )


def check_request(settings: UpscaleSettings, here: bool = True) -> None:
    """What can be said of a request without any input: raises the MzsrError that every input
    would raise (grid, device, kernel, weights), so that a batch fails once and at once. The device
    has to be one of this machine where slices are solved ``here``."""
    if (settings.scale is None) == (settings.size is None):
        raise UsageError("type either --scale (such as 4 or 4x1.5) or --size (such as 256x256).")
    runtime.check_name(settings.device)
    if here:
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
            f"is a scale of {scale[0]:g}x{scale[1]:g}, outside {SCALE_MIN:g} to "
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


def _unused(settings: UpscaleSettings, method: Method) -> list[str]:
    """Notes on what was asked for and ``method`` does not use."""
    asked = {
        "--weights": settings.weights is not None,
        "--bounds": settings.bounds.given,
    }
    if method in (Method.BICUBIC, Method.SPLINE):
        asked["--kernel"] = settings.kernel != "none"
    if method is not Method.ZSSR:
        asked["--gradient-loss"] = settings.adapt.gradient_loss > 0
    return [
        f"{option} is not used by --method {method}" for option, is_so in asked.items() if is_so
    ]


def choose_weights(
    settings: UpscaleSettings, scale: tuple[float, float], is_image: bool, device: torch.device
) -> tuple[Method, Weights | None, list[str]]:
    """The method and the weights: those named, else the shipped ones that fit best.

    Without a ``method`` it is mzsr; where no weights fit, zssr, with a note that says so.
    Raises WeightsError or MissingInputError for named weights that do not load.
    """
    if settings.method not in (None, Method.MZSR):
        assert settings.method is not None
        return settings.method, None, _unused(settings, settings.method)
    if settings.weights is not None:
        return Method.MZSR, _fitting(catalog.find(settings.weights), device), []
    kind = "images" if is_image else "channels"
    fitting = [path for path in catalog.shipped() if path.stem.startswith(kind)]
    if fitting:
        return Method.MZSR, _fitting(best_of(fitting, settings, max(scale)), device), []
    if settings.method is Method.MZSR:
        raise WeightsError(
            f"--method mzsr: no shipped weights fit ({kind}). Name some with --weights, train "
            "them with mzsr pretrain and mzsr meta-train, or type --method zssr."
        )
    return Method.ZSSR, None, [f"no weights fit ({kind}): using --method zssr"]


def second_weights(
    settings: UpscaleSettings,
    scale: tuple[float, float],
    weights: Weights | None,
    is_image: bool,
    device: torch.device,
) -> Weights | None:
    """Those of photographs beside the shipped ones of cubes: measured fields look like either. None
    where weights were named, slices share what they learn, nothing is checked or the scale is
    large."""
    fitting = [path for path in catalog.shipped() if path.stem.startswith("images")]
    alone = is_image or weights is None or settings.weights is not None or not fitting
    shared = settings.adapt.mode is not Adapting.SLICE
    check = settings.check
    far = max(scale) > check.second_scale
    checked = check.enabled and check.second and settings.consistency.enabled
    if alone or shared or far or not checked:
        return None
    return _fitting(best_of(fitting, settings, max(scale)), device)


def name_and_hash(weights: Weights | None) -> dict[str, str] | None:
    """What provenance says of weights."""
    return {"name": weights.name, "sha256": weights.digest} if weights is not None else None


def best_of(paths: list[Path], settings: UpscaleSettings, scale: float) -> Path:
    """Of several weights of a kind: those trained on bicubic pairs alone where the cube is one
    (antialiased, no blur), else those trained on random degradations; of these the ones whose
    largest scale is the smallest that reaches ``scale``, or the largest of all."""
    facts = {path: read_header(path)["facts"] for path in paths}
    plain = settings.kernel == "none" and settings.sampling is Sampling.BICUBIC
    wanted = DegradationMix.BICUBIC if plain else DegradationMix.RANDOM
    mixes = {path: known.get("degradations") for path, known in facts.items()}
    exact = [p for p in paths if mixes[p] == str(wanted)]
    general = [p for p in paths if mixes[p] == str(DegradationMix.RANDOM)]
    longest = {p: max(facts[p].get("scales") or [2.0]) for p in exact or general or paths}
    reaching = {p: far for p, far in longest.items() if far >= scale}
    reach = min(reaching.values()) if reaching else max(longest.values())
    return [p for p, far in longest.items() if far == reach][-1]


def _fitting(path: Path, device: torch.device) -> Weights:
    """The weights of ``path``, for single planes. Raises WeightsError for other networks."""
    weights = load_weights(path, device)
    if weights.settings.channels != 1:
        raise WeightsError(
            f"{path}: a network of {weights.settings.channels} channels does not fit; mzsr works "
            "plane by plane. Name weights of 1 channel (mzsr info shows it), or --method zssr."
        )
    return weights
