"""``--slices`` and ``--held-out``: which slices of a cube are meant."""

from __future__ import annotations

import re
from collections.abc import Collection

from mzsr_cli.errors import UsageError
from mzsr_cli.settings import HELD_OUT_EVERY

_PART = r"[+-]?\d+"
_RANGE = re.compile(rf"\s*({_PART})?\s*:\s*({_PART})?\s*(?::\s*({_PART})?)?\s*")


def parse_slices(text: str | None, count: int, option: str = "--slices") -> range:
    """Slices of a cube of ``count``, as Python would: ``5``, ``-1``, ``0:50``, ``::10``.

    None is all of them. Negative numbers count from the end; a range is cut to the cube.
    Raises UsageError, which names ``option``, for another text, a single slice outside the cube, a
    step under 1, or a range that holds no slice.
    """
    if text is None:
        return range(count)
    if re.fullmatch(rf"\s*{_PART}\s*", text):
        return _single(text, int(text), count, option)
    match = _RANGE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{option} {text}: not understood. Type START:STOP, START:STOP:STEP or one number, "
            "such as 0:50."
        )
    start, stop, step = (int(part) if part else None for part in match.groups())
    if step is not None and step < 1:
        raise UsageError(f"{option} {text}: the step must be 1 or more, such as ::10.")
    chosen = range(count)[start:stop:step]
    if not chosen:
        raise UsageError(f"{option} {text}: holds none of the cube's slices 0 to {count - 1}.")
    return chosen


def _single(text: str, index: int, count: int, option: str) -> range:
    if not -count <= index < count:
        raise UsageError(f"{option} {text}: the cube has slices 0 to {count - 1} only.")
    return range(index % count, index % count + 1)


def spread_over(slices: range, most: int) -> list[int]:
    """At most ``most`` of the slices, evenly spread and in order, the first and last among them."""
    if len(slices) <= most:
        return list(slices)
    if most == 1:
        return [slices[len(slices) // 2]]
    return [slices[round(i * (len(slices) - 1) / (most - 1))] for i in range(most)]


def slices_text(slices: range) -> str:
    """What ``--slices`` takes for them: ``10:150:20``, ``7``, or an empty text for none."""
    if len(slices) < 2:
        return "".join(map(str, slices))
    return f"{slices.start}:{slices.stop}" + (f":{slices.step}" if slices.step > 1 else "")


def held_out(text: str | None, count: int, usable: Collection[int], name: str) -> range:
    """The slices that ``--held-out`` keeps from training on a cube of ``count``, called ``name``.

    ``10`` is every tenth, from the middle of the first ten on, ``10%`` as many (other shares: the
    nearest n), ``START:STOP:STEP`` just those, ``none`` none; None is every HELD_OUT_EVERY-th.
    Where every n-th meets none of the ``usable`` slices or all of them, the middle one of these is
    held out, if there are two.
    Raises UsageError for another text, and for slices that leave nothing to train on or to
    validate with.
    """
    if text == "none":
        return range(0)
    every = HELD_OUT_EVERY if text is None else _every(text)
    if every is None:
        chosen = parse_slices(text, count, f"{name}: --held-out")
        if usable and set(usable) <= set(chosen):
            raise UsageError(
                f"{name}: --held-out {text}: leaves none of the cube's slices 0 to {count - 1} to "
                "train on. Type fewer, such as 10%."
            )
        if len(usable) > 1 and not set(usable) & set(chosen):
            raise UsageError(
                f"{name}: --held-out {text}: holds out no slice that can be used; they are too "
                "small, constant or not finite there. Type others, such as 10%, or none."
            )
        return chosen
    chosen = range(count)[every // 2 :: every]
    if 0 < len(set(usable) & set(chosen)) < len(usable):
        return chosen
    middle = sorted(usable)[len(usable) // 2 :][:1] if len(usable) > 1 else []
    return range(middle[0], middle[0] + 1) if middle else range(0)


def check_held_out(text: str | None) -> None:
    """Raise UsageError for a text that ``--held-out`` takes for no cube."""
    if text is not None and text != "none":
        _every(text)


def _every(text: str) -> int | None:
    """n of ``n`` and of a share (``25%``: 4), None for a range. Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%?)\s*", text)
    if match is None:
        if _RANGE.fullmatch(text):
            return None
        raise UsageError(
            f"--held-out {text}: not understood. Type every how many slices (10), a share (10%), "
            "START:STOP[:STEP] or none."
        )
    number = float(match[1])
    if match[2]:
        if not 0 < number <= 50:
            raise UsageError(f"--held-out {text}: must be above 0% and at most 50%, such as 10%.")
        return round(100 / number)
    if number < 2 or number != int(number):
        raise UsageError(f"--held-out {text}: every n-th slice, so 2 or more. Type none for none.")
    return int(number)
