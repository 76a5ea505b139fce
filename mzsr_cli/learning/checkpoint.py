"""Checkpoints of a training run: everything that an unbroken run would have, atomically."""

from __future__ import annotations

import io
import os
from pathlib import Path
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
    except (RuntimeError, KeyError, EOFError, OSError, ValueError) as error:
        raise ResumeError(f"{path}: the checkpoint is damaged. Run without --resume.") from error
    for key in sorted(set(made_with) | set(fingerprint)):
        if made_with.get(key) != fingerprint.get(key):
            raise ResumeError(
                f"{path}: {key} was {made_with.get(key)!r}, now {fingerprint.get(key)!r}. "
                "Use the same settings, or run without --resume."
            )
    return state
