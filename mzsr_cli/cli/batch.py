"""Several inputs: one bad file does not stop the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mzsr_cli.cli import show
from mzsr_cli.errors import MzsrError, PartialFailure, ResourceError


@dataclass
class Batch:
    """What became of each input: reports of those done, errors of those that failed."""

    results: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[str, MzsrError]] = field(default_factory=list)

    def attempt(self, name: str, work: Callable[[], Any]) -> Any:
        """``work()``'s value; an error of the input or the machine is shown and kept, and
        None returned."""
        try:
            return work()
        except MzsrError as error:
            return self._failed(name, error)
        except OSError as error:
            return self._failed(name, ResourceError(show.refusal(error, name)))
        except (MemoryError, RuntimeError) as error:
            from mzsr_cli.learning.runtime import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            message = f"{name}: out of memory. Type a smaller --tile or --scale, or free memory."
            return self._failed(name, ResourceError(message))

    def _failed(self, name: str, error: MzsrError) -> None:
        show.error(str(error))
        self.failures.append((name, error))

    def expand(self, arguments: Iterable[str]) -> list[Path]:
        """Files of all arguments, each once; arguments that fail are kept as failures."""
        from mzsr_cli.cubes.open import expand_inputs

        found: dict[Path, None] = {}
        for argument in arguments:
            paths = self.attempt(argument, partial(expand_inputs, [argument]))
            found |= dict.fromkeys(paths or [])
        return list(found)

    def add(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Keep the report that ``work()`` returns, or its error."""
        report: dict[str, Any] | None = self.attempt(name, work)
        if report is not None:
            self.results.append(report)
        return report

    def as_json(self) -> dict[str, Any]:
        """Reports and failures, for ``--json``."""
        failed = [
            {"input": name, "error": str(error), "exit_code": error.exit_code}
            for name, error in self.failures
        ]
        return {"results": self.results, "failed": failed}

    def finish(self, quiet: bool) -> int:
        """Show the summary of several inputs; the exit code.

        0 when all went well, the error's own when there was one input, 5 when some failed.
        """
        total = len(self.results) + len(self.failures)
        if total > 1 and self.failures:
            show.error(f"{len(self.failures)} of {total} inputs failed")
            return PartialFailure.exit_code
        if total > 1 and not quiet:
            show.line(f"{total} inputs done")
        return self.failures[0][1].exit_code if self.failures else 0
