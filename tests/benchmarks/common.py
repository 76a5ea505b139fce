"""What the benchmarks share: runs of the commands' own functions in a scratch folder."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mzsr_cli.cli.main import exit_code


def data_folder() -> Path:
    """$MZSR_DATA, or ../shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("MZSR_DATA", default))
    if not folder.is_dir():
        sys.exit(f"{folder}: no data. Set MZSR_DATA.")
    return folder


def mzsr(*arguments: object) -> float:
    """Run an mzsr command quietly; returns its seconds. Stops the benchmark where it fails."""
    begin = time.monotonic()
    code = exit_code([str(a) for a in arguments])
    if code:
        sys.exit(f"mzsr {' '.join(map(str, arguments))}: exit {code}")
    return time.monotonic() - begin


def markdown(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    lines = [list(map(str, header))]
    lines.append(["---"] * len(lines[0]))
    lines += [list(map(str, row)) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
