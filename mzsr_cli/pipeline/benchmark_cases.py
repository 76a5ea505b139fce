"""Names of ``mzsr benchmark``: degradations and methods, and the settings that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from mzsr_cli.errors import UsageError
from mzsr_cli.imaging.kernels import Kernel
from mzsr_cli.pipeline.kernel_files import load_kernel
from mzsr_cli.settings import (
    ENSEMBLES,
    AdaptSettings,
    BenchmarkSettings,
    CheckSettings,
    ConsistencySettings,
    Extra,
    Method,
    Sampling,
    UpscaleSettings,
)

_NAMED = {
    "bicubic": ("none", Sampling.BICUBIC),
    "direct": ("none", Sampling.DIRECT),
    "ganid": ("gaussian:4,1,-0.5", Sampling.DIRECT),
}
_GAUSSIAN = re.compile(r"g(\d+(?:\.\d+)?)([db])")
_SAMPLINGS = {"d": Sampling.DIRECT, "b": Sampling.BICUBIC}

STEPPED = (Method.MZSR, Extra.MZSR_PAPER, Extra.MZSR_ENSEMBLE)
"""Methods that take a number of steps."""


@dataclass(frozen=True, eq=False)
class Case:
    """A degradation by name: the kernel (as text, and in HR pixels) and how it is sampled."""

    name: str
    kernel: str
    blur: Kernel
    sampling: Sampling


@dataclass(frozen=True)
class Contender:
    """A method by name; ``steps`` for those that adapt, else None."""

    name: str
    method: Method | Extra
    steps: int | None = None

    @property
    def learned(self) -> bool:
        """Whether it needs weights."""
        return self.method in STEPPED


def parse_case(text: str) -> Case:
    """The degradation of ``bicubic``, ``direct``, ``ganid``, ``gVARd``, ``gVARb`` (a Gaussian of
    variance VAR in HR px^2, then direct or bicubic sampling) or ``KERNEL/SAMPLING``.

    Raises UsageError (none of these), MissingInputError or KernelError (the kernel's file).
    """
    gaussian = _GAUSSIAN.fullmatch(text)
    kernel, slash, sampling = text.rpartition("/")
    if text in _NAMED:
        blur, how = _NAMED[text]
    elif gaussian is not None:
        blur, how = f"gaussian:{gaussian[1]}", _SAMPLINGS[gaussian[2]]
    elif slash and kernel and sampling in [s.value for s in Sampling]:
        blur, how = kernel, Sampling(sampling)
    else:
        raise UsageError(
            f"--degradation {text}: not understood. Type bicubic, direct, ganid, g2.0d, g1.3b "
            "(variance; d direct, b bicubic sampling), or KERNEL/SAMPLING such as "
            "gaussian:4,1,-0.5/direct or kernel.mat/direct."
        )
    return Case(text, blur, load_kernel(blur), how)


def parse_contender(text: str) -> Contender:
    """The method of ``tv``, ``wiener``, ``mzsr:10``, ... Raises UsageError for another name."""
    name, colon, count = text.partition(":")
    known: dict[str, Method | Extra] = {m.value: m for m in (*Method, *Extra)}
    method = known.get(name)
    if method in STEPPED and re.fullmatch(r"\d{1,6}", count):
        return Contender(f"{name}:{int(count)}", known[name], int(count))
    if method in STEPPED:
        raise UsageError(
            f"--method {text}: needs its number of gradient steps. Type {name}:10, or {name}:0."
        )
    if method is None or colon:
        names = ", ".join(f"{m}:N" if m in STEPPED else str(m) for m in (*Extra, *Method))
        raise UsageError(f"--method {text}: no such method. Type one of {names}.")
    return Contender(name, method)


def cases_of(names: Iterable[str]) -> list[Case]:
    """Each degradation once. Raises as :func:`parse_case`."""
    return [parse_case(name) for name in dict.fromkeys(names)]


def contenders_of(names: Iterable[str]) -> list[Contender]:
    """Each method once. Raises as :func:`parse_contender`."""
    return list(dict.fromkeys(parse_contender(name) for name in names))


_VIEWS: dict[Method | Extra, int] = {Extra.MZSR_ENSEMBLE: max(ENSEMBLES), Extra.MZSR_PAPER: 1}
"""Self-ensembles of contenders that do not have the default's."""


def upscale_settings(
    case: Case, contender: Contender, settings: BenchmarkSettings
) -> UpscaleSettings:
    """What ``mzsr upscale`` would be told. ``tv`` has only the grid in common with it.

    ``bicubic-paper`` is cubic on the pixel-centred grid whatever the sampling was (Soh et al.,
    2020, table 1), ``nyquist`` no method but the truth itself, without what lies beyond the Nyquist
    limit of the LR grid: what bounds linear interpolation. ``mzsr-paper`` is Algorithm 2 alone: no
    consistency, no self-check, no self-ensemble. ``mzsr+`` has the whole self-ensemble.
    """
    method = contender.method
    told = UpscaleSettings(
        scale=settings.scale,
        method=method if isinstance(method, Method) else Method.BICUBIC,
        weights=settings.weights if contender.learned else None,
        kernel=case.kernel,
        sampling=case.sampling,
        variable=settings.variable,
        slice_axis=settings.slice_axis,
        precision=settings.precision,
        device=settings.device,
        seed=settings.seed,
    )
    if contender.steps is not None:
        views = _VIEWS.get(method, settings.self_ensemble)
        adapting = AdaptSettings(steps=contender.steps, self_ensemble=views)
        told = replace(told, method=Method.MZSR, adapt=adapting)
    if method is Extra.BICUBIC_PAPER:
        return replace(told, kernel="none", sampling=Sampling.BICUBIC)
    if method is Extra.MZSR_PAPER:
        return replace(
            told,
            consistency=ConsistencySettings(enabled=False),
            check=CheckSettings(enabled=False),
        )
    return told
