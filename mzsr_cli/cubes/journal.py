"""Journal of finished slices, JSON lines: a header, then one line a slice.

A line is written only after the slice's samples are durable, and is durable itself before
``add`` returns. A line torn by a kill is dropped on resume. An open journal is locked: while one
run writes a result, no other run does. A killed run's lock goes with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from mzsr_cli.cubes.atomic import JOURNAL
from mzsr_cli.cubes.base import fsync_path
from mzsr_cli.cubes.checks import reading, writing
from mzsr_cli.cubes.cube import Array, CubeInfo
from mzsr_cli.errors import OutputError, ResumeError

try:
    import fcntl
except ImportError:  # not on every system
    fcntl = None  # type: ignore[assignment]

_END = 1 << 20
"""Bytes hashed at either end of the input."""


def input_identity(info: CubeInfo) -> dict[str, Any]:
    """What tells this input from another or a changed one, without reading all of it."""
    with reading(info.path):
        found = _folder_identity(info.path) if info.path.is_dir() else _file_identity(info.path)
    return found | {
        "variable": info.variable,
        "shape": list(info.shape),
        "dtype": info.dtype.name,
        "slice_axis": info.slice_axis,
    }


def _file_identity(path: Path) -> dict[str, Any]:
    facts = path.stat()
    with open(path, "rb") as file:
        first = file.read(_END)
        file.seek(max(0, facts.st_size - _END))
        last = file.read(_END)
    return {
        "size": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        "first": hashlib.sha256(first).hexdigest(),
        "last": hashlib.sha256(last).hexdigest(),
    }


def _folder_identity(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    for file in sorted(inner for inner in path.rglob("*") if inner.is_file()):
        facts = file.stat()
        line = f"{file.relative_to(path)} {facts.st_size} {facts.st_mtime_ns}\n"
        digest.update(line.encode())
    return {"files": digest.hexdigest()}


def journal_header(info: CubeInfo, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Header of a run: the input's identity, all settings that decide the result, a digest."""
    header = _as_json({"input": input_identity(info), "settings": dict(settings)})
    header["digest"] = _digest(header)
    return header


def slice_digest(rows: Iterable[Array]) -> str:
    """sha256 of a slice's bytes in C order, from its rows or from bands of them, top to bottom: a
    slice with other strides is not copied as a whole."""
    digest = hashlib.sha256()
    for part in rows:
        digest.update(np.ascontiguousarray(part).view(np.uint8).data)
    return digest.hexdigest()


def has_header(path: Path) -> bool:
    """Whether a journal is there whose first line is whole; a run that was killed before that has
    written nothing yet."""
    try:
        with path.open("rb") as file:
            return file.readline().endswith(b"\n")
    except FileNotFoundError:
        return False


