"""Figures as JSON can hold them. Imports nothing."""

from __future__ import annotations

import math
from typing import Any


def strict(result: Any) -> Any:
    """``result`` with NaN as null and infinities as "inf" and "-inf": what JSON can hold."""
    if isinstance(result, dict):
        return {key: strict(value) for key, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [strict(value) for value in result]
    if isinstance(result, float) and not math.isfinite(result):
        return None if math.isnan(result) else str(result)
    return result


def number(value: Any) -> float:
    """A figure that :func:`strict` has made: null is NaN, "inf" and "-inf" are infinite."""
    return math.nan if value is None else float(value)
