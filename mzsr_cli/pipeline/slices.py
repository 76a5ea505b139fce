"""``--slices``: which slices of a cube are meant."""

from __future__ import annotations

import re

from mzsr_cli.errors import UsageError

_PART = r"[+-]?\d+"
_RANGE = re.compile(rf"\s*({_PART})?\s*:\s*({_PART})?\s*(?::\s*({_PART})?)?\s*")


def parse_slices(text: str | None, count: int) -> range:
    """Slices of a cube of ``count``, as Python would: ``5``, ``-1``, ``0:50``, ``::10``.

    None is all of them. Negative numbers count from the end; a range is cut to the cube.
    Raises UsageError for another text, a single slice outside the cube, a step under 1, or a
    range that holds no slice.
    """
    if text is None:
        return range(count)
    if re.fullmatch(rf"\s*{_PART}\s*", text):
        return _single(text, int(text), count)
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--slices {text}: not understood. Type START:STOP, START:STOP:STEP or one number, "
            "such as 0:50."
        )
    start, stop, step = (int(part) if part else None for part in match.groups())
    if step is not None and step < 1:
        raise UsageError(f"--slices {text}: the step must be 1 or more, such as ::10.")
    chosen = range(count)[start:stop:step]
    if not chosen:
        raise UsageError(f"--slices {text}: holds none of the cube's slices 0 to {count - 1}.")
    return chosen


def _single(text: str, index: int, count: int) -> range:
    if not -count <= index < count:
        raise UsageError(f"--slices {text}: the cube has slices 0 to {count - 1} only.")
    return range(index % count, index % count + 1)


def spread_over(slices: range, most: int) -> list[int]:
    """At most ``most`` of the slices, evenly spread and in order, the first and last among them."""
    if len(slices) <= most:
        return list(slices)
    if most == 1:
        return [slices[len(slices) // 2]]
    return [slices[round(i * (len(slices) - 1) / (most - 1))] for i in range(most)]