class Journal:
    """Open journal, locked until it is closed. ``finished`` maps each finished slice to its report.

    Raises OutputError, also where another run has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished: dict[int, dict[str, Any]] = {}
        self._digests: dict[int, str] = {}
        self._file = _open_locked(path)

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> Journal:
        """Begin a journal, in place of any old one. Raises OutputError (also: another run's)."""
        with cls(path), writing(path):
            path.unlink(missing_ok=True)
        with ExitStack() as stack:
            journal = stack.enter_context(cls(path))
            journal._append(dict(header))
            fsync_path(path.parent)
            stack.pop_all()
        return journal

    @classmethod
    def resume(cls, path: Path, header: Mapping[str, Any]) -> Journal:
        """Go on with a journal. Raises ResumeError (none, damaged, other input or settings),
        OutputError (another run's)."""
        if not path.exists():
            raise ResumeError(f"{path}: no journal of an unfinished run. Start without --resume.")
        with ExitStack() as stack:
            journal = stack.enter_context(cls(path))
            journal._take_up(header)
            stack.pop_all()
        return journal

    def _take_up(self, header: Mapping[str, Any]) -> None:
        """What the file tells of an unfinished run; a torn last line is cut off."""
        lines, good = _read_lines(self.path)
        _check_header(self.path, lines[0], _as_json(dict(header)))
        self.finished, self._digests = _finished(self.path, lines[1:])
        with writing(self.path):
            self._file.truncate(good)

    def add(self, k: int, rows: Iterable[Array], report: Mapping[str, Any] | None = None) -> None:
        """Record slice ``k``, whose samples the writer has flushed. Raises OutputError.

        ``rows`` are those of the slice as stored (``writer.stored(k)``), so that ``matches`` can
        check it.
        """
        digest = slice_digest(rows)
        kept = _as_json(dict(report or {}))
        self._append({"k": k, "sha256": digest, "report": kept})
        self.finished[k], self._digests[k] = kept, digest

    def matches(self, k: int, rows: Iterable[Array]) -> bool:
        """True when slice ``k`` is finished and ``rows`` are what was recorded."""
        return self._digests.get(k) == slice_digest(rows)

    def close(self) -> None:
        """Release the file; it stays for a later resume."""
        self._file.close()

    def remove(self) -> None:
        """Delete and close, once the result has its final name."""
        with writing(self.path):
            self.path.unlink(missing_ok=True)
        self.close()

    def _append(self, line: dict[str, Any]) -> None:
        with writing(self.path):
            self._file.write(json.dumps(line, sort_keys=True, default=_plain).encode() + b"\n")
            self._file.flush()
            fsync_path(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_locked(path: Path) -> BinaryIO:
    """``path`` for appending, locked; once more where a run that ended has just deleted it."""
    file = _opened(path)
    if os.fstat(file.fileno()).st_nlink == 0:
        file.close()
        file = _opened(path)
    return file


def _opened(path: Path) -> BinaryIO:
    with writing(path):
        file = open(path, "ab")  # noqa: SIM115 - closed by Journal.close()
    if not _lock(file):
        file.close()
        target = path.with_name(path.name.removesuffix(JOURNAL))
        raise OutputError(
            f"{target}: another run is writing it ({path.name} is locked). Wait for it, or type "
            "another name with -o."
        )
    return file


def _lock(file: BinaryIO) -> bool:
    """False where another run holds the lock; file systems and systems without locks go on.

    It goes with the process: children do not inherit the file.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a journal and the bytes they take; a torn last line is left out."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ResumeError(
            f"{path}: no journal of an unfinished run. Start without --resume."
        ) from error
    lines: list[dict[str, Any]] = []
    good = 0
    pieces = data.split(b"\n")
    for number, piece in enumerate(pieces[:-1]):
        line = _parse(piece)
        if line is None and number < len(pieces) - 2:
            raise ResumeError(f"{path}: line {number + 1} is damaged. Start without --resume.")
        if line is None:
            break
        lines.append(line)
        good += len(piece) + 1
    if not lines:
        raise ResumeError(f"{path}: holds no header. Start without --resume.")
    return lines, good


def _parse(piece: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(piece)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _check_header(path: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    differ = differences(then, now)
    if differ:
        raise ResumeError(
            f"{path}: the unfinished run differs: {differ}. Resume with the same input and "
            "settings, or start without --resume."
        )


def differences(then: Mapping[str, Any], now: Mapping[str, Any], most: int = 4) -> str:
    """In what two nested dicts of facts differ (``digest`` aside): ``seed was 1, is 0; ...``,
    at most ``most`` of them; empty where they agree."""
    old, new = _flat(then), _flat(now)
    old.pop("digest", None)
    new.pop("digest", None)
    differ = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    facts = "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in differ[:most])
    return facts + (f" and {len(differ) - most} more" if len(differ) > most else "")


def _finished(
    path: Path, lines: list[dict[str, Any]]
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    try:
        reports = {int(line["k"]): dict(line["report"]) for line in lines}
        digests = {int(line["k"]): str(line["sha256"]) for line in lines}
    except (KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"{path}: is no journal of mzsr. Start without --resume.") from error
    return reports, digests


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{before}{key}.")
        else:
            flat[before + key] = item
    return flat


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(value, sort_keys=True, default=_plain))
    assert isinstance(plain, dict)
    return plain


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
