"""``mzsr info``: facts of this machine, of a cube or of a weights file. torch is imported only
where its facts are asked for."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mzsr_cli import __version__
from mzsr_cli.cubes.checks import available_memory, candidates
from mzsr_cli.cubes.cube import VariableInfo
from mzsr_cli.cubes.open import list_variables, open_cube
from mzsr_cli.errors import MissingInputError, WeightsError
from mzsr_cli.learning import catalog
from mzsr_cli.pipeline.slices import parse_slices


def is_weights(name: str) -> bool:
    """Whether ``name`` means weights: a .safetensors file, or the name of shipped ones."""
    if Path(name).suffix == ".safetensors":
        return True
    return not Path(name).exists() and name in [path.stem for path in catalog.shipped()]


def machine_info() -> dict[str, Any]:
    """Versions, cores, memory in bytes, and what torch can compute on."""
    import torch

    from mzsr_cli.learning import runtime

    devices = [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
    return {
        "mzsr": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "memory_free": available_memory(),
        "bf16": runtime.has_fast_bf16(torch.device("cpu")),
        "cuda": [
            {
                "device": str(device),
                "name": torch.cuda.get_device_name(device),
                "memory": torch.cuda.get_device_properties(device).total_memory,
                "bf16": runtime.has_fast_bf16(device),
            }
            for device in devices
        ],
    }


def processor() -> str:
    """The processor's name and how many cores of it this process may use."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name}, {_cores()} cores"


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shipped_info() -> list[dict[str, Any]]:
    """Facts of each weights file that came with mzsr; a broken one has an ``error`` instead."""
    found = []
    for path in catalog.shipped():
        try:
            found.append(weights_info(str(path)))
        except WeightsError as error:
            found.append({"name": path.stem, "path": str(path), "error": str(error)})
    return found


def weights_info(name: str) -> dict[str, Any]:
    """Architecture, number of parameters, sha256 and training facts of a weights file.

    Raises MissingInputError, WeightsError.
    """
    from mzsr_cli.learning.networks import parameter_count
    from mzsr_cli.learning.weights import load_weights, network_facts

    path = catalog.find(name)
    weights = load_weights(path)
    rates = [float(rate) for rate in weights.rates.values()]
    return {
        "name": weights.name,
        "path": str(path),
        "bytes": path.stat().st_size,
        "sha256": weights.digest,
        "network": network_facts(weights.settings),
        "parameters": parameter_count(weights.network),
        "inner_rate": float(np.mean(rates)) if rates else None,
        "facts": weights.facts,
    }


def cube_info(
    path: Path, variable: str | None, slice_axis: int, slices: str | None
) -> dict[str, Any]:
    """Variables of a file, and of its cube shape, dtype, bytes and figures of each slice.

    Reads a slice at a time. Where the file has several cubes and ``variable`` is None, ``cube``
    is None and only the variables are told. Raises MissingInputError, InputError, UsageError.
    """
    found = list_variables(path)
    facts: dict[str, Any] = {
        "path": str(path),
        "variables": [_variable(v) for v in found],
        "cube": None,
        "notes": [],
    }
    if variable is None and len(candidates(found)) > 1:
        facts["notes"].append("several variables could be the cube: pass --variable to say which")
        return facts
    with open_cube(path, variable, slice_axis) as reader:
        info = reader.info
        chosen = parse_slices(slices, info.shape[2])
        facts["cube"] = {
            "format": info.format,
            "variable": info.variable,
            "shape": list(info.shape),
            "dtype": info.dtype.name,
            "bytes": info.nbytes,
            "figures_of": "magnitude" if info.is_complex else "value",
            "slices": [{"slice": k, **slice_figures(reader.read(k))} for k in chosen],
        }
        facts["notes"] += reader.notes
    return facts


def _variable(found: VariableInfo) -> dict[str, Any]:
    return {
        "name": found.name,
        "shape": list(found.shape),
        "kind": found.kind,
        "bytes": found.nbytes,
        "numeric": found.numeric,
    }


def slice_figures(image: NDArray[Any]) -> dict[str, Any]:
    """Figures of a slice (H, W), of magnitudes when it is complex, in the cube's units.

    ``min``, ``max`` and ``mean`` are over the finite samples (None when there are none),
    ``zeros`` is the fraction of samples that are exactly 0, ``nan`` and ``inf`` are counts.
    """
    wide = image.astype(np.complex128 if np.iscomplexobj(image) else np.float64)
    values = np.abs(wide) if np.iscomplexobj(image) else wide
    finite = values[np.isfinite(values)]
    nan = int(np.isnan(values).sum())
    return {
        "min": float(finite.min()) if finite.size else None,
        "max": float(finite.max()) if finite.size else None,
        "mean": float(finite.mean()) if finite.size else None,
        "zeros": float(np.mean(image == 0)),
        "nan": nan,
        "inf": int(values.size - finite.size - nan),
    }


def describe(
    path: str | None, variable: str | None, slice_axis: int, slices: str | None
) -> dict[str, Any]:
    """What ``mzsr info`` tells: ``kind`` is machine, weights or cube. Raises as those do."""
    if path is None:
        return {"kind": "machine", "machine": machine_info(), "weights": shipped_info()}
    if is_weights(path):
        return {"kind": "weights", **weights_info(path)}
    if not Path(path).exists():
        raise MissingInputError(
            f"{path}: no such file, and no shipped weights of that name. "
            "`mzsr info` lists the weights."
        )
    return {"kind": "cube", **cube_info(Path(path), variable, slice_axis, slices)}
