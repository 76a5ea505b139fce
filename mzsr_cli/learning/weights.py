"""Weights files: safetensors that carry their architecture and training facts.

The header's metadata key ``mzsr`` holds JSON: format version, network settings, training facts,
the scales, samplings and kernels trained for, and the step size. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mzsr_cli.errors import MissingInputError, OutputError, WeightsError
from mzsr_cli.learning.networks import Network, build, parsed, scalars_min
from mzsr_cli.settings import NetworkSettings

CPU = torch.device("cpu")
FORMAT = 1
_EDITED = (
    "the tensors do not fit the architecture in its header. The file is damaged or was edited; "
    "take a fresh copy."
)
RATE_PREFIX = "rate."


@dataclass
class Weights:
    """A network with its learned step sizes (one scalar a tensor) and its facts."""

    network: Network
    settings: NetworkSettings
    rates: dict[str, torch.Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    name: str = ""

    def parameters(self) -> dict[str, torch.Tensor]:
        """The network's parameters by name, detached."""
        return {name: p.detach() for name, p in self.network.named_parameters()}


def save_weights(
    path: Path,
    parameters: dict[str, torch.Tensor],
    rates: dict[str, torch.Tensor],
    settings: NetworkSettings,
    facts: dict[str, Any],
) -> None:
    """Write a weights file atomically and durably. Raises OutputError where that fails."""
    tensors = {name: p.detach().cpu().float().contiguous() for name, p in parameters.items()}
    tensors |= {RATE_PREFIX + n: r.detach().cpu().float().reshape(1) for n, r in rates.items()}
    header = {"format": FORMAT, "network": network_facts(settings), "facts": facts}
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(save(tensors, {"mzsr": json.dumps(header, sort_keys=True)}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot write weights ({error.strerror}).") from error


def load_weights(path: Path, device: torch.device = CPU) -> Weights:
    """Read a weights file. Raises MissingInputError or WeightsError."""
    if not path.is_file():
        raise MissingInputError(f"{path}: no such weights file. `mzsr info` lists the shipped.")
    header, tensors = _read(path)
    settings = _architecture(path, header, tensors)
    network = build(settings)
    rates = {n.removeprefix(RATE_PREFIX): t for n, t in tensors.items() if n.startswith("rate.")}
    state = {n: t for n, t in tensors.items() if not n.startswith(RATE_PREFIX)}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path}: {_EDITED}") from error
    network.to(device)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rates = {name: rate.to(device) for name, rate in rates.items()}
    return Weights(network, settings, rates, header.get("facts", {}), digest, path.stem)


def _architecture(
    path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> NetworkSettings:
    """The header's architecture, held against the stored tensors before anything is allocated.

    Raises WeightsError where it is no architecture, is larger than what is stored, or where that is
    not finite.
    """
    try:
        settings = network_settings(header["network"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: {_EDITED}") from error
    stored = sum(tensor.numel() for tensor in tensors.values())
    if scalars_min(settings) > stored:
        raise WeightsError(f"{path}: {_EDITED}")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise WeightsError(
            f"{path}: holds numbers that are not finite. Train again, or take another."
        )
    return settings


def network_facts(settings: NetworkSettings) -> dict[str, Any]:
    """An architecture as plain values for a header, without what its backbone does not have."""
    known = asdict(settings).items()
    facts = {name: fact for name, fact in known if fact is not None and fact is not False}
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def network_settings(header: dict[str, Any]) -> NetworkSettings:
    """The architecture that a header describes; what it does not mention is as by default.

    Raises KeyError, TypeError, ValueError or WeightsError where it is none.
    """
    return parsed(dict(header))


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a weights file (network, facts). Raises WeightsError."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as handle:
            text = (handle.metadata() or {}).get("mzsr")
            if text is None:
                raise WeightsError(f"{path}: safetensors, but not written by mzsr (no header).")
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            header: dict[str, Any] = json.loads(text)
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error}).") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: {_EDITED}")
    if header.get("format") != FORMAT:
        raise WeightsError(f"{path}: format {header.get('format')}, this mzsr reads {FORMAT}.")
    return header, tensors
