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
from contextlib import AbstractContextManager, closing
from queue import SimpleQueue
from typing import Any

import torch

from mzsr_cli.errors import MzsrError
from mzsr_cli.imaging.normalize import Range
from mzsr_cli.learning import runtime
from mzsr_cli.learning.superresolve import Solver
from mzsr_cli.pipeline.plan import Plan, free_memory
from mzsr_cli.pipeline.solving import Job, Solved, Task, solve_one
from mzsr_cli.settings import Adapting, Method


class InProcess:
    """Solves the slices of a job in this process (see solving.Executor)."""

    def host(self, name: str) -> torch.device:
        """See Executor.host."""
        return runtime.pick_device(name)

    def adopted(self, plan: Plan) -> Plan:
        """See Executor.adopted."""
        return plan

    def facts(self, plan: Plan) -> dict[str, Any]:
        """See Executor.facts."""
        return {"device_used": runtime.describe_device(plan.device)}

    def solve(self, job: Job) -> Generator[Solved]:
        """See Executor.solve; in the order of the slices."""
        count = lane_count(job.plan, torch.get_num_threads())
        with runtime.threads(threads_each(job.plan, count)):
            solver = job.plan.solver()
            solver.learn(job.shared())
            if job.plan.settings.adapt.mode is Adapting.WARM:
                yield from _one_after_another(solver, job)
            else:
                tasks = (Task(position, k, job.image(k)) for position, k in job.todo())
                lanes = Lanes(solver, job.plan, job.cube_range, count)
                with closing(lanes.solve(tasks)) as results:
                    yield from results


def threads_each(plan: Plan, count: int = 1) -> int | None:
    """Processor threads that a slice of ``plan`` is solved with: 1 for a small one, else None for
    all, or their share of all where ``count`` are solved at once (on a GPU)."""
    if plan.small:
        return 1
    return max(1, torch.get_num_threads() // count) if count > 1 else None


def lane_count(plan: Plan, threads: int) -> int:
    """How many slices of ``plan`` are solved at once where there are ``threads`` threads, as far as
    the settings and the free memory allow."""
    alone = not plan.small and (plan.device.type == "cpu" or plan.method is Method.ZSSR)
    if alone or plan.settings.adapt.mode is Adapting.WARM:
        return 1
    spare, wanted = max(0, free_memory(plan.device) - plan.memory), plan.settings.lanes.cuda
    if plan.device.type == "cpu":
        spare, wanted = min(plan.settings.lanes.memory, spare), threads
    return int(max(1, min(wanted, 1 + spare // plan.lane_memory, len(plan.slices))))


def _one_after_another(solver: Solver, job: Job) -> Generator[Solved]:
    """Every slice, each going on from the one before; those that are done are followed."""
    for position, k in enumerate(job.plan.slices):
        if position not in job.done:
            yield solve_one(solver, Task(position, k, job.image(k)), job.plan, job.cube_range)
        elif (sample := job.sample(k)) is not None:
            solver.follow(sample)


class Lanes:
    """``count`` solvers of the same plan, which solve as many slices at the same time, a thread
    each; on a GPU each has a stream of its own."""

    def __init__(self, solver: Solver, plan: Plan, cube_range: Range | None, count: int) -> None:
        self.plan, self.cube_range, self.count = plan, cube_range, count
        self._idle: SimpleQueue[tuple[Solver, AbstractContextManager[object]]] = SimpleQueue()
        for one in (solver, *(solver.beside() for _ in range(count - 1))):
            self._idle.put((one, runtime.stream(plan.device)))

    def solve(self, tasks: Iterable[Task]) -> Generator[Solved]:
        """``tasks``, yielded in their order. At most one more than there are lanes are taken from
        ``tasks`` ahead of what is yielded; where taking one raises an MzsrError, those before it
        are yielded first. Raises MzsrError."""
        if self.count == 1:
            yield from map(self._solve, tasks)
            return
        # a new thread takes over the number of torch's threads once it asks for it
        with ThreadPoolExecutor(self.count, initializer=torch.get_num_threads) as pool:
            flying: deque[Future[Solved]] = deque()
            try:
                for task in _taken(tasks):
                    if isinstance(task, Task):
                        flying.append(pool.submit(self._solve, task))
                    while flying and (len(flying) > self.count or not isinstance(task, Task)):
                        yield flying.popleft().result()
                    if isinstance(task, MzsrError):
                        raise task
            finally:
                for future in flying:
                    future.cancel()

    def _solve(self, task: Task) -> Solved:
        solver, stream = self._idle.get()
        try:
            with stream, runtime.own_backward(self.plan.device):
                return solve_one(solver, task, self.plan, self.cube_range)
        finally:
            self._idle.put((solver, stream))


def _taken(tasks: Iterable[Task]) -> Iterator[Task | MzsrError | None]:
    """The tasks, then what ended them: None, or the error that taking one raised."""
    try:
        yield from tasks
    except MzsrError as error:
        yield error
    else:
        yield None
