"""Joins files and learning for ``mzsr pretrain`` and ``mzsr meta-train``."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mzsr_cli import __version__
from mzsr_cli.cubes.atomic import JOURNAL
from mzsr_cli.cubes.cube import CubeReader
from mzsr_cli.cubes.journal import Journal
from mzsr_cli.cubes.open import expand_inputs, open_cube
from mzsr_cli.errors import InputError, OutputError, OutputExistsError, UsageError
from mzsr_cli.imaging import kernels, metrics
from mzsr_cli.imaging.bounds import Bounds, Grain, plateaus
from mzsr_cli.imaging.normalize import planes_of, slice_range
from mzsr_cli.learning import catalog, networks, runtime
from mzsr_cli.learning.inner import KEEPING, Parameters, inner_loop, pair_error
from mzsr_cli.learning.meta import meta_step
from mzsr_cli.learning.patches import (
    EIGHT_BIT_NOISE,
    Physics,
    Planes,
    Source,
    Task,
    TaskMaker,
    check_patch,
)
from mzsr_cli.learning.pretrain import moved, pretrain_step
from mzsr_cli.learning.ranks import Ranks
from mzsr_cli.learning.training import Event, Run, Trainer
from mzsr_cli.learning.weights import Weights, load_weights
from mzsr_cli.pipeline.slices import held_out, slices_text
from mzsr_cli.pipeline.targets import check_writable
from mzsr_cli.settings import (
    DataSettings,
    DegradationMix,
    GateSettings,
    MetaSettings,
    Normalize,
    PlateauSettings,
    Sampling,
    StageSettings,
    TrainSettings,
    WienerSettings,
)

EIGHT_BIT = 255
"""Largest level of 8-bit images, and of the luma of colour ones."""

SIDE_MIN = 16
"""Smallest side of what is trained on, in pixels."""

HeldOut = list[tuple[str, int, str]]
"""Of each source its name, how many slices it trains on, and what is held out (slices_text)."""


def load_sources(arguments: Iterable[str], settings: DataSettings | None = None) -> list[Source]:
    """Each argument's images as one source, each cube as one; HR planes in [0, 1].

    Images keep their scale (luma / 255, 16-bit levels / 65535), each bit depth by itself; slices
    of cubes are mapped by their own range. Images and slices under 16 pixels are left out, and
    those that are constant or not finite.
    """
    settings = settings or DataSettings()
    sources = []
    for argument in arguments:
        images: dict[int, list[Planes]] = {}
        for path in expand_inputs([argument]):
            with open_cube(path, settings.variable, settings.slice_axis) as reader:
                if reader.info.format not in ("png", "jpeg"):
                    sources.append(_cube_source(reader))
                elif min(reader.info.shape[:2]) >= SIDE_MIN:
                    levels = int(np.iinfo(reader.info.dtype).max) if _whole(reader) else EIGHT_BIT
                    image = np.asarray(reader.read(0), dtype=np.float32)[None]
                    if np.ptp(image) > 0:
                        images.setdefault(levels, []).append(image / np.float32(levels))
        for levels, planes in sorted(images.items()):
            name = Path(argument).name
            sources.append(Source(name, planes, rounded=levels == EIGHT_BIT))
    return sources


def _whole(reader: CubeReader) -> bool:
    """Whether samples are whole numbers; colour images have a luma that is none."""
    return reader.info.dtype.kind in "iu"


def _cube_source(reader: CubeReader) -> Source:
    """The usable slices of a cube."""
    count = reader.info.shape[2]
    slices = {k: _cube_planes(reader.read(k)) for k in range(count)}
    usable = {k: found for k, found in slices.items() if found is not None}
    found_planes, zeros, bounds = zip(*usable.values(), strict=True) if usable else ((), (), ())
    return Source(
        reader.info.path.name, list(found_planes), False, list(zeros), list(bounds), list(usable),
        count,
    )  # fmt: skip


def _cube_planes(image: np.ndarray) -> tuple[Planes, float | None, Bounds] | None:
    planes = planes_of(image)
    if min(planes.shape[1:]) < SIDE_MIN or not np.isfinite(planes).all():
        return None
    if np.ptp(planes, axis=(1, 2)).max() == 0:
        return None
    mapping = slice_range(planes, Normalize.SLICE)
    high = mapping.forward(planes)
    bounds = plateaus(high, False, Grain(), PlateauSettings())
    return high.astype(np.float32), mapping.zero(planes), bounds


def split(sources: list[Source], text: str | None) -> tuple[list[Source], list[Source], HeldOut]:
    """Training and validation parts by slice (or image), and what they are; ``text`` is that of
    ``--held-out`` (pipeline.slices). Raises UsageError."""
    train, held, facts = [], [], []
    for source in sources:
        places = source.places
        out = held_out(text, max(source.count, len(places)), places, source.name)
        chosen = [place in out for place in places]
        train.append(_part(source, [not one for one in chosen]))
        held.append(_part(source, chosen))
        facts.append((source.name, len(train[-1].slices), slices_text(out)))
    return train, held, facts


def _part(source: Source, chosen: list[bool]) -> Source:
    return replace(
        source,
        slices=list(compress(source.slices, chosen)),
        zeros=list(compress(source.zeros, chosen)),
        bounds=list(compress(source.bounds, chosen)),
        numbers=list(compress(source.numbers, chosen)),
    )


def validation_tasks(
    held: list[Source], maker: TaskMaker, settings: TrainSettings, support: bool
) -> list[Task]:
    """Fixed tasks on held-out slices: centre crops, of each source every known degradation in turn
    at one scale, then at the next."""
    gaussian = kernels.gaussian
    kinds = [(kernels.delta(), Sampling.BICUBIC)]
    if settings.tasks.mix is DegradationMix.RANDOM:
        kinds += [
            (kernels.delta(), Sampling.DIRECT),
            (gaussian(2.0), Sampling.DIRECT),
            (gaussian(4.0, 1.0, -0.5), Sampling.DIRECT),
            (gaussian(1.3), Sampling.BICUBIC),
        ]
    tasks, scales = [], sorted(set(settings.tasks.scales))
    sources = [source for source in held if source.slices]
    for index in range(settings.validation_patches if sources else 0):
        source = sources[index % len(sources)]
        turn = index // len(sources)
        which = turn % len(source.slices)
        planes, zero = source.slices[which], source.zero(which)
        side = min(min(planes.shape[1:]), 2 * settings.tasks.patch) // 4 * 4
        top, left = ((n - side) // 2 for n in planes.shape[1:])
        plane = turn % len(planes)
        crop = planes[plane : plane + 1, top : top + side, left : left + side]
        kernel, sampling = kinds[(index + turn) % len(kinds)]
        scale = scales[(index % len(sources) + turn // len(kinds)) % len(scales)]
        noise = EIGHT_BIT_NOISE if source.rounded else 0.0
        bounds = source.bound(which)
        tasks.append(
            maker.make(source.name, crop, kernel, sampling, scale, noise, zero, support, bounds)
        )
    return tasks


def validator(
    network: networks.Network, tasks: list[Task], steps: int, device: torch.device, prec: Any
) -> Callable[[Parameters, Parameters], dict[str, float]]:
    """Mean PSNR (peak 1) over tasks: of the starting images, after 0 and after ``steps``."""

    def quality(task: Task, parameters: Parameters) -> float:
        query = moved(task.query, device)
        with torch.no_grad():
            error = pair_error(network, parameters, query, prec)
        return _psnr(error + query.truth, query.truth)

    def validate(parameters: Parameters, rates: Parameters) -> dict[str, float]:
        figures: dict[str, list[float]] = {"psnr_start": [], "psnr_0": []}
        for task in tasks:
            figures["psnr_start"].append(_psnr(task.query.start, task.query.truth))
            figures["psnr_0"].append(quality(task, parameters))
            if steps and task.support is not None:
                leaves = {n: p.detach().requires_grad_() for n, p in parameters.items()}
                support = moved(task.support, device)
                path = inner_loop(network, leaves, rates, support, steps, prec, False)
                *_, adapted = path
                figures.setdefault(f"psnr_{steps}", []).append(quality(task, adapted))
        return {name: float(np.mean(v)) for name, v in figures.items() if v}

    return validate


def _psnr(output: torch.Tensor, truth: torch.Tensor) -> float:
    """PSNR with peak 1, at most 99; not a number where the output holds any."""
    found = metrics.psnr(output.cpu().numpy(), truth.cpu().numpy(), 1.0)
    return 99.0 if found > 99 else found


def train(
    kind: str,
    data: list[str],
    output: Path,
    settings: TrainSettings,
    meta: MetaSettings | None,
    init: Path | None,
    ranks: Ranks,
    resume: bool,
    overwrite: bool,
    on_event: Callable[[Event], None],
    on_data: Callable[[HeldOut], None] = lambda held_out: None,
) -> dict[str, float]:
    """Run ``pretrain`` (meta None) or ``meta-train`` to its end; returns the last validation.

    Leaves OUTPUT (weights), its .checkpoint and its .jsonl log, written by the first of ``ranks``.
    A finished run that is resumed is left as it is. ``on_data`` is told what is held out.
    Raises InputError, UsageError, ResumeError, OutputError, OutputExistsError, RankError,
    DivergedError.
    """
    if ranks.first:
        _check_output(output, resume, overwrite)
    check_patch(settings.tasks)
    device = ranks.device
    precision = runtime.pick_precision(settings.precision, device)
    loaded = load_sources(data, settings.data)
    check_patch(settings.tasks, loaded)
    sources, held, parts = split(loaded, settings.data.held_out)
    weights = load_weights(catalog.find(str(init), "--init"), device) if init else None
    architecture = weights.settings if weights else settings.network
    architecture = replace(
        architecture,
        passes=settings.passes or architecture.passes,
        recursions=settings.recursions or architecture.recursions,
        modulated=settings.modulated or architecture.modulated,
    )
    settings = replace(settings, network=architecture)
    network = networks.build(architecture, settings.seed).to(device)
    if settings.recursions and not network.recursive:
        raise UsageError(
            f"--recursions {settings.recursions}: --init brings the backbone "
            f"{architecture.backbone}, whose blocks are applied once. Leave it out."
        )
    if settings.modulated and not network.modulable:
        raise UsageError(
            f"--modulated: --init brings the backbone {architecture.backbone}, whose blocks are "
            "not told anything. Leave it out."
        )
    if weights:  # which may be told less: what is new begins without effect
        network.load_state_dict(network.state_dict() | weights.network.state_dict())
    physics = Physics(
        settings.consistency, WienerSettings(), GateSettings(), architecture.guides > 0
    )
    maker = TaskMaker(sources, settings.tasks, physics, settings.seed)
    log_rates = _log_rates(network, weights, meta)
    run = Run(output)
    facts = _facts(kind, sources, settings, meta, weights, ranks, precision)
    facts["held_out"] = [[name, text] for name, _, text in parts]
    trainer = Trainer(network, log_rates, settings, run, facts, ranks)
    with _locked(run, ranks):
        if resume:
            trainer.restore()
        elif ranks.first:
            run.log.unlink(missing_ok=True)
        if trainer.finished and output.exists():
            on_event(Event(trainer.iteration, trainer.elapsed, 0.0, trainer.best, "finished"))
            return trainer.best
        if ranks.first:
            trainer.log("data", {"held_out": facts["held_out"]})
            on_data(parts)
        parameters: Parameters = dict(network.named_parameters())
        if meta is None:
            step = pretrain_step(
                network, parameters, maker, settings.batch, precision, device, settings.loss, ranks,
                settings.gradient,
            )  # fmt: skip
        else:
            log_rates, loss = trainer.log_rates, settings.loss
            step = meta_step(
                network, parameters, log_rates, maker, meta, precision, device, loss, ranks,
                settings.gradient,
            )  # fmt: skip
        tasks = validation_tasks(held, maker, settings, support=meta is not None)
        steps = meta.inner_steps if meta else 0
        validate = validator(network, tasks, steps, device, precision)
        return trainer.train(step, validate, on_event)


@contextmanager
def _locked(run: Run, ranks: Ranks) -> Iterator[None]:
    """No other training writes the files of ``run`` meanwhile. Raises OutputError: one does."""
    if not ranks.first:
        yield
        return
    with Journal(run.output.with_name(run.output.name + JOURNAL)) as lock:
        try:
            yield
        finally:
            lock.remove()


def _check_output(output: Path, resume: bool, overwrite: bool) -> None:
    """Raise, before any work, where the weights or what lies beside them cannot be written."""
    if not output.parent.is_dir():
        raise OutputError(f"{output}: the folder {output.parent} is not there. Make it first.")
    if output.suffix != ".safetensors":
        raise InputError(
            f"{output}: weights are written as .safetensors. Rename the output; a folder is for "
            "--each."
        )
    if output.exists() and not (resume or overwrite):
        raise OutputExistsError(f"{output}: is already there. Type --resume or --overwrite.")
    run = Run(output)
    for path in (run.output, run.checkpoint, run.log):
        check_writable(path)


def _log_rates(
    network: networks.Network, weights: Weights | None, meta: MetaSettings | None
) -> Parameters:
    """Logarithms of the inner step sizes, from ``init`` or the default; none in pretraining."""
    if meta is None:
        return {}
    rates = weights.rates if weights else {}
    default = torch.tensor([meta.inner_rate])
    return {n: rates.get(n, default).log().to(p.device) for n, p in network.named_parameters()}


def _refines(
    kind: str, sources: list[Source], settings: TrainSettings, init: Weights | None
) -> bool:
    """Whether the network has learned to see its answer within bounds once more."""
    if kind != "pretrain":
        return bool(init and init.facts.get("refines"))
    wanted = settings.tasks.refined_fraction > 0 and settings.consistency.enabled
    return wanted and any(any(s.bounds) for s in sources)


def _digest(slices: list[Planes]) -> str:
    digest = hashlib.sha256()
    for planes in slices:
        digest.update(repr(planes.shape).encode() + np.ascontiguousarray(planes).tobytes())
    return digest.hexdigest()


_LISTS = ("data", "held_out")
"""Facts that name every file: a header tells those of its own training, not its ancestors'."""


