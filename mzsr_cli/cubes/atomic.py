"""A result appears under its name only when it is whole.

It grows as ``NAME.part`` beside the target, with ``NAME.journal`` that lists finished slices;
``commit`` makes it durable and renames it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from secrets import token_hex

from mzsr_cli.cubes.base import fsync_path
from mzsr_cli.cubes.checks import format_bytes, writing
from mzsr_cli.cubes.zarr3 import is_zarr
from mzsr_cli.errors import OutputError, OutputExistsError, ResourceError

PART = ".part"
"""Suffix of an unfinished result."""

JOURNAL = ".journal"
"""Suffix of its list of finished slices."""


class AtomicOutput:
    """The unfinished and the final name of one result (a file, or a folder for Zarr).

    ``nbytes`` is what the result will take; the part already on disk counts towards it.
    Raises OutputExistsError (target there, no ``overwrite``), OutputError (folder missing or
    read-only), ResourceError (disk too full; says needed and free).
    """

    def __init__(self, target: Path | str, overwrite: bool = False, nbytes: int = 0) -> None:
        self.target = Path(target)
        self.part = self.target.with_name(self.target.name + PART)
        self.journal = self.target.with_name(self.target.name + JOURNAL)
        self.overwrite = overwrite
        self._check_target()
        self._check_folder()
        self.check_space(nbytes)

    def _check_target(self) -> None:
        if os.path.lexists(self.target) and not self.overwrite:
            raise OutputExistsError(
                f"{self.target}: is already there. Pass --overwrite to replace it, "
                "or name another output with -o."
            )
        if self.target.is_dir() and not is_zarr(self.target):
            raise OutputError(
                f"{self.target}: is a folder, and not one of Zarr: it will not be replaced. "
                "Name another output with -o."
            )

    def _check_folder(self) -> None:
        folder = self.target.parent
        if not folder.is_dir():
            raise OutputError(f"{folder}: no such folder. Make it first: mkdir -p '{folder}'")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                f"{folder}: no permission to write there. Name another output with -o."
            )

    def check_space(self, nbytes: int) -> None:
        """Raise ResourceError when ``nbytes`` do not fit on the disk."""
        free = shutil.disk_usage(self.target.parent).free
        needed = max(0, nbytes - _allocated(self.part))
        if needed > free:
            raise ResourceError(
                f"{self.target}: needs {format_bytes(needed)} of disk, {format_bytes(free)} are "
                "free. Free some space or name an output on another disk with -o."
            )

    def commit(self) -> Path:
        """Make the part durable, give it its final name, return that.

        Raises OutputExistsError when a target appeared meanwhile, OutputError.
        """
        self._check_target()
        with writing(self.target):
            _sync_tree(self.part)
            if self.part.is_dir() or self.target.is_dir():
                self._replace_folder()
            else:
                os.replace(self.part, self.target)
            fsync_path(self.target.parent)
        return self.target

    def _replace_folder(self) -> None:
        """Folders cannot be renamed over one another: the old one steps aside first."""
        if not os.path.lexists(self.target):
            os.rename(self.part, self.target)
            return
        old = self.target.with_name(f"{self.target.name}.old-{token_hex(4)}")
        os.rename(self.target, old)
        os.rename(self.part, self.target)
        remove(old)

    def discard(self) -> None:
        """Remove the part and its journal, if they are there."""
        with writing(self.part):
            remove(self.part)
            remove(self.part.with_name(self.part.name + ".new"))
            remove(self.journal)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it; nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for inner in sorted(path.rglob("*")):
            fsync_path(inner)
    fsync_path(path)


def _allocated(path: Path) -> int:
    """Bytes of disk that ``path`` holds already."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(file.stat().st_blocks * 512 for file in files if file.exists())
