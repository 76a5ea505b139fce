"""Where results go: names beside the inputs, or in or at ``--output``."""

from __future__ import annotations

from pathlib import Path

from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.checks import writing
from mzsr_cli.cubes.open import is_cube_file
from mzsr_cli.errors import UsageError

LOSSY = (".jpg", ".jpeg", ".bmp")
"""Inputs whose results are written as PNG."""


def plan_targets(sources: list[Path], output: str | None, tag: str) -> list[tuple[Path, Path]]:
    """(source, target) of each source: ``cube_TAG.mat`` beside it, or in or at ``output``.

    Raises UsageError when two results would have one name, or a result an input's.
    """
    folder = _as_folder(output)
    if output is not None and folder is None and len(sources) > 1:
        raise UsageError(
            f"-o {output}: is one file, but there are {len(sources)} inputs. "
            "Name a folder that is there."
        )
    pairs = [(source, _target(source, output, folder, tag)) for source in sources]
    inputs = {source.resolve() for source in sources}
    taken: dict[Path, Path] = {}
    for source, target in pairs:
        place = target.resolve()
        if place in inputs:
            raise UsageError(
                f"{target}: is an input, and would be replaced by the result of {source}. "
                "Name another output with -o, or name the input files one by one."
            )
        if place in taken:
            raise UsageError(
                f"{target}: would be the result of both {taken[place]} and {source}. "
                "Write them into different folders with -o."
            )
        taken[place] = source
    return pairs


def _as_folder(output: str | None) -> Path | None:
    if output is None:
        return None
    path = Path(output)
    is_folder = output.endswith("/") or (path.is_dir() and not is_cube_file(path))
    return path if is_folder else None


def _target(source: Path, output: str | None, folder: Path | None, tag: str) -> Path:
    if output is not None and folder is None:
        return Path(output)
    suffix = ".png" if source.suffix.lower() in LOSSY else source.suffix
    return (folder or source.parent) / f"{source.stem}_{tag}{suffix}"


def check_writable(target: Path) -> None:
    """Raise OutputError where nothing can be written under that name."""
    AtomicOutput(target, overwrite=True)


def write_whole(target: Path, text: str) -> None:
    """``text`` under the name ``target``, in place of what is there, whole or not at all.

    Raises OutputError.
    """
    output = AtomicOutput(target, overwrite=True)
    with writing(target):
        output.part.write_text(text, encoding="utf-8")
    output.commit()


def provenance_path(target: Path) -> Path:
    """``cube_x4.mat.json`` beside ``cube_x4.mat``."""
    return target.with_name(target.name + ".json")
