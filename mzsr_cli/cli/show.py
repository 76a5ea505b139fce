"""What people see: rich on stderr, plain lines where stderr is no terminal, JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mzsr_cli.errors import OutputError
from mzsr_cli.pipeline.plain import strict


class _Lossy:
    """A stream that drops what cannot be written: a terminal that is gone, a log on a full disk.
    The reader of a pipe still ends the run when it goes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, or not."""
        self._tried(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        self._tried(self.stream.flush)

    def _tried(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except BrokenPipeError:
            raise
        except OSError:
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def stderr() -> Any:
    """stderr, lossy; None where it is closed."""
    stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # not the one over a bar
    return None if stream is None else _Lossy(stream)


def console() -> Console:
    """Console on stderr."""
    return Console(file=stderr(), stderr=True, highlight=False, soft_wrap=True, emoji=False)


def error(message: str) -> None:
    """One line that says what went wrong."""
    console().print(f"mzsr: {message}", markup=False, style="red")


def line(message: str) -> None:
    """One plain line on stderr."""
    console().print(message, markup=False)


def refusal(error: OSError, where: str) -> str:
    """What the system refused, in one line; ``where`` is for errors that name no file."""
    return (
        f"{error.filename or where}: the system refuses it ({error.strerror or error}). Check the "
        "name, the disk and the permissions, or name another file."
    )


def _print(text: str) -> None:
    """``text`` on stdout, at once. Raises OutputError; BrokenPipeError, with which click ends."""
    if sys.stdout is None:
        raise OutputError("stdout: is closed, so nothing can be shown. Type > FILE to keep it.")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"stdout: cannot write ({error.strerror or error}). Type > FILE on another disk."
        ) from error


def json_result(result: Any) -> None:
    """The result, alone, on stdout."""
    _print(json.dumps(strict(result), indent=2, default=str) + "\n")


@contextmanager
def progress(enabled: bool) -> Iterator[Progress | None]:
    """A progress bar on a terminal; None elsewhere or when not ``enabled``."""
    out = console()
    if not (enabled and out.is_terminal):
        yield None
        return
    count = TextColumn("{task.completed:g}/{task.total:g}")
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=out) as bar:
        yield bar


def training_reporter(bar: Progress | None, quiet: bool) -> Any:
    """A function that shows a training run's events: a bar with time left, or plain lines."""
    task = bar.add_task("training", total=100) if bar is not None else None

    def report(event: Any) -> None:
        figures = "  ".join(f"{name} {value:.5g}" for name, value in event.figures.items())
        left = "" if event.remaining is None else f"  {event.remaining / 60:.1f} min left"
        if bar is not None and task is not None:
            total = event.elapsed + (event.remaining or 0)
            bar.update(task, completed=round(100 * event.elapsed / max(total, 1e-9)), total=100)
        if not quiet and (bar is None or event.kind != "train"):
            line(f"{event.kind} {event.iteration}  {event.elapsed:.0f} s{left}  {figures}")

    return report


HELD_OUT_LINES = 12
"""Most cubes whose held-out slices are told one by one."""


def held_out(parts: list[tuple[str, int, str]]) -> None:
    """Of each cube, how many slices are trained on and which are held out."""
    for name, count, slices in parts[:HELD_OUT_LINES]:
        out = f"--slices {slices}" if slices else "none"
        line(f"{name}: {count} slices to train on, held out: {out}")
    if len(parts) > HELD_OUT_LINES:
        line(f"and {len(parts) - HELD_OUT_LINES} more: `mzsr info` of the weights lists them")


