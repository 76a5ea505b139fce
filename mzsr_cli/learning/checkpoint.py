"""Checkpoints of a training run: everything that an unbroken run would have, atomically."""

from __future__ import annotations

import io
import os
from pathlib import Path
from pickle import UnpicklingError  # only to catch it
from typing import Any

import torch

from mzsr_cli.errors import ResumeError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; an older checkpoint stays until the new one is whole."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as handle:
        handle.write(buffer.getvalue())
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)


def load_checkpoint(path: Path, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint made with the same ``fingerprint`` (settings that decide the result).

    Raises ResumeError where there is none, it is damaged, or a setting differs (named).
    """
    if not path.is_file():
        raise ResumeError(f"{path}: no checkpoint to resume. Run without --resume first.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        made_with = state["fingerprint"]
    except (
        RuntimeError, KeyError, EOFError, OSError, ValueError, TypeError, UnpicklingError,
    ) as error:  # fmt: skip
        raise ResumeError(f"{path}: the checkpoint is damaged. Run without --resume.") from error
    then, now = flat(made_with), flat(fingerprint)
    differ = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
    if differ:
        facts = "; ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in differ[:4])
        raise ResumeError(
            f"{path}: the run differs: {facts}. Use the same data and settings, or run without "
            "--resume."
        )
    return state


def flat(value: Any, before: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots; lists as they are."""
    if not isinstance(value, dict) or not value:
        return {before: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flat(item, f"{before}.{key}" if before else str(key))
    return found
