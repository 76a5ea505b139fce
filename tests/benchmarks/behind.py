"""How often, and by how much, one method is behind the best of the others, slice by slice.

python tests/benchmarks/behind.py RESULTS.json ... [--method mzsr:10] [--margin 0.3]

Reads what ``mzsr benchmark --json`` wrote for cubes. Cubes whose names begin with the same word
(``fmc_00``, ``fmc_01``) are one row; figures are means of dB over slices.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import markdown

Case = tuple[str, str]


def slices_of(path: Path) -> tuple[list[str], dict[Case, dict[str, list[float]]]]:
    """Methods, and NMSE in dB of all slices by (kind of cube, case) and method."""
    found = json.loads(path.read_text(encoding="utf-8"))
    scale = found["facts"]["scale"]
    table: dict[Case, dict[str, list[float]]] = {}
    for cell in found["cells"]:
        kind = cell["data"].partition("_")[0]
        row = table.setdefault((kind, f"x{scale[0]:g} {cell['degradation']}"), {})
        row.setdefault(cell["method"], []).extend(float(s["nmse"]) for s in cell["slices"])
    return found["methods"], table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--method", default="mzsr:10")
    parser.add_argument("--margin", type=float, default=0.3)
    options = parser.parse_args()
    rows = []
    for path in options.results:
        methods, table = slices_of(path)
        for (kind, case), nmse in table.items():
            best = np.min([nmse[m] for m in methods if m != options.method], axis=0)
            gap = np.array(nmse[options.method]) - best
            means = [f"{np.mean(nmse[m]):.1f}" for m in methods]
            behind = int((gap > options.margin).sum())
            rows.append([kind, case, len(gap), *means, behind, f"{gap.max():+.2f}"])
    print(markdown(["kind", "case", "slices", *methods, "behind", "at most"], sorted(rows)))


if __name__ == "__main__":
    main()