def _grid(title: str, rows: list[dict[str, Any]]) -> Table:
    """Rows of equal keys as a table, numbers to the right."""
    shown = Table(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for name, value in rows[0].items() if rows else ():
        shown.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        shown.add_row(*(Text(figure(value)) for value in row.values()))
    return shown


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Rows of equal keys as a table on stdout, numbers to the right; as wide as it needs and
    without blanks at the ends of its lines where stdout is no terminal."""
    shown = _grid(title, rows)
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    out = Console(**plain)
    if out.is_terminal:
        out.print(shown)
        return
    printed = StringIO()
    Console(file=printed, width=1000, **plain).print(shown)
    _print("".join(f"{row.rstrip()}\n" for row in printed.getvalue().splitlines()))


def figure(value: Any) -> str:
    """A cell of a table: floats to five digits, None as a dash."""
    if value is None:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def slice_ticker(bar: Progress | None, name: str) -> Callable[[int, int], None] | None:
    """A function of (slices done, slices in all) that moves a bar named ``name``."""
    if bar is None:
        return None
    task = bar.add_task(escape(name), total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def facts_table(title: str, facts: dict[str, Any]) -> None:
    """Facts as rows of name and value, on stdout."""
    table(title, [{"fact": name, "value": figure(value)} for name, value in facts.items()])


class UpscaleTicker:
    """Shows an upscale's plan and slices: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, bar: Progress | None, name: str, quiet: bool, verbose: bool) -> None:
        self.bar, self.name, self.quiet, self.verbose = bar, name, quiet, verbose
        self.task: Any = None

    def plan(self, plan: Any) -> None:
        """Say what will be done."""
        if self.bar is not None:
            self.task = self.bar.add_task(escape(self.name), total=len(plan.slices))
        if self.quiet:
            return
        for note in plan.notes:
            line(f"{self.name}: {note}")
        names = [weights.name for weights in (plan.weights, plan.second) if weights is not None]
        weights = f", weights {' and '.join(names)}" if names else ""
        line(f"{self.name}: method {plan.method}{weights}, {plan.device}, {plan.precision}")

    def slice(self, done: int, count: int, report: Any) -> None:
        """Tick a finished slice."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done)
        if self.quiet or (self.bar is not None and not self.verbose):
            return
        how = "already done" if report is None else report.did
        if self.verbose or done == count or done % max(1, count // 10) == 0:
            line(f"{self.name}: slice {done}/{count} {how}")


def upscale_ticker(bar: Progress | None, name: str, quiet: bool, verbose: bool) -> UpscaleTicker:
    """A ticker for one input."""
    return UpscaleTicker(bar, name, quiet, verbose)


class BenchmarkTicker:
    """Shows a benchmark's table as it fills (on a terminal), or a line for every cell."""

    def __init__(self, live: Live | None, quiet: bool) -> None:
        self.live, self.quiet = live, quiet
        self.record: dict[str, Any] = {}
        self.cells = 0

    def planned(self, record: dict[str, Any], cells: int) -> None:
        """Say how much there is to do, and how much is done."""
        self.record, self.cells = record, cells
        if self.live is None and not self.quiet:
            done = f", {len(record['cells'])} of them done" if record["cells"] else ""
            line(f"{cells} cells{done}")

    def slice(self, name: str, done: int, count: int) -> None:
        """Name the cell that is being worked on."""
        if self.live is not None:
            self._show(f"{name}: {done + 1} of {count}")

    def cell(self, record: dict[str, Any], cell: Mapping[str, Any]) -> None:
        """Show a finished cell."""
        from mzsr_cli.pipeline.benchmark_report import score

        if self.live is not None:
            self._show("")
        elif not self.quiet:
            names = "  ".join(cell[name] for name in ("data", "degradation", "method"))
            kind = record["facts"]["kind"]
            line(f"{names}  {score(cell, kind)}  {cell['seconds']:.3g} s a slice")

    def _show(self, title: str) -> None:
        from mzsr_cli.pipeline.benchmark_report import rows

        assert self.live is not None
        self.live.update(_grid(title, rows(self.record)))


@contextmanager
def benchmark_ticker(quiet: bool) -> Iterator[BenchmarkTicker]:
    """A ticker for one benchmark; its table on a terminal goes when the result comes."""
    out = console()
    if quiet or not out.is_terminal:
        yield BenchmarkTicker(None, quiet)
        return
    with Live(console=out, transient=True, refresh_per_second=4) as live:
        yield BenchmarkTicker(live, quiet)
