"""``--kernel``: a blur kernel from what was typed. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mzsr_cli.cubes.cube import VariableInfo
from mzsr_cli.cubes.open import list_variables, open_cube
from mzsr_cli.errors import InputError, KernelError, MissingInputError, UsageError
from mzsr_cli.imaging import kernels
from mzsr_cli.imaging.kernels import Kernel

SUFFIXES = (".mat", ".npy")
"""Kinds of files that a kernel can come in."""

SIDE_MAX = 4096
"""Largest side in HR pixels of a kernel that is read; more is some other array."""


def load_kernel(text: str) -> Kernel:
    """The kernel of ``none``, ``gaussian:L1[,L2[,THETA]]``, ``FILE.mat`` or ``FILE.npy``.

    Shape (rows, columns) in HR pixels, float64, sum 1. A .mat file must hold one 2-D numeric
    variable larger than 1x1; what else is in it (text, vectors, cubes) is passed over.
    Raises UsageError (none of these), MissingInputError (no such file), KernelError (damaged,
    no kernel in it, more than one, or not a kernel).
    """
    if text == "none":
        return kernels.delta()
    if text == "gaussian" or text.startswith("gaussian:"):
        return kernels.parse_gaussian(text)
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"--kernel {text}: not understood. Type none, gaussian:VARIANCE, "
            "gaussian:VAR1,VAR2,THETA or a .mat/.npy file."
        )
    return _from_file(path)


def _from_file(path: Path) -> Kernel:
    try:
        chosen = _choose(path, list_variables(path))
        with open_cube(path, chosen.name or None) as reader:
            samples = reader.read(0)
    except (KernelError, MissingInputError):
        raise
    except InputError as error:
        raise KernelError(f"{path}: cannot read a kernel from it. {error}") from error
    return kernels.checked(np.asarray(samples), str(path))


def _choose(path: Path, found: list[VariableInfo]) -> VariableInfo:
    """The one 2-D numeric variable that is no vector, or else the one 2-D scalar."""
    planes = [v for v in found if v.numeric and len(v.shape) == 2]
    fit = [v for v in planes if min(v.shape) > 1] or planes
    if len(fit) > 1:
        names = ", ".join(map(str, fit[:12]))
        raise KernelError(
            f"{path}: {len(fit)} 2-D numeric variables ({names}), a kernel file holds one. "
            "Save the kernel alone in a file."
        )
    if not fit:
        names = ", ".join(map(str, found[:12])) or "nothing"
        raise KernelError(
            f"{path}: no 2-D numeric variable (found {names}). "
            "Save the kernel as a matrix that sums to 1."
        )
    if max(fit[0].shape) > SIDE_MAX:
        raise KernelError(
            f"{path}: {fit[0]} is too large for a kernel (sides up to {SIDE_MAX}). "
            "Name the kernel's file, not the cube's."
        )
    return fit[0]
