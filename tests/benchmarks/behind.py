"""How often, and by how much, one method is behind the best of the others, slice by slice.

python tests/benchmarks/behind.py RESULTS.json ... [--method mzsr:10] [--margin 0.3] [--whole]

Reads what ``mzsr benchmark --json`` wrote for cubes. Cubes whose names begin with the same word
(``fmc_00``, ``fmc_01``) are one row; figures are means of dB over slices. With ``--whole`` all
cubes of a file are one row, under its name, with the mean of what is best on each slice.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import markdown

Case = tuple[str, str]


def slices_of(path: Path, whole: bool) -> tuple[list[str], dict[Case, dict[str, list[float]]]]:
    """Methods, and NMSE in dB of all slices by (kind of cube or file, case) and method."""
    found = json.loads(path.read_text(encoding="utf-8"))
    scale = found["facts"]["scale"]
    table: dict[Case, dict[str, list[float]]] = {}
    for cell in found["cells"]:
        kind = (path.stem if whole else cell["data"]).partition("_")[0]
        row = table.setdefault((kind, f"x{scale[0]:g} {cell['degradation']}"), {})
        row.setdefault(cell["method"], []).extend(float(s["nmse"]) for s in cell["slices"])
    return found["methods"], table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--method", default="mzsr:10")
    parser.add_argument("--margin", type=float, default=0.3)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    rows = []
    for path in options.results:
        methods, table = slices_of(path, options.whole)
        for (kind, case), nmse in table.items():
            best = np.min([nmse[m] for m in methods if m != options.method], axis=0)
            gap = np.array(nmse[options.method]) - best
            means = [f"{np.mean(nmse[m]):.1f}" for m in methods]
            if options.whole:
                means.append(f"{best.mean():.1f}")
            behind = int((gap > options.margin).sum())
            rows.append([kind, case, len(gap), *means, behind, f"{gap.max():+.2f}"])
    extra = ["best on each"] if options.whole else []
    print(markdown(["kind", "case", "slices", *methods, *extra, "behind", "at most"], sorted(rows)))


if __name__ == "__main__":
    main()
