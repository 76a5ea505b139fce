"""Products with matrices whose entries lie near a diagonal, as those of blurs, decimations and
cubic interpolation do: what is zero is left out, run by run of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

RUN = 32
"""Rows of a run."""

WORTHWHILE = 0.75
"""Share of the entries above which a matrix is taken whole."""

SMALL = 1 << 15
"""Entries up to which a matrix is taken whole: one small product is faster than several."""

NOTHING = 1e-3
"""Entries below this share of the rounding of the largest count as zero."""


@dataclass(frozen=True)
class Run:
    """Rows of a matrix and the columns in which they have entries."""

    rows: slice
    cols: slice


@dataclass(frozen=True)
class Banded:
    """A matrix (n, m) and its ``runs``, which hold all of its rows."""

    matrix: torch.Tensor
    runs: tuple[Run, ...]

    @staticmethod
    def whole(matrix: torch.Tensor) -> Banded:
        """A dense matrix (n, m)."""
        return Banded(matrix, (Run(slice(0, len(matrix)), slice(0, matrix.shape[1])),))

    @staticmethod
    def of(matrix: torch.Tensor) -> Banded:
        """A matrix (n, m), which is looked at; dense and small ones stay whole, and those on a GPU,
        which would rather do one large product than many small ones."""
        if matrix.device.type != "cpu" or matrix.numel() <= SMALL:
            return Banded.whole(matrix)
        runs = _runs(matrix)
        work = sum((r.rows.stop - r.rows.start) * (r.cols.stop - r.cols.start) for r in runs)
        if work > WORTHWHILE * matrix.numel():
            return Banded.whole(matrix)
        return Banded(matrix, runs)

    @cached_property
    def mT(self) -> Banded:
        """The transpose (m, n)."""
        turned = self.matrix.mT
        return Banded.whole(turned) if len(self.runs) == 1 else Banded.of(turned.contiguous())

    def __len__(self) -> int:
        return len(self.matrix)

    def times(self, x: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """``rows`` of this times x (..., m, k): (..., r, k)."""
        if len(self.runs) == 1:
            return self.matrix[rows] @ x
        first, stop, _ = rows.indices(len(self))
        out = x.new_empty(*x.shape[:-2], max(0, stop - first), x.shape[-1])
        for run in self.runs:
            top, end = max(first, run.rows.start), min(stop, run.rows.stop)
            if top < end:
                part = self.matrix[top:end, run.cols]
                torch.matmul(part, x[..., run.cols, :], out=out[..., top - first : end - first, :])
        return out

    def along(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., k, m) times this transposed: (..., k, n)."""
        if len(self.runs) == 1:
            return x @ self.matrix.mT
        out = x.new_empty(*x.shape[:-1], len(self))
        for run in self.runs:
            out[..., run.rows] = x[..., run.cols] @ self.matrix[run.rows, run.cols].mT
        return out


def _runs(matrix: torch.Tensor) -> tuple[Run, ...]:
    """Runs of RUN rows with the columns from their first entry to their last."""
    size = matrix.abs()
    least = NOTHING * torch.finfo(matrix.dtype).eps * float(size.max())
    taken = size > least
    firsts = taken.int().argmax(1)
    lasts = matrix.shape[1] - taken.flip(1).int().argmax(1)
    runs = []
    for top in range(0, len(matrix), RUN):
        rows = slice(top, min(top + RUN, len(matrix)))
        some = taken[rows].any(1)
        begin = int(firsts[rows][some].min()) if some.any() else 0
        end = int(lasts[rows][some].max()) if some.any() else 1
        runs.append(Run(rows, slice(begin, end)))
    return tuple(runs)
