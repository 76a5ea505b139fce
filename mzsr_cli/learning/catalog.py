"""The weights files that come with mzsr. Imports no torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from mzsr_cli.errors import WeightsError

SUFFIX = ".safetensors"


def weights_folder() -> Path:
    """The folder of shipped weights: installed as ``mzsr_cli.weights``, or the checkout's."""
    try:
        return Path(str(resources.files("mzsr_cli.weights")))
    except ModuleNotFoundError:
        return Path(__file__).resolve().parents[2] / "weights"


def shipped() -> list[Path]:
    """Paths of the shipped weights files, sorted by name."""
    return sorted(weights_folder().glob(f"*{SUFFIX}"))


def find(name_or_path: str, option: str = "--weights") -> Path:
    """The weights file of that path, or the shipped one of that name (with or without suffix).

    Raises WeightsError that names ``option`` and lists what there is.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    for candidate in shipped():
        if name_or_path in (candidate.name, candidate.stem):
            return candidate
    names = ", ".join(candidate.stem for candidate in shipped()) or "none"
    raise WeightsError(
        f"{option} {name_or_path}: no such file, and no shipped weights of that name "
        f"(there are: {names}). Type one of these names, or a path to a {SUFFIX} file."
    )