def _ancestor(init: Weights) -> dict[str, Any]:
    """What a header tells of the weights that a training began with, and of theirs."""
    return {"name": init.name, "sha256": init.digest, "facts": _without_lists(init.facts)}


def _without_lists(facts: dict[str, Any]) -> dict[str, Any]:
    kept = {name: fact for name, fact in facts.items() if name not in _LISTS}
    before = facts.get("init")
    if isinstance(before, dict):
        kept["init"] = before | {"facts": _without_lists(before.get("facts", {}))}
    return kept


def _facts(
    kind: str,
    sources: list[Source],
    settings: TrainSettings,
    meta: MetaSettings | None,
    init: Weights | None,
    ranks: Ranks,
    precision: Any,
) -> dict[str, Any]:
    """Training facts for the weights' header (and the run's fingerprint)."""
    tasks, gradient = settings.tasks, settings.gradient
    return {
        "kind": kind,
        "mzsr": __version__,
        "data": [[source.name, len(source.slices)] for source in sources],
        "decisive": {
            "data": [[s.name, len(s.slices), _digest(s.slices)] for s in sources],
            "init": init.digest if init else None,
            "meta": asdict(meta) if meta else None,
            "wiener": asdict(WienerSettings()),
            "gate": asdict(GateSettings()),
            "bounds": asdict(KEEPING),
            "stages": asdict(StageSettings()),
        },
        "init": _ancestor(init) if init else None,
        "meta": asdict(meta) if meta else None,
        "degradations": str(tasks.mix),
        "scales": list(tasks.scales),
        "patch": tasks.patch,
        "batch": settings.batch,
        "learning_rate": settings.learning_rate,
        "optimizer": str(settings.optimizer),
        "loss": str(settings.loss),
        **({"gradient_loss": gradient.weight} if gradient.weight else {}),
        "seed": settings.seed,
        "consistency": settings.consistency.enabled,
        "refines": _refines(kind, sources, settings, init),
        "device": runtime.describe_device(ranks.device),
        "processes": ranks.count,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "precision": str(precision),
    }
