"""Slices side by side in one process.

A small slice keeps one processor thread busy and hardly a second one: its convolutions are short
and its linear algebra is done in many small products. So small slices are solved by one thread
each, several at once; their results then do not depend on how many threads there are. Large slices
and ZSSR's trainings are solved one after the other with all threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from queue import SimpleQueue
from typing import Any

import torch

from mzsr_cli.errors import MzsrError
from mzsr_cli.imaging.normalize import Range
from mzsr_cli.learning import runtime
from mzsr_cli.learning.superresolve import Solver
from mzsr_cli.pipeline.plan import Plan
from mzsr_cli.pipeline.solving import Job, Solved, Task, solve_one
from mzsr_cli.settings import Adapting


class InProcess:
    """Solves the slices of a job in this process (see upscale.Executor)."""

    def adopted(self, plan: Plan) -> Plan:
        """See Executor.adopted."""
        return plan

    def facts(self, plan: Plan) -> dict[str, Any]:
        """See Executor.facts."""
        return {"device_used": runtime.describe_device(plan.device)}

    def solve(self, job: Job) -> Generator[Solved]:
        """See Executor.solve; in the order of the slices."""
        count = lanes(job.plan, torch.get_num_threads())
        with runtime.threads(threads_each(job.plan)):
            solver = job.plan.solver()
            solver.learn(job.shared())
            if job.plan.settings.adapt.mode is Adapting.WARM:
                yield from _one_after_another(solver, job)
            else:
                tasks = (Task(position, k, job.image(k)) for position, k in job.todo())
                found = side_by_side(solver, tasks, job.plan, job.cube_range, count)
                with closing(found) as results:
                    yield from results


def threads_each(plan: Plan) -> int | None:
    """Processor threads that a slice of ``plan`` is solved with: 1, or None for all."""
    return 1 if plan.small and plan.device.type == "cpu" else None


def lanes(plan: Plan, threads: int) -> int:
    """How many slices of ``plan`` are solved at once where there are ``threads`` threads."""
    if not plan.small or plan.settings.adapt.mode is Adapting.WARM:
        return 1
    room = 1 + plan.settings.lanes.memory // plan.lane_memory
    wanted = threads if plan.device.type == "cpu" else plan.settings.lanes.cuda
    return int(max(1, min(wanted, room, len(plan.slices))))


def _one_after_another(solver: Solver, job: Job) -> Generator[Solved]:
    """Every slice, each going on from the one before; those that are done are followed."""
    for position, k in enumerate(job.plan.slices):
        if position not in job.done:
            yield solve_one(solver, Task(position, k, job.image(k)), job.plan, job.cube_range)
        elif (sample := job.sample(k)) is not None:
            solver.follow(sample)


def side_by_side(
    solver: Solver, tasks: Iterable[Task], plan: Plan, cube_range: Range | None, count: int
) -> Generator[Solved]:
    """``tasks`` solved by ``count`` threads with a solver each, yielded in their order. At most
    one more than that are taken from ``tasks`` ahead of what is yielded; where taking one raises
    an MzsrError, those before it are yielded first."""
    if count == 1:
        yield from (solve_one(solver, task, plan, cube_range) for task in tasks)
        return
    crew = _Crew(solver, plan, cube_range, count)
    # a new thread takes over the number of torch's threads once it asks for it
    with ThreadPoolExecutor(count, initializer=torch.get_num_threads) as pool:
        flying: deque[Future[Solved]] = deque()
        try:
            for task in _taken(tasks):
                if isinstance(task, Task):
                    flying.append(pool.submit(crew.solve, task))
                while flying and (len(flying) > count or not isinstance(task, Task)):
                    yield flying.popleft().result()
                if isinstance(task, MzsrError):
                    raise task
        finally:
            for future in flying:
                future.cancel()


def _taken(tasks: Iterable[Task]) -> Iterator[Task | MzsrError | None]:
    """The tasks, then what ended them: None, or the error that taking one raised."""
    try:
        yield from tasks
    except MzsrError as error:
        yield error
    else:
        yield None


class _Crew:
    """A solver for each of several threads."""

    def __init__(self, solver: Solver, plan: Plan, cube_range: Range | None, count: int) -> None:
        self.plan, self.cube_range = plan, cube_range
        self._idle: SimpleQueue[Solver] = SimpleQueue()
        for one in (solver, *(solver.beside() for _ in range(count - 1))):
            self._idle.put(one)

    def solve(self, task: Task) -> Solved:
        """Called in one of the threads. Raises MzsrError."""
        solver = self._idle.get()
        try:
            with runtime.stream(self.plan.device):
                return solve_one(solver, task, self.plan, self.cube_range)
        finally:
            self._idle.put(solver)
