"""Ctrl-C that is not lost while slices are solved."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


@contextmanager
def remembered() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises KeyboardInterrupt at once, as ever. Where that was swallowed (Python prints and
    forgets what is raised in a destructor, and libraries have many), the function that is given
    raises it again.

    Changes nothing outside the main thread, or where somebody else handles SIGINT.
    """
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    def stop() -> None:
        if caught:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = sys.unraisablehook

    def quiet(lost: UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            before(lost)

    signal.signal(signal.SIGINT, note)
    sys.unraisablehook = quiet
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = before
