"""Gradual scales: a schedule of grids from LR to HR."""

from __future__ import annotations

import math


def stage_scales(scale: tuple[float, float], factor_max: float) -> list[tuple[float, float]]:
    """Cumulative scale per axis after each stage; the last is ``scale``.

    As many stages as the larger axis needs when no factor exceeds ``factor_max``; factors are
    ``factor_max`` first and the rest last (x20 with 2: 2, 4, 8, 16, 20). The axis with the
    smaller factor takes the same share of its logarithm.
    """
    larger = max(scale)
    count = max(1, math.ceil(round(math.log(larger) / math.log(factor_max), 9)))
    cumulative = [min(factor_max**k, larger) for k in range(1, count)] + [larger]
    shares = [math.log(c) / math.log(larger) if larger > 1 else 1.0 for c in cumulative]
    return [(scale[0] ** share, scale[1] ** share) for share in shares[:-1]] + [scale]
