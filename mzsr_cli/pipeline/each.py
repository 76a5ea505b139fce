"""``--each``: a training for each cube, the weights in a folder and named after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mzsr_cli.errors import OutputError, UsageError


@dataclass(frozen=True)
class Job:
    """What one training reads, writes and starts from, and whether it goes on with a checkpoint."""

    data: list[str]
    output: Path
    init: Path | None
    resume: bool


def each_job(cubes: list[Path], folder: Path, init: Path | None, resume: bool) -> list[Job]:
    """A training for each cube: ``cube.mat`` gives ``FOLDER/cube.safetensors``.

    ``init`` may be a folder, too, with weights of the cubes' names. With ``resume`` those that have
    been begun are resumed, and the others are begun.
    Raises OutputError (no such folder), UsageError (no folder, or two cubes of one name).
    """
    if folder.suffix == ".safetensors":
        raise UsageError(f"-o {folder}: --each wants a folder for the weights. Type -o nets/")
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder. Make it first: mkdir -p '{folder}'")
    taken: dict[str, Path] = {}
    for cube in cubes:
        other = taken.setdefault(cube.stem, cube)
        if other is not cube:
            raise UsageError(
                f"{folder / cube.stem}.safetensors: would be the weights of both {other} and "
                f"{cube}. Train them into different folders with -o."
            )
    return [_job(cube, folder / f"{cube.stem}.safetensors", init, resume) for cube in cubes]


def _job(cube: Path, output: Path, init: Path | None, resume: bool) -> Job:
    own = init / output.name if init is not None and init.is_dir() else init
    begun = output.exists() or output.with_suffix(".checkpoint").exists()
    return Job([str(cube)], output, own, resume and begun)
